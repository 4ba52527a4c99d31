"""Features as heads see them: rows of float32 that need not be in memory, read in blocks, in order or shuffled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Float32s = npt.NDArray[np.float32]

BLOCK_BYTES = 2**22
"""What is read in one piece."""
AHEAD = 2
"""Blocks that are read from the disk while one is copied to its places."""
WINDOW_BYTES = 2**26
"""What is in memory while rows are shuffled."""


class Rows:
    """The features of n images, d float32 values each, read when they are asked for.

    `source` (n, …) is an array, a `numpy.memmap` or anything that gives rows for a slice or an array of integers, such
    as `featcache.cache.FeatureRows`. Further axes are flattened. Where it has ``read(rows, out, at)``, that is
    used to copy once. `chosen` says which of its rows, in this order; default: all.
    """

    def __init__(self, source: Any, chosen: Ints | None = None) -> None:
        self._source, self._chosen = source, chosen
        count = source.shape[0] if chosen is None else len(chosen)
        self.shape = (int(count), math.prod(source.shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Ints) -> Float32s:
        """Return rows as an array of shape (k, d); a view where the source is an array of float32."""
        values = np.asarray(self._source[rows if self._chosen is None else self._chosen[rows]])
        flat: Float32s = values.reshape(len(values), self.shape[1]).astype(np.float32, copy=False)
        return flat

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        rows = self[:]
        return rows if dtype is None else rows.astype(dtype, copy=False)

    def take(self, rows: Array) -> Rows:
        """Return some rows, by their indices (n,) or a mask (n,)."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return Rows(self._source, rows if self._chosen is None else self._chosen[rows])

    def in_memory(self) -> Rows:
        """Return the same rows, read once for all, if they take no more than a window; otherwise these."""
        if 4 * len(self) * self.shape[1] > WINDOW_BYTES:
            return self
        values = self[:]
        values.flags.writeable = False  # blocks are views of it
        return Rows(values)

    @property
    def block_rows(self) -> int:
        """Number of rows that are read in one piece."""
        rows: int = max(1, BLOCK_BYTES // max(4 * self.shape[1], 1))
        return rows

    def blocks(self) -> Iterator[tuple[slice, Float32s]]:
        """Yield (which rows, their features of shape (k, d)) for all rows in order."""
        for start in range(0, len(self), self.block_rows):
            rows = slice(start, min(start + self.block_rows, len(self)))
            yield rows, self[rows]

    def shuffled(self, rng: np.random.Generator, batch_size: int) -> Iterator[tuple[Ints, Float32s]]:
        """Yield (indices (k,), features (k, d)) of all rows once, in random order, a batch at a time.

        Blocks of about 4 MiB are drawn at random, and the rows of as many blocks as fill a window of about 64 MiB
        are mixed; `rng` alone decides the order. What is yielded is valid until the next batch.
        """
        n, step = len(self), self.block_rows
        starts = rng.permutation(np.arange(0, n, step))
        window = max(1, WINDOW_BYTES // (step * 4 * max(self.shape[1], 1)))
        if isinstance(self._source, np.ndarray) and len(starts) <= window:  # what the window would be is there already
            order = np.empty(n, np.int64)
            order[rng.permutation(n)] = [row for a in starts.tolist() for row in range(a, min(a + step, n))]
            for a in range(0, n, batch_size):
                yield order[a : a + batch_size], self[order[a : a + batch_size]]
            return
        buffer = np.empty((min(window * step + batch_size, n), self.shape[1]), np.float32)
        numbers = np.empty(len(buffer), np.int64)
        left = 0  # rows at the end of the last window that did not fill a batch
        for first in range(0, len(starts), window):
            pieces = [slice(int(a), int(min(a + step, n))) for a in starts[first : first + window]]
            count = sum(piece.stop - piece.start for piece in pieces)
            places, done = left + rng.permutation(count), 0
            for number, piece in enumerate(pieces, first):
                for start in starts[number + AHEAD if number else 0 : number + AHEAD + 1].tolist():
                    self._expect(slice(start, min(start + step, n)))
                at = places[done : done + piece.stop - piece.start]
                self._read(piece, buffer, at)
                numbers[at] = np.arange(piece.start, piece.stop)
                done += len(at)
            filled = left + count
            final = first + window >= len(starts)
            usable = filled if final else filled - filled % batch_size
            for a in range(0, usable, batch_size):
                b = min(a + batch_size, usable)
                yield numbers[a:b], buffer[a:b]
            left = filled - usable
            buffer[:left], numbers[:left] = buffer[usable:filled].copy(), numbers[usable:filled].copy()

    def _expect(self, rows: slice) -> None:
        """Have rows read from the disk while others are copied, if the source can do that."""
        if hasattr(self._source, "expect"):
            self._source.expect(rows if self._chosen is None else self._chosen[rows])

    def _read(self, rows: slice, out: Float32s, at: Ints) -> None:
        """Copy rows to the places `at` of `out`, if possible without another copy between."""
        if hasattr(self._source, "read"):
            wanted = rows if self._chosen is None else self._chosen[rows]
            self._source.read(wanted, out.reshape(len(out), *self._source.shape[1:]), at)
        else:
            out[at] = self[rows]
