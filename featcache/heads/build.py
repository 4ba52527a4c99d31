"""Heads by name: what `--clf`, `--set` and `--tune` mean."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featcache.errors import HeadError, OptionError, nearest, one_line
from featcache.heads.rows import Array, Ints


def _decades(first: int, last: int) -> tuple[float, ...]:
    return tuple(10.0**exponent for exponent in range(first, last + 1))


@dataclass(frozen=True)
class HeadKind:
    """What there is to know about a kind of head.

    `copies` says how many float32 copies of X it holds at most, X included; 0: it reads X in blocks, and streams.
    `grid` has what `--tune` tries: values of each parameter, those that fit the training data less closely first;
    around the best value of `penalty` it searches again, finer. `scaled` heads stand behind a StandardScaler, the
    others scale themselves, or need no scale. `fixed` are parameters whose default is another.
    """

    estimator: str
    copies: float
    grid: Mapping[str, tuple[Any, ...]]
    penalty: str | None = None
    scaled: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def make(self, seed: int) -> Any:
        """Return the estimator whose parameters `--set` sets."""
        module, _, name = self.estimator.rpartition(".")
        made = getattr(importlib.import_module(module), name)(**self.fixed)
        return made.set_params(**{key: seed for key in ("seed", "random_state") if key in made.get_params()})

    @property
    def streams(self) -> bool:
        """Whether it trains without ever holding X."""
        return self.copies == 0


@dataclass(frozen=True)
class OwnKind(HeadKind):
    """An estimator of the user's as a kind of head: a clone of it is trained."""

    own: Any = None

    def make(self, seed: int) -> Any:
        """Return a clone whose unset ``random_state`` parameters are the seed."""
        from sklearn.base import clone

        made = clone(self.own)
        unset = [key for key, value in made.get_params().items() if key.endswith("random_state") and value is None]
        return made.set_params(**dict.fromkeys(unset, seed))


HEADS = {
    "logreg": HeadKind("featcache.heads.linear.LogisticHead", 0, {}, "C"),
    "linear-svm": HeadKind("featcache.heads.linear.SquaredHingeHead", 0, {}, "C"),
    "svm": HeadKind("sklearn.svm.SVC", 6, {"C": _decades(-1, 2)}, "C", scaled=True),
    "ridge": HeadKind("featcache.heads.ridge.RidgeHead", 0, {"alphas": _decades(0, 6)[::-1]}, "alphas"),
    "knn": HeadKind("featcache.heads.knn.KNNHead", 3, {"n_neighbors": (50, 20, 10, 5, 3, 1)}),
    "centroid": HeadKind("featcache.heads.centroid.CentroidHead", 0, {"standardize": (True, False)}),
    "dense": HeadKind("featcache.heads.dense.DenseClassifier", 0, {"learning_rate": (0.0001, 0.001, 0.01)}),
}
"""Heads by name."""

STREAMING = [name for name, kind in HEADS.items() if kind.streams]

_FIXED = {"probability", "penalty", "n_jobs", "verbose", "random_state", "seed", "decision_function_shape"}


def kind_of(clf: Any) -> HeadKind:
    """Return what there is to know about a head, by its name or of an estimator of the user's.

    OptionError about another name has the valid ones, and one about an estimator says why it is no head.
    """
    if not isinstance(clf, str):
        _check_own(clf)
        return OwnKind(type(clf).__name__, 3, {}, own=clf)
    if clf not in HEADS:
        raise OptionError(f"There is no head {clf!r} ({nearest(clf, HEADS)}). The heads are: {', '.join(HEADS)}.")
    return HEADS[clf]


def own_name(estimator: Any) -> str:
    """Return the name of an estimator of the user's: its class, of a pipeline that of its last step."""
    steps = getattr(estimator, "steps", None)
    return type(steps[-1][1] if steps else estimator).__name__


def _check_own(estimator: Any) -> None:
    """Raise OptionError unless something is a scikit-learn classifier that can be cloned and gives scores."""
    from sklearn.base import clone, is_classifier

    name = getattr(estimator, "__name__", type(estimator).__name__)
    if isinstance(estimator, type):
        raise OptionError(f"`clf` is the class {name}. Give an instance of it, such as {name}().")
    try:
        clone(estimator)
        sound = is_classifier(estimator)
    except Exception as error:  # of foreign code
        raise OptionError(f"`clf` is {name}, which is not a scikit-learn estimator: {one_line(error)}") from None
    if not sound:
        raise OptionError(
            f"`clf` is {name}, which is not a classifier. Give one of scikit-learn's classifiers, or a pipeline that "
            "ends in one."
        )
    if not (hasattr(estimator, "predict_proba") or hasattr(estimator, "decision_function")):
        raise OptionError(
            f"`clf` is {name}, which has neither predict_proba nor decision_function, so it gives no probabilities. "
            "Give a classifier with one of them."
        )


def _check_scores(estimator: Any) -> None:
    """Raise OptionError if an estimator scores pairs of classes, which would be taken for scores of classes."""
    for name, value in estimator.get_params().items():
        if name.endswith("decision_function_shape") and value == "ovo":
            raise OptionError(f"`{name}`='ovo' gives scores of pairs of classes. Set it to 'ovr'.")


def build(clf: Any, params: Mapping[str, Any] | None = None, *, seed: int = 0, calibrate: str = "temperature") -> Any:
    """Return an unfitted `CalibratedHead` on an estimator with these parameters, seeded.

    `clf` is a name of `HEADS`, or a scikit-learn classifier, which is cloned.
    ``svm`` is scikit-learn's, behind a StandardScaler; ``knn`` is scikit-learn's on rows of unit length; ``logreg``,
    ``linear-svm``, ``ridge``, ``centroid`` and ``dense`` are featcache's own, and train in blocks.
    An OptionError about an unknown name has the valid ones.
    """
    from featcache.heads.calibration import METHODS, CalibratedHead

    kind = kind_of(clf)
    if calibrate not in METHODS:
        raise OptionError(f"`calibrate` must be one of {', '.join(METHODS)}. Received: {calibrate!r}.")
    estimator = kind.make(seed)
    valid = parameters(clf)
    for name in params or {}:
        if name not in valid:
            shown = clf if isinstance(clf, str) else own_name(clf)
            raise OptionError(f"{shown} has no parameter {name!r}. Its parameters are: {', '.join(valid)}.")
    estimator.set_params(**(params or {}))
    if not isinstance(clf, str):
        _check_scores(estimator)
    if kind.scaled:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        estimator = make_pipeline(StandardScaler(), estimator)
    return CalibratedHead(estimator, calibrate, seed=seed)


def parameters(clf: Any) -> list[str]:
    """Return the names of the parameters of a head that can be set."""
    found = set(kind_of(clf).make(0).get_params())
    return sorted(found - _FIXED if isinstance(clf, str) else found)


def memory_needed(clf: Any, n: int, d: int, params: Mapping[str, Any] | None = None, *, classes: int = 2) -> int:
    """Return about how many bytes training a head takes, beside what the process has and a window of rows."""
    kind, outputs = kind_of(clf), 1 if classes == 2 else classes
    params = {**kind.make(0).get_params(), **(params or {})}
    if not isinstance(clf, str):
        return math.ceil(kind.copies * n * d * 4)
    if clf == "ridge":
        from featcache.heads.ridge import memory_bytes

        folds = params["folds"] if isinstance(params["folds"], int) else 5  # fitting refuses others
        needed: int = memory_bytes(n, d, folds, outputs=outputs)
        return needed
    if clf == "centroid":  # sums of each fold and class, in float64, and the means
        return 56 * (classes + 1) * d
    if clf in ("logreg", "linear-svm"):
        from featcache.heads.solver import memory_bytes as solver_bytes

        return solver_bytes(n, d, outputs, folds=5)
    if clf == "dense":  # weights, gradient, momentum or two of Adam's, and the best so far
        hidden = params.get("hidden", ())
        sizes = [d, *(hidden if isinstance(hidden, tuple | list) else [hidden]), outputs]
        whole = [int(size) for size in sizes if isinstance(size, int)]  # fitting refuses others
        return 20 * sum(a * b for a, b in itertools.pairwise(whole))
    return math.ceil(kind.copies * n * d * 4)


def fit(estimator: Any, X: Any, y: Array, groups: Ints) -> Any:
    """Fit a head from `build`; whatever it holds out of the training data, it holds out by group.

    `groups` (n,) are equal for rows that must not be on two sides, such as copies of one image. It raises HeadError if
    there are too few images, or the estimator refuses a parameter's value.
    """
    if (classes := len(np.unique(y))) < 2:
        raise HeadError(
            f"A head needs training images of at least 2 classes, but there is {classes}. Add images of another class."
        )
    try:
        return estimator.fit(X, y, groups)
    except OptionError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise HeadError(
            f"The head cannot be trained with these parameters: {' '.join(str(error).split())[:300]} Choose others."
        ) from None
