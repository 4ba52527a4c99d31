"""One shard read whole, and checked against what it says of itself."""

from __future__ import annotations

import hashlib
import json
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
    head,
    index_checksum,
    member,
    row_keys,
)
from featcache.errors import CacheDamagedError, CacheError
from featcache.recipe import Recipe


@dataclass(frozen=True)
class ShardContents:
    """A sound shard.

    Attributes
    ----------
    info : ShardInfo
        As a manifest has it, computed from the file.
    digests : array of uint8, shape (rows, 32)
    views : array of uint16, shape (rows,)
    augmentation : str
        Of views ≥ 1.
    paths : list of str
        Where each image was when it was extracted.
    recipe : Recipe
        What the rows were computed with.
    layers : dict
        Shape of one row of each layer, the deepest last.
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

    Raises
    ------
    CacheDamagedError
        If anything in it is not as it was written.
    CacheError
        If it is of another format version.
    """
    import h5py

    size, checksum = file_checksum(path)  # first: HDF5 may hang on a damaged file
    try:
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
            digests, views, paths = file["digests"][()], file["views"][()], list(file["paths"][()])
            index = index_checksum(digests, views, paths, [fingerprint, layer_text, augmentation])
            if index != file.attrs["index_crc32"]:
                raise ValueError("digests, views, paths or attributes do not have their checksum")
            if hashlib.sha256(recipe_text.encode()).hexdigest() != fingerprint:
                raise ValueError("its recipe does not have its fingerprint")
            recipe = Recipe.from_dict(json.loads(recipe_text))
            layers = {name: tuple(shape) for name, shape in json.loads(layer_text)}
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
    except CacheError:
        raise
    except Exception as error:  # a damaged file fails in many ways
        raise CacheDamagedError(
            f"The shard {str(path)!r} is damaged: {' '.join(str(error).split())[:200]}. Run `featcache verify "
            "--fix`, then `featcache extract` again."
        ) from None
    info = ShardInfo(path.name, rows, size, checksum, checksums, {name: shard.offsets[name] for name in layers})
    names = [path.decode("utf-8", "surrogateescape") for path in paths]
    return ShardContents(info, digests, views, augmentation, names, recipe, layers)


def check_same(path: Path, found: tuple[int, int], info: ShardInfo) -> None:
    """Raise `CacheDamagedError` if a shard's size and checksum are not those that the manifest says."""
    if found != (info.size, info.checksum):
        raise CacheDamagedError(
            f"The shard {str(path)!r} is damaged: its checksum does not match. Run `featcache verify --fix`, "
            "then `featcache extract` again."
        )


def file_checksum(path: Path) -> tuple[int, int]:
    """Return a shard's size and checksum, computed without HDF5.

    Raises
    ------
    CacheDamagedError
        If it is missing, cannot be read, or is not what its head says.
    CacheError
        If it may not be read.
    """
    checksum = 0
    try:
        with path.open("rb") as file:
            beginning = file.read(HEAD_BYTES)
            size = len(beginning)
            while piece := file.read(2**23):
                size, checksum = size + len(piece), zlib.crc32(piece, checksum)
    except OSError as error:
        kind = CacheError if isinstance(error, PermissionError) else CacheDamagedError
        raise kind(
            f"The shard {str(path)!r} cannot be read: {error.strerror}. Run `featcache verify --fix`, then "
            "`featcache extract` again."
        ) from None
    if beginning != head(checksum):
        raise CacheDamagedError(
            f"The shard {str(path)!r} is damaged: its bytes are not those that were written. Run `featcache "
            "verify --fix`, then `featcache extract` again."
        )
    return size, checksum
