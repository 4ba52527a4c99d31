"""A head whose cache has less than float32, exported in float32: another classifier, with its own score."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import ExportError, FeatcacheError, ImageError, SourceError
from featcache.images.decoding import load
from featcache.models.classifier import ImageClassifier
from featcache.models.evaluation import own_source
from featcache.options import BATCH_SIZE
from featcache.sources import Items, digest, read_image, why_left_out
from featcache.training.metrics import wilson_interval
from featcache.training.significance import clearly_lower, paired_difference

MOST = 5000
"""So many validation images at most are asked, drawn with a fixed seed."""

_FEWEST = 2


def scored_in_float32(classifier: ImageClassifier, whole: Any) -> dict[str, Any]:
    """Score a head as its cache was computed, and base and head as one float32 model, on the same images.

    Returns ``n``, ``accuracy`` of the float32 model `whole`, ``cache_accuracy`` of the classifier, both with their
    intervals, the paired ``difference`` (float32 minus the classifier) with its ``standard_error``, and
    ``max_difference`` of their probabilities. `ExportError` if the float32 model is less accurate by more than one
    standard error, or there are no images to score it on.
    """
    assert classifier.recipe is not None
    precision = classifier.recipe.precision
    before: list[bool] = []
    after: list[bool] = []
    farthest = 0.0
    try:
        images = itertools.islice(_validation(classifier), MOST)
        while some := list(itertools.islice(images, BATCH_SIZE)):
            truth, pixels = np.array([label for label, _ in some]), np.stack([pixels for _, pixels in some])
            cached, plain = _by_head(classifier, pixels), answers(whole, pixels)
            before += (cached.argmax(axis=1) == truth).tolist()
            after += (plain.argmax(axis=1) == truth).tolist()
            farthest = max(farthest, float(np.abs(cached - plain).max()))
    except (SourceError, KeyError, TypeError, OSError) as error:
        why = f"its validation images are not available: {' '.join(str(error).split()).rstrip('.')}"
        raise _unscored(precision, why) from None
    n = len(before)
    if n < _FEWEST:
        raise _unscored(precision, f"its source has {n} labelled validation images that can be read")
    difference, deviation = paired_difference(np.array(before), np.array(after))
    found = {
        "n": n,
        "accuracy": sum(after) / n,
        "accuracy_ci95": list(wilson_interval(sum(after), n)),
        "cache_precision": precision,
        "cache_accuracy": sum(before) / n,
        "cache_accuracy_ci95": list(wilson_interval(sum(before), n)),
        "difference": difference,
        "standard_error": deviation,
        "max_difference": farthest,
    }
    if clearly_lower(difference, deviation):
        raise ExportError(
            f"{in_words(found)}. That is lower by more than one standard error, so nothing was written. Extract with "
            "--precision float32 and train the head again."
        )
    return found


def _unscored(precision: str, why: str) -> ExportError:
    return ExportError(
        f"An export computes in float32, the head's cache is in {precision}, so the export is "
        f"another classifier and needs a score of its own, but {why}. Nothing was written: put labelled validation "
        "images back where they were, or extract with --precision float32 and train the head again."
    )


def in_words(found: dict[str, Any]) -> str:
    """Say what was scored, in one line."""
    low, high = found["accuracy_ci95"]
    old_low, old_high = found["cache_accuracy_ci95"]
    return (
        f"the export computes in float32, the head's cache in {found['cache_precision']}, so it is another classifier: "
        f"accuracy {found['accuracy']:.4f} ({low:.4f}-{high:.4f}) instead of {found['cache_accuracy']:.4f} "
        f"({old_low:.4f}-{old_high:.4f}) on n={found['n']} validation images, difference {found['difference']:+.4f}, "
        f"standard error {found['standard_error']:.4f}"
    )


def answers(whole: Any, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return what a Keras model says of pixels (n, height, width, channels), in batches."""
    batches = range(0, len(pixels), BATCH_SIZE)
    found = [np.asarray(whole(pixels[start : start + BATCH_SIZE], training=False)) for start in batches]
    return np.concatenate(found).astype(np.float64)


def _by_head(classifier: ImageClassifier, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return what a head says of pixels, computed as its cache was."""
    features = list(classifier.extractor.features(pixels).values())[int(classifier.head.card["layer_index"])]
    probabilities: npt.NDArray[np.float64] = classifier.head.predict_proba(features)
    return probabilities


def _validation(classifier: ImageClassifier) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield label and pixels of the source's labelled validation images that count in scores."""
    source, policy = own_source(classifier.head)
    items = Items.of(source.items)
    numbers = items.labels.among(classifier.class_names)
    for row in policy.validation_candidates(items).tolist():
        if numbers[row] < 0:
            continue
        item = items[row]
        try:
            content = read_image(source, item)
            identity = digest(content)
            if policy.split_of(item, identity) != "validation":
                continue
            if why_left_out(classifier.head.trained_on, item, identity) is not None:
                continue
            pixels = load(content, classifier.extractor.spec)
        except ImageError:
            continue
        except FeatcacheError as error:
            raise SourceError(str(error)) from None
        yield int(numbers[row]), pixels
