"""How well features suit labels, without training a head: the log of the maximum evidence (LogME)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from featcache.errors import OptionError

PIECE_BYTES = 2**26
"""Rows that are multiplied at a time, as float64."""
PANEL_BYTES = 2**28
"""Wide rows whose products with all others are formed in one pass, as float64."""
RESOLUTION = 2.0**-40
"""Eigenvalues, and noise beside signal, below this share of the greatest eigenvalue are rounding."""
ITERATIONS = 1000

Floats = npt.NDArray[np.float64]


class BlockRows(Protocol):
    """Rows that are read in blocks, such as `featcache.heads.rows.Rows`."""

    @property
    def shape(self) -> tuple[int, int]:
        """n and d."""

    def blocks(self) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        """Yield (which rows, their features of shape (k, d)) for all rows in order."""


def logme(rows: BlockRows | npt.NDArray[Any], target: npt.NDArray[Any]) -> float:
    """Return the log of the maximum evidence for each sample, averaged over the classes; higher is better.

    For each class, y is 1 for its images and 0 for the others. With weights w ~ N(0, I/alpha) and y ~ N(Fw, I/beta),
    the log evidence log N(y | 0, I/beta + FFᵀ/alpha) is maximised over alpha and beta and divided by n (You, Liu, Wang
    and Long, "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML 2021). As published,
    neither F nor y is centred, and there is no intercept. The maximum is found by the fixed point iteration on
    alpha/beta of You, Liu, Zhang, Wang, Jordan and Long, "Ranking and Tuning Pre-trained Models" (arXiv 2110.10545),
    started at the best point of a grid, as there may be several maxima.

    The rows are never held whole: of them, FᵀF and the sums of each class are kept if n ≥ d, and FFᵀ if n < d, both
    in float64. Rows are read once if n ≥ d or if they fit in `PANEL_BYTES` as float64, else once for each
    `PANEL_BYTES`.

    Parameters
    ----------
    rows : array or BlockRows, shape (n, d)
        The features F.
    target : array, shape (n,)
        The class of each row; numbers or names. Classes that do not occur do not count.

    Returns
    -------
    float
        Finite also where the features fit the target exactly and the evidence has no upper bound: alpha/beta is at
        least `RESOLUTION` times the greatest eigenvalue of FFᵀ. Scores compare features of the same n and target.

    Raises
    ------
    OptionError
        If `target` is not one label per row, has fewer than two classes, or a feature is not finite.
    """
    classes, codes = np.unique(np.asarray(target).reshape(-1), return_inverse=True)
    n, d = rows.shape
    if len(codes) != n:
        raise OptionError(f"Expected one label for each of {n} rows. Received: {len(codes)} labels.")
    if len(classes) < 2:
        raise OptionError(f"Expected labels of at least two classes. Received: {len(classes)}.")
    values, shares = _narrow(rows, codes) if n >= d else _wide(rows, codes)
    counts = np.bincount(codes).astype(np.float64)
    return float(_evidence(values, shares, counts, n).mean() / n)


def _narrow(rows: BlockRows | npt.NDArray[Any], codes: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return what `_spectrum` does, from FᵀF."""
    from scipy.linalg.blas import dsyrk

    n, d = rows.shape
    gram, sums = np.zeros((d, d), order="F"), np.zeros((int(codes.max()) + 1, d))
    for start, piece in _pieces(rows, max(min(256, n), PIECE_BYTES // (8 * max(d, 1)))):
        if d:
            gram = dsyrk(1.0, piece.T, beta=1.0, c=gram, overwrite_c=1)
        sums += _class_sums(codes[start : start + len(piece)], piece, len(sums))
    values, vectors, scale = _spectrum(gram)
    return values, (sums @ vectors) ** 2 / (values * scale)


def _wide(rows: BlockRows | npt.NDArray[Any], codes: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return what `_spectrum` does, from FFᵀ: each pass multiplies a panel of rows by the rows from there on."""
    n, d = rows.shape
    step = max(1, PIECE_BYTES // (8 * d))
    height = max(1, PANEL_BYTES // (8 * d * step)) * step
    gram, panel = np.zeros((n, n), order="F"), np.empty((min(height, n), d))
    for first in range(0, n, height):
        filled = 0
        for start, piece in _pieces(rows, step, first):
            if start < first + height:
                filled = start - first + len(piece)
                panel[start - first : filled] = piece
            with np.errstate(invalid="ignore"):
                gram[first : first + filled, start : start + len(piece)] = panel[:filled] @ piece.T
    values, vectors, _ = _spectrum(gram)
    return values, _class_sums(codes, vectors, int(codes.max()) + 1) ** 2


def _pieces(rows: BlockRows | npt.NDArray[Any], step: int, first: int = 0) -> Iterator[tuple[int, Floats]]:
    """Yield (number of the first row, rows of shape (step, d)) from row `first` on, the last piece shorter.

    The same rows are in a piece however they are read. A piece is valid until the next.
    """
    n, d = rows.shape
    buffer, filled = np.empty((min(step, n), d)), 0
    blocks = ((slice(0, n), rows),) if isinstance(rows, np.ndarray) else rows.blocks()
    for which, block in blocks:
        at = max(which.start, first)
        while at < which.stop:
            count = min(which.stop - at, len(buffer) - filled)
            buffer[filled : filled + count] = block[at - which.start : at - which.start + count]
            at, filled = at + count, filled + count
            if filled == len(buffer) or at == n:
                yield at - filled, buffer[:filled]
                filled = 0


def _class_sums(codes: npt.NDArray[np.int64], values: Floats, classes: int) -> Floats:
    """Return the sums (classes, d) of those rows of `values` (k, d) that have each code."""
    from scipy.sparse import csr_array

    k = len(codes)
    sums: Floats = csr_array((np.ones(k), (codes, np.arange(k))), shape=(classes, k)) @ values
    return sums


def _spectrum(gram: Floats) -> tuple[Floats, Floats, float]:
    """Return the r eigenvalues that are not rounding over the greatest, their vectors (m, r), and the greatest.

    From them, `_narrow` and `_wide` return the eigenvalues λ (r,) of FFᵀ over the greatest, and the squares
    (classes, r) of the targets' projections on its eigenvectors. `gram` (m, m), of which the upper triangle counts,
    is overwritten.
    """
    from scipy.linalg import eigh

    if not np.isfinite(gram).all():
        raise OptionError("Some features, or their squares, are not finite numbers.")
    if not gram.any():
        return np.empty(0), np.empty((len(gram), 0)), 1.0
    values, vectors = eigh(gram, lower=False, overwrite_a=True, check_finite=False)
    scale = float(values[-1])
    kept = values > RESOLUTION * scale
    return values[kept] / scale, vectors[:, kept], scale


def _evidence(values: Floats, shares: Floats, counts: Floats, n: int) -> Floats:
    """Return the maximum of the log evidence for each class.

    Given t = alpha/beta, the best 1/beta is Q/n with Q = |y|² - Σ zᵢ² λᵢ/(t + λᵢ), where zᵢ are the projections of
    y. What is left is a function of t alone. The ends of the grid stand for t = ∞, all noise, and t = 0, none.

    Parameters
    ----------
    values : array, shape (r,)
        λ > 0, the greatest 1.
    shares : array, shape (classes, r)
        z².
    counts : array, shape (classes,)
        |y|².
    n : int
        Number of rows.
    """
    rest = np.maximum(counts - shares.sum(axis=1), 0)
    grid = 2.0 ** np.arange(np.log2(RESOLUTION), 25)
    kept = grid[:, None] / (grid[:, None] + values)
    found = _profile(rest[:, None] + shares @ kept.T, np.log(kept).sum(axis=1), n)
    best: Floats = found.max(axis=1)
    for i, t in enumerate(grid[found.argmax(axis=1)]):
        for _ in range(ITERATIONS):
            keep = t / (t + values)
            noise = rest[i] + (shares[i] * keep**2).sum()
            weight = (shares[i] * values / (t + values) ** 2).sum()
            last, free = t, n - len(values) + keep.sum()
            t = (values / (t + values)).sum() * noise / max(free * weight, np.finfo(float).tiny)
            t = min(max(t, grid[0]), grid[-1])
            if abs(t - last) <= 1e-6 * last:
                break
        keep = t / (t + values)
        best[i] = max(best[i], _profile(rest[i] + shares[i] @ keep, np.log(keep).sum(), n))
    return best


def _profile(q: Any, log_kept: Any, n: int) -> Any:
    """Return the log evidence at the best beta, given Q and Σ log t/(t + λ)."""
    return (log_kept - n * np.log(2 * np.pi * np.e * q / n)) / 2
