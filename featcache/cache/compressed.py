"""Rows of a compressed shard: read block by block through HDF5, from a file whose checksum was found right."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache.shard import compressor, member
from featcache.errors import CacheDamagedError, CacheError
from featcache.files.reading import trouble

RECENT_BYTES = 64 * 2**20


class RecentBlocks:
    """The blocks that were read last, at most `RECENT_BYTES` of them: rows are often asked for one by one."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[Path, str, int], npt.NDArray[Any]] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[Path, str, int]) -> npt.NDArray[Any] | None:
        """Return a block, None if it is not kept."""
        if key in self._blocks:
            self._blocks.move_to_end(key)
        return self._blocks.get(key)

    def put(self, key: tuple[Path, str, int], block: npt.NDArray[Any]) -> None:
        """Keep a block, for a while."""
        self._blocks[key] = block
        self._bytes += block.nbytes
        while self._bytes > RECENT_BYTES:
            self._bytes -= self._blocks.popitem(last=False)[1].nbytes


class CompressedRows:
    """A layer's rows in a compressed shard.

    Parameters
    ----------
    path : Path
        The shard; every byte of it was checked, as HDF5 may hang on a damaged file.
    layer : str
        Which layer.
    shape : tuple of int
        (rows, …).
    dtype : numpy.dtype
        As stored.
    recent : RecentBlocks
        What the cache's shards share.

    Raises
    ------
    CacheError
        If hdf5plugin is not installed.
    """

    def __init__(
        self, path: Path, layer: str, shape: tuple[int, ...], dtype: np.dtype[Any], recent: RecentBlocks
    ) -> None:
        compressor()
        self.shape, self.dtype = shape, dtype
        self._path, self._layer, self._recent = path, layer, recent

    def gather(
        self, positions: npt.NDArray[np.int64], step: int, check: Callable[[int, npt.NDArray[Any]], None]
    ) -> npt.NDArray[Any]:
        """Return rows, shape (len(positions), …); `check` is called with each block's number and rows.

        Raises
        ------
        CacheDamagedError
            If HDF5 cannot read them, or they are not what the manifest says.
        """
        numbers = positions // step
        result = np.empty((len(positions), *self.shape[1:]), self.dtype)
        absent = []
        for number in np.unique(numbers).tolist():
            content = self._recent.get((self._path, self._layer, number))
            if content is None:
                absent.append(number)
            else:
                result[numbers == number] = content[positions[numbers == number] - number * step]
        for number, content in self._read(absent, step):
            check(number, content)
            self._recent.put((self._path, self._layer, number), content)
            result[numbers == number] = content[positions[numbers == number] - number * step]
        return result

    def _read(self, numbers: list[int], step: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        import h5py

        if not numbers:
            return
        try:
            with h5py.File(self._path, "r") as file:
                dataset = file["features"][member(self._layer)]
                if (dataset.shape, dataset.dtype) != (self.shape, self.dtype):
                    raise ValueError(f"{dataset.shape}, {dataset.dtype}")
                for number in numbers:
                    yield number, dataset[number * step : (number + 1) * step]
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            if (reason := trouble(error)) is not None:
                raise CacheError(f"The shard {str(self._path)!r} cannot be read: {reason}") from None
            raise CacheDamagedError(
                f"The shard {str(self._path)!r} is damaged: {self._layer} cannot be read: "
                f"{' '.join(str(error).split())[:200]}. Run `featcache verify --fix`, then `featcache extract` "
                "again."
            ) from None
