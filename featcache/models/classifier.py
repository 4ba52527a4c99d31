"""Base and head together: pixels → class, through the same functions as extraction."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featcache.bases.finding import base_folders, find_base, request_for
from featcache.errors import HeadError, ImageError, OptionError, WeightsError
from featcache.extraction.extractor import Extracted, Extractor
from featcache.heads import Head
from featcache.models.evaluation import evaluated
from featcache.models.folder import PixelModel, is_model
from featcache.models.predictions import (
    UNSURE,
    Answering,
    Prediction,
    PredictionFile,
    PredictionReport,
    Predictions,
    check_apart,
    listing_digest,
    own_files,
    without,
)
from featcache.options import BATCH_SIZE, MAX_PIXELS, Progress
from featcache.recipe import Recipe, Request
from featcache.saved.base import CARD
from featcache.sources import (
    NO_OPTIONS,
    Selected,
    Source,
    SourceOptions,
)
from featcache.sources.opening import Images, open_images
from featcache.system.progress import shown

if TYPE_CHECKING:
    from featcache.models.finetune import FineTuned

log = logging.getLogger(__name__)

_CHUNK = 4 * BATCH_SIZE


class ImageClassifier:
    """A base and a head: from images to classes.

    Parameters
    ----------
    head : Head
        The head; its card says which base it needs.
    base : str, path or keras.Model, optional
        The base, if it has moved; it is used even where a copy of the base is kept.
    weights : path, optional
        The base's weights, if they have moved.
    max_pixels : int
        Images with more pixels have that as the reason why they are not predicted.

    Attributes
    ----------
    fine_tuning : FineTuned or None
        What `featcache.fine_tune` did, if it returned this object.

    Raises
    ------
    HeadError
        If the head was trained on a base that only existed in memory, no copy is kept and none is given; or if
        it was not made by `featcache.fit_head`.

    Examples
    --------
    >>> classifier = ImageClassifier.load("cache/pets-vgg19-0a1b2c3d/heads/logreg-block5_pool")
    ... # doctest: +SKIP
    >>> classifier.predict(["cat.jpg"])  # doctest: +SKIP
    array(['cat'], dtype='<U3')
    """

    fine_tuning: FineTuned | None = None
    passes = 1  # forward passes that run at once, see `featcache.system.cpus`

    def __init__(
        self, head: Head, *, base: Any = None, weights: str | Path | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        missing = {"recipe", "request", "layer_index", "source", "listing", "cache"} - set(head.card)
        if missing:
            raise HeadError(
                f"The head {str(head.path)!r} does not say which base it needs: its card has no "
                f"{', '.join(sorted(missing))}. Train it again with fit_head."
            )
        self.head: Head | PixelModel = head
        self._max_pixels = max_pixels
        recipe, described = Recipe.from_dict(head.card["recipe"]), head.card["request"]
        self.recipe: Recipe | None = recipe
        if recipe.spec is not None:
            raise HeadError(
                f"The features of this head came from elsewhere ({recipe.spec}), so featcache has no base for it. Use "
                "Head.load, and predict_proba on that encoder's features."
            )
        self._request: Request | None = None if described is None else Request.from_dict(described)
        self._folders = base_folders(head.path, head.card)
        kept = weights is None and any((folder / CARD).exists() for folder in self._folders)
        if base is None and described is None and not kept:
            raise HeadError(
                "This head was trained on features of a model in memory, so its base is not known. Give it as `base`."
            )
        named: dict[str, Any] = {"base": base, "weights": weights}
        given = {name: value for name, value in named.items() if value is not None}
        if given:  # what is named counts, whatever is kept
            self._folders = []
            if base is not None:
                given = {"weights": "imagenet"} | given  # an application's, or the file's own
            self._request = replace(self._request or request_for(recipe, base), **given)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        base: Any = None,
        weights: str | Path | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> ImageClassifier:
        """Load the folder of a head, or of a whole model.

        A head's base is loaded, and its digest checked, when it is first needed.

        Parameters
        ----------
        path : path
            What `featcache.fit_head` or `featcache.fine_tune` wrote.
        base : str, path or keras.Model, optional
            The base, where it is not where it was when its cache was extracted.
        weights : path, optional
            Likewise its weights.
        max_pixels : int
            Images with more pixels have that as the reason why they are not predicted.

        Returns
        -------
        ImageClassifier

        Raises
        ------
        HeadError
            If the folder holds neither, was changed since, or its features came from elsewhere.
        OptionError
            If a base is given beside a whole model, which has its own.
        """
        if not is_model(path):
            return cls(Head.load(path), base=base, weights=weights, max_pixels=max_pixels)
        if base is not None or weights is not None:
            raise OptionError(
                f"`base` and `weights` cannot be set for {str(path)!r}: a fine-tuned model contains its base. Leave "
                "them out."
            )
        return cls.from_model(PixelModel.load(path), max_pixels=max_pixels)

    @classmethod
    def from_model(cls, model: PixelModel, *, max_pixels: int = MAX_PIXELS) -> ImageClassifier:
        """Return a classifier that is one `model` from pixels to probabilities, such as a fine-tuned one.

        Images with more than `max_pixels` have that as the reason why they are not predicted.
        """
        self = cls.__new__(cls)
        self.head, self.recipe, self._request, self._folders = model, None, model.request(), []
        self._max_pixels = max_pixels
        return self

    @property
    def class_names(self) -> list[str]:
        """Class names in alphanumeric order."""
        return self.head.class_names

    @property
    def classes_(self) -> npt.NDArray[np.str_]:
        """Class names as an array, shape (k,), as scikit-learn has them: the columns of `predict_proba`."""
        return np.array(self.class_names, np.str_)

    def __repr__(self) -> str:
        what = str(self.head.path) if self.head.path is not None else "in memory"
        accuracy = self.head.metrics.get("validation", {}).get("accuracy")
        scored = "" if accuracy is None else f", {accuracy:.4f} accurate on validation"
        return f"ImageClassifier({what!r}, {len(self.class_names)} classes{scored})"

    @cached_property
    def extractor(self) -> Extractor:
        """The base, loaded and found to be the one the head was trained with.

        It is the copy in the head's folder, else that in its cache, else what it was extracted with.

        Raises
        ------
        BaseError, WeightsError
            If its weights or structure have another digest, or it is in none of these places.
        """
        if self.recipe is None:
            assert self._request is not None
            return Extractor(replace(self._request, max_pixels=self._max_pixels), passes=self.passes)
        found = find_base(self.recipe, self._request, self._folders)
        request = replace(found.request, max_pixels=self._max_pixels)
        extractor = Extractor(request, found.base, found.file, self.passes)
        if extractor.recipe != self.recipe:
            raise WeightsError(
                "This is not the base that the head was trained with: "
                f"{'; '.join(self.recipe.differences(extractor.recipe))}. Name the right files as `base` and "
                "`weights`, or train a head on features of this one."
            )
        return extractor

    def predict(
        self,
        images: Images,
        *,
        options: SourceOptions = NO_OPTIONS,
        threshold: float | None = None,
        progress: bool | Progress = True,
    ) -> npt.NDArray[np.str_]:
        """Return the label of each image.

        Parameters
        ----------
        images : path, bytes, array, PIL image, a sequence of these, or Source
            Files, folders of them, tables, arrays and tar files, see `featcache.sources.open_images`; encoded files as
            bytes; pixels as arrays (height, width), (height, width, channels) or (n, height, width, channels) of uint8
            or floats in 0…1; PIL images.
        options : SourceOptions
            How files are read.
        threshold : float, optional
            In 0…1; an image whose most probable class is less probable has the label ``unsure``.
            ``evaluate(coverage=True)`` shows what each gives.
        progress : bool or callable
            Show a bar in terminals and notebooks; or a function that is called with (done, to do).

        Returns
        -------
        array of str, shape (n,)
            Class names, in the order given.

        Raises
        ------
        ImageError
            If an image cannot be read. `predict_records` says which, and predicts the others.
        SourceError
            If a path does not exist, or an image is of another type.
        OptionError
            If the threshold is out of range.
        """
        records = self.predict_records(images, options=options, threshold=threshold, progress=progress)
        return np.array([one.label for one in _all_read(records)], np.str_)

    def predict_proba(
        self, images: Images, *, options: SourceOptions = NO_OPTIONS, progress: bool | Progress = True
    ) -> npt.NDArray[np.float64]:
        """Return the probability of each class for each image.

        Parameters
        ----------
        images, options, progress
            As for `predict`.

        Returns
        -------
        array of float, shape (n, k)
            Columns in the order of `classes_`, rows in the order given, adding up to 1.

        Raises
        ------
        ImageError
            If an image cannot be read. `predict_records` says which, and predicts the others.
        SourceError
            If a path does not exist, or an image is of another type.
        """
        records = self.predict_records(images, options=options, progress=progress)
        rows = [list(one.probabilities.values()) for one in _all_read(records)]
        return np.array(rows, np.float64).reshape(len(rows), len(self.class_names))

    def predict_records(
        self,
        images: Images,
        *,
        options: SourceOptions = NO_OPTIONS,
        threshold: float | None = None,
        top_k: int = 1,
        progress: bool | Progress = True,
    ) -> Predictions:
        """Predict images one after the other, with a few batches in memory.

        Parameters
        ----------
        images, options, threshold, progress
            As for `predict`.
        top_k : int
            How many classes to name in ``top``, the most probable first; 1 to all.

        Returns
        -------
        Predictions
            An iterator of a `Prediction` for each image, in the order given. An image that cannot be read has no
            label, and a ``reason``.

        Raises
        ------
        SourceError
            If a path does not exist, or an image is of another type.
        OptionError
            If the threshold or `top_k` is out of range.
        """
        answering = Answering(self.class_names, threshold, top_k)
        return Predictions(self._stream(open_images(images, options=options), answering, progress), answering)

    def predict_to(
        self,
        file: str | os.PathLike[str],
        images: Images,
        *,
        options: SourceOptions = NO_OPTIONS,
        threshold: float | None = None,
        top_k: int = 1,
        progress: bool | Progress = True,
    ) -> PredictionReport:
        """Predict images into a file, in the order given, holding a few batches.

        What is predicted lies in ``<file>.partial`` until all is. Killed and called again with the same head, images,
        threshold and top_k, it goes on there, and the finished file is, byte for byte, that of a run that nobody
        stopped. At most a second's work and 128 images are predicted again.

        Parameters
        ----------
        file : path
            ``.jsonl``, an object for each image, or ``.csv``: ``path, label, probability``, with a threshold ``best,
            unsure`` (true or false), then of other classes that are named ``label_2, label_2_probability, …``, then
            ``probability_<class>`` of every class, and ``reason``. UTF-8; names that are not are written as the bytes
            they are. A file that exists is replaced by the finished one. Lying in a folder that is predicted, it is
            left out there.
        images, options, threshold, top_k, progress
            As for `predict`.

        Returns
        -------
        PredictionReport
            How many there are, and what could not be read.

        Raises
        ------
        SourceError
            If a path does not exist.
        OptionError
            If an option is out of range, the head was never saved, the file cannot be written or is one of the
            images or a list of them, or what lies in ``<file>.partial`` is of another head, other images or other
            options.
        """
        answering = Answering(self.class_names, threshold, top_k)
        if self.head.digest is None:
            raise OptionError("This head was never saved, so a stopped run could not resume. Call head.save first.")
        check_apart(own_files(Path(file)), images)
        source = without(own_files(Path(file)), open_images(images, options=options))
        identity = {
            "model": self.head.digest,
            "threshold": threshold,
            "top-k": top_k,
            "max-pixels": self._max_pixels,
            "images (paths, sizes, time stamps)": listing_digest(source),
            "chunk size": _CHUNK,
        }
        with PredictionFile(Path(file), answering, identity) as target:
            left = source.items[target.rows :]
            found = self._stream(Selected(source, left), answering, progress) if left else iter(())
            while chunk := list(itertools.islice(found, _CHUNK)):
                target.append(chunk)
            target.finish()
        return target.report()

    def _stream(self, source: Source, answering: Answering, progress: bool | Progress) -> Iterator[Prediction]:
        seen, index = 0, int(self.head.card.get("layer_index", 0))  # names may have other automatic numbers here
        with (
            contextlib.closing(self.extractor.stream(source, source.items, flush_every=_CHUNK)) as results,
            shown(progress, "predicting") as show,
        ):
            while chunk := list(itertools.islice(results, _CHUNK)):
                rows = [list(done.views[0].values())[index] for done in chunk if done.reason is None]
                seen += len(chunk)
                if show is not None:
                    show(seen, len(source.items))
                probabilities: Iterator[Any] = iter(self.head.predict_proba(np.stack(rows)) if rows else [])
                for done in chunk:
                    if done.reason is None:
                        yield _prediction(done, next(probabilities), answering)
                    else:
                        yield Prediction(done.item.path, None, None, {}, done.reason, done.digest)

    def evaluate(
        self,
        source: str | os.PathLike[str] | Source | None = None,
        *,
        options: SourceOptions = NO_OPTIONS,
        coverage: bool = False,
        progress: bool | Progress = True,
    ) -> dict[str, Any]:
        """Predict a labelled source from its pixels and score it.

        Parameters
        ----------
        source : str, path or Source, optional
            Default: the source that the head's cache was extracted from, listed and split as it was then.
        options : SourceOptions
            How a source that is named is read.
        coverage : bool
            Say, too, how accurate the answers are that are left at each threshold.
        progress : bool or callable
            Show a bar in terminals and notebooks; or a function that is called with (done, to do).

        Returns
        -------
        dict
            ``metrics`` by split (``all`` if the source brings none) and ``skipped``; with `coverage` also
            ``coverage`` by split, see `featcache.training.metrics.coverage_table`, of the validation images, or where
            there are none of all splits. Copies of images the head was trained on, and images of their groups, are
            left out of other splits than ``train``, and counted.

        Raises
        ------
        OptionError
            If the source has classes that the head does not know, no labels, or nothing to score.
        SourceError
            If it does not exist.
        """
        return evaluated(self, source, options, coverage=coverage, progress=progress)


def _all_read(records: Iterable[Prediction]) -> list[Prediction]:
    """Return predictions, or raise ImageError if an image could not be read."""
    found = list(records)
    failed = [one for one in found if one.reason is not None]
    if failed:
        raise ImageError(
            f"{len(failed)} of {len(found)} images cannot be read. The first is {failed[0].path!r}: "
            f"{failed[0].reason}. Use predict_records, which gives a reason for each and predicts the others."
        )
    return found


def _prediction(done: Extracted, row: npt.NDArray[Any], answering: Answering) -> Prediction:
    """Return what the probabilities of each class, shape (k,), say of an image; of equal ones the first counts."""
    names = answering.class_names
    top = tuple((names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[: answering.top_k])
    label, probability = top[0]
    unsure = answering.threshold is not None and probability < answering.threshold
    if unsure:
        label = UNSURE
    named = dict(zip(names, map(float, row), strict=True))
    return Prediction(done.item.path, label, probability, named, None, done.digest, top, unsure)
