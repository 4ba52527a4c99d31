"""Paths → features with one base: what extraction, prediction and scikit-learn pipelines share."""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from featcache.bases import Base, load_base
from featcache.errors import BaseError, ImageError
from featcache.images import PixelSpec, load
from featcache.recipe import (
    Dtype,
    Interpolation,
    Pooling,
    Preprocess,
    Recipe,
    Request,
    Resize,
)
from featcache.runtimes import TensorFlowRuntime
from featcache.sources import Item, Source, digest, files_source

BATCH_SIZE = 32


@dataclass(frozen=True)
class Extracted:
    """What became of one image.

    Attributes
    ----------
    item : Item
        Which.
    digest : bytes or None
        SHA-256 of what was read; None if it could not be read.
    features : dict of arrays or None
        One row per layer, in the recipe's storage dtype; None if it was already known or failed.
    reason : str or None
        Why it failed.
    """

    item: Item
    digest: bytes | None
    features: Mapping[str, npt.NDArray[Any]] | None = None
    reason: str | None = None


Progress = Callable[[int, int], None]
"""Called with (images done, images to do) as work goes on."""


class Extractor:
    """A base that is loaded, compiled and ready for images.

    Parameters
    ----------
    request : Request
        Which base and how images reach it.

    Attributes
    ----------
    recipe : Recipe
        What decides its numbers.
    layers : dict
        Shape of one image's features by layer, the deepest last.

    Raises
    ------
    BaseError, WeightsError, OptionError
        As `featcache.bases.load_base`.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.base: Base = load_base(request)
        self._runtime = TensorFlowRuntime(self.base, request.pooling)
        base = self.base
        self.recipe = Recipe(
            architecture=base.architecture,
            weights=base.weights,
            layers=base.canonical_layers,
            pooling=request.pooling,
            image_size=(base.height, base.width),
            resize=request.resize,
            interpolation=request.interpolation,
            preprocess=base.preprocess,
            dtype=request.dtype,
        )
        self._spec = PixelSpec(base.height, base.width, base.channels, request.resize, request.interpolation)

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Shape of one image's features by layer, the deepest last."""
        return self._runtime.shapes

    def stream(
        self,
        source: Source,
        items: Iterable[Item],
        *,
        known: Container[bytes] = (),
        batch_size: int = BATCH_SIZE,
        workers: int | None = None,
    ) -> Iterator[Extracted]:
        """Yield what becomes of each image, in the order of `items`.

        Bytes are read once, hashed and decoded from the same buffer, ahead of the forward pass and in
        parallel; a few batches are in memory at a time.

        Parameters
        ----------
        source : Source
            Reads the items.
        items : iterable of Item
            Which images.
        known : container of digests
            Images that need no features.
        batch_size : int
            Images per forward pass; does not change features beyond their last bits.
        workers : int, optional
            Decoding threads; default: one more than the processors.

        Raises
        ------
        BaseError
            If features are not finite, naming the layer and an image.
        """

        def prepare(item: Item) -> tuple[Extracted, npt.NDArray[np.float32] | None]:
            identity = None
            try:
                content = source.read(item)
                identity = digest(content)
                if identity in known:
                    return Extracted(item, identity), None
                return Extracted(item, identity), load(content, self._spec)
            except ImageError as error:
                return Extracted(item, identity, reason=str(error)), None

        with ThreadPoolExecutor(workers or (os.cpu_count() or 1) + 1, "featcache-decode") as pool:
            ahead = _mapped_ahead(pool, prepare, items, 3 * batch_size)
            held: list[tuple[Extracted, npt.NDArray[np.float32] | None]] = []
            waiting = 0
            for prepared in ahead:
                held.append(prepared)
                waiting += prepared[1] is not None
                if waiting == batch_size or (not waiting and len(held) >= batch_size):
                    yield from self._run(held, batch_size)
                    held, waiting = [], 0
            smaller = batch_size if waiting > batch_size // 2 else max(2, 1 << (waiting - 1).bit_length())
            yield from self._run(held, min(batch_size, smaller) if waiting else batch_size)

    def _run(
        self, held: Sequence[tuple[Extracted, npt.NDArray[np.float32] | None]], batch_size: int
    ) -> Iterator[Extracted]:
        """Run one batch and yield every image that was held for it, in order."""
        pixels = [image for _, image in held if image is not None]
        features: dict[str, npt.NDArray[Any]] = {}
        if pixels:
            owners = [extracted.item.path for extracted, image in held if image is not None]
            with np.errstate(over="ignore"):  # an overflow is an inf, which is named below
                computed = self._runtime(np.stack(pixels), batch_size)
                features = {layer: rows.astype(self.recipe.dtype) for layer, rows in computed.items()}
            self._check_finite(features, owners)
        rows = itertools.count()
        for extracted, image in held:
            if image is None:
                yield extracted
            else:
                row = next(rows)
                yield replace(extracted, features={layer: values[row] for layer, values in features.items()})

    def _check_finite(self, features: Mapping[str, npt.NDArray[Any]], owners: Sequence[str]) -> None:
        for layer, values in features.items():
            finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
            if not finite.all():
                advice = (
                    "float16 ends at 65504: take --dtype float32"
                    if self.recipe.dtype == "float16"
                    else "check the base's weights and --preprocess"
                )
                raise BaseError(
                    f"Expected finite features. Received: inf or NaN in layer {layer!r} for image "
                    f"{owners[int(np.argmin(finite))]!r}; {advice}."
                )


def _mapped_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Any], items: Iterable[Item], window: int
) -> Iterator[Any]:
    """Map in threads, in order, at most `window` items ahead of the consumer."""
    pending: collections.deque[Future[Any]] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


class FeatureExtractor(TransformerMixin, BaseEstimator):
    """A frozen base as a scikit-learn transformer: image files in, features out.

    Parameters
    ----------
    base : str, path or keras.Model, default "vgg19"
        A Keras application's name, a model file, or a model.
    layer : str, optional
        Where to cut; default: the base's output.
    settings, weights, pooling, image_size, resize, interpolation, preprocess, dtype
        As in `featcache.recipe.Request`.
    batch_size : int, default 32
        Images per forward pass.

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

    def __init__(
        self,
        base: Any = "vgg19",
        *,
        layer: str | None = None,
        settings: Mapping[str, Any] | None = None,
        weights: str | Path | None = None,
        pooling: Pooling = "avg",
        image_size: int | tuple[int, int] | None = None,
        resize: Resize = "stretch",
        interpolation: Interpolation = "bilinear",
        preprocess: Preprocess = "auto",
        dtype: Dtype = "float32",
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.base = base
        self.layer = layer
        self.settings = settings
        self.weights = weights
        self.pooling = pooling
        self.image_size = image_size
        self.resize = resize
        self.interpolation = interpolation
        self.preprocess = preprocess
        self.dtype = dtype
        self.batch_size = batch_size

    def fit(self, X: Sequence[str | os.PathLike[str]], y: Any = None) -> FeatureExtractor:
        """Load the base; nothing is learned from `X`, a sequence of image files."""
        self.extractor_ = Extractor(
            Request(
                base=self.base,
                settings=self.settings or {},
                weights=self.weights,
                layers=() if self.layer is None else (self.layer,),
                pooling=self.pooling,
                image_size=self.image_size,
                resize=self.resize,
                interpolation=self.interpolation,
                preprocess=self.preprocess,
                dtype=self.dtype,
            )
        )
        self.n_features_out_ = int(np.prod(next(iter(self.extractor_.layers.values()))))
        return self

    def transform(self, X: Sequence[str | os.PathLike[str]]) -> npt.NDArray[Any]:
        """Return features of shape (len(X), n_features_out_), one row per file, in the order given.

        Raises
        ------
        ImageError
            If a file cannot be read: no row is left out or made up.
        """
        check_is_fitted(self)
        rows: dict[str, npt.NDArray[Any]] = {}
        source = files_source(X)
        for extracted in self.extractor_.stream(source, source.items, batch_size=self.batch_size):
            if extracted.features is None:
                raise ImageError(f"{extracted.item.path}: {extracted.reason}")
            (values,) = extracted.features.values()
            rows[extracted.item.path] = values.reshape(-1)
        return np.stack([rows[str(Path(path))] if str(path) not in rows else rows[str(path)] for path in X])
