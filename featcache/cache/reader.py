"""Reading a cache: X, y, paths and class names per split and layer, in source order."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache.manifest import Entry, Manifest
from featcache.cache.shard import Shard, ShardInfo, block_rows
from featcache.errors import CacheDamagedError, CacheError, OptionError, nearest
from featcache.recipe import Recipe


@dataclass(frozen=True)
class _Index:
    """The listed images that have a row, in source order."""

    entries: list[Entry]
    shards: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]


class FeatureCache:
    """A cache, opened for reading.

    Parameters
    ----------
    path : path
        The cache's folder.

    Attributes
    ----------
    path : Path
        The folder.
    recipe : Recipe
        What decided the numbers.
    description : dict
        All of ``recipe.json``: also the request, and the versions that wrote it.
    report : ExtractionReport or None
        What extraction did, if `featcache.extract` returned this object.

    Raises
    ------
    CacheError
        If there is no cache, or it has another format version.
    CacheDamagedError
        If the recipe or the manifest is damaged.

    Examples
    --------
    >>> cache = FeatureCache("cache/digits-vgg19-0a1b2c3d")  # doctest: +SKIP
    >>> X, y = cache.load("train")  # doctest: +SKIP
    """

    report: Any = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._manifest = Manifest(self.path / "manifest.sqlite")
        self._meta = self._manifest.meta()
        self.description = read_description(self.path)
        self.recipe = Recipe.from_dict(self.description["recipe"])
        if self._meta.get("fingerprint") != self.recipe.fingerprint:
            raise CacheDamagedError(
                f"Expected one recipe in {str(self.path)!r}. Received: recipe.json and manifest differ. "
                "Restore recipe.json, or extract into another --cache."
            )

    def __repr__(self) -> str:
        return f"FeatureCache({str(self.path)!r}: {self.splits}, layers {', '.join(self.layers)})"

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Shape of one row of each layer, the deepest last."""
        return {layer: tuple(shape) for layer, shape in self._meta["layers"]}

    @property
    def source(self) -> dict[str, str]:
        """The source's ``name`` and ``location`` when it was last extracted."""
        source: dict[str, str] = self._meta["source"]
        return source

    @property
    def listing_options(self) -> dict[str, Any]:
        """How the source was listed: classes, validation_split, test_from, seed."""
        options: dict[str, Any] = self._meta["listing"]
        return options

    @cached_property
    def class_names(self) -> list[str]:
        """Class names in alphanumeric order; a label is an index into them."""
        return sorted({entry.label for entry in self.entries if entry.label is not None})

    @cached_property
    def entries(self) -> list[Entry]:
        """Every image of the source, in its order, those without a row too."""
        return self._manifest.listing()

    @property
    def skipped(self) -> list[dict[str, str]]:
        """Images that could not be used: ``path`` and ``reason``."""
        return [{"path": entry.path, "reason": entry.reason} for entry in self.entries if entry.reason]

    @property
    def missing(self) -> int:
        """Number of listed images that have not been extracted yet."""
        return len(self.entries) - len(self._index.entries) - len(self.skipped)

    @property
    def splits(self) -> dict[str, int]:
        """Number of rows in each split that has any."""
        found = [entry.split for entry in self._index.entries]
        return {split: found.count(split) for split in ("train", "validation", "test") if split in found}

    @cached_property
    def shards(self) -> dict[int, ShardInfo]:
        """Every shard by its number."""
        return self._manifest.shards()

    def __len__(self) -> int:
        return len(self._index.entries)

    @cached_property
    def _index(self) -> _Index:
        places = self._manifest.rows()
        rows = [(e, places[e.digest]) for e in self.entries if e.reason is None and e.digest in places]
        return _Index(
            [entry for entry, _ in rows],
            np.array([place.shard for _, place in rows], np.int64),
            np.array([place.position for _, place in rows], np.int64),
        )

    def _selected(self, split: str | None) -> npt.NDArray[np.int64]:
        if split is None:
            return np.arange(len(self), dtype=np.int64)
        if split not in self.splits:
            raise OptionError(
                f"Expected a split of {str(self.path)!r}: {', '.join(self.splits) or 'it has none'}. "
                f"Received: {split!r}."
            )
        return np.flatnonzero([entry.split == split for entry in self._index.entries])

    def _layer(self, layer: str | None) -> str:
        if layer is None:
            return list(self.layers)[-1]
        if layer not in self.layers:
            raise OptionError(
                f"Expected a layer of {str(self.path)!r}. Received: {layer!r} ({nearest(layer, self.layers)})."
            )
        return layer

    def features(self, split: str | None = None, layer: str | None = None) -> FeatureRows:
        """Return the features of a split, still on disk.

        Parameters
        ----------
        split : str, optional
            ``train``, ``validation`` or ``test``; default: all rows.
        layer : str, optional
            Default: the deepest.

        Returns
        -------
        FeatureRows
            Shape (n, …), rows in source order.
        """
        chosen = self._selected(split)
        index = self._index
        return FeatureRows(self, self._layer(layer), index.shards[chosen], index.positions[chosen])

    def labels(self, split: str | None = None) -> npt.NDArray[np.int64]:
        """Return the class indices of a split, shape (n,); -1 where an image has no label."""
        number = {name: i for i, name in enumerate(self.class_names)}
        entries = self._index.entries
        return np.array([number.get(entries[i].label or "", -1) for i in self._selected(split)], np.int64)

    def paths(self, split: str | None = None) -> list[str]:
        """Return the images' paths relative to the source."""
        return [self._index.entries[i].path for i in self._selected(split)]

    def digests(self, split: str | None = None) -> list[bytes]:
        """Return the images' digests, 32 bytes each: equal for exact duplicates."""
        return [self._index.entries[i].digest or b"" for i in self._selected(split)]

    def load(
        self, split: str | None = None, layer: str | None = None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Return X of shape (n, …) and y of shape (n,) of a split, in memory and in source order."""
        return np.asarray(self.features(split, layer)), self.labels(split)

    @cached_property
    def _open_shards(self) -> dict[int, Shard]:
        return {}

    @cached_property
    def _sound_blocks(self) -> dict[tuple[int, str], npt.NDArray[np.bool_]]:
        return {}

    def _shard_rows(self, number: int, layer: str, positions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return rows of one shard after checking the blocks they lie in, each once per process."""
        info = self.shards[number]
        if number not in self._open_shards:
            shard = Shard(self.path / "shards" / info.name)
            if shard.fingerprint != self.recipe.fingerprint:
                raise CacheDamagedError(f"Expected shard {info.name} to be of this recipe. Received: another's.")
            self._open_shards[number] = shard
        features = self._open_shards[number].features(layer)
        expected = info.checksums[layer]
        step = block_rows(features[:1].nbytes)
        sound = self._sound_blocks.setdefault((number, layer), np.zeros(len(expected), bool))
        blocks = np.unique(positions // step)
        if len(features) != info.rows or blocks[-1] >= len(expected):
            raise CacheDamagedError(f"Expected {info.rows} rows in shard {info.name}. Received: {len(features)}.")
        for block in blocks[~sound[blocks]]:
            content = np.ascontiguousarray(features[block * step : (block + 1) * step])
            if zlib.crc32(content.data.cast("B")) != expected[block]:
                raise CacheDamagedError(
                    f"Expected block {block} of {layer} in {str(self.path / 'shards' / info.name)!r} to have its "
                    "checksum. Received: damaged bytes. Restore the file, or extract into another --cache."
                )
            sound[block] = True
        rows: npt.NDArray[Any] = features[positions]
        return rows


class FeatureRows:
    """Features of some rows, in source order, read from disk when indexed.

    Index it with an integer, a slice or an array of integers, or pass it to `numpy.asarray`.

    Attributes
    ----------
    shape : tuple
        (n, …).
    dtype : numpy.dtype
        As stored.
    """

    def __init__(
        self, cache: FeatureCache, layer: str, shards: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]
    ) -> None:
        self._cache, self._layer, self._shards, self._positions = cache, layer, shards, positions
        self.shape = (len(shards), *cache.layers[layer])
        self.dtype = np.dtype(cache.recipe.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        if isinstance(rows, int | np.integer):
            row: npt.NDArray[Any] = self[[int(rows)]][0]
            return row
        shards, positions = self._shards[rows], self._positions[rows]
        result = np.empty((len(shards), *self.shape[1:]), self.dtype)
        for shard in np.unique(shards):
            here = shards == shard
            result[here] = self._cache._shard_rows(int(shard), self._layer, positions[here])
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("Expected copy=True or None: rows on disk are always copied into an array.")
        rows = self[:]
        return rows if dtype is None else rows.astype(dtype, copy=False)


def read_description(folder: Path) -> dict[str, Any]:
    """Return what ``recipe.json`` of a cache says: recipe, fingerprint, request, versions.

    Raises
    ------
    CacheError
        If there is none, or it is not JSON.
    """
    path = folder / "recipe.json"
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise CacheError(f"Expected a cache. Received: {str(folder)!r}, which has no recipe.json.") from None
    except (OSError, ValueError) as error:
        raise CacheDamagedError(f"Expected JSON in {str(path)!r}. Received: {error}.") from None
    if not isinstance(value, dict) or "recipe" not in value:
        raise CacheDamagedError(f"Expected a recipe in {str(path)!r}. Received: something else.")
    return value


def newest_cache(root: Path) -> Path:
    """Return the cache under `root` that was extracted into last (a run that had nothing to do counts).

    Raises
    ------
    CacheError
        If there is none.
    """
    found = [path.parent for path in root.glob("*/manifest.sqlite") if (path.parent / "recipe.json").is_file()]
    if not found:
        raise CacheError(f"Expected a cache under {str(root)!r}. Received: none. Run extract first, or name one.")
    return max(found, key=lambda folder: folder.stat().st_mtime_ns)  # the writer's lock came and went in it
