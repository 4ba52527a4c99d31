"""Features of a cache's rows, mapped or unpacked from its shards, with each block checked once."""

from __future__ import annotations

import itertools
import math
import mmap
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache.rows import by_place
from featcache.cache.shard import (
    ShardInfo,
    block_rows,
    check_same,
    compressor,
    damaged,
    file_checksum,
    member,
    unreadable,
)
from featcache.errors import CacheDamagedError, mending
from featcache.files.reading import open_plain
from featcache.sources.columns import Ints

Integers = npt.NDArray[np.int64]
Check = Callable[[int, npt.NDArray[Any]], None]
"""Raises if a block, given its number, does not have its checksum."""

RECENT_BYTES = 64 * 2**20
"""Unpacked blocks that are kept at most: rows are often asked for one by one."""


def damaged_manifest(cache: Path, what: str) -> CacheDamagedError:
    """Return the error of a manifest that describes what cannot be."""
    return CacheDamagedError(
        f"The manifest of {str(cache)!r} is damaged: {what}. Run {mending(cache)}, then extract into it again."
    )


class StoredFeatures:
    """The features of a cache, mapped without HDF5, which may hang on a damaged file.

    Compressed ones go through HDF5, after the checksum of the whole file was found right.
    """

    def __init__(
        self, cache: Path, shards: Mapping[int, ShardInfo], layers: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]
    ) -> None:
        self.cache, self.shards, self.layers, self.dtype = cache, shards, layers, dtype
        self._maps: dict[tuple[int, str], np.memmap[Any, Any]] = {}
        self._sound_files: set[str] = set()
        self._sound_blocks: dict[tuple[int, str], npt.NDArray[np.bool_]] = {}
        self._recent = _RecentBlocks()

    def rows(self, number: int, layer: str, positions: Ints) -> npt.NDArray[Any]:
        """Return rows of one shard after checking the blocks they lie in, each once per process."""
        info = self.shards.get(number)
        if info is None or layer not in info.offsets or positions.max() >= info.rows:
            raise damaged_manifest(self.cache, f"it does not know shard {number} with row {positions.max()} of {layer}")
        expected, step = info.checksums[layer], block_rows(math.prod(self.layers[layer]) * self.dtype.itemsize)
        sound = self._sound_blocks.setdefault((number, layer), np.zeros(len(expected), bool))

        def check(block: int, content: npt.NDArray[Any]) -> None:
            if not sound[block] and zlib.crc32(np.ascontiguousarray(content).data.cast("B")) != expected[block]:
                what = f"the checksum of block {block} of {layer} does not match"
                raise damaged(self.cache / "shards" / info.name, what)
            sound[block] = True

        if info.offsets[layer] == 0:
            return self._unpacked(info, layer, positions.astype(np.int64), step, check)
        features, blocks = self._mapped(number, layer), np.unique(positions // step)
        for block in blocks[~sound[blocks]]:
            check(block, features[block * step : (block + 1) * step])
        first, last = int(positions[0]), int(positions[-1])
        in_order = last - first == len(positions) - 1 and bool((np.diff(positions) == 1).all())
        rows: npt.NDArray[Any] = features[first : last + 1] if in_order else features[positions]  # a view: no copy
        return rows

    def expect(self, number: int, layer: str, positions: Ints) -> None:
        """Have the system read rows of one shard ahead, if they lie close together."""
        if number not in self.shards or not self.shards[number].offsets.get(layer):
            return  # compressed, or not there: who reads them says so
        features = self._mapped(number, layer)
        pages: Any = features.base
        first, count = int(positions.min()), int(np.ptp(positions)) + 1
        if hasattr(pages, "madvise") and count <= 4 * len(positions):
            begin = features.offset % mmap.ALLOCATIONGRANULARITY + first * features.strides[0]
            end = min(begin + count * features.strides[0], len(pages))
            begin -= begin % mmap.PAGESIZE
            if begin < end:
                pages.madvise(mmap.MADV_WILLNEED, begin, end - begin)

    def _mapped(self, number: int, layer: str) -> np.memmap[Any, Any]:
        if (number, layer) not in self._maps:
            info = self.shards[number]
            path, shape = self.cache / "shards" / info.name, (info.rows, *self.layers[layer])
            try:
                with open_plain(path, size=info.size) as file:
                    mapped = np.memmap(file, self.dtype, "r", offset=info.offsets[layer], shape=shape)
            except (OSError, ValueError, KeyError) as error:
                raise unreadable(path, error, f"{layer} cannot be read: {error}") from None
            self._maps[number, layer] = mapped
        return self._maps[number, layer]

    def _unpacked(self, info: ShardInfo, layer: str, positions: Integers, step: int, check: Check) -> npt.NDArray[Any]:
        """Return rows of a compressed shard, whose blocks are kept for a while after they were read and checked."""
        import h5py

        path, shape = self.cache / "shards" / info.name, (info.rows, *self.layers[layer])
        if info.name not in self._sound_files:
            check_same(path, file_checksum(path, info.size), info)
            self._sound_files.add(info.name)
        compressor()
        rows, numbers = np.empty((len(positions), *shape[1:]), self.dtype), positions // step

        def place(number: int, block: npt.NDArray[Any]) -> None:
            rows[numbers == number] = block[positions[numbers == number] - number * step]

        absent = []
        for number in np.unique(numbers).tolist():
            if (block := self._recent.get((info.name, layer, number))) is None:
                absent.append(number)
            else:
                place(number, block)
        if not absent:
            return rows
        try:
            with h5py.File(path, "r") as file:
                dataset = file["features"][member(layer)]
                if (dataset.shape, dataset.dtype) != (shape, self.dtype):
                    raise ValueError(f"{dataset.shape}, {dataset.dtype}")
                for number in absent:
                    block = dataset[number * step : (number + 1) * step]
                    check(number, block)
                    self._recent.put((info.name, layer, number), block)
                    place(number, block)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            what = f"{layer} cannot be read: {' '.join(str(error).split())[:200]}"
            raise unreadable(path, error, what) from None
        return rows


class FeatureRows:
    """Features of some rows, read from disk when indexed.

    Index it with an integer, a slice or an array of integers, or pass it to `numpy.asarray`.

    Attributes
    ----------
    shape : tuple
        (n, …).
    dtype : numpy.dtype
        As stored.
    """

    def __init__(self, stored: StoredFeatures, layer: str, shards: Ints, positions: Ints) -> None:
        self._stored, self._layer, self._shards, self._positions = stored, layer, shards, positions
        self.shape, self.dtype = (len(shards), *stored.layers[layer]), stored.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | Sequence[int] | Integers) -> npt.NDArray[Any]:
        if isinstance(rows, int | np.integer):
            row: npt.NDArray[Any] = self[[int(rows)]][0]
            return row
        result = np.empty((len(self._shards[rows]), *self.shape[1:]), self.dtype)
        self.read(rows, result, np.arange(len(result)))
        return result

    def read(self, rows: slice | Sequence[int] | Integers, out: npt.NDArray[Any], at: Integers) -> None:
        """Copy rows to the places `at` (k,) of an array of shape (m, …), converting them to its type."""
        shards, positions = self._shards[rows], self._positions[rows]
        if (shards[1:] < shards[:-1]).any():
            order = by_place(shards, positions)
            shards, positions, at = shards[order], positions[order], at[order]
        for shard, part in _stretches(shards):
            out[at[part]] = self._stored.rows(shard, self._layer, positions[part])

    def expect(self, rows: slice | Integers) -> None:
        """Have rows that will be read soon brought from the disk while something else is done."""
        positions = self._positions[rows]
        for shard, part in _stretches(self._shards[rows]):
            self._stored.expect(shard, self._layer, positions[part])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("Rows on disk are always copied into an array: copy must be True or None.")
        rows = self[:]
        return rows if dtype is None else rows.astype(dtype, copy=False)


def _stretches(shards: Ints) -> Iterator[tuple[int, slice]]:
    """Yield each shard with the stretch of rows that lie in it one after the other."""
    edges = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(shards)]
    for first, last in itertools.pairwise(edges if len(shards) else []):
        yield int(shards[first]), slice(first, last)


class _RecentBlocks:
    """The blocks that were unpacked last, at most `RECENT_BYTES` of them."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[str, str, int], npt.NDArray[Any]] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[str, str, int]) -> npt.NDArray[Any] | None:
        if key in self._blocks:
            self._blocks.move_to_end(key)
        return self._blocks.get(key)

    def put(self, key: tuple[str, str, int], block: npt.NDArray[Any]) -> None:
        self._blocks[key] = block
        self._bytes += block.nbytes
        while self._bytes > RECENT_BYTES:
            self._bytes -= self._blocks.popitem(last=False)[1].nbytes
