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
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from featcache.errors import BaseError, OptionError, WeightsError, nearest

FORMAT_VERSION = 1
"""Version of the cache folder, its shards and its manifest.

When it changes: raise this number; describe the new layout in ``docs/format.md``; make the reader
name the version it found and what to do; say so in ``CHANGELOG.md``.
"""

MAX_PIXELS = 250_000_000
"""How many pixels an image may have unless a request says otherwise: more are a decompression bomb, mostly."""

Pooling = Literal["avg", "max", "flatten", "none"]
Resize = Literal["stretch", "pad", "crop"]
Interpolation = Literal["bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5"]
Preprocess = Literal["auto", "none", "caffe", "torch", "tf", "rescale"]
Dtype = Literal["float32", "float16"]
Precision = Literal["float32", "bfloat16", "float16"]
Runtime = Literal["tensorflow", "openvino"]
Fill = Literal["nearest", "reflect", "constant"]
Decode = Literal["accurate", "reduced"]


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
        The cache's format version.
    spec : mapping, optional
        The encoder, where features came from elsewhere; the fields above then say little.
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
    format: int = FORMAT_VERSION
    spec: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-ready values."""
        values = dataclasses.asdict(self)
        values["layers"] = list(self.layers)
        values["image_size"] = list(self.image_size)
        if self.spec is None:
            del values["spec"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `to_dict` wrote.

        Raises
        ------
        OptionError
            If a field is missing or unknown.
        """
        names = {f.name for f in dataclasses.fields(cls)} - {"spec"}
        if set(values) - {"spec"} != names:
            odd = ", ".join(sorted(names ^ (set(values) - {"spec"})))
            raise OptionError(
                f"Expected a recipe of format {FORMAT_VERSION}. Received one that differs in: {odd}. "
                "Read it with the version of featcache that wrote it, or extract again."
            )
        settled = {**values, "layers": tuple(values["layers"]), "image_size": tuple(values["image_size"])}
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

    def differences(self, other: Recipe) -> list[str]:
        """Say field by field how another recipe differs, as ``name: mine → theirs``."""
        mine, theirs = self.to_dict(), other.to_dict()
        both = {name: (mine.get(name), theirs.get(name)) for name in {**mine, **theirs}}
        return [f"{name}: {_short(one)} → {_short(other)}" for name, (one, other) in both.items() if one != other]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] if len(text) == 64 else text


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


@dataclass(frozen=True)
class Request:
    """What the user asked for: a base, where to cut it, and how images reach it.

    Parameters
    ----------
    base : str, Path or keras.Model
        A Keras application's name, a ``.keras`` / ``.h5`` model file, or a model in memory.
    settings : mapping
        Arguments for the application's constructor, such as ``{"alpha": 0.35}``.
    weights : str or Path
        ``"imagenet"``, ``"none"`` (freshly initialised from `seed`) or a weights file. Of a model
        file or a model in memory, the default means its own weights.
    layers : tuple of str
        Names of the layers to cut at, ``outer/inner`` inside a nested model; empty: the base's output.
    pooling : {"avg", "max", "flatten", "none"}
        What becomes of spatial maps.
    image_size : int or tuple of int, optional
        Height and width in pixels, one number for a square; default: the base's own.
    resize : {"stretch", "pad", "crop"}
        How an image of another shape is fitted into `image_size`.
    interpolation : str
        One of TensorFlow's image resizing methods.
    preprocess : {"auto", "none", "caffe", "torch", "tf", "rescale"}
        How pixels in 0…255 are scaled for the base; ``auto``: as the application's own module does.
    dtype : {"float32", "float16"}
        How features are stored.
    precision : {"float32", "bfloat16", "float16"}
        In what the network computes; preprocessing and pooling are always float32.
    runtime : {"tensorflow", "openvino"}
        What executes the network; ``openvino`` runs on the CPU.
    fast_decode : bool
        Decode a JPEG at the smallest eighth, quarter or half of its size that is not below `image_size`.
    seed : int
        For ``weights="none"``.
    max_pixels : int
        Images with more pixels are not decoded. It decides which images have rows, not their numbers, so it is neither
        in the recipe nor in what `to_dict` returns.
    canonical : bool
        Whether `layers` are a recipe's names, not those that layers have in this process.

    Raises
    ------
    OptionError
        If a value is not one of the possible ones.
    """

    base: Any = "vgg19"
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: str | Path | None = None
    layers: tuple[str, ...] = ()
    pooling: Pooling = "avg"
    image_size: int | tuple[int, int] | None = None
    resize: Resize = "stretch"
    interpolation: Interpolation = "bilinear"
    preprocess: Preprocess = "auto"
    dtype: Dtype = "float32"
    precision: Precision = "float32"
    runtime: Runtime = "tensorflow"
    fast_decode: bool = False
    seed: int = 0
    max_pixels: int = MAX_PIXELS
    canonical: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.max_pixels, bool) or not isinstance(self.max_pixels, int) or self.max_pixels < 1:
            raise OptionError(f"`max_pixels` must be a number of 1 or more. Received: {self.max_pixels!r}.")
        for name, kind in (
            ("pooling", Pooling),
            ("resize", Resize),
            ("interpolation", Interpolation),
            ("preprocess", Preprocess),
            ("dtype", Dtype),
            ("precision", Precision),
            ("runtime", Runtime),
        ):
            value = getattr(self, name)
            if value not in choices(kind):
                known = ", ".join(choices(kind))
                raise OptionError(f"Expected {name} to be one of {known}. Received: {name}={value!r}.")
        if not isinstance(self.layers, tuple):
            raise OptionError(f"Expected layers to be a tuple of names. Received: layers={self.layers!r}.")
        size = self.size
        if size is not None and not (
            len(size) == 2 and all(isinstance(side, int) and 1 <= side <= 16_384 for side in size)
        ):
            raise OptionError(
                "Expected image_size to be (height, width) of 1 to 16384 pixels. "
                f"Received: image_size={self.image_size!r}."
            )

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width in pixels, None for the base's own."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

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

        Files appear with their absolute path, size and time stamp, and the Keras version is part of
        it, so that an equal request is an equal recipe without loading anything.

        Raises
        ------
        BaseError, WeightsError
            If a file that is named does not exist.
        """
        if self.in_memory:
            return None
        base: Any = self.base_name
        if self.is_file:
            base = _stamp(Path(self.base), BaseError, "a model file")
        weights: Any = None if self.weights is None else str(self.weights)
        if weights not in (None, "imagenet", "none"):
            weights = _stamp(Path(weights), WeightsError, "weights: 'imagenet', 'none' or a file")
        return {
            "base": base,
            "settings": {key: self.settings[key] for key in sorted(self.settings)},
            "weights": weights,
            "layers": list(self.layers),
            "pooling": self.pooling,
            "image_size": None if self.size is None else list(self.size),
            "resize": self.resize,
            "interpolation": self.interpolation,
            "preprocess": self.preprocess,
            "dtype": self.dtype,
            "precision": self.precision,
            "runtime": self.runtime,
            "decode": self.decode,
            "seed": self.seed if weights == "none" else 0,
            "keras": version("keras"),
            "format": FORMAT_VERSION,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Request:
        """Return a request equal to the one `to_dict` wrote (file stamps are taken anew).

        Raises
        ------
        OptionError
            If it is of a version that decoded JPEGs in another way.
        """
        if "decode" not in values:
            raise OptionError(
                "This cache or head was made by an earlier version of featcache, whose JPEG pixels were different. "
                "Extract again and train the head again."
            )

        def name_of(value: Any) -> Any:
            return value["file"] if isinstance(value, Mapping) else value

        size = values["image_size"]
        return cls(
            base=name_of(values["base"]),
            settings=dict(values["settings"]),
            weights=name_of(values["weights"]),
            layers=tuple(values["layers"]),
            pooling=values["pooling"],
            image_size=None if size is None else (int(size[0]), int(size[1])),
            resize=values["resize"],
            interpolation=values["interpolation"],
            preprocess=values["preprocess"],
            dtype=values["dtype"],
            precision=values["precision"],
            runtime=values["runtime"],
            fast_decode=values["decode"] == "reduced",
            seed=int(values["seed"]),
        )

    def absolute(self) -> Request:
        """Return the request with absolute paths, for a process with another working folder."""
        own = self.weights in (None, "imagenet", "none")
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


def _stamp(path: Path, error: type[BaseError], expected: str) -> dict[str, Any]:
    try:
        stat = path.stat()
    except (OSError, ValueError):
        hint = "" if path.suffix else f" ({nearest(str(path), ['imagenet', 'none'])})"
        raise error(f"Expected {expected}. Received: {str(path)!r}, which does not exist{hint}.") from None
    return {"file": str(path.resolve()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
