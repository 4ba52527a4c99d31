"""The nearest training images by cosine similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize
from sklearn.utils.validation import check_is_fitted, validate_data

from featcache.errors import OptionError
from featcache.heads import checks
from featcache.heads.estimator import checked, class_weights
from featcache.heads.rows import Array, Floats

_RULES = {"n_neighbors": checks.whole(1), "weights": checks.one_of("distance", "uniform")}


@dataclass(eq=False, repr=False)
class KNNHead(ClassifierMixin, BaseEstimator):
    """Votes of the k training rows with the largest cosine similarity, found exactly.

    All training rows are kept in memory, in float32 and scaled to length 1; a row of zeros stays as it is. Between
    rows of length 1 the squared Euclidean distance is 2 - 2 cos, so that scikit-learn's search by brute force finds
    them.

    Parameters
    ----------
    n_neighbors : int, default 10
        At most the number of training rows.
    weights : {"distance", "uniform"}
        A vote counts 1/distance, or 1.
    class_weight : None, "balanced" or dict
        As in scikit-learn; a class's votes are multiplied by it. Weights are above 0.

    Attributes
    ----------
    classes_ : array, shape (k,)
        Labels.
    neighbors_ : KNeighborsClassifier
        Of the rows of length 1; its labels are class numbers.
    class_weight_ : array, shape (k,)
        What votes are multiplied by.
    n_features_in_ : int
        d.
    """

    n_neighbors: int = 10
    weights: str = "distance"
    class_weight: Any = None

    def fit(self, X: Any, y: Any) -> KNNHead:
        """Keep the training rows.

        Parameters
        ----------
        X : array, shape (n, d)
            Features.
        y : array, shape (n,)
            Labels.

        Returns
        -------
        self

        Raises
        ------
        OptionError
            If a parameter's value is not possible.
        """
        checks.check(self, _RULES)
        rows, target, _ = checked(self, X, y, None)
        if self.n_neighbors > len(rows):
            raise OptionError(
                f"n_neighbors must be at most the {len(rows)} training rows (n_samples = {len(rows)}). "
                f"Received: n_neighbors={self.n_neighbors!r}."
            )
        self.class_weight_ = class_weights(self.class_weight, self.classes_, target)
        search = KNeighborsClassifier(self.n_neighbors, weights=self.weights, algorithm="brute", metric="euclidean")
        self.neighbors_ = search.fit(normalize(rows[:]), target)
        return self

    def predict_proba(self, X: Any) -> Floats:
        """Return the share of each class in the votes, shape (n, k), rows adding up to 1."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        votes: Floats = self.neighbors_.predict_proba(normalize(X)) * self.class_weight_
        votes /= votes.sum(axis=1, keepdims=True)
        return votes

    def predict(self, X: Any) -> Array:
        """Return the label with the largest share, shape (n,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])
