"""Scores that become probabilities, by training data the scores were not trained on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted, validate_data

from featcache.errors import OptionError
from featcache.heads.estimator import as_probabilities, checked
from featcache.heads.folds import enough, grouped_folds
from featcache.heads.rows import Array, Float32s, Ints
from featcache.heads.threads import fitting_threads

METHODS = ("temperature", "sigmoid", "isotonic", "none")
FEW = 5000
"""Up to this many rows every fold is held out once; beyond, one fold is enough."""


@dataclass(eq=False, repr=False)
class CalibratedHead(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """A head whose probabilities mean what they say.

    The head is trained without some of the images, its scores of these give the calibration, and it is trained on
    all of them. A head that can do so by itself (it has ``fit_scored``) does; ``dense`` keeps out for good what its
    early stopping looks at.

    Parameters
    ----------
    estimator : classifier
        With ``decision_function``, whose values are taken as logits, or ``predict_proba``.
    method : {"temperature", "sigmoid", "isotonic", "none"}
        ``temperature`` divides the scores by one number, which moves no prediction (Guo et al. 2017). ``sigmoid``
        (Platt 1999) and ``isotonic`` regression (Zadrozny and Elkan 2002) are scikit-learn's, one class against
        the rest. ``none`` takes the estimator's own probabilities, or its scores as logits.
    folds : int, default 5
        Each is held out once, or, of more than 5,000 rows, the first only.
    seed : int, default 0
        For the folds.

    Attributes
    ----------
    classes_ : array, shape (k,)
        Labels.
    estimator_ : classifier
        The head trained on all rows.
    temperature_ : float
        What scores are divided by; 1 unless the method is ``temperature``.
    calibrator_ : CalibratedClassifierCV or None
        From scores to probabilities, for ``sigmoid`` and ``isotonic``.
    n_features_in_ : int
        d.
    """

    estimator: Any
    method: str = "temperature"
    folds: int = 5
    seed: int = 0

    def fit(self, X: Any, y: Any, groups: Any = None) -> CalibratedHead:
        """Train the head and its calibration.

        Parameters
        ----------
        X : array, shape (n, d), or Rows
            Features.
        y : array, shape (n,)
            Labels.
        groups : array, shape (n,), optional
            Rows of one group are trained on or held out together.

        Returns
        -------
        self

        Raises
        ------
        OptionError
            If the method is unknown, or the data cannot give it what it needs.
        """
        if self.method not in METHODS:
            raise OptionError(f"`calibrate` must be one of {', '.join(METHODS)}. Received: {self.method!r}.")
        rows, target, groups = checked(self, X, y, groups)
        labels = self.classes_[target]
        held, scores = np.empty(0, np.int64), np.empty(0)
        self.estimator_ = clone(self.estimator)
        if not hasattr(self.estimator_, "fit_scored"):
            values = rows[:]
            with fitting_threads(*rows.shape):
                if self.method != "none":
                    held, scores = self._held_out(values, target, groups)
                self.estimator_.fit(values, labels)
        elif self.method == "none":
            self.estimator_.fit(rows, labels, groups)
        else:
            held, scores = self.estimator_.fit_scored(rows, labels, groups)
        self.temperature_, self.calibrator_ = 1.0, None
        if self.method == "none":
            return self
        if len(held) == 0:
            warnings.warn(
                "the probabilities are not calibrated: no class has two different images, or nothing is held out",
                stacklevel=2,
            )
        elif self.method == "temperature":
            self.temperature_ = temperature_of(scores, target[held])
        else:
            self.calibrator_ = self._calibrator(scores, labels[held])
        return self

    def decision_function(self, X: Any) -> Array:
        """Return the head's scores over the temperature, shape (n,) for two classes, else (n, k)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        return np.asarray(_scores(self.estimator_, X) / np.float32(self.temperature_))

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, shape (n, k), rows adding up to 1."""
        if self.method == "none" and hasattr(self, "estimator_") and hasattr(self.estimator_, "predict_proba"):
            X = validate_data(self, X, dtype=np.float32, reset=False)
            return np.asarray(self.estimator_.predict_proba(X))
        scores = self.decision_function(X)
        if self.calibrator_ is None:
            return as_probabilities(scores)
        return np.asarray(self.calibrator_.predict_proba(scores.reshape(len(scores), -1)))

    def predict(self, X: Any) -> Array:
        """Return the most probable label of each row, shape (n,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def _held_out(self, X: Float32s, target: Ints, groups: Ints) -> tuple[Ints, Array]:
        """Return rows (m,) and their scores by a head that was trained without their fold."""
        fold = grouped_folds(target, groups, self.folds, seed=self.seed)
        rows, scores = [], []
        for number in range(self.folds if len(X) <= FEW else 1):
            held = fold == number
            if held.any():
                part = clone(self.estimator).fit(X[~held], self.classes_[target[~held]])
                rows.append(enough(np.flatnonzero(held), seed=self.seed))
                scores.append(_scores(part, X[rows[-1]]))
        return (np.concatenate(rows), np.concatenate(scores)) if rows else (np.empty(0, np.int64), np.empty(0))

    def _calibrator(self, scores: Array, labels: Array) -> Any:
        if missing := sorted(set(self.classes_.tolist()) - set(labels.tolist())):
            raise OptionError(
                f"{len(missing)} classes have fewer than 2 different images, too few for {self.method} "
                "calibration. Add images, or use `calibrate`='temperature'."
            )
        weights = None
        if (class_weight := _class_weight(self.estimator)) is not None:
            weights = compute_sample_weight(class_weight, labels)
        everything = np.arange(len(labels))
        reader = FrozenEstimator(Scores(self.classes_))
        calibrator = CalibratedClassifierCV(reader, method=self.method, cv=[(everything, everything)])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Since FrozenEstimator")  # weights are for the calibration alone, indeed
            calibrator.fit(scores.reshape(len(scores), -1), labels, sample_weight=weights)
        calibrator.cv = None  # the rows are no part of the head
        return calibrator


class Scores(ClassifierMixin, BaseEstimator):
    """A classifier of scores that are there already: what a calibration of scikit-learn's is put upon."""

    def __init__(self, classes: Array) -> None:
        self.classes = classes
        self.classes_ = classes

    def fit(self, X: Any, y: Any) -> Scores:
        """Return itself: there is nothing to train."""
        return self

    def decision_function(self, X: Array) -> Array:
        """Return the scores (n, k) or, for two classes, the only column (n,)."""
        return X[:, 0] if X.shape[1] == 1 else X

    def predict(self, X: Array) -> Array:
        """Return the label of the highest score, shape (n,)."""
        best = (X[:, 0] > 0).astype(int) if X.shape[1] == 1 else X.argmax(axis=1)
        return np.asarray(self.classes_[best])


def _scores(estimator: Any, X: Float32s) -> Array:
    """Return scores as logits: (n,) for two classes, else (n, k)."""
    if hasattr(estimator, "decision_function"):
        return np.asarray(estimator.decision_function(X))
    logits: Array = np.log(np.maximum(estimator.predict_proba(X), np.finfo(np.float32).eps))
    return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits


def temperature_of(scores: Array, target: Array) -> float:
    """Return the number, between 1e-3 and 1e3, that the scores must be divided by for the least log loss.

    As in Platt's method (1999), one more row than there are counts with equal probabilities for all classes, so that
    rows which are all right do not make the head sure of everything.
    """
    logits = _logits(scores)
    share = 1 / (len(target) + 1)

    def loss(logarithm: float) -> float:
        logarithms = log_softmax(logits / np.exp(logarithm), axis=1)
        own = logarithms[np.arange(len(target)), target].mean()
        return -float((1 - share) * own + share * logarithms.mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-np.log(1e3), np.log(1e3)), method="bounded").x))


def log_loss_of(scores: Array, target: Array) -> float:
    """Return the mean log loss of scores that are logits."""
    return -float(log_softmax(_logits(scores), axis=1)[np.arange(len(target)), target].mean())


def _logits(scores: Array) -> Array:
    return np.column_stack([np.zeros(len(scores)), scores]) if scores.ndim == 1 else scores.astype(np.float64)


def _class_weight(estimator: Any) -> Any:
    """Return the ``class_weight`` of an estimator, or of the last step of a pipeline."""
    params = estimator.get_params()
    return next((value for name, value in params.items() if name.rpartition("__")[2] == "class_weight"), None)
