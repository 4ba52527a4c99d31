"""Heads as linear functions of features, where they are: what a network can take over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from featcache.errors import HeadError
from featcache.heads.rows import Float32s
from featcache.heads.store import Head


@dataclass(frozen=True)
class Expression:
    """Probabilities as a function of scores: ``activation(scale * scores + shift)``.

    Scores are ``features @ kernel + bias``, with kernel (d, k) or, for two classes, (d, 1); both are None of a dense
    head. `scale` and `shift` (k,) or (1,) are the calibration. `activation` is "softmax", "sigmoid" (of the second of
    two classes) or "normalized" (one sigmoid for each class, divided by their sum).
    """

    kernel: Float32s | None
    bias: Float32s | None
    scale: Float32s
    shift: Float32s
    activation: str


def expressed(head: Head) -> Expression:
    """Return a head as a linear function of features and what makes probabilities of its scores.

    Of a ``dense`` head the network gives the scores. It raises HeadError if no network can express the head: ``knn``,
    ``svm``, isotonic calibration.
    """
    estimator = head.estimator
    kernel, bias = (
        (None, None) if head.clf == "dense" else _linear(head.clf, estimator.estimator_, own="estimator" in head.card)
    )
    outputs = 1 if len(estimator.classes_) == 2 else len(estimator.classes_)
    scale, shift = np.full(outputs, 1 / estimator.temperature_), np.zeros(outputs)
    activation = "sigmoid" if outputs == 1 else "softmax"
    if estimator.calibrator_ is not None:
        if estimator.method != "sigmoid":
            raise _inexpressible(head.clf, f"{estimator.method} calibration")
        parts = estimator.calibrator_.calibrated_classifiers_[0].calibrators
        scale, shift = (-np.array([float(getattr(part, name)) for part in parts]) for name in ("a_", "b_"))
        activation = "sigmoid" if outputs == 1 else "normalized"
    return Expression(kernel, bias, scale.astype(np.float32), shift.astype(np.float32), activation)


def _linear(clf: str, estimator: Any, *, own: bool) -> tuple[Float32s, Float32s]:
    """Return kernel (d, outputs) and bias (outputs,) for features as they are.

    Of an estimator of the user's own, a LogisticRegression or LinearSVC is known to be linear, and a StandardScaler
    before it.
    """
    *before, model = [step for _, step in estimator.steps] if hasattr(estimator, "steps") else [estimator]
    scaler: Any = before[0] if before else None
    if own:
        linear = type(model).__name__ in ("LogisticRegression", "LinearSVC") and len(before) <= 1
        scaled = type(scaler).__name__ == "StandardScaler" and scaler.with_mean and scaler.with_std
        if not linear or (before and not scaled):
            raise _inexpressible(clf, "")
    if not hasattr(model, "coef_") or clf in ("svm", "knn"):
        raise _inexpressible(clf, "")
    coef = np.asarray(model.coef_, np.float64)
    intercept = np.atleast_1d(np.asarray(model.intercept_, np.float64))
    if scaler is not None:
        coef = coef / scaler.scale_
        intercept = intercept - coef @ scaler.mean_
    return coef.T.astype(np.float32), intercept.astype(np.float32)


def _inexpressible(clf: str, what: str) -> HeadError:
    return HeadError(
        f"No network can express {clf}{' with ' + what if what else ''}; it can express logreg, linear-svm, ridge, "
        "centroid and dense, calibrated by temperature or sigmoid. Distil the head with fine-tune and `distill` "
        "ridge or dense: such a head learns to answer as this one does."
    )
