"""The nearest class mean, for features that need not be in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.heads import checks
from featcache.heads.estimator import LinearHead, checked, class_weights
from featcache.heads.folds import enough, grouped_folds
from featcache.heads.rows import Float32s, Floats, Ints, Rows


@dataclass(eq=False, repr=False)
class CentroidHead(LinearHead):
    """Nearest class mean by Euclidean distance, as logits of Gaussian classes with one shared spherical variance.

    The score of class c is (μ_c·x - ½‖μ_c‖²)/σ² + log p_c, of two classes the difference: the larger the nearer.
    σ² is the variance within classes, averaged over features, and p_c the weight of the class. One pass over the
    rows gives the head, a second one the scores of `fit_scored`. Both are exact. In memory are (folds + 1) (k + 1) d
    float64 sums, and ``folds`` heads while scores are made.

    Parameters
    ----------
    standardize : bool, default True
        Scale features to mean 0 and variance 1.
    class_weight : "balanced", None or dict
        p_c is in proportion to the class's number of rows times its weight as in scikit-learn: balanced classes are
        equal, which is the nearest mean; with None, p_c is the class's frequency. Weights are above 0.
    folds : int, default 5
        For `fit_scored`: how many parts are scored by means without them.
    seed : int, default 0
        Decides the folds.

    Notes
    -----
    The model is that of Mensink et al., "Distance-Based Image Classification: Generalizing to New Classes at
    Near-Zero Cost" (2013), without a learned metric; the scores are those of linear discriminant analysis with
    one spherical covariance: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning" (2009), 4.3.
    Own code since scikit-learn's `NearestCentroid` needs all rows in memory. Features that are correlated make the
    probabilities too sure: calibrate with `fit_scored`.
    """

    standardize: bool = True
    class_weight: Any = "balanced"
    folds: int = 5
    seed: int = 0

    def fit_scored(self, X: Any, y: Any, groups: Any = None) -> tuple[Ints, Floats]:
        """Train on all rows, and score each by the means of the other folds; see `LogitClassifier.fit_scored`.

        Not scored are rows of a class that has one group only, and of a fold without which a class has no rows.
        """
        checks.check(self, _RULES)
        rows, target, groups = checked(self, X, y, groups)
        weights = class_weights(self.class_weight, self.classes_, target)
        fold = grouped_folds(target, groups, self.folds, seed=self.seed)
        sums = _Sums(rows, target, fold, len(self.classes_), self.folds)
        self.coef_, self.intercept_ = sums.head(None, weights, self.standardize)
        heads = {
            f: sums.head(f, class_weights(self.class_weight, self.classes_, target[fold != f]), self.standardize)
            for f in range(self.folds)
            if sums.classes_left(f)
        }
        scored = enough(np.flatnonzero(np.isin(fold, list(heads))), seed=self.seed)
        scores = np.empty((len(scored), len(self.coef_)))
        for which, block in rows.take(scored).blocks():
            own = fold[scored[which]]
            for f in np.unique(own):
                coef, intercept = heads[int(f)]
                scores[which.start + np.flatnonzero(own == f)] = block[own == f] @ coef.T + intercept
        return scored, scores[:, 0] if len(self.coef_) == 1 else scores


_RULES = {"standardize": checks.TRUE_OR_FALSE, "folds": checks.whole(2), "seed": checks.whole(0)}


class _Sums:
    """Counts, sums and sums of squares of rows by fold and class, in float64, less the mean of the first block.

    Rows of fold -1 are in every sum.
    """

    def __init__(self, rows: Rows, target: Ints, fold: Ints, classes: int, folds: int) -> None:
        d = rows.shape[1]
        self._counts = np.zeros((folds + 1, classes), np.int64)
        np.add.at(self._counts, (fold, target), 1)  # fold -1 is the last
        self._sums = np.zeros((folds + 1, classes, d))
        self._squares = np.zeros((folds + 1, d))
        self._origin = np.zeros(d)
        cells = self._sums.reshape(-1, d)
        for which, block in rows.blocks():
            if which.start == 0:
                self._origin = block.mean(axis=0, dtype=np.float64)
            number = fold[which] % (folds + 1) * classes + target[which]
            order = np.argsort(number, kind="stable")
            values, number = block[order] - self._origin, number[order]
            cell, first = np.unique(number, return_index=True)
            cells[cell] += np.add.reduceat(values, first, axis=0)
            values *= values
            part, first = np.unique(number // classes, return_index=True)
            self._squares[part] += np.add.reduceat(values, first, axis=0)

    def classes_left(self, without: int) -> bool:
        """Return whether a fold has rows, and every class has rows outside of it."""
        own = self._counts[without]
        return bool(own.any() and (self._counts.sum(axis=0) > own).all())

    def head(self, without: int | None, weights: Floats, standardize: bool) -> tuple[Float32s, Float32s]:
        """Return coefficients and intercepts, shapes (k, d) and (k,) or (1, d) and (1,), from all folds but one."""
        counts, means, squares = self._counts.sum(axis=0), self._sums.sum(axis=0), self._squares.sum(axis=0)
        if without is not None:
            counts = counts - self._counts[without]
            means -= self._sums[without]
            squares -= self._squares[without]
        n = counts.sum()
        center = means.sum(axis=0) / n
        means /= counts[:, None]
        within = np.maximum(squares - counts @ means**2, 0) / n
        variance = np.maximum(squares / n - center**2, 0)
        means -= center
        varies = variance > 1e-12 * (squares / n)
        scale = np.where(varies, variance if standardize else 1.0, 1.0)
        means[:, ~varies] = 0
        shared = float((within / scale)[varies].sum()) / max(int(varies.sum()), 1) or 1.0
        coef = means / (scale * shared)
        intercept = -0.5 * np.einsum("kd,kd->k", means, coef) + np.log(counts * weights / (counts @ weights))
        intercept -= coef @ (center + self._origin)
        if len(coef) == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        return coef.astype(np.float32), intercept.astype(np.float32)
