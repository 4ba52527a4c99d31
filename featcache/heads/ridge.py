"""Ridge regression on class indicators, exact, from rows that need not be in memory."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh

from featcache.heads import checks
from featcache.heads.estimator import LinearHead, checked, class_weights
from featcache.heads.folds import enough, grouped_folds
from featcache.heads.gram import first_mean
from featcache.heads.rows import Float32s, Floats, Ints, Rows
from featcache.heads.threads import one_thread

CHUNK_BYTES = 2**26
"""What is multiplied in one piece, at most."""
SUMMED = 4096
"""How many products are added up in float32 before float64 takes over."""
FEW = 12
"""Up to this many penalties are solved by a Cholesky factorisation each, more by one eigendecomposition."""
NARROW = 2048
"""Matrices of up to this many columns are factored by one thread."""


@dataclass(eq=False, repr=False)
class RidgeHead(LinearHead):
    """One-vs-rest ridge regression on targets of ±1, its penalty chosen by grouped cross-validation.

    It minimises ``‖y - Xw - b‖² + alpha ‖w‖²``, each row's square times its class's weight. The products ``XᵀX`` are
    added up per fold in one pass over the rows, and the models without a fold come from what is left when its
    products are subtracted. With fewer rows than features it solves the dual from ``XXᵀ`` (Saunders, Gammerman
    and Vovk, 1998: Ridge Regression Learning Algorithm in Dual Variables), to the same solution.

    Products are in float32, of which sums of at most 4,096 are added up in float64: on standardised features a
    penalty below about 1e-6 n is of the size of their rounding.

    Parameters
    ----------
    alphas : float or sequence of float
        Penalties to choose from, as scikit-learn's ``alpha``.
    standardize : bool, default True
        Divide features by their standard deviation over all rows, so that the penalty treats them alike.
    class_weight : None, "balanced" or dict, default None
        As in scikit-learn; numbers above 0.
    folds : int, default 5
        How many parts are held out in turn.
    seed : int, default 0
        Decides the folds.

    Attributes
    ----------
    alpha_ : float
        The penalty with the least held-out error; the largest if no row could be held out.
    errors_ : array, shape (penalties,)
        Weighted mean over the held-out rows of ``‖y - Xw - b‖²``; nan if there were none.
    classes_, coef_, intercept_, n_features_in_
        See `LinearHead`.
    """

    alphas: float | Sequence[float] = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
    standardize: bool = True
    class_weight: Any = None
    folds: int = 5
    seed: int = 0

    @property
    def chosen_(self) -> dict[str, Any]:
        """The parameters with which the same head can be made again."""
        return {"alphas": self.alpha_}

    def fit(self, X: Any, y: Any, groups: Any = None) -> RidgeHead:
        """Train; see `LogitClassifier.fit`. It spares the pass over the rows that `fit_scored` makes for scores."""
        self._train(X, y, groups)
        return self

    def fit_scored(self, X: Any, y: Any, groups: Any = None) -> tuple[Ints, Floats]:
        """Train, and return held-out scores of the chosen penalty; see `LogitClassifier.fit_scored`."""
        fold, form, best = self._train(X, y, groups)
        rows = enough(np.flatnonzero(fold >= 0), seed=self.seed)
        outputs = len(self.coef_)
        scores = form.scores(best, rows) if len(rows) else np.empty((0, outputs))
        return rows, scores[:, 0] if outputs == 1 else scores

    def _train(self, X: Any, y: Any, groups: Any) -> tuple[Ints, _Primal | _Dual, int]:
        """Set the attributes, return the fold of each row, the solved form and the index of the chosen penalty."""
        checks.check(self, _RULES)
        alphas = [float(alpha) for alpha in checks.as_list(self.alphas)]
        rows, target, groups = checked(self, X, y, groups)
        weights = class_weights(self.class_weight, self.classes_, target)
        fold = grouped_folds(target, groups, self.folds, seed=self.seed)
        kind = _Dual if len(rows) < rows.shape[1] else _Primal
        form = kind(rows, target, fold, weights, self.standardize)
        with one_thread() if min(rows.shape) <= NARROW else nullcontext():
            best = self._select(alphas, form, weights[target[fold >= 0]])
            coef, intercept = form.solution(self.alpha_)
        self.coef_, self.intercept_ = coef.astype(np.float32), intercept.astype(np.float32)
        return fold, form, best

    def _select(self, alphas: list[float], form: _Primal | _Dual, held: Floats) -> int:
        """Set ``errors_`` and ``alpha_``, return the chosen penalty's index; `held`: the held-out rows' weights."""
        if len(held):
            self.errors_ = form.errors(alphas) / held.sum()
            best = int(self.errors_.argmin())
        else:
            self.errors_ = np.full(len(alphas), math.nan)
            best = int(np.argmax(alphas))
            if len(alphas) > 1:
                warnings.warn(
                    f"Took the largest penalty ({alphas[best]:g}), penalty not selected: each class has one image.",
                    stacklevel=4,
                )
        self.alpha_ = alphas[best]
        return best


_RULES = {
    "alphas": checks.each(checks.POSITIVE, "numbers above 0", least=1),
    "standardize": checks.TRUE_OR_FALSE,
    "folds": checks.whole(2),
    "seed": checks.whole(0),
}


def memory_bytes(n: int, d: int, folds: int, *, outputs: int = 1, penalties: int = 6) -> int:
    """Return about how much memory in bytes `RidgeHead` needs for n rows of d features, besides the rows it reads.

    That is ``(folds + 3) d²`` float64 values, or ``4 n²`` for fewer rows than features, two pieces of rows, and the
    models, which count with many classes only. `outputs` is 1 for two classes.
    """
    piece = min(max(CHUNK_BYTES, 4 * d), 4 * n * d)
    if n < d:
        return 8 * (4 * n * n + 3 * penalties * n * outputs + 4 * (outputs + 1) * d) + 3 * piece
    models = (folds + 1) + folds * penalties / 2 + 4 * penalties
    return 8 * (folds + 3) * d * d + round(8 * models * outputs * d) + 2 * piece


class _Primal:
    """Ridge regression from ``XᵀX`` of each fold, (d, d); what of a fold has index -1 is that of all rows.

    Features are used less their mean over the first block, so that no digits are lost to a large mean.
    """

    def __init__(self, rows: Rows, target: Ints, fold: Ints, weights: Floats, standardize: bool) -> None:
        (n, d), k, folds = rows.shape, len(weights), int(fold.max()) + 1
        self._rows, self._fold = rows, np.where(fold < 0, folds, fold)
        self._size = max(1, min(SUMMED * (folds + 1), CHUNK_BYTES // (4 * d)))
        self._shift = first_mean(rows)
        key = self._fold * k + target
        self._gram = np.zeros((folds + 1, d, d))
        self._sums = np.zeros((folds + 1, k, d))
        self._counts = np.bincount(key, minlength=(folds + 1) * k).reshape(folds + 1, k) * weights
        squares = self._add_up(key, weights)
        mean = self._sums.sum(axis=(0, 1)) / n
        self._scale = _deviation(squares / n - mean**2) if standardize else np.ones(d)
        self._sums *= weights[:, None]
        for parts in (self._gram, self._sums, self._counts):
            for part in parts[:-1]:
                parts[-1] += part

    def _add_up(self, key: Ints, weights: Floats) -> Floats:
        """Add up the weighted products by fold and the sums by fold and class; return the sums of squares, (d,)."""
        d, k = self._rows.shape[1], len(weights)
        root = None if (weights == 1).all() else np.sqrt(weights).astype(np.float32)
        squares, product = np.zeros(d), np.empty((d, d), np.float32)
        for numbers, block in _chunks(self._rows, self._shift, key, self._size):
            for number, part in _runs(key[numbers]):
                self._sums[divmod(number, k)] += block[part].sum(axis=0)
            squares += np.einsum("ij,ij->j", block, block)
            if root is not None:
                block *= root[key[numbers] % k][:, None]
            for number, part in _runs(self._fold[numbers]):
                for start in range(part.start, part.stop, SUMMED):
                    piece = block[start : min(start + SUMMED, part.stop)]
                    np.matmul(piece.T, piece, out=product)
                    self._gram[number] += product
        return squares

    def errors(self, alphas: list[float]) -> Floats:
        """Train without each fold, return the sum of the held-out rows' errors of each penalty."""
        folds, (_, k), d = len(self._gram) - 1, self._counts.shape, self._rows.shape[1]
        outputs = 1 if k == 2 else k
        self._models = np.empty((folds, len(alphas), outputs, d), np.float32)
        self._offsets = np.empty((folds, len(alphas), outputs))
        errors = np.zeros(len(alphas))
        for fold in range(folds):
            coef, offset = self._trained(alphas, fold)
            errors += self._errors_on(fold, coef, offset)
            self._models[fold], self._offsets[fold] = coef, offset
        return errors

    def scores(self, best: int, held: Ints) -> Floats:
        """Return scores (m, outputs) with one penalty, of some rows, each from the model without its fold."""
        scores, folds = np.empty((len(held), self._models.shape[2])), self._fold[held]
        for numbers, block in _chunks(self._rows.take(held), self._shift, folds, self._size):
            for fold, part in _runs(folds[numbers]):
                own = block[part] @ self._models[fold, best].T
                scores[numbers[part]] = own + self._offsets[fold, best]
        return scores

    def solution(self, alpha: float) -> tuple[Floats, Floats]:
        """Return coefficients (outputs, d) and intercepts (outputs,) of training on all rows."""
        coef, offset = self._trained([alpha], None)
        return coef[0], offset[0] - coef[0] @ self._shift.astype(np.float64)

    def _trained(self, alphas: list[float], held: int | None) -> tuple[Floats, Floats]:
        """Return the models (penalties, outputs, d) and (penalties, outputs) without a fold, for shifted features."""
        gram, sums, counts = (
            parts[-1].copy() if held is None else parts[-1] - parts[held]
            for parts in (self._gram, self._sums, self._counts)
        )
        total = counts.sum()
        mean = sums.sum(axis=0) / total
        root = math.sqrt(total) * mean
        gram -= np.outer(root, root)
        gram /= self._scale
        gram /= self._scale[:, None]
        right = (_signed(sums) - np.outer(_signed(counts), mean)) / self._scale
        coef = np.stack([each.T for each in _solutions(gram, right.T, alphas)]) / self._scale
        return coef, _signed(counts) / total - coef @ mean

    def _errors_on(self, fold: int, coef: Floats, offset: Floats) -> Floats:
        """Return the sum over a fold's rows of ``‖y - Wx - b‖²`` for each model, multiplied out."""
        sums, counts = self._sums[fold], self._counts[fold]
        total, x, y = counts.sum(), sums.sum(axis=0), _signed(counts)
        turned = (coef.reshape(-1, coef.shape[2]) @ self._gram[fold]).reshape(coef.shape)
        of_coef = (coef * (turned - 2 * _signed(sums))).sum(axis=(1, 2))
        of_offset = (offset * (total * offset + 2 * (coef @ x) - 2 * y)).sum(axis=1)
        return np.asarray(total * len(y) + of_coef + of_offset)


class _Dual:
    """Ridge regression from ``XXᵀ``, (n, n): a model is a mixture (n, outputs) of the rows, less their mean."""

    def __init__(self, rows: Rows, target: Ints, fold: Ints, weights: Floats, standardize: bool) -> None:
        n, d = rows.shape
        self._rows, self._fold, self._weights = rows, fold, weights[target]
        self._targets = _signed(np.eye(len(weights)))[:, target].T
        self._size = max(1, min(n, CHUNK_BYTES // (4 * d)))
        first, sums, squares = first_mean(rows), np.zeros(d), np.zeros(d)
        for _, block in rows.blocks():
            moved = block - first
            sums += moved.sum(axis=0)
            squares += np.einsum("ij,ij->j", moved, moved)
        self._scale = _deviation(squares / n - (sums / n) ** 2) if standardize else np.ones(d)
        self._shift = (first + sums / n).astype(np.float32)
        self._kernel = self._products()

    def _products(self) -> Floats:
        """Return ``XXᵀ`` of the shifted and scaled rows, a pair of pieces at a time."""
        (n, d), size = self._rows.shape, self._size
        kernel = np.empty((n, n))
        buffers = np.empty((2, size, d), np.float32)
        for i in range(0, n, size):
            left = self._piece(i, buffers[0])
            for j in range(i, n, size):
                right = left if j == i else self._piece(j, buffers[1])
                pair = kernel[i : i + size, j : j + size]
                pair[:] = 0
                for start in range(0, d, SUMMED):
                    pair += left[:, start : start + SUMMED] @ right[:, start : start + SUMMED].T
                kernel[j : j + size, i : i + size] = pair.T
        return kernel

    def _piece(self, start: int, buffer: Float32s) -> Float32s:
        """Return shifted and scaled rows from `start` on, as many as `buffer` takes."""
        piece = buffer[: len(self._rows) - start]
        _read(self._rows, start, self._shift, piece, np.arange(len(piece)))
        piece /= self._scale.astype(np.float32)
        return piece

    def errors(self, alphas: list[float]) -> Floats:
        """Train without each fold, return the sum of the held-out rows' errors of each penalty."""
        self._scores = np.empty((len(alphas), *self._targets.shape))
        for fold in range(int(self._fold.max()) + 1):
            own, held = np.flatnonzero(self._fold != fold), np.flatnonzero(self._fold == fold)
            mixtures, mean, offset = self._trained(alphas, own)
            self._scores[:, held] = (self._kernel[np.ix_(held, own)] - mean) @ mixtures + offset
        held = np.flatnonzero(self._fold >= 0)
        squares = ((self._targets[held] - self._scores[:, held]) ** 2).sum(axis=2)
        return np.asarray(squares @ self._weights[held])

    def scores(self, best: int, held: Ints) -> Floats:
        """Return scores (m, outputs) with one penalty, of some rows, each from the model without its fold."""
        return np.asarray(self._scores[best][held])

    def solution(self, alpha: float) -> tuple[Floats, Floats]:
        """Return coefficients (outputs, d) and intercepts (outputs,) of training on all rows."""
        mixtures, _, offset = self._trained([alpha], np.arange(len(self._rows)))
        shares = np.column_stack([mixtures[0], self._weights / self._weights.sum()]).astype(np.float32)
        total = np.zeros((shares.shape[1], self._rows.shape[1]))
        buffer = np.empty((self._size, self._rows.shape[1]), np.float32)
        for start in range(0, len(self._rows), self._size):
            piece = self._piece(start, buffer)
            total += shares[start : start + self._size].T @ piece
        coef, mean = total[:-1] / self._scale, total[-1] * self._scale + self._shift
        return coef, offset - coef @ mean

    def _trained(self, alphas: list[float], own: Ints) -> tuple[Floats, Floats, Floats]:
        """Return mixtures (penalties, m, outputs) of some rows, their mean's products (m,) and offsets (outputs,)."""
        kernel, weights, targets = self._kernel[np.ix_(own, own)], self._weights[own], self._targets[own]
        share = weights / weights.sum()
        mean, offset = share @ kernel, share @ targets
        kernel -= mean
        kernel -= mean[:, None]
        kernel += share @ mean
        root = np.sqrt(weights)[:, None]
        kernel *= root
        kernel *= root.T
        mixtures = np.stack([root * each for each in _solutions(kernel, root * (targets - offset), alphas)])
        return mixtures, mean, offset


def _solutions(gram: Floats, right: Floats, alphas: list[float]) -> list[Floats]:
    """Return ``(gram + alpha I)⁻¹ right`` for each penalty; `gram` is lost."""
    if len(alphas) <= FEW:
        try:
            factor = np.empty_like(gram)
            return [_cholesky(gram, right, alpha, factor) for alpha in alphas]
        except LinAlgError:  # rounding has made it indefinite by more than the penalty
            del factor
    values, vectors = eigh(gram, overwrite_a=True)
    turned = vectors.T @ right
    return [vectors @ (turned / (np.maximum(values, 0) + alpha)[:, None]) for alpha in alphas]


def _cholesky(gram: Floats, right: Floats, alpha: float, factor: Floats) -> Floats:
    """Return ``(gram + alpha I)⁻¹ right``, in the memory of `factor`."""
    np.copyto(factor, gram)
    factor.flat[:: len(gram) + 1] += alpha
    # LAPACK has columns in a row: the transpose, which is the same matrix, is factored without a copy.
    found = cho_factor(factor.T, lower=True, overwrite_a=True, check_finite=False)
    return np.asarray(cho_solve(found, right, check_finite=False))


def _signed(sums: Floats) -> Floats:
    """Return sums by class (k, …) as sums over all rows times their target: (1, …) for two classes, else (k, …)."""
    return sums[1:] - sums[:1] if len(sums) == 2 else 2 * sums - sums.sum(axis=0)


def _deviation(variance: Floats) -> Floats:
    """Return the standard deviation, 1 where it is 0."""
    return np.sqrt(np.where(variance > 0, variance, 1))


def _read(rows: Rows, start: int, shift: Float32s, out: Float32s, places: Ints) -> None:
    """Copy the rows from `start` on, less `shift`, to these places of `out`, a block at a time."""
    step = rows.block_rows
    for first in range(0, len(places), step):
        at = places[first : first + step]
        out[at] = rows[start + first : start + first + len(at)] - shift


def _chunks(rows: Rows, shift: Float32s, key: Ints, size: int) -> Iterator[tuple[Ints, Float32s]]:
    """Yield (indices (m,), features less `shift` (m, d)) of all rows, `size` at a time, each chunk sorted by `key`.

    The features may be written to, and are valid until the next chunk.
    """
    buffer = np.empty((min(size, len(rows)), rows.shape[1]), np.float32)
    for start in range(0, len(rows), size):
        order = np.argsort(key[start : start + size], kind="stable")
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        _read(rows, start, shift, buffer, places)
        yield start + order, buffer[: len(order)]


def _runs(values: Ints) -> Iterator[tuple[int, slice]]:
    """Yield (value, where) for each run of equal values."""
    bounds = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, stop in itertools.pairwise(bounds):
        yield int(values[start]), slice(start, stop)
