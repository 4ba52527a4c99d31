"""What our own heads have in common, which train from blocks of rows."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from featcache.errors import OptionError
from featcache.heads.rows import Array, Float32s, Floats, Ints, Rows


def checked(estimator: Any, X: Any, y: Any, groups: Any) -> tuple[Rows, Ints, Ints]:
    """Check what `fit` was given, set ``classes_`` and ``n_features_in_``, return rows, class numbers and groups.

    `Rows` are taken as they are: whoever reads them has checked that they are finite.
    """
    if isinstance(X, Rows):
        y = np.asarray(y)
        estimator.n_features_in_ = X.shape[1]
    else:
        X, y = validate_data(estimator, X, y, dtype=np.float32)
        X = Rows(X)
    check_classification_targets(y)
    estimator.classes_, target = np.unique(y, return_inverse=True)
    if len(estimator.classes_) < 2:
        raise ValueError(f"A head needs at least 2 classes. Received: {len(estimator.classes_)} class.")
    return X, target, np.arange(len(y)) if groups is None else np.asarray(groups)


def update_scaler(scaler: StandardScaler, rows: Rows) -> StandardScaler:
    """Add rows to mean and variance of a scaler, block by block, and return it."""
    for _, block in rows.blocks():
        scaler.partial_fit(block)
    return scaler


def class_weights(class_weight: Any, classes: Array, target: Ints, *, zero: bool = False) -> Floats:
    """Return the weight of each class, shape (k,), as scikit-learn's ``class_weight`` means it.

    It raises OptionError unless that is None, "balanced" or a dict of numbers above 0, or with `zero` 0 or more.
    """
    if not (class_weight is None or class_weight == "balanced" or isinstance(class_weight, dict)):
        raise OptionError(f"class_weight must be None, balanced or a dict. Received: class_weight={class_weight!r}.")
    try:
        weights: Floats = compute_class_weight(class_weight, classes=classes, y=classes[target])
        if not (weights >= 0 if zero else weights > 0).all():
            raise ValueError("a weight is too small")
    except (ValueError, TypeError) as error:
        numbers = "0 or more" if zero else "numbers above 0"
        raise OptionError(
            f"class_weight must give each label {numbers}. Received: class_weight={class_weight!r}: {error}."
        ) from None
    return weights


def as_probabilities(scores: Array) -> Array:
    """Return probabilities (n, k) of scores that are logits: (n,) of two classes, else (n, k)."""
    if scores.ndim == 1:
        return np.column_stack([expit(-scores), expit(scores)])
    return np.asarray(softmax(scores, axis=1))


class LogitClassifier(ClassifierMixin, BaseEstimator):
    """A classifier whose scores are logits, trained from rows that need not be in memory.

    A subclass has `fit_scored` and `decision_function`.
    """

    classes_: Array
    n_features_in_: int

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Train.

        Parameters
        ----------
        X : array, shape (n, d), or Rows
            Features. `Rows` are read in blocks, so that they need not be in memory.
        y : array, shape (n,)
            Labels.
        groups : array, shape (n,), optional
            Rows of one group are on one side of whatever is held out.

        Returns
        -------
        self

        Raises
        ------
        OptionError
            If a parameter's value is not possible.
        """
        self.fit_scored(X, y, groups)
        return self

    def fit_scored(self, X: Any, y: Any, groups: Any = None) -> tuple[Ints, Floats]:
        """Train as `fit` does, and return held-out scores to calibrate with.

        Returns
        -------
        rows : array, shape (m,)
            Which rows, at most 20,000, have a score from a model that was not trained on them or their group.
        scores : array, shape (m,) for two classes, else (m, k)
            As `decision_function` gives them.
        """
        raise NotImplementedError

    def predict_proba(self, X: Any) -> Float32s:
        """Return the scores as probabilities (sigmoid or softmax), shape (n, k), rows adding up to 1."""
        return as_probabilities(self.decision_function(X))

    def predict(self, X: Any) -> Array:
        """Return the label with the highest score, shape (n,)."""
        scores = self.decision_function(X)
        best = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return np.asarray(self.classes_[best])


class LinearHead(LogitClassifier):
    """A classifier whose scores are ``X @ coef_.T + intercept_``; what it does to features is in its coefficients.

    Attributes
    ----------
    classes_ : array, shape (k,)
        Labels.
    coef_ : array, shape (k, d), or (1, d) for two classes
        float32, for features as they are.
    intercept_ : array, shape (k,) or (1,)
        float32.
    n_features_in_ : int
        d.
    """

    def decision_function(self, X: Any) -> Float32s:
        """Return scores, shape (n,) for two classes (positive: the second), else (n, k)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        scores: Float32s = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores
