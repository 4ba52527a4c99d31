"""One shard: an immutable, self-describing HDF5 file of some rows of every layer; docs/format.md has its layout."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from featcache.errors import CacheDamagedError, CacheError, OptionError, mending
from featcache.files.publishing import publish
from featcache.files.reading import open_plain, parsed, trouble
from featcache.options import SHARD_ROWS, Compression
from featcache.recipe import Recipe, canonical_json

SHARD_BYTES = 64 * 2**20
"""A shard's features at most: it is put together in memory, so that no half-written HDF5 file exists."""

BLOCK_BYTES = 2**20

_FILTERS = {32015: "zstd", 32004: "lz4"}
"""HDF5's registered numbers of the filters."""

SHARD_FORMAT = 1
"""Version of a shard's layout; a part of its bytes, and so of its name."""

HEAD_BYTES = 4096
"""HDF5's user block: a shard can be checked without HDF5, which may crash or hang on a damaged file."""

SHARD_FILE_BYTES = 16 * 2**30
"""What a shard has at most: `SHARD_BYTES`, or one row, and its index."""


class Key(NamedTuple):
    """Which row: `augmentation` is empty for view 0, else the fingerprint of policy and seed."""

    digest: bytes
    view: int
    augmentation: str


def row_keys(digests: Iterable[bytes], views: Iterable[int], augmentation: str) -> list[Key]:
    """Return the keys of a shard's rows."""
    return [Key(digest, view, augmentation if view else "") for digest, view in zip(digests, views, strict=True)]


@dataclass(frozen=True)
class ShardInfo:
    """What the manifest knows of a shard: `checksum` is of all from `HEAD_BYTES` on, `checksums` are of blocks.

    `offsets` say where in the file a layer's rows begin, one after the other; 0 if they are compressed.
    """

    name: str
    rows: int
    size: int
    checksum: int
    checksums: dict[str, npt.NDArray[np.uint32]]
    offsets: dict[str, int]


def damaged(path: Path, what: str) -> CacheDamagedError:
    """Return the error of a shard that is not as it was written."""
    return CacheDamagedError(
        f"The shard {str(path)!r} is damaged: {what}. Run {mending(path.parent.parent)}, then extract into it again."
    )


def unreadable(path: Path, error: Exception, what: str = "") -> CacheError:
    """Return the error of a shard that could not be read: what is in the way, or that it is damaged, and how."""
    if (reason := trouble(error)) is not None:
        return CacheError(f"The shard {str(path)!r} cannot be read: {reason}")
    return damaged(path, what or " ".join(str(error).split())[:200])


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Say of whatever fails while a shard is read what `unreadable` does: a damaged file fails in many ways."""
    try:
        yield
    except CacheError:
        raise
    except Exception as error:
        raise unreadable(path, error) from None


def member(layer: str) -> str:
    """Return a layer's name as a dataset's: ``/`` would make a group, which may be another layer's dataset."""
    return layer.replace("%", "%25").replace("/", "%2F")


def compressor() -> Any:
    """Return ``hdf5plugin``, whose import makes HDF5 know its filters; raise `CacheError` if it is not installed."""
    try:
        import hdf5plugin
    except ImportError:
        raise CacheError(
            "Compressed shards need hdf5plugin, which is not installed. Run: pip install 'featcache[compression]'"
        ) from None
    return hdf5plugin


def check_compression(compression: Compression) -> None:
    """Raise `OptionError` if there is no such compression, `CacheError` if it needs what is not installed."""
    if compression not in get_args(Compression):
        known = ", ".join(get_args(Compression))
        raise OptionError(f"`compression` must be one of {known}. Received: compression={compression!r}.")
    if compression != "none":
        compressor()


def _filters(compression: Compression) -> dict[str, Any]:
    """Return how `h5py` is told to compress a dataset."""
    check_compression(compression)
    if compression == "none":
        return {}
    plugin = compressor()
    return {"shuffle": True, **(plugin.Zstd() if compression == "zstd" else plugin.LZ4())}


def block_rows(row_bytes: int) -> int:
    """Return how many rows one checksum covers."""
    return max(1, BLOCK_BYTES // max(1, row_bytes))


def block_checksums(features: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Return CRC-32 of each block of rows, shape (blocks,)."""
    step = block_rows(features[:1].nbytes)
    blocks = [np.ascontiguousarray(features[start : start + step]) for start in range(0, len(features), step)]
    return np.array([zlib.crc32(block.data.cast("B")) for block in blocks], np.uint32)


class ShardBuilder:
    """Rows on their way into a shard: at most `max_rows`, fewer if they would exceed `SHARD_BYTES`.

    `augmentation` is the fingerprint of the policy and seed that made the views ≥ 1.
    """

    def __init__(
        self,
        recipe: Recipe,
        layers: Mapping[str, tuple[int, ...]],
        max_rows: int = SHARD_ROWS,
        augmentation: str = "",
        compression: Compression = "none",
    ) -> None:
        self._filters = _filters(compression)
        self._recipe, self._layers, self._augmentation = recipe, dict(layers), augmentation
        row_bytes = sum(math.prod(shape) for shape in layers.values()) * np.dtype(recipe.dtype).itemsize
        self.capacity = max(1, min(max_rows, SHARD_BYTES // row_bytes))
        self._digests: list[bytes] = []
        self._views: list[int] = []
        self._paths: list[str] = []
        self._features = {layer: np.empty((self.capacity, *shape), recipe.dtype) for layer, shape in layers.items()}

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def full(self) -> bool:
        """Whether it holds as many rows as it may."""
        return len(self) >= self.capacity

    def append(self, digest: bytes, path: str, features: Mapping[str, npt.NDArray[Any]], view: int = 0) -> None:
        """Add one row: its image's digest (32 bytes) and path, an array for each layer, and which view it is."""
        for layer, shape in self._layers.items():
            if features[layer].shape != shape:
                raise CacheError(f"Rows of {layer} must have the shape {shape}. Received: {features[layer].shape}.")
            self._features[layer][len(self)] = features[layer]
        self._digests.append(digest)
        self._views.append(view)
        self._paths.append(path)

    def publish(self, folder: Path) -> tuple[ShardInfo, list[Key]]:
        """Write the rows as a file of `folder`, named after its bytes; return also the rows' keys, in their order."""
        import h5py

        stacked = {layer: rows[: len(self)] for layer, rows in self._features.items()}
        checksums = {layer: block_checksums(rows) for layer, rows in stacked.items()}
        digests = np.frombuffer(b"".join(self._digests), np.uint8).reshape(-1, 32)
        views = np.array(self._views, np.uint16)
        paths = [path.encode("utf-8", "surrogateescape") for path in self._paths]
        offsets: dict[str, int] = {}
        image = io.BytesIO()
        with h5py.File(
            image, "w", userblock_size=HEAD_BYTES, alignment_threshold=4096, alignment_interval=4096
        ) as file:
            file.attrs["format"] = SHARD_FORMAT
            file.attrs["recipe"] = canonical_json(self._recipe.to_dict())
            texts = {
                "fingerprint": self._recipe.fingerprint,
                "layers": canonical_json([[name, shape] for name, shape in self._layers.items()]),
                "augmentation": self._augmentation,
            }
            for name, text in texts.items():
                file.attrs[name] = text
            file.attrs["index_crc32"] = index_checksum(digests, views, paths, list(texts.values()))
            for layer, rows in stacked.items():
                step = block_rows(rows[:1].nbytes)
                chunks = {"chunks": (min(step, len(rows)), *rows.shape[1:]), **self._filters} if self._filters else {}
                dataset = file.create_dataset(f"features/{member(layer)}", data=rows, **chunks)
                dataset.attrs["block_rows"] = step
                offsets[layer] = dataset.id.get_offset() or 0
                file.create_dataset(f"checksums/{member(layer)}", data=checksums[layer])
            file["digests"], file["views"] = digests, views
            file.create_dataset("paths", data=paths, dtype=h5py.string_dtype("utf-8"))
        content = image.getbuffer()
        checksum = zlib.crc32(content[HEAD_BYTES:])
        content[:HEAD_BYTES] = head(checksum)
        name = f"{hashlib.sha256(content).hexdigest()[:16]}.h5"  # whoever computes the same rows writes the same file
        info = ShardInfo(name, len(self), content.nbytes, checksum, checksums, offsets)

        def check(written: Path) -> None:
            shard = Shard(written)
            for layer, expected in checksums.items():
                if not np.array_equal(block_checksums(shard.features(layer)), expected):
                    raise CacheDamagedError(
                        f"The disk returned other bytes than were written to {str(folder)!r}, in {layer}. Nothing was "
                        "committed. Check the disk."
                    )

        publish(folder / name, content, check=check)
        return info, row_keys(self._digests, self._views, self._augmentation)


def head(checksum: int) -> bytes:
    """Return the first `HEAD_BYTES` of a shard."""
    text = f"featcache shard, HDF5 from byte {HEAD_BYTES} on, whose CRC-32 is {checksum:08x}\n"
    return text.encode().ljust(HEAD_BYTES, b"\0")


def index_checksum(
    digests: npt.NDArray[np.uint8], views: npt.NDArray[np.uint16], paths: Sequence[bytes], texts: Sequence[str]
) -> int:
    """Return CRC-32 over digests, views (little-endian), paths and texts, a zero byte after each of the latter two."""
    start = zlib.crc32(views.astype("<u2").tobytes(), zlib.crc32(digests.tobytes()))
    return zlib.crc32(b"".join(part + b"\0" for part in [*paths, *(text.encode() for text in texts)]), start)


class Shard:
    """A published shard, opened for reading; features are memory-mapped, compressed ones read when asked for."""

    def __init__(self, path: Path) -> None:
        import h5py

        self._path = path
        self._maps: dict[str, npt.NDArray[Any]] = {}
        self.offsets: dict[str, int] = {}
        self.compression: Compression = "none"
        with explained(path), h5py.File(path, "r") as file:
            for name, _ in json.loads(file.attrs["layers"]):
                dataset = file["features"][member(name)]
                offset = self.offsets[name] = dataset.id.get_offset() or 0
                if offset:
                    self._maps[name] = np.memmap(path, dataset.dtype, "r", offset=offset, shape=dataset.shape)
                else:
                    compressor()
                    self.compression = _compression(dataset)

    def features(self, layer: str) -> npt.NDArray[Any]:
        """Return a layer's rows, shape (rows, …), read-only; raise `CacheDamagedError` if the shard has none."""
        import h5py

        if layer not in self.offsets:
            raise CacheDamagedError(f"A shard has no layer {layer!r}, only {sorted(self.offsets)}.")
        if layer not in self._maps:
            with explained(self._path), h5py.File(self._path, "r") as file:
                self._maps[layer] = file["features"][member(layer)][()]
                self._maps[layer].flags.writeable = False
        return self._maps[layer]


def _compression(dataset: Any) -> Compression:
    """Return how an `h5py.Dataset` is compressed."""
    plan = dataset.id.get_create_plist()
    numbers = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    found = [_FILTERS[number] for number in numbers if number in _FILTERS]
    if len(found) != 1:
        raise ValueError(f"{dataset.name} has the filters {numbers}")
    return "zstd" if found == ["zstd"] else "lz4"


@dataclass(frozen=True)
class ShardContents:
    """A sound shard, with digests (rows, 32), views (rows,), and the shapes of one row, the deepest layer last.

    `augmentation` is that of views ≥ 1, `paths` are where images were when they were extracted.
    """

    info: ShardInfo
    digests: npt.NDArray[np.uint8]
    views: npt.NDArray[np.uint16]
    augmentation: str
    paths: list[str]
    recipe: Recipe
    layers: dict[str, tuple[int, ...]]

    @property
    def keys(self) -> list[Key]:
        """Keys of the rows, in their order."""
        return row_keys(map(bytes, self.digests), self.views.tolist(), self.augmentation)


def inspect(path: Path) -> ShardContents:
    """Read every byte of a shard and check it against the shard's own checksums."""
    import h5py

    size, checksum = file_checksum(path)  # first: HDF5 may hang on a damaged file
    with explained(path):
        with h5py.File(path, "r") as file:
            version = int(file.attrs["format"])
            if version != SHARD_FORMAT:
                raise CacheError(
                    f"The shard {str(path)!r} has format {version}, and this version of featcache reads format "
                    f"{SHARD_FORMAT}. Open it with the version of featcache that wrote it."
                )
            fingerprint, layer_text, augmentation, recipe_text = (
                str(file.attrs[name]) for name in ("fingerprint", "layers", "augmentation", "recipe")
            )
            if any(file[name].nbytes > size for name in ("digests", "views", "paths")):
                raise ValueError("its index is larger than the file")
            digests, views, paths = file["digests"][()], file["views"][()], list(file["paths"][()])
            if not len(digests) == len(views) == len(paths) or digests.shape[1:] != (32,):
                raise ValueError("digests, views and paths are not of the same rows")
            index = index_checksum(digests, views, paths, [fingerprint, layer_text, augmentation])
            if index != file.attrs["index_crc32"]:
                raise ValueError("digests, views, paths or attributes do not have their checksum")
            if hashlib.sha256(recipe_text.encode()).hexdigest() != fingerprint:
                raise ValueError("its recipe does not have its fingerprint")
            recipe = Recipe.from_dict(parsed(recipe_text))
            layers = {name: tuple(shape) for name, shape in parsed(layer_text)}
            expected = {name: file[f"checksums/{member(name)}"][()] for name in layers}
        shard, rows = Shard(path), len(digests)
        checksums = {}
        for name, shape in layers.items():
            features = shard.features(name)
            if features.shape != (rows, *shape) or features.dtype != np.dtype(recipe.dtype):
                raise ValueError(f"{name} is {features.shape}, {features.dtype}")
            checksums[name] = block_checksums(features)
            if not np.array_equal(checksums[name], expected[name]):
                raise ValueError(f"blocks of {name} do not have their checksums")
    info = ShardInfo(path.name, rows, size, checksum, checksums, {name: shard.offsets[name] for name in layers})
    names = [path.decode("utf-8", "surrogateescape") for path in paths]
    return ShardContents(info, digests, views, augmentation, names, recipe, layers)


def check_same(path: Path, found: tuple[int, int], info: ShardInfo) -> None:
    """Raise `CacheDamagedError` if a shard's size and checksum are not those that the manifest says."""
    if found != (info.size, info.checksum):
        raise damaged(path, "its checksum does not match")


def named_by_content(path: Path) -> bool:
    """Return whether a shard has the name that its bytes give it, so that whoever describes it otherwise is wrong."""
    with open_plain(path) as file:
        return path.name == f"{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}.h5"


def file_checksum(path: Path, size: int | None = None) -> tuple[int, int]:
    """Return a shard's size and checksum, computed without HDF5; if `size` is another one, nothing is read."""
    checksum = 0
    try:
        with open_plain(path, most=SHARD_FILE_BYTES, size=size) as file:
            beginning = file.read(HEAD_BYTES)
            size = len(beginning)
            while piece := file.read(2**23):
                size, checksum = size + len(piece), zlib.crc32(piece, checksum)
    except (OSError, ValueError) as error:
        what = "it is missing" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", error)
        raise unreadable(path, error, str(what)) from None
    if beginning != head(checksum):
        raise damaged(path, "its bytes are not those that were written")
    return size, checksum
