"""What decides the numbers: the recipe, and the request it came from.

A `Request` is what the user asked for (names, files, options). Loading its base turns it into a
`Recipe` (digests and settled values), whose fingerprint is part of every row's key. Paths, names,
labels, splits, batch and shard sizes, engines, machines and library versions are in neither.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from featcache.errors import BaseError, OptionError, WeightsError, nearest
from featcache.files.publishing import change_stamp
from featcache.files.reading import odd_file
from featcache.files.values import anything, list_of, mapping_of, maybe, number, one_of, path, record, row, text, whole
from featcache.options import BaseOptions, Dtype, Interpolation, Pooling, Precision, Preprocess, Resize, Runtime
from featcache.system.versions import version

FORMAT_VERSION = 2
"""Version of the cache folder and its manifest.

When it changes: raise this number; describe the new layout in ``docs/format.md``; make ``tests/golden`` anew; say so
in ``CHANGELOG.md``. Recipes and shards have versions of their own, so that fingerprints and shards stay as they are.
"""

RECIPE_FORMAT = 1
"""Version of a recipe: part of every fingerprint, so that raising it makes every cache another one."""

Decode = Literal["accurate", "reduced"]


_BEFORE: dict[str, Any] = {"spec": None, "crop": 1.0}
"""Fields of a recipe that are left out while they have the value that the code had before they existed.

So a new field makes no cache stale. The value here stays for good: a default that changes later is written.
"""


def fitting(fitted: Any) -> str:
    """Return how a recipe, or a `featcache.images.decoding.PixelSpec`, fits images of another shape, for people."""
    return str(fitted.resize) if fitted.crop == 1 else f"{fitted.resize} at {fitted.crop:g}"


def choices(kind: Any) -> tuple[str, ...]:
    """Return the values a ``Literal`` of this module allows."""
    return get_args(kind)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the numbers in a cache.

    Attributes
    ----------
    architecture : str
        SHA-256 of the cut network's structure, without names that Keras numbers by itself.
    weights : str
        SHA-256 of the weight tensors up to the deepest cut, in the network's order.
    layers : tuple of str
        Addresses of the cuts, in the network's order, automatic numbers counted from the network's
        own start.
    pooling, resize, interpolation, preprocess, dtype
        As the options of the same names, settled (no ``auto``).
    image_size : tuple of int
        Height and width in pixels.
    decode : str
        How JPEGs become pixels. ``accurate``: with libjpeg's accurate transform, as Pillow and Keras' `load_img` do.
        ``reduced``: the same at a smaller size, see `Request`, `fast_decode`. Other values are of earlier versions.
    precision, runtime : str
        What executes the base in which arithmetic.
    format : int
        The recipe's format version.
    spec : mapping, optional
        The encoder, where features came from elsewhere; the fields above then say little.
    crop : float
        With ``resize="crop"``: the shorter side becomes the image size divided by this, before the centre is taken.
    """

    architecture: str
    weights: str
    layers: tuple[str, ...]
    pooling: Pooling
    image_size: tuple[int, int]
    resize: Resize
    interpolation: Interpolation
    preprocess: Preprocess
    dtype: Dtype
    decode: str = "accurate"
    precision: str = "float32"
    runtime: str = "tensorflow"
    format: int = RECIPE_FORMAT
    spec: Mapping[str, Any] | None = None
    crop: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-ready values."""
        values = dataclasses.asdict(self)
        values["layers"] = list(self.layers)
        values["image_size"] = list(self.image_size)
        return {name: value for name, value in values.items() if name not in _BEFORE or value != _BEFORE[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `to_dict` wrote; OptionError if a field is missing, unknown or of another kind."""
        try:
            RECIPE(values, "")
        except ValueError as error:
            raise OptionError(f"The recipe is damaged: {error}. Extract again.") from None
        names = {f.name for f in dataclasses.fields(cls)} - set(_BEFORE)
        if set(values) - set(_BEFORE) != names:
            odd = ", ".join(sorted(names ^ (set(values) - set(_BEFORE))))
            raise OptionError(
                f"The recipe is not of format {RECIPE_FORMAT}: it differs in {odd}. "
                "Read it with the version of featcache that wrote it, or extract again."
            )
        settled = {**_BEFORE, **values, "layers": tuple(values["layers"]), "image_size": tuple(values["image_size"])}
        return cls(**settled)

    @property
    def tolerance(self) -> float:
        """How far a probability may be from the one that base and head have as one float32 network in TensorFlow."""
        plain = (self.dtype, self.precision, self.runtime) == ("float32", "float32", "tensorflow")
        return 1e-4 if plain else 5e-3

    @property
    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of the recipe's canonical JSON."""
        return hashlib.sha256(canonical_json(self.to_dict()).encode()).hexdigest()

    def words(self, asked: Mapping[str, Any] | None = None) -> dict[str, str]:
        """Return the recipe for people, by field; `asked` is the normalised request that names base and weights."""
        values = {f.name: _text(getattr(self, f.name)) for f in dataclasses.fields(self)}
        base, weights = ("", "") if asked is None else _base_words(asked)
        return {"base": base, **values, "weights": weights, "image_size": "x".join(map(str, self.image_size))}

    def differences(
        self, other: Recipe, asked: Mapping[str, Any] | None = None, asked_of_other: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Say field by field how another recipe differs, as ``name: mine → theirs``.

        With the requests of both, base and weights are named; else a text says that they are others.
        """
        mine, theirs = self.words(asked), other.words(asked_of_other)
        named = asked is not None and asked_of_other is not None
        texts = {
            name: f"{mine[name]} → {theirs[name]}"
            for name in mine
            if mine[name] != theirs[name] and name != "architecture" and (named or name not in ("base", "weights"))
        }
        if self.architecture != other.architecture:
            texts.setdefault("base", "another network of the same name" if named else "another network")
        elif self.weights != other.weights:
            texts.setdefault("weights", "other values under the same name" if named else "other values")
        return [f"{name}: {text}" for name, text in texts.items()]


RECIPE = record(
    {},
    {
        "architecture": text,
        "weights": text,
        "layers": list_of(text, least=1, distinct=True),
        "pooling": one_of(*choices(Pooling)),
        "image_size": row(whole(0, 16_384), whole(0, 16_384)),
        "resize": one_of(*choices(Resize)),
        "interpolation": one_of(*choices(Interpolation)),
        "preprocess": one_of(*choices(Preprocess)),
        "dtype": one_of(*choices(Dtype)),
        "decode": text,
        "precision": text,
        "runtime": text,
        "format": whole(),
        "spec": maybe(mapping_of(anything)),
        "crop": number(1e-6, 1),
    },
)
"""The kind of value that a recipe is in JSON."""

_CHOICES: dict[str, Any] = {
    "pooling": Pooling,
    "resize": Resize,
    "interpolation": Interpolation,
    "preprocess": Preprocess,
    "dtype": Dtype,
    "precision": Precision,
    "runtime": Runtime,
}
"""Fields of a request, and what they may be."""

_FILE = record({"file": path})


def _name_or_file(value: Any, name: str) -> None:
    (_FILE if isinstance(value, Mapping) else path)(value, name)


_REQUEST = record(
    {
        "base": _name_or_file,
        "settings": mapping_of(anything),
        "weights": maybe(_name_or_file),
        "layers": list_of(text),
        "pooling": text,
        "image_size": maybe(row(whole(1, 16_384), whole(1, 16_384))),
        "resize": text,
        "interpolation": text,
        "preprocess": text,
        "dtype": text,
        "precision": text,
        "runtime": text,
        "decode": one_of(*choices(Decode)),
        "seed": whole(-(2**63)),
    },
    {"crop": number(1e-6, 1)},
)


def request_kind(value: Any, name: str) -> None:
    """A request in JSON; of one without ``decode``, which `Request.from_dict` refuses, nothing more is expected."""
    mapping_of(anything)(value, name)
    if "decode" in value:
        _REQUEST(value, name)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _base_words(asked: Mapping[str, Any]) -> tuple[str, str]:
    """Return base and weights of a normalised request as people name them."""

    def name_of(value: Any) -> str:
        return Path(value["file"]).name if isinstance(value, Mapping) else str(value)

    base = " ".join([name_of(asked["base"]), *(f"{name}={value}" for name, value in asked["settings"].items())])
    if asked["weights"] is None:
        return base, f"random, seed {asked['seed']}"
    return base, "its own" if isinstance(asked["base"], Mapping) else name_of(asked["weights"])


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


class Request(BaseOptions):
    """What the user asked for: a base, where to cut it, and how images reach it. Impossible values are refused.

    ``weights="imagenet"`` is for an application; a model file and a model in memory have their own. `seed` is for
    ``weights=None``. `max_pixels` decides which images have rows, not their numbers, so it is neither in the recipe nor
    in what `to_dict` returns. `canonical`: whether `layers` are a recipe's names, not those that layers have in this
    process.
    """

    base: Any = field(kw_only=False)
    resize: Resize = None  # type: ignore[assignment]  # settled when it is made
    base_params: Mapping[str, Any] = None  # type: ignore[assignment]
    layers: tuple[str, ...] = ()
    seed: int = 0
    canonical: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_params", dict(self.base_params or {}))
        if self.crop is not None and not 0 < self.crop <= 1:
            raise OptionError(f"`crop` takes a fraction above 0, at most 1. Received: crop={self.crop!r}.")
        if vars(self)["resize"] is None:
            object.__setattr__(self, "resize", "stretch" if self.crop is None else "crop")
        if self.crop is not None and self.resize != "crop":
            raise OptionError(f"`crop` implies `resize` crop, but `resize` is {self.resize}. Leave one of them out.")
        if isinstance(self.max_pixels, bool) or not isinstance(self.max_pixels, int) or self.max_pixels < 1:
            raise OptionError(f"`max_pixels` must be a number of 1 or more. Received: {self.max_pixels!r}.")
        for name, kind in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices(kind):
                known = ", ".join(choices(kind))
                raise OptionError(f"`{name}` must be one of {known}. Received: {name}={value!r}.")
        if not isinstance(self.layers, tuple | list):
            raise OptionError(f"`layers` takes a list of names. Received: layers={self.layers!r}.")
        object.__setattr__(self, "layers", tuple(self.layers))
        size = self.size
        if size is not None and not (
            len(size) == 2 and all(isinstance(side, int) and 1 <= side <= 16_384 for side in size)
        ):
            raise OptionError(
                "`image_size` must be a number of pixels, or a height and a width, of 1 to 16384 each. "
                f"Received: {self.image_size!r}."
            )

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width in pixels, None for the base's own."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def fraction(self) -> float:
        """The recipe's field ``crop``."""
        return 1.0 if self.crop is None else float(self.crop)

    @property
    def decode(self) -> Decode:
        """The recipe's field of that name."""
        return "reduced" if self.fast_decode else "accurate"

    @property
    def in_memory(self) -> bool:
        """Whether the base is a model object, which no later process can load again."""
        return not isinstance(self.base, str | Path)

    @property
    def is_file(self) -> bool:
        """Whether the base names a model file: by its ending, or because it has a folder."""
        text = "" if self.in_memory else str(self.base)
        return text.endswith((".keras", ".h5", ".hdf5")) or Path(text).name != text

    def to_dict(self) -> dict[str, Any] | None:
        """Return the normalised request, or None for a model in memory.

        Files appear with their absolute path, size, time stamp and `change_stamp`, and the Keras version is part of
        it, so that an equal request is an equal recipe without loading anything, unless `may_have_changed`.
        """
        if self.in_memory:
            return None
        base: Any = self.base_name
        if self.is_file:
            base = _stamp(Path(self.base), BaseError, "a model file")
        weights: Any = None if self.weights is None else str(self.weights)
        if weights not in (None, "imagenet"):
            weights = _stamp(
                Path(weights),
                WeightsError,
                "a file, 'imagenet' or, for random weights, None (on the command line none)",
            )
        return {
            "base": base,
            "settings": {key: self.base_params[key] for key in sorted(self.base_params)},
            "weights": weights,
            "layers": list(self.layers),
            "pooling": self.pooling,
            "image_size": None if self.size is None else list(self.size),
            **{name: getattr(self, name) for name in _CHOICES if name != "pooling"},
            "decode": self.decode,
            **({} if self.fraction == 1 else {"crop": self.fraction}),
            "seed": self.seed if weights is None else 0,
            "keras": version("keras"),
            "format": RECIPE_FORMAT,
        }

    @staticmethod
    def may_have_changed(values: Mapping[str, Any]) -> bool:
        """Whether a file of a request that `to_dict` returned changed so recently that its stamps say nothing."""
        files = (value for value in (values["base"], values["weights"]) if isinstance(value, Mapping))
        return not all(value["changes"] for value in files)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Request:
        """Return a request equal to the one `to_dict` wrote (file stamps are taken anew)."""
        if isinstance(values, Mapping) and "decode" not in values:
            raise OptionError(
                "This cache or head was made by an earlier version of featcache, whose JPEG pixels were different. "
                "Extract again and train the head again."
            )

        try:
            _REQUEST(values, "")
        except ValueError as error:
            raise OptionError(
                f"What is kept of the request for this cache or head is damaged: {error}. Extract again, and train "
                "the head again."
            ) from None

        def name_of(value: Any) -> Any:
            return value["file"] if isinstance(value, Mapping) else value

        size = values["image_size"]
        return cls(
            base=name_of(values["base"]),
            base_params=dict(values["settings"]),
            weights=name_of(values["weights"]),
            layers=tuple(values["layers"]),
            image_size=None if size is None else (int(size[0]), int(size[1])),
            **{name: values[name] for name in _CHOICES},
            fast_decode=values["decode"] == "reduced",
            crop=values.get("crop"),
            seed=int(values["seed"]),
        )

    def absolute(self) -> Request:
        """Return the request with absolute paths, for a process with another working folder."""
        own = self.weights in (None, "imagenet")
        return dataclasses.replace(
            self,
            base=Path(self.base).absolute() if self.is_file else self.base,
            weights=self.weights if own else Path(str(self.weights)).absolute(),
        )

    @property
    def base_name(self) -> str:
        """A short name for people and folders."""
        if self.in_memory:
            return str(getattr(self.base, "name", "model"))
        return Path(self.base).stem if self.is_file else re.sub(r"[^a-z0-9]", "", str(self.base).lower())


def other_format(what: str, found: object) -> str:
    """Return the message for a cache of another format version."""
    if isinstance(found, int) and found < FORMAT_VERSION:
        return (
            f"{what} was written by an earlier version of featcache (format {found}, this version reads format "
            f"{FORMAT_VERSION}). Run `featcache extract` with another `cache`, or delete this one first."
        )
    return (
        f"{what} has format {found}, this version of featcache reads format {FORMAT_VERSION}. Update featcache, or "
        "choose another `cache`."
    )


def _stamp(path: Path, error: type[BaseError], expected: str) -> dict[str, Any]:
    kind = odd_file(path)
    if kind is not None and not path.is_dir():  # whoever loads a folder says what it holds
        raise error(f"{str(path)!r} is {kind}, not a file. It must be {expected}.")
    try:
        stat = path.stat()
    except (OSError, ValueError):
        hint = "" if path.suffix else f" ({nearest(str(path), ['imagenet'])})"
        raise error(f"{str(path)!r} does not exist{hint}. It must be {expected}.") from None
    found = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "changes": change_stamp(stat)}
    return {"file": str(path.resolve()), **found}
