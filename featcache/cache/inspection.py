"""One shard read whole, and checked against what it says of itself."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from featcache.cache.shard import (
    HEAD_BYTES,
    SHARD_FORMAT,
    Key,
    Shard,
    ShardInfo,
    block_checksums,
    damaged,
    explained,
    head,
    index_checksum,
    member,
    row_keys,
    unreadable,
)
from featcache.errors import CacheError
from featcache.files.reading import open_plain, parsed
from featcache.recipe import Recipe

SHARD_FILE_BYTES = 16 * 2**30
"""What a shard has at most: `SHARD_BYTES`, or one row, and its index."""


@dataclass(frozen=True)
class ShardContents:
    """A sound shard: what a manifest has of it, its digests (rows, 32) and views (rows,), and what else it says.

    `augmentation` is that of views ≥ 1, `paths` are where images were when they were extracted, `layers` the shapes
    of one row, the deepest layer last.
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
    """Read every byte of a shard and check it against the shard's own checksums.

    Raise `CacheDamagedError` if anything in it is not as it was written, `CacheError` if it is of another format.
    """
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
    """Return a shard's size and checksum, computed without HDF5; if its size is not the known one, nothing is read.

    Raise `CacheDamagedError` if it is missing, no regular file, has another size, or is not what its head says;
    `CacheError` if it cannot be read for a reason that says nothing of it, such as too many open files.
    """
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
