"""A frozen base as a scikit-learn transformer."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from featcache.errors import ImageError
from featcache.extraction.extractor import Extractor
from featcache.options import TransformerOptions, constructs, documented, subset
from featcache.recipe import Request
from featcache.sources.opening import open_images
from featcache.sources.pairs import images_of


@documented(TransformerOptions)
class FeatureExtractor(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A frozen base as a scikit-learn transformer: images in, features out.

    Attributes
    ----------
    extractor_ : Extractor
        The loaded base.
    n_features_out_ : int
        Values per image.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> model = make_pipeline(FeatureExtractor("mobilenetv2"), LogisticRegression())
    >>> model.fit(paths, labels).predict(new_paths)  # doctest: +SKIP
    """

    batch_size: int

    @constructs(TransformerOptions)
    def __init__(self, options: TransformerOptions) -> None:
        for name, value in vars(options).items():
            setattr(self, name, value)

    def fit(self, X: Sequence[Any] | npt.NDArray[Any], y: Any = None) -> FeatureExtractor:
        """Load the base; nothing is learned.

        Parameters
        ----------
        X : sequence of images, length n
            Not read.
        y : ignored
            For scikit-learn's interface.

        Returns
        -------
        self

        Raises
        ------
        BaseError
            If there is no such base, or it cannot be cut there.
        WeightsError
            If its weights are not available, or do not fit.
        """
        self.extractor_ = self._loaded()
        self.n_features_out_ = self._n_features_out = math.prod(next(iter(self.extractor_.layers.values())))
        return self

    def _loaded(self) -> Extractor:
        options = TransformerOptions(**self.get_params(deep=False))
        return Extractor(subset(options, Request, layers=() if options.layer is None else (options.layer,)))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the compiled base out of pickles and copies; it is loaded anew where they are used."""
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "extractor_"}

    def transform(self, X: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the features of images.

        Parameters
        ----------
        X : sequence of images, length n
            Paths, bytes of image files, arrays or PIL images, as `ImageClassifier.predict` takes them.

        Returns
        -------
        array, shape (n, n_features_out_)
            One row for each image, in the order given, of `dtype`.

        Raises
        ------
        ImageError
            If an image cannot be read: no row is left out or made up.
        """
        check_is_fitted(self, "n_features_out_")
        if isinstance(X, str | os.PathLike):
            raise ImageError(
                f"X must be a list of images. Received: the single path {os.fspath(X)!r}. Put it into a list."
            )
        if not hasattr(self, "extractor_"):
            self.extractor_ = self._loaded()
        images = images_of(X)
        if not images:
            return np.empty((0, self.n_features_out_), self.dtype)
        rows = []
        source = open_images(images)
        if len(source.items) != len(images):
            raise ImageError("X must be a list of images, but there is a folder or a table in it. List its images.")
        for extracted in self.extractor_.stream(source, source.items, batch_size=self.batch_size):
            if extracted.reason is not None:
                raise ImageError(f"{extracted.item.path}: {extracted.reason}")
            (values,) = extracted.views[0].values()
            rows.append(values.reshape(-1))
        return np.stack(rows)
