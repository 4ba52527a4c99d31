"""Means, scales and products of features, from rows that need not be in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from featcache.heads.rows import Float32s, Floats, Rows

PIECE = 4096
"""How many products are added up in float32 before float64 takes over."""
SAMPLE = 16_384
"""Rows that a Gram matrix is of, at most, where it only has to be near."""


@dataclass(frozen=True, eq=False)
class Moments:
    """What features are shifted and divided by: `mean` and `scale` (d,), in float64.

    `shift` (d,) is taken from the rows as they are read where their means are large against their deviations
    (`shifts`), so that no digits are lost; else it is 0. `gram` (d, d) is about ``XᵀX`` of the centred and scaled rows.
    """

    mean: Floats
    scale: Floats
    variance: Floats
    shift: Floats
    shifts: bool
    gram: Floats | None = None


def moments(rows: Rows, *, standardize: bool = True, gram: bool = False) -> Moments:
    """Return the moments of all rows, from one pass over them; the Gram matrix is that of a part of many rows."""
    (n, d) = rows.shape
    first = first_mean(rows).astype(np.float64)
    near = first.astype(np.float32)
    sums, squares = np.zeros(d), np.zeros(d)
    product = np.zeros((d, d)) if gram else None
    size = min(PIECE, 4 * rows.block_rows)
    starts = range(0, n, size)
    every = max(1, -(-len(starts) * size // max(SAMPLE, 4 * d))) if gram else 1
    sampled = 0
    of_sample = np.zeros(d)
    for number, start in enumerate(starts):
        moved = rows[start : start + size] - near
        added = moved.sum(axis=0, dtype=np.float64)
        sums += added
        squares += np.square(moved).sum(axis=0, dtype=np.float64)
        if product is not None and number % every == 0:
            product += moved.T @ moved
            of_sample += added
            sampled += len(moved)
    off = sums / n
    variance = np.maximum(squares / n - off**2, 0)
    variance[variance <= 1e-12 * (off**2 + squares / n)] = 0
    deviation = np.sqrt(np.where(variance > 0, variance, 1))
    scale = deviation if standardize else np.ones(d)
    mean = near.astype(np.float64) + off
    if product is not None:
        at = of_sample / sampled
        product -= sampled * np.outer(at, at)
        product *= n / sampled
        product /= scale
        product /= scale[:, None]
    shifts = bool((np.abs(mean) > 30 * deviation).any())
    return Moments(mean, scale, variance, near.astype(np.float64) if shifts else np.zeros(d), shifts, product)


def products(rows: Rows, of: Moments) -> Floats:
    """Return ``XXᵀ`` (n, n) of the centred and scaled rows."""
    n, d = rows.shape
    mean, scale = of.mean.astype(np.float32), of.scale.astype(np.float32)
    kernel = np.zeros((n, n))
    width = max(1, min(PIECE, d))
    if 4 * n * d <= 2**28:
        values = (rows[:] - mean) / scale
        for start in range(0, d, width):
            part = np.ascontiguousarray(values[:, start : start + width])
            kernel += part @ part.T
        return kernel
    size = max(1, 2**27 // (4 * d))
    for i in range(0, n, size):
        left = (rows[i : i + size] - mean) / scale
        for j in range(i, n, size):
            right = left if i == j else (rows[j : j + size] - mean) / scale
            pair = np.zeros((len(left), len(right)))
            for start in range(0, d, width):
                pair += left[:, start : start + width] @ right[:, start : start + width].T
            kernel[i : i + size, j : j + size] = pair
            kernel[j : j + size, i : i + size] = pair.T
    return kernel


def first_mean(rows: Rows) -> Float32s:
    """Return the first block's mean (d,); less it, a constant feature is exactly 0."""
    return np.asarray(rows[: rows.block_rows].mean(axis=0, dtype=np.float64), np.float32)
