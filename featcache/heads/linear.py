"""Logistic regression and the linear support vector machine: exact, their penalty chosen, from rows in blocks."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from featcache.heads import checks
from featcache.heads.calibration import log_loss_of, temperature_of
from featcache.heads.estimator import LinearHead, checked, class_weights
from featcache.heads.folds import enough, grouped_folds
from featcache.heads.rows import Array, Float32s, Floats, Ints, Rows
from featcache.heads.solver import Design, Loss, Problem, Solution, solve
from featcache.heads.threads import one_thread

OWN = "lbfgs-blocks"
"""The solver of this package; all other names are scikit-learn's."""
HIGHEST = 100.0
"""C beyond which nothing is tried."""
ROUGH = 1e-3
"""Tolerance while penalties are compared."""
LONG, ENOUGH = 60.0, 20_000
"""Seconds of one fit beyond which C is chosen on at most so many rows."""
_FITS = 30
"""Passes over the rows that a fit takes, about."""


@dataclass(eq=False, repr=False)
class PenalisedHead(LinearHead):
    """A linear classifier that minimises ``C Σ loss + ½ ‖W‖²`` on standardised features.

    The intercept is not penalised: as in scikit-learn's LogisticRegression, and unlike in its LinearSVC. All rows give
    the mean and the standard deviation of each feature. See `featcache.heads.solver` for the method.

    Parameters
    ----------
    C : float or None, default None
        The inverse of the penalty, as scikit-learn's. None: chosen by held-out log loss on grouped folds of the rows,
        from small values on, in decades, then around the best one.
    class_weight : None, "balanced" or dict, default None
        As in scikit-learn.
    fit_intercept : bool, default True
        Whether there is an intercept.
    tol : float, default 1e-4
        The fit ends when no derivative of the mean loss is above it, on a scale on which all directions curve alike.
    max_iter : int, default 1000
        Steps after which a fit ends with a warning.
    folds : int, default 5
        Parts that are held out in turn, to choose C and to calibrate.
    solver : str, default "lbfgs-blocks"
        A name that scikit-learn's class knows hands the work to that class, in memory.
    seed : int, default 0
        Decides the folds.

    Attributes
    ----------
    C_ : float
        The given or chosen one.
    path_ : list of dict
        ``C``, ``log_loss`` and ``accuracy`` on held-out rows, of what was tried.
    n_iter_ : int
        Passes over the rows of the last fit.
    mean_, scale_ : array, shape (d,)
        What features were standardised with; `coef_` is for features as they are.
    classes_, coef_, intercept_, n_features_in_
        See `LinearHead`.
    """

    C: float | None = None
    class_weight: Any = None
    fit_intercept: bool = True
    tol: float = 1e-4
    max_iter: int = 1000
    folds: int = 5
    solver: str = OWN
    seed: int = 0

    loss: ClassVar[Loss]

    def fit(self, X: Any, y: Any, groups: Any = None) -> PenalisedHead:
        """Train; see `LogitClassifier.fit`. With C given it spares the fits without a fold."""
        self._train(X, y, groups, scored=False)
        return self

    def fit_scored(self, X: Any, y: Any, groups: Any = None) -> tuple[Ints, Floats]:
        """Train, and return held-out scores; see `LogitClassifier.fit_scored`."""
        rows, scores = self._train(X, y, groups, scored=True)
        return rows, scores[:, 0] if scores.shape[1] == 1 else scores

    @property
    def chosen_(self) -> dict[str, Any]:
        """The parameters with which the same head can be made again."""
        return {"C": self.C_}

    def to_sklearn(self) -> Any:
        """Return a fitted pipeline of StandardScaler and scikit-learn's class, which predicts the same."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        scaler, model = StandardScaler(), self._of_sklearn({})
        scaler.mean_, scaler.scale_, scaler.var_ = self.mean_, self.scale_, self.scale_**2
        scaler.n_features_in_ = model.n_features_in_ = self.n_features_in_
        scaler.n_samples_seen_ = self.n_rows_
        model.classes_ = self.classes_
        model.coef_ = self.coef_ * self.scale_
        model.intercept_ = self.intercept_ + self.coef_ @ self.mean_
        model.n_iter_ = np.array([self.n_iter_])
        return make_pipeline(scaler, model)

    def _of_sklearn(self, more: dict[str, Any]) -> Any:
        """Return scikit-learn's class, unfitted, with these parameters."""
        raise NotImplementedError

    def _train(self, X: Any, y: Any, groups: Any, *, scored: bool) -> tuple[Ints, Floats]:
        """Set the attributes, return held-out rows (m,) and their scores (m, outputs), if they are asked for."""
        checks.check(self, _RULES)
        rows, target, groups = checked(self, X, y, groups)
        weights = class_weights(self.class_weight, self.classes_, target, zero=True)[target].astype(np.float32)
        self.path_: list[dict[str, Any]] = []
        with one_thread():
            design = Design(rows)
            self.mean_, self.scale_, self.n_rows_ = design.moments.mean, design.moments.scale, len(rows)
            fit = _Fit(
                design, self.loss, target, weights, len(self.classes_), self.tol, self.max_iter, self.fit_intercept
            )
            held, scores, best = np.empty(0, np.int64), np.empty((0, fit.outputs)), None
            if self.C is None or scored:
                held, scores, best = self._held_out(fit, groups)
            if self.C is not None:
                self.C_ = float(self.C)
            if self.solver != OWN:
                self._by_sklearn(rows, target)
                return held, scores
            (found,) = fit.solved(self.C_, [None], [best], tol=self.tol)
            coef, intercept = design.original(found)
        if not found.converged and found.gradient > 10 * self.tol:
            warnings.warn(
                f"the fit did not converge in {found.passes} passes (C={self.C_:g}, largest derivative "
                f"{found.gradient:.1e}): lower C, or raise max_iter",
                stacklevel=3,
            )
        self.n_iter_ = found.passes
        self.coef_, self.intercept_ = coef.astype(np.float32), intercept.astype(np.float32)
        return held, scores

    def _held_out(self, fit: _Fit, groups: Ints) -> tuple[Ints, Floats, Solution | None]:
        """Return held-out rows, their scores and a start for the fit on all rows; choose C if it is not given."""
        chosen, whole = np.arange(fit.design.n), fit.design
        if self.C is None and fit.design.n > ENOUGH:
            begun = time.perf_counter()
            fit.value_at_zero()
            if (seconds := _FITS * (time.perf_counter() - begun)) > LONG:
                chosen = _whole_groups(groups, ENOUGH, self.seed)
                warnings.warn(
                    f"C is chosen on {len(chosen):,} of {fit.design.n:,} training rows, as a fit takes about "
                    f"{seconds:.0f} s",
                    stacklevel=4,
                )
                fit = fit.of(chosen)
        fold = grouped_folds(fit.target, groups[chosen], self.folds, seed=self.seed)
        number = int(fold.max()) + 1
        held = np.flatnonzero(fold >= 0)
        if not len(held):
            if self.C is None:
                self.C_ = 1.0
                warnings.warn("C=1, penalty not selected: each class has one image.", stacklevel=4)
            return held, np.empty((0, fit.outputs)), None
        if self.C is None:
            solutions, scores = self._choose(fit, fold, number)
        else:
            solutions = fit.solved(float(self.C), _without(fold, number), [None] * number, tol=ROUGH)
            scores = fit.design.held_scores(solutions, fold)
        mean = Solution(
            np.mean([one.coef for one in solutions], axis=0),
            np.mean([one.intercept for one in solutions], axis=0),
            0.0,
            0.0,
            0,
            True,
        )
        kept = enough(held, seed=self.seed)
        start = mean if len(chosen) == len(groups) or (fit.design.direct and whole.direct) else None
        return chosen[kept], scores[kept].astype(np.float64), start

    def _choose(self, fit: _Fit, fold: Ints, number: int) -> tuple[list[Solution], Float32s]:
        """Set ``C_`` and ``path_``, return the folds' solutions and held-out scores with that C."""
        left_out, target = _without(fold, number), fit.target
        held = np.flatnonzero(fold >= 0)
        tried: dict[float, tuple[float, list[Solution], Float32s]] = {}

        def attempt(C: float, start: Sequence[Solution | None]) -> float:
            solutions = fit.solved(C, left_out, start, tol=ROUGH)
            scores = fit.design.held_scores(solutions, fold)
            own = scores[held, 0] if fit.outputs == 1 else scores[held]
            temperature = 1.0 if self.loss == "softmax" else temperature_of(own, target[held])
            loss = log_loss_of(own / temperature, target[held])
            right = (own > 0) == target[held] if fit.outputs == 1 else own.argmax(axis=1) == target[held]
            self.path_.append({"C": C, "log_loss": loss, "accuracy": float(right.mean())})
            tried[C] = loss, solutions, scores
            for other in [key for key in tried if key != min(tried, key=lambda key: tried[key][0]) and key != C]:
                tried[other] = tried[other][0], [], tried[other][2][:0]  # their arrays are not needed any more
            return loss

        C = first = 10.0 ** round(math.log10(1 / len(target)))
        start: Sequence[Solution | None] = [None] * number
        best, worse = math.inf, 0
        while C <= HIGHEST and worse < 2:
            loss = attempt(C, start)
            start = tried[C][1]
            best, worse = (loss, 0) if loss < best else (best, worse + 1)
            C *= 10
        lowest = min(tried, key=lambda key: tried[key][0])
        while lowest == first and first > 1e-12:
            first /= 10
            attempt(first, tried[lowest][1] or [None] * number)
            lowest = min(tried, key=lambda key: tried[key][0])
        for factor in (10**-0.5, 10**0.5):
            attempt(lowest * factor, tried[lowest][1] or [None] * number)
        self.C_ = min(tried, key=lambda key: tried[key][0])
        return tried[self.C_][1], tried[self.C_][2]

    def _by_sklearn(self, rows: Rows, target: Ints) -> None:
        """Fit scikit-learn's class, in memory, and take over its coefficients."""
        model = self._of_sklearn({"solver": self.solver})
        values = (rows[:] - self.mean_.astype(np.float32)) / self.scale_.astype(np.float32)
        model.fit(values, target)
        coef = np.asarray(model.coef_, np.float64) / self.scale_
        self.n_iter_ = int(np.max(model.n_iter_))
        self.coef_ = coef.astype(np.float32)
        self.intercept_ = (np.atleast_1d(model.intercept_) - coef @ self.mean_).astype(np.float32)


class LogisticHead(PenalisedHead):
    """Logistic regression: softmax of all classes, a sigmoid for two. See `PenalisedHead`."""

    loss = "softmax"

    def _of_sklearn(self, more: dict[str, Any]) -> Any:
        from sklearn.linear_model import LogisticRegression

        names = ("class_weight", "fit_intercept", "tol", "max_iter")
        own = {name: getattr(self, name) for name in names}
        return LogisticRegression(C=self.C_, random_state=self.seed, **own, **more)


class SquaredHingeHead(PenalisedHead):
    """A linear support vector machine: the squared hinge, each class against the rest. See `PenalisedHead`."""

    loss = "squared_hinge"

    def _of_sklearn(self, more: dict[str, Any]) -> Any:
        from sklearn.svm import LinearSVC

        names = ("class_weight", "fit_intercept", "tol", "max_iter")
        own = {name: getattr(self, name) for name in names}
        solver = more.pop("solver", None)
        if solver not in (None, "liblinear"):
            raise ValueError(f"solver must be {OWN} or liblinear. Received: solver={solver!r}.")
        return LinearSVC(C=self.C_, random_state=self.seed, **own, **more)


_RULES = {
    "C": checks.Rule("None or a number above 0", lambda value: value is None or checks.POSITIVE.holds(value)),
    "fit_intercept": checks.TRUE_OR_FALSE,
    "tol": checks.POSITIVE,
    "max_iter": checks.whole(1),
    "folds": checks.whole(2),
    "solver": checks.Rule("a solver's name", lambda value: isinstance(value, str)),
    "seed": checks.whole(0),
}


@dataclass(eq=False)
class _Fit:
    """What all problems on some rows have in common."""

    design: Design
    loss: Loss
    target: Ints
    weights: Float32s
    classes: int
    tol: float
    max_iter: int
    intercept: bool

    @property
    def outputs(self) -> int:
        return 1 if self.classes == 2 else self.classes

    def of(self, rows: Ints) -> _Fit:
        """Return the same of a part of the rows."""
        design = Design(self.design.rows.take(rows))
        return _Fit(
            design,
            self.loss,
            self.target[rows],
            self.weights[rows],
            self.classes,
            self.tol,
            self.max_iter,
            self.intercept,
        )

    def problem(self, C: float, left_out: Array | None) -> Problem:
        """Return the problem of all rows, or without some (n,)."""
        weights = self.weights if left_out is None else self.weights * ~left_out
        count = len(self.target) if left_out is None else int((~left_out).sum())
        loss: Loss = "sigmoid" if self.loss == "softmax" and self.outputs == 1 else self.loss
        return Problem(loss, self.target, weights, self.outputs, 1 / (C * count), count)

    def solved(
        self, C: float, left_out: Sequence[Array | None], starts: Sequence[Solution | None], *, tol: float
    ) -> list[Solution]:
        """Fit a model without each of some parts of the rows."""
        problems = [self.problem(C, part) for part in left_out]
        return solve(self.design, problems, starts=starts, tol=tol, max_iter=self.max_iter, intercept=self.intercept)

    def value_at_zero(self) -> float:
        """Return the objective of a model that is 0, which takes one pass over the rows."""
        problem = self.problem(1.0, None)
        zero = np.zeros((self.design.width, self.outputs))
        return self.design.evaluate([(problem, zero, np.zeros(self.outputs))])[0][0]


def _without(fold: Ints, number: int) -> list[Array]:
    return [cast("Array", fold == i) for i in range(number)]


def _whole_groups(groups: Ints, count: int, seed: int) -> Ints:
    """Return about so many rows, of whole groups that are drawn at random, in order."""
    _, member = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(int(member.max()) + 1)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    sizes = np.bincount(member)[order]
    kept = int(np.searchsorted(np.cumsum(sizes), count, side="right"))
    return np.flatnonzero(rank[member] < max(kept, 1))
