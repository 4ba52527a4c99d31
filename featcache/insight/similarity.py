"""Which images have similar features: exact nearest neighbours by cosine similarity, a block at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from featcache.heads import Rows

Floats = npt.NDArray[np.float32]

MEMORY = 2**28
"""Bytes of directions that are kept as they are; beyond, sketches of them are."""
SKETCH = 128
"""Values of a sketch. A cosine c is found with a standard deviation of about (1 - c²) / √128."""
BLOCK = 2048
"""Rows that are multiplied by as many others at a time."""


def mean_row(rows: Rows) -> Floats:
    """Return the mean of all rows, shape (d,)."""
    total = np.zeros(rows.shape[1])
    for _, block in rows.blocks():
        total += block.sum(axis=0, dtype=np.float64)
    return (total / max(len(rows), 1)).astype(np.float32)


def directions(rows: Rows, mean: Floats) -> tuple[Floats, float]:
    """Return rows (n, d) less their mean, scaled to length 1, and how uncertain a cosine between two of them is.

    The mean (d,) is subtracted as pooled features are positive, so that all images look alike before. Where n · d · 4
    bytes are more than `MEMORY`, directions are sketches (n, 128): sparse random projections (Li, Hastie and Church,
    "Very sparse random projections", KDD 2006), seeded; the number is then the standard deviation of a cosine of 0.
    Rows equal to the mean are zeros.
    """
    n, d = rows.shape
    sketch = d > SKETCH and n * d * 4 > MEMORY
    if sketch:
        from sklearn.random_projection import SparseRandomProjection

        projection = SparseRandomProjection(SKETCH, random_state=0).fit(np.zeros((1, d), np.float32))
    found = np.empty((n, SKETCH if sketch else d), np.float32)
    for part, block in rows.blocks():
        centred = block - mean
        found[part] = projection.transform(centred) if sketch else centred
    found /= _lengths(found)
    return found, 1 / math.sqrt(SKETCH) if sketch else 0.0


def nearest(
    units: Floats, k: int, *, progress: Callable[[int, int], None] | None = None
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Return the k most similar other rows of each row, the most similar first, and their cosines.

    All pairs of the rows (n, d) of length 1 are looked at: time is of order n², memory of order n k. Both results have
    shape (n, k), with fewer columns where n - 1 < k.
    """
    n = len(units)
    k = min(k, n - 1)
    indices, cosines = np.empty((n, max(k, 0)), np.int32), np.empty((n, max(k, 0)), np.float32)
    if k < 1:
        return indices, cosines
    for start in range(0, n, BLOCK):
        block = units[start : start + BLOCK]
        own = np.arange(len(block))
        best, where = np.full((len(block), k), -np.inf, np.float32), np.full((len(block), k), -1, np.int32)
        for other in range(0, n, BLOCK):
            products = block @ units[other : other + BLOCK].T
            if other == start:
                products[own, own] = -np.inf
            # Where a row has k already, few of a block are nearer: they are picked before anything is sorted.
            nearer = products > best[:, -1:]
            if np.count_nonzero(nearer) > 8 * best.size and products.shape[1] > k:
                kept = np.argpartition(products, -k, axis=1)[:, -k:]
                few = np.zeros_like(nearer)
                np.put_along_axis(few, kept, True, axis=1)
                nearer &= few
            row, column = np.divmod(np.flatnonzero(nearer), nearer.shape[1])
            if len(row):
                _merge(best, where, row, column + other, products[row, column])
        indices[start : start + BLOCK], cosines[start : start + BLOCK] = where, best
        if progress is not None:
            progress(min(start + BLOCK, n), n)
    return indices, np.clip(cosines, -1, 1)


def _merge(
    best: Floats,
    where: npt.NDArray[np.int32],
    row: npt.NDArray[np.int64],
    column: npt.NDArray[np.int64],
    cosine: Floats,
) -> None:
    """Take new neighbours into the sorted `best` and `where` (m, k) of their rows."""
    k = best.shape[1]
    touched = np.unique(row)
    rows = np.concatenate([row, np.repeat(touched, k)])
    columns = np.concatenate([column, where[touched].ravel()])
    cosines = np.concatenate([cosine, best[touched].ravel()])
    order = np.lexsort((columns, -cosines, rows))
    rows, columns, cosines = rows[order], columns[order], cosines[order]
    first = np.searchsorted(rows, touched)
    taken = (first[:, None] + np.arange(k)).ravel()
    best[touched], where[touched] = cosines[taken].reshape(-1, k), columns[taken].reshape(-1, k)


def pair_cosines(rows: Rows, mean: Floats, left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]) -> Floats:
    """Return the exact cosine of each pair of rows less the mean, shape (m,), read a block at a time."""
    found = np.empty(len(left), np.float32)
    step = max(1, rows.block_rows)
    for start in range(0, len(left), step):
        a, b = (rows[side[start : start + step]] - mean for side in (left, right))
        found[start : start + step] = ((a / _lengths(a)) * (b / _lengths(b))).sum(axis=1)
    return np.clip(found, -1, 1)


def most_similar(rows: Rows, query: Floats, k: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the k rows with the largest cosine with a query (d,), largest first, and the cosines.

    Features are taken as they are, without subtracting a mean. Rows of equal cosine come in their own order.
    """
    query = query / _lengths(query[None])[0]
    cosines = np.empty(len(rows), np.float32)
    for part, block in rows.blocks():
        cosines[part] = (block @ query) / _lengths(block)[:, 0]
    best = np.argsort(-cosines, kind="stable")[:k]
    return best, np.clip(cosines[best], -1, 1)


def _lengths(rows: Floats) -> Floats:
    """Return the length of each row, (n, 1), 1 for rows of zeros."""
    lengths: Floats = np.linalg.norm(rows, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return lengths
