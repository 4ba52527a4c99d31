"""A classifier scored on labelled images, from their pixels."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from featcache.errors import OptionError
from featcache.heads import Head
from featcache.heads.showing import left_out_text
from featcache.models.folder import PixelModel
from featcache.options import Progress
from featcache.sources import SPLITS, Source, SourceOptions, SplitPolicy, class_names, why_left_out
from featcache.sources.opening import open_source, reopen
from featcache.training.metrics import absent_classes, coverage_table, split_metrics

if TYPE_CHECKING:
    from featcache.models.classifier import ImageClassifier

log = logging.getLogger(__name__)


def evaluated(
    classifier: ImageClassifier,
    source: str | os.PathLike[str] | Source | None,
    options: SourceOptions,
    *,
    coverage: bool,
    progress: bool | Progress,
) -> dict[str, Any]:
    """Return what `ImageClassifier.evaluate` does."""
    opened, policy = _labelled(classifier, source, options)
    number = {name: i for i, name in enumerate(classifier.class_names)}
    by_split: dict[str, list[tuple[int, list[float], str | None, int]]] = {}
    number_of: dict[object, int] = {}
    skipped = []
    for item, done in zip(opened.items, classifier.predict_records(opened, progress=progress), strict=True):
        if done.label is None or done.digest is None or item.label is None:
            skipped.append({"path": done.path, "reason": done.reason})
            continue
        split = policy.split_of(item, done.digest) if policy else item.split or "all"
        group = number_of.setdefault(item.group or done.digest, len(number_of))
        why = None if split == "train" else why_left_out(classifier.head.trained_on, item, done.digest)
        by_split.setdefault(split, []).append((number[item.label], list(done.probabilities.values()), why, group))
    metrics, tables = {}, {}
    for split in sorted(by_split, key=(*SPLITS, "all").index):
        rows = by_split[split]
        truth, groups = (np.array([row[i] for row in rows], np.int64) for i in (0, 3))
        probabilities = np.array([row[1] for row in rows])
        scored, copies = (np.array([row[2] == why for row in rows], bool) for why in (None, "copy"))
        found = split_metrics(truth, probabilities, classifier.class_names, groups, scored, copies)
        if found is None:
            log.warning("%s", left_out_text(split, int(copies.sum()), int((~copies).sum()), len(rows)))
            continue
        metrics[split] = found
        if (absent := absent_classes(split, truth[scored], classifier.class_names)) is not None:
            log.warning("%s", absent)
        if coverage:
            tables[split] = coverage_table(truth[scored], probabilities[scored])
    if (
        by_split.keys() - metrics.keys()
        and not metrics.keys() - {"train"}
        and (folds := classifier.head.card.get("cross_validation"))
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
    classifier: ImageClassifier, source: str | os.PathLike[str] | Source | None, options: SourceOptions
) -> tuple[Source, SplitPolicy | None]:
    """Return a source of the head's classes; None means its cache's own, with how it was split."""
    policy = None
    if source is None:
        options.check("the source of the head's own cache, which is read as it was then")
        opened, policy = own_source(classifier.head)
    else:
        opened = open_source(source, options=options)
    unknown = sorted(set(class_names(opened.items)) - set(classifier.class_names))
    if unknown or any(item.label is None for item in opened.items):
        wrong = (
            f"has classes that the head does not know: {', '.join(unknown)}"
            if unknown
            else "has images without a class"
        )
        raise OptionError(
            f"{opened.location!r} {wrong}. The head's classes are: {', '.join(classifier.class_names)}. Name labelled "
            "images of these classes."
        )
    return opened, policy


def own_source(head: Head | PixelModel) -> tuple[Source, SplitPolicy]:
    """Return the source that a head's cache was extracted from, and how it was split."""
    listing = head.card["listing"]
    return reopen(head.card["source"], classes=listing.get("classes")), SplitPolicy.from_listing(listing)
