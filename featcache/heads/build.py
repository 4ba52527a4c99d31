"""Heads by name: what `--clf`, `--set` and `--tune` mean."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import HeadError, OptionError, nearest


def _logreg(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000, random_state=seed)


def _linear_svm(seed: int) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(max_iter=10_000, random_state=seed)


def _svm(seed: int) -> Any:
    from sklearn.svm import SVC

    return SVC(random_state=seed)


def _ridge(seed: int) -> Any:
    from featcache.heads.ridge import RidgeHead

    return RidgeHead(seed=seed)


def _sgd(seed: int) -> Any:
    from featcache.heads.sgd import SGDHead

    return SGDHead(seed=seed)


def _knn(seed: int) -> Any:
    from featcache.heads.knn import KNNHead

    return KNNHead()


def _centroid(seed: int) -> Any:
    from featcache.heads.centroid import CentroidHead

    return CentroidHead(seed=seed)


def _dense(seed: int) -> Any:
    from featcache.heads.dense import DenseClassifier

    return DenseClassifier(seed=seed)


def _decades(first: int, last: int) -> tuple[float, ...]:
    return tuple(10.0**exponent for exponent in range(first, last + 1))


@dataclass(frozen=True)
class HeadKind:
    """What there is to know about a kind of head.

    Attributes
    ----------
    make : callable
        From a seed to the estimator whose parameters `--set` sets.
    scaled : bool
        Whether it stands behind a StandardScaler; the others scale themselves, or need no scale.
    copies : float
        How many float32 copies of X it holds at most, X included; 0: it reads X in blocks, and streams.
    grid : mapping
        What `--tune` tries: values of each parameter, those that fit the training data less closely first.
    penalty : str, optional
        The parameter of `grid` that is searched again, finer, around its best value.
    """

    make: Callable[[int], Any]
    scaled: bool
    copies: float
    grid: Mapping[str, tuple[Any, ...]]
    penalty: str | None = None

    @property
    def streams(self) -> bool:
        """Whether it trains without ever holding X."""
        return self.copies == 0


HEADS: dict[str, HeadKind] = {
    "logreg": HeadKind(_logreg, True, 3, {"C": _decades(-4, 1)}, "C"),
    "linear-svm": HeadKind(_linear_svm, True, 8, {"C": _decades(-5, 0)}, "C"),
    "svm": HeadKind(_svm, True, 6, {"C": _decades(-1, 2)}, "C"),
    "ridge": HeadKind(_ridge, False, 0, {"alphas": tuple(reversed(_decades(0, 6)))}, "alphas"),
    "sgd": HeadKind(_sgd, False, 0, {"alpha": tuple(reversed(_decades(-5, 0)))}, "alpha"),
    "knn": HeadKind(_knn, False, 3, {"n_neighbors": (50, 20, 10, 5, 3, 1)}),
    "centroid": HeadKind(_centroid, False, 0, {"standardize": (True, False)}),
    "dense": HeadKind(_dense, False, 0, {"learning_rate": (0.0001, 0.001, 0.01)}),
}
"""Heads by name."""

STREAMING = [name for name, kind in HEADS.items() if kind.streams]

_FIXED = {"probability", "penalty", "n_jobs", "verbose", "random_state", "seed", "decision_function_shape"}


def kind_of(clf: str) -> HeadKind:
    """Return what there is to know about a head.

    Raises
    ------
    OptionError
        If there is none of that name; the message has the valid ones.
    """
    if clf not in HEADS:
        raise OptionError(f"Expected a head: {', '.join(HEADS)}. Received: {clf!r} ({nearest(clf, HEADS)}).")
    return HEADS[clf]


def build(clf: str, params: Mapping[str, Any] | None = None, *, seed: int = 0, calibrate: str = "temperature") -> Any:
    """Return an unfitted head.

    Parameters
    ----------
    clf : str
        A name of `HEADS`. ``logreg``, ``linear-svm`` and ``svm`` are scikit-learn's, behind a StandardScaler;
        ``knn`` is scikit-learn's on rows of unit length; ``ridge``, ``sgd``, ``centroid`` and ``dense`` are
        featcache's own, and train in blocks.
    params : mapping
        Parameters of that estimator.
    seed : int
        For everything random in it.
    calibrate : str
        See `featcache.heads.calibration.CalibratedHead`.

    Returns
    -------
    CalibratedHead
        A scikit-learn classifier.

    Raises
    ------
    OptionError
        If a name is unknown; the message has the valid ones.
    """
    from featcache.heads.calibration import METHODS, CalibratedHead

    kind = kind_of(clf)
    if calibrate not in METHODS:
        raise OptionError(f"Expected a calibration: {', '.join(METHODS)}. Received: {calibrate!r}.")
    estimator = kind.make(seed)
    valid = parameters(clf)
    for name in params or {}:
        if name not in valid:
            raise OptionError(f"{clf} has no parameter {name!r}. Its parameters are: {', '.join(valid)}.")
    estimator.set_params(**(params or {}))
    if kind.scaled:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        estimator = make_pipeline(StandardScaler(), estimator)
    return CalibratedHead(estimator, calibrate, seed=seed)


def parameters(clf: str) -> list[str]:
    """Return the names of the parameters of a head that can be set."""
    return sorted(set(kind_of(clf).make(0).get_params()) - _FIXED)


def memory_needed(clf: str, n: int, d: int, params: Mapping[str, Any] | None = None, *, classes: int = 2) -> int:
    """Return about how many bytes training a head takes, beside what the process has and a window of rows."""
    kind, outputs = kind_of(clf), 1 if classes == 2 else classes
    params = {**kind.make(0).get_params(), **(params or {})}
    if clf == "ridge":
        from featcache.heads.ridge import memory_bytes

        folds = params["folds"] if isinstance(params["folds"], int) else 5  # fitting refuses others
        needed: int = memory_bytes(n, d, folds, outputs=outputs)
        return needed
    if clf == "centroid":  # sums of each fold and class, in float64, and the means
        return 56 * (classes + 1) * d
    if clf in ("sgd", "dense"):  # weights, gradient, momentum or two of Adam's, and the best so far
        hidden = params.get("hidden", ())
        sizes = [d, *(hidden if isinstance(hidden, tuple | list) else [hidden]), outputs]
        whole = [int(size) for size in sizes if isinstance(size, int)]  # fitting refuses others
        return 20 * sum(a * b for a, b in itertools.pairwise(whole))
    return math.ceil(kind.copies * n * d * 4)


def fit(estimator: Any, X: Any, y: npt.NDArray[Any], groups: npt.NDArray[np.int64]) -> Any:
    """Fit a head; whatever it holds out of the training data, it holds out by group.

    Parameters
    ----------
    estimator : CalibratedHead
        From `build`.
    X : array, shape (n, d), or Rows
        Features.
    y : array, shape (n,)
        Classes.
    groups : array, shape (n,)
        Equal for rows that must not be on two sides, such as copies of one image.

    Raises
    ------
    HeadError
        If there are too few images, or the estimator refuses a parameter's value.
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
