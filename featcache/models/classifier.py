"""Base and head together: pixels → class, through the same functions as extraction."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.bases.finding import base_folders, find_base, request_for
from featcache.errors import HeadError, OptionError, WeightsError
from featcache.extraction.extractor import Extracted, Extractor
from featcache.files.publishing import change_stamp
from featcache.heads import Head
from featcache.models.folder import PixelModel, is_model
from featcache.models.predictions import UNSURE, Answering, Prediction, PredictionFile, PredictionReport, own_files
from featcache.options import BATCH_SIZE, MAX_PIXELS, Progress
from featcache.recipe import Recipe, Request
from featcache.saved.base import CARD
from featcache.sources import (
    NO_OPTIONS,
    SPLITS,
    Item,
    Selected,
    Source,
    SourceOptions,
    SplitPolicy,
    class_names,
    why_left_out,
)
from featcache.sources.files import FileSource
from featcache.sources.opening import open_images, open_source, reopen
from featcache.training.metrics import absent_classes, coverage_table, left_out_text, split_metrics

log = logging.getLogger(__name__)

_CHUNK = 4 * BATCH_SIZE

Images = str | os.PathLike[str] | Source | Sequence[str | os.PathLike[str]]
"""What `ImageClassifier.predict` takes."""


class ImageClassifier:
    """A base and a head: from images to classes.

    Parameters
    ----------
    head : Head
        The head; its card says which base it needs.
    base : str, path or keras.Model, optional
        The base, where it is not where it was; it counts whatever copy of the base is kept.
    weights : path, optional
        Likewise the base's weights.
    max_pixels : int
        Images with more pixels have that as the reason why they are not predicted.

    Raises
    ------
    HeadError
        If the head was trained on a base that only existed in memory, no copy is kept and none is given; or if
        it was not made by `featcache.fit_head`.

    Examples
    --------
    >>> classifier = ImageClassifier.load("cache/pets-vgg19-0a1b2c3d/heads/logreg-block5_pool")
    ... # doctest: +SKIP
    >>> classifier.predict(["cat.jpg"])[0].label  # doctest: +SKIP
    'cat'
    """

    passes = 1  # forward passes that run at once, see `featcache.system.cpus`

    def __init__(
        self, head: Head, *, base: Any = None, weights: str | Path | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        missing = {"recipe", "request", "layer_index", "source", "listing", "cache"} - set(head.card)
        if missing:
            raise HeadError(
                f"Expected a head that knows its base. Received: {str(head.path)!r} without "
                f"{', '.join(sorted(missing))}. Train it again with fit_head."
            )
        self.head: Head | PixelModel = head
        self._max_pixels = max_pixels
        recipe, described = Recipe.from_dict(head.card["recipe"]), head.card["request"]
        self.recipe: Recipe | None = recipe
        if recipe.spec is not None:
            raise HeadError(
                "Expected a head on features that featcache extracted. Received: one whose features came from "
                f"elsewhere: {recipe.spec}. Use Head.load and predict_proba on that encoder's features."
            )
        self._request: Request | None = None if described is None else Request.from_dict(described)
        self._folders = base_folders(head.path, head.card)
        kept = weights is None and any((folder / CARD).exists() for folder in self._folders)
        if base is None and described is None and not kept:
            raise HeadError(
                "Expected base=…, as this head was trained on features of a model in memory. Received: none."
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
            raise OptionError(f"Expected no base beside {str(path)!r}, which is a whole model. Received: one.")
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
        """Classes in the order of the head's columns."""
        return self.head.class_names

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
                "Expected the base that the head was trained with. Received another: "
                f"{'; '.join(self.recipe.differences(extractor.recipe))}. Name the right files with --base and "
                "--weights, or train a head on features of this one."
            )
        return extractor

    def predict(
        self,
        images: Images,
        *,
        options: SourceOptions = NO_OPTIONS,
        threshold: float | None = None,
        top_k: int = 1,
        progress: Progress | None = None,
    ) -> list[Prediction]:
        """Predict images.

        Parameters
        ----------
        images : path, Source or sequence of paths
            Files, folders of them, tables, arrays and tar files, see `featcache.sources.open_images`.
        options : SourceOptions
            How each is read.
        threshold : float, optional
            In 0…1; an image whose most probable class is less probable has the label ``unsure``.
            ``evaluate(coverage=True)`` shows what each gives.
        top_k : int
            How many classes to name, the most probable first; 1 to all.
        progress : callable, optional
            Called with (done, to do).

        Returns
        -------
        list of Prediction
            One per image, in the order given; one that cannot be read has its `reason`.

        Raises
        ------
        SourceError
            If a path does not exist.
        OptionError
            If the threshold or top_k is out of range.
        """
        answering = Answering(self.class_names, threshold, top_k)
        return list(self._stream(open_images(images, options=options), answering, progress))

    def predict_to(
        self,
        file: str | os.PathLike[str],
        images: Images,
        *,
        options: SourceOptions = NO_OPTIONS,
        threshold: float | None = None,
        top_k: int = 1,
        progress: Progress | None = None,
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
            raise OptionError("Expected a head that was saved. Received: one in memory only. Call head.save first.")
        _check_apart(own_files(Path(file)), images)
        source = _without(own_files(Path(file)), open_images(images, options=options))
        identity = {
            "model": self.head.digest,
            "threshold": threshold,
            "top-k": top_k,
            "max-pixels": self._max_pixels,
            "images (paths, sizes, time stamps)": _listing_digest(source),
            "chunk size": _CHUNK,
        }
        with PredictionFile(Path(file), answering, identity) as target:
            left = source.items[target.rows :]
            found = self._stream(Selected(source, left), answering, progress) if left else iter(())
            while chunk := list(itertools.islice(found, _CHUNK)):
                target.append(chunk)
            target.finish()
        return target.report()

    def stream(
        self, source: Source, *, threshold: float | None = None, top_k: int = 1, progress: Progress | None = None
    ) -> Iterator[Prediction]:
        """Yield the prediction of every image of a source, in its order, holding a few batches.

        Parameters
        ----------
        source : Source
            What `featcache.sources.open_images` returns.
        threshold, top_k, progress
            As `predict` takes them.

        Yields
        ------
        Prediction
            One for each image; with a ``reason`` where it could not be read.
        """
        return self._stream(source, Answering(self.class_names, threshold, top_k), progress)

    def _stream(self, source: Source, answering: Answering, progress: Progress | None) -> Iterator[Prediction]:
        seen, index = 0, int(self.head.card.get("layer_index", 0))  # names may have other automatic numbers here
        with contextlib.closing(self.extractor.stream(source, source.items, flush_every=_CHUNK)) as results:
            while chunk := list(itertools.islice(results, _CHUNK)):
                rows = [list(done.views[0].values())[index] for done in chunk if done.reason is None]
                seen += len(chunk)
                if progress is not None:
                    progress(seen, len(source.items))
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
        progress: Progress | None = None,
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
        progress : callable, optional
            Called with (done, to do).

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
        opened, policy = self._labelled(source, options)
        number = {name: i for i, name in enumerate(self.class_names)}
        by_split: dict[str, list[tuple[int, list[float], str | None, int]]] = {}
        number_of: dict[object, int] = {}
        skipped = []
        for item, done in zip(opened.items, self.stream(opened, progress=progress), strict=True):
            if done.label is None or done.digest is None or item.label is None:
                skipped.append({"path": done.path, "reason": done.reason})
                continue
            split = policy.split_of(item, done.digest) if policy else item.split or "all"
            group = number_of.setdefault(item.group or done.digest, len(number_of))
            why = None if split == "train" else why_left_out(self.head.trained_on, item, done.digest)
            by_split.setdefault(split, []).append((number[item.label], list(done.probabilities.values()), why, group))
        metrics, tables = {}, {}
        for split in sorted(by_split, key=(*SPLITS, "all").index):
            rows = by_split[split]
            truth, groups = (np.array([row[i] for row in rows], np.int64) for i in (0, 3))
            probabilities = np.array([row[1] for row in rows])
            scored, copies = (np.array([row[2] == why for row in rows], bool) for why in (None, "copy"))
            found = split_metrics(truth, probabilities, self.class_names, groups, scored, copies)
            if found is None:
                log.warning("%s", left_out_text(split, int(copies.sum()), int((~copies).sum()), len(rows)))
                continue
            metrics[split] = found
            if (absent := absent_classes(split, truth[scored], self.class_names)) is not None:
                log.warning("%s", absent)
            if coverage:
                tables[split] = coverage_table(truth[scored], probabilities[scored])
        if (
            by_split.keys() - metrics.keys()
            and not metrics.keys() - {"train"}
            and (folds := self.head.card.get("cross_validation"))
        ):
            figures = folds["accuracy"], *folds["accuracy_ci95"], folds["n"]
            text = "on folds of its training images the head had an accuracy of %.4f (95 %%: %.4f-%.4f, n=%d)"
            log.warning(text, *figures)
        if not metrics:
            raise OptionError(
                f"No image of {opened.location!r} can be scored: {sum(map(len, by_split.values()))} are copies of "
                f"training images or of their groups, {len(skipped)} cannot be read. Name other images, or score the "
                "head on folds of its training images: `featcache fit-head` with `cv`."
            )
        if "validation" in tables:
            tables = {"validation": tables["validation"]}
        return {"metrics": metrics, "skipped": skipped, **({"coverage": tables} if coverage else {})}

    def _labelled(
        self, source: str | os.PathLike[str] | Source | None, options: SourceOptions
    ) -> tuple[Source, SplitPolicy | None]:
        """Return a source of the head's classes; None means its cache's own, with how it was split."""
        policy = None
        if source is None:
            options.check("the source of the head's own cache, which is read as it was then")
            opened, policy = own_source(self.head)
        else:
            opened = open_source(source, options=options)
        unknown = sorted(set(class_names(opened.items)) - set(self.class_names))
        if unknown or any(item.label is None for item in opened.items):
            raise OptionError(
                f"Expected images of the head's classes: {', '.join(self.class_names)}. Received: "
                f"{', '.join(unknown) or 'images without a class'} in {opened.location!r}."
            )
        return opened, policy


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


def _check_apart(files: Sequence[Path], images: Images) -> None:
    """Raise `OptionError` if predictions would take the place of what names the images."""
    if isinstance(images, Source):
        images = images.location
    named = [images] if isinstance(images, str | os.PathLike) else images
    given = {Path(one).resolve() for one in named if Path(one).is_file()}
    for file in files:
        if file.resolve() in given:
            raise OptionError(
                f"Expected --out beside what is predicted. Received: {str(file)!r}, which is predicted itself. Choose "
                "another --out."
            )


def _without(files: Sequence[Path], source: Source) -> Source:
    """Return a source without these files, which may lie in a folder of it."""
    if not isinstance(source, FileSource):
        return source
    root, names, places = source.root, {file.name for file in files}, {file.resolve() for file in files}

    def is_own(item: Item) -> bool:
        return item.path.rpartition("/")[2] in names and (root / item.path).resolve() in places

    return Selected(source, [item for item in source.items if not is_own(item)])


def _listing_digest(source: Source) -> str:
    """Return SHA-256 of where the images of a source lie, in its order, and of what shows that one has changed."""
    found = hashlib.sha256()
    for item in source.items:
        place = os.path.join(source.location, item.path)  # noqa: PTH118
        found.update(place.encode("utf-8", "surrogatepass"))
        found.update(b"\0%d %d %d\0" % (item.size, item.mtime_ns, item.changes or _changes(source, item)))
    return found.hexdigest()


def _changes(source: Source, item: Item) -> int:
    """Return what tells whether a file was changed that is younger than two seconds, whose item does not say it."""
    source = source.origin if isinstance(source, Selected) else source
    with contextlib.suppress(OSError):
        if isinstance(source, FileSource):
            return change_stamp((source.root / item.path).stat(), settled=True)
    return 0


def own_source(head: Head | PixelModel) -> tuple[Source, SplitPolicy]:
    """Return the source that a head's cache was extracted from, and how it was split."""
    listing = head.card["listing"]
    return reopen(head.card["source"], classes=listing.get("classes")), SplitPolicy.from_listing(listing)
