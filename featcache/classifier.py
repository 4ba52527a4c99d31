"""Base and head together: pixels → class, through the same functions as extraction."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import HeadError, OptionError, WeightsError
from featcache.extractor import Extractor, Progress
from featcache.heads import Head
from featcache.metrics import split_metrics
from featcache.models import PixelModel, is_model
from featcache.recipe import Recipe, Request
from featcache.sources import SPLITS, Source, SplitPolicy, class_names, files_source, open_source

log = logging.getLogger(__name__)

_CHUNK = 256


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    Attributes
    ----------
    path : str
        As it was given, or found.
    label : str or None
        The most probable class; None if the image could not be read.
    probability : float or None
        Of that class.
    probabilities : dict
        Of every class, by name.
    reason : str or None
        Why it could not be read.
    digest : bytes or None
        SHA-256 of the image that was read.
    """

    path: str
    label: str | None
    probability: float | None
    probabilities: dict[str, float]
    reason: str | None = None
    digest: bytes | None = None


class ImageClassifier:
    """A base and a head: from images to classes.

    Parameters
    ----------
    head : Head
        The head; its card says which base it needs.
    base : str, path or keras.Model, optional
        The base, where it is not where it was, or was a model in memory.
    weights : path, optional
        Likewise the base's weights.

    Raises
    ------
    HeadError
        If the head was trained on a base that only existed in memory, and none is given; or if it was not
        made by `featcache.fit_head`.

    Examples
    --------
    >>> classifier = ImageClassifier.load("cache/pets-vgg19-0a1b2c3d/heads/logreg-block5_pool")
    ... # doctest: +SKIP
    >>> classifier.predict(["cat.jpg"])[0].label  # doctest: +SKIP
    'cat'
    """

    def __init__(self, head: Head, *, base: Any = None, weights: str | Path | None = None) -> None:
        missing = {"recipe", "request", "layer_index", "source", "listing", "cache"} - set(head.card)
        if missing:
            raise HeadError(
                f"Expected a head that knows its base. Received: {str(head.path)!r} without "
                f"{', '.join(sorted(missing))}. Train it again with fit_head."
            )
        self.head: Head | PixelModel = head
        self.recipe: Recipe | None = Recipe.from_dict(head.card["recipe"])
        recipe = self.recipe
        described = head.card.get("request")
        if recipe.spec is not None:
            raise HeadError(
                "Expected a head on features that featcache extracted. Received: one whose features came from "
                f"elsewhere: {recipe.spec}. Use Head.load and predict_proba on that encoder's features."
            )
        if described is None:
            if base is None:
                raise HeadError(
                    "Expected base=…, as this head was trained on features of a model in memory. Received: none."
                )
            self._request = Request(
                base=base, layers=recipe.layers, pooling=recipe.pooling, image_size=recipe.image_size,
                resize=recipe.resize, interpolation=recipe.interpolation, preprocess=recipe.preprocess,
                dtype=recipe.dtype,
                canonical=True,
            )  # fmt: skip
        else:
            request = Request.from_dict(described)
            self._request = replace(
                request,
                base=request.base if base is None else base,
                weights=request.weights if weights is None else weights,
            )

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, base: Any = None, weights: str | Path | None = None
    ) -> ImageClassifier:
        """Load the folder of a head, or of a whole model.

        A head's base is loaded, and its digest checked, when it is first needed.
        """
        if not is_model(path):
            return cls(Head.load(path), base=base, weights=weights)
        if base is not None or weights is not None:
            raise OptionError(f"Expected no base beside {str(path)!r}, which is a whole model. Received: one.")
        return cls.from_model(PixelModel.load(path))

    @classmethod
    def from_model(cls, model: PixelModel) -> ImageClassifier:
        """Return a classifier that is one model from pixels to probabilities."""
        self = cls.__new__(cls)
        self.head, self.recipe, self._request = model, None, model.request()
        return self

    @property
    def class_names(self) -> list[str]:
        """Classes in the order of the head's columns."""
        return self.head.class_names

    @cached_property
    def extractor(self) -> Extractor:
        """The base, loaded and found to be the one the head was trained with.

        Raises
        ------
        WeightsError
            If its weights or structure have another digest, or its files are gone.
        """
        self._request.to_dict()  # names a file that is gone before anything is loaded
        extractor = Extractor(self._request)
        if self.recipe is not None and extractor.recipe != self.recipe:
            raise WeightsError(
                "Expected the base that the head was trained with. Received another: "
                f"{'; '.join(self.recipe.differences(extractor.recipe))}. Name the right files with --base and "
                "--weights, or train a head on features of this one."
            )
        return extractor

    def predict(
        self, images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, progress: Progress | None = None
    ) -> list[Prediction]:
        """Predict image files, and all files below folders.

        Parameters
        ----------
        images : path or sequence of paths
            Files and folders.
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
        """
        paths = [images] if isinstance(images, str | os.PathLike) else images
        return list(self.stream(files_source(paths), progress=progress))

    def stream(self, source: Source, *, progress: Progress | None = None) -> Iterator[Prediction]:
        """Yield the prediction of every image of a source, in its order, holding a few batches."""
        seen = 0
        index = int(self.head.card.get("layer_index", 0))  # names may have other automatic numbers here
        results = self.extractor.stream(source, source.items)
        while chunk := list(itertools.islice(results, _CHUNK)):
            rows = [list(done.views[0].values())[index] for done in chunk if done.reason is None]
            seen += len(chunk)
            if progress is not None:
                progress(seen, len(source.items))
            probabilities: Iterator[Any] = iter(self.head.predict_proba(np.stack(rows)) if rows else [])
            for done in chunk:
                if done.reason is not None:
                    yield Prediction(done.item.path, None, None, {}, done.reason, done.digest)
                    continue
                row = next(probabilities)
                best = int(row.argmax())
                named = dict(zip(self.class_names, map(float, row), strict=True))
                yield Prediction(done.item.path, self.class_names[best], float(row[best]), named, None, done.digest)

    def evaluate(
        self, source: str | os.PathLike[str] | Source | None = None, *, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Predict a labelled source from its pixels and score it.

        Parameters
        ----------
        source : str, path or Source, optional
            Default: the source that the head's cache was extracted from, listed and split as it was then.
        progress : callable, optional
            Called with (done, to do).

        Returns
        -------
        dict
            ``metrics`` by split (``all`` if the source brings none) and ``skipped``. Copies of images the
            head was trained on are left out of other splits than ``train``, and counted.

        Raises
        ------
        OptionError
            If the source has classes that the head does not know, no labels, or nothing to score.
        SourceError
            If it does not exist.
        """
        policy = None
        if source is None:
            opened, policy = own_source(self.head)
        else:
            opened = open_source(source)
        unknown = sorted(set(class_names(opened.items)) - set(self.class_names))
        if unknown or any(item.label is None for item in opened.items):
            raise OptionError(
                f"Expected images of the head's classes: {', '.join(self.class_names)}. Received: "
                f"{', '.join(unknown) or 'images without a class'} in {opened.location!r}."
            )
        number = {name: i for i, name in enumerate(self.class_names)}
        by_split: dict[str, list[tuple[int, list[float], bytes, int]]] = {}
        number_of: dict[object, int] = {}
        skipped = []
        for item, done in zip(opened.items, self.stream(opened, progress=progress), strict=True):
            if done.label is None or done.digest is None or item.label is None:
                skipped.append({"path": done.path, "reason": done.reason})
                continue
            split = policy.split_of(item, done.digest) if policy else item.split or "all"
            group = number_of.setdefault(item.group or done.digest, len(number_of))
            by_split.setdefault(split, []).append(
                (number[item.label], list(done.probabilities.values()), done.digest, group)
            )
        metrics = {}
        for split in sorted(by_split, key=(*SPLITS, "all").index):
            rows = by_split[split]
            truth, groups = (np.array([row[i] for row in rows], np.int64) for i in (0, 3))
            scored = np.array([split == "train" or row[2] not in self.head.trained_on for row in rows], bool)
            found = split_metrics(truth, np.array([row[1] for row in rows]), self.class_names, groups, scored)
            if found is None:
                log.warning("every image of %s is a copy of a training image: it is not scored", split)
            else:
                metrics[split] = found
        if not metrics:
            raise OptionError(
                f"Expected readable images that the head was not trained on in {opened.location!r}. Received: "
                f"{sum(map(len, by_split.values()))} copies of its training images, {len(skipped)} that cannot be read."
            )
        return {"metrics": metrics, "skipped": skipped}


def own_source(head: Head | PixelModel) -> tuple[Source, SplitPolicy]:
    """Return the source that a head's cache was extracted from, and how it was split."""
    listing = head.card["listing"]
    opened = open_source(head.card["source"]["location"], classes=listing["classes"])
    settings = {key: value for key, value in listing.items() if key != "classes"}
    if settings["test_from"] is not None:
        settings["test_from"] = tuple(settings["test_from"])
    return opened, SplitPolicy(**settings)
