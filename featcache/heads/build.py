"""Heads by name: what `--clf` and `--set` mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import HeadError, OptionError, nearest

CALIBRATION_FOLDS = 5


def _logreg(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000, random_state=seed)


def _linear_svm(seed: int) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(max_iter=10_000, random_state=seed)


def _svm(seed: int) -> Any:
    from sklearn.svm import SVC

    return SVC(random_state=seed)


def _dense(seed: int) -> Any:
    from featcache.heads.dense import DenseClassifier

    return DenseClassifier(seed=seed)


HEADS: dict[str, Callable[[int], Any]] = {
    "logreg": _logreg,
    "linear-svm": _linear_svm,
    "svm": _svm,
    "dense": _dense,
}
"""Head names, and what makes the estimator whose parameters `--set` sets."""

_FIXED = {"probability", "penalty", "n_jobs", "verbose", "random_state", "seed", "decision_function_shape"}


def build(clf: str, params: Mapping[str, Any] | None = None, *, seed: int = 0) -> Any:
    """Return an unfitted head.

    Parameters
    ----------
    clf : str
        A name of `HEADS`. ``logreg``, ``linear-svm`` and ``svm`` are scikit-learn's, behind a
        StandardScaler; the margins of the latter two become probabilities by sigmoid calibration,
        cross-validated on the training data (Platt 1999; `CalibratedClassifierCV` with
        ``ensemble=False``). ``dense`` is `featcache.heads.dense.DenseClassifier`.
    params : mapping
        Parameters of that estimator.
    seed : int
        For everything random in it.

    Returns
    -------
    scikit-learn estimator
        With ``predict_proba``.

    Raises
    ------
    OptionError
        If a name is unknown; the message has the valid ones.
    """
    if clf not in HEADS:
        raise OptionError(f"Expected a head: {', '.join(HEADS)}. Received: {clf!r} ({nearest(clf, HEADS)}).")
    estimator = HEADS[clf](seed)
    valid = sorted(set(estimator.get_params()) - _FIXED)
    for name in params or {}:
        if name not in valid:
            raise OptionError(f"Expected a parameter of {clf}: {', '.join(valid)}. Received: {name!r}.")
    estimator.set_params(**(params or {}))
    if clf == "dense":
        return estimator
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaled = make_pipeline(StandardScaler(), estimator)
    if clf == "logreg":
        return scaled
    from sklearn.calibration import CalibratedClassifierCV

    return CalibratedClassifierCV(scaled, method="sigmoid", ensemble=False, cv=CALIBRATION_FOLDS)


def fit(estimator: Any, X: npt.NDArray[Any], y: npt.NDArray[Any], groups: npt.NDArray[np.int64], *, seed: int) -> Any:
    """Fit a head; whatever it holds out of the training data, it holds out by group.

    Parameters
    ----------
    estimator : estimator
        From `build`.
    X : array, shape (n, d), float32
        Features.
    y : array, shape (n,)
        Classes.
    groups : array, shape (n,)
        Equal for rows that must not be on two sides, such as copies of one image.
    seed : int
        For the folds.

    Raises
    ------
    HeadError
        If there are too few images, or the estimator refuses a parameter's value.
    """
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import StratifiedGroupKFold

    classes = np.unique(y)
    if len(classes) < 2:
        raise HeadError(f"Expected images of at least 2 classes to train on. Received: {len(classes)}.")
    try:
        if not isinstance(estimator, CalibratedClassifierCV):
            return estimator.fit(X, y, **({"groups": groups} if hasattr(estimator, "validation_fraction") else {}))
        fewest = min(len(np.unique(groups[y == label])) for label in classes)
        folds = min(CALIBRATION_FOLDS, fewest)
        if folds < 2:
            raise HeadError(
                "Expected at least 2 different images of each class to calibrate probabilities. Received: a "
                "class with 1. Add images or take --clf logreg."
            )
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        estimator.cv = list(splitter.split(X, y, groups))
        estimator.fit(X, y)
        estimator.cv = folds  # the rows of each fold are no part of the head
        return estimator
    except OptionError:
        raise
    except (ValueError, TypeError) as error:
        raise HeadError(f"The head cannot be trained: {' '.join(str(error).split())[:300]}") from None
