"""Scores with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featcache.errors import OptionError
from featcache.heads.rows import Array, Bools, Ints

RESAMPLES = 1000
COVERAGE_STEPS = (100, 99, 95, 90, 80, 70, 60, 50)
"""Percent of images that are answered, for which `coverage_table` finds thresholds."""
THRESHOLD_DECIMALS = 6
ECE_BINS = 15


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion (Wilson 1927, as SciPy computes it)."""
    from scipy.stats import binomtest

    interval = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def classification_metrics(
    truth: Ints, probabilities: Array, class_names: Sequence[str], groups: Ints | None = None
) -> dict[str, Any]:
    """Return the scores of predicted probabilities (n, k) for the classes `truth` (n,), n ≥ 1.

    These are ``n``; ``accuracy`` with its Wilson interval ``accuracy_ci95``; ``macro_f1`` over the classes that are
    true or predicted somewhere, with a bootstrap interval ``macro_f1_ci95`` (percentiles of 1,000 resamples, seeded, of
    `groups`: equal for images that belong together, such as copies of one); ``log_loss``; ``ece``, see
    `calibration_error`; ``per_class``, see `class_scores`; and ``confusion``, rows the true class, columns the
    predicted one.
    """
    n = len(truth)
    if n == 0:
        raise OptionError("There is no image to score.")
    size, predicted = len(class_names), probabilities.argmax(axis=1)
    confusion = np.bincount(truth * size + predicted, minlength=size * size).reshape(size, size)
    correct = int(np.trace(confusion))
    return {
        "n": n,
        "accuracy": correct / n,
        "accuracy_ci95": list(wilson_interval(correct, n)),
        "macro_f1": _macro_f1_of_cells(np.arange(size * size), confusion.ravel(), size),
        "macro_f1_ci95": _bootstrap(truth * size + predicted, size, groups),
        "log_loss": log_loss(truth, probabilities),
        "ece": calibration_error(truth, probabilities),
        "per_class": class_scores(confusion, class_names),
        "confusion": confusion.tolist(),
    }


def class_scores(confusion: Array, class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return precision, recall, f1 and n of each class from a confusion matrix (k, k), rows the true class."""
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "n": int(n)}
        for name, p, r, f, n in zip(class_names, *_per_class(confusion), confusion.sum(axis=1), strict=True)
    }


def absent_classes(split: str, truth: Ints, class_names: Sequence[str]) -> str | None:
    """Return a line that names the classes of which a split has no image to score; None if it has all."""
    absent = np.flatnonzero(np.bincount(truth[truth >= 0], minlength=len(class_names)) == 0)
    if not len(absent):
        return None
    shown = ", ".join(repr(class_names[i]) for i in absent[:5].tolist()) + (", …" if len(absent) > 5 else "")
    return f"{split} has no image of {len(absent)} of {len(class_names)} classes ({shown}): its scores leave them out"


def split_metrics(
    truth: Ints, probabilities: Array, class_names: Sequence[str], groups: Ints, scored: Bools, copies: Bools
) -> dict[str, Any] | None:
    """Return `classification_metrics` of the images that count, None if none does.

    `scored` (n,) is False where an image does not count: as a copy of a training image (`copies`, shape (n,)), or as
    a member of a group that has training images. ``copies_left_out`` and ``group_members_left_out`` are their numbers.
    """
    if not scored.any():
        return None
    numbers = {
        "copies_left_out": int((~scored & copies).sum()),
        "group_members_left_out": int((~scored & ~copies).sum()),
    }
    if not scored.all():
        truth, probabilities, groups = truth[scored], probabilities[scored], groups[scored]
    return {**classification_metrics(truth, probabilities, class_names, groups), **numbers}


def coverage_table(truth: Ints, probabilities: Array) -> list[dict[str, Any]]:
    """Return what thresholds give: how many images are answered, and how many of these answers are right.

    An image is answered if the highest of its probabilities (n, k) is at least the threshold. For each of
    `COVERAGE_STEPS` there is the highest ``threshold`` of six decimals that answers so many images or more, lowest
    first, each once, the first of them 0; with ``coverage``, the part that is answered, ``n``, their number, and their
    ``accuracy`` with its Wilson interval ``accuracy_ci95``.
    """
    n = len(truth)
    if n == 0:
        raise OptionError("There is no image to choose a threshold by.")
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == truth
    ordered = np.sort(confidence)[::-1]
    thresholds = {_rounded_down(float(ordered[-(-step * n // 100) - 1])) for step in COVERAGE_STEPS if step < 100}
    table = []
    for threshold in sorted(thresholds | {0.0}):
        answered = confidence >= threshold
        count, correct = int(answered.sum()), int(right[answered].sum())
        row = {"threshold": threshold, "coverage": count / n, "n": count, "accuracy": correct / count}
        table.append({**row, "accuracy_ci95": list(wilson_interval(correct, count))})
    return table


def _rounded_down(probability: float) -> float:
    """Return the highest number of six decimals that is not above a probability."""
    unit = 10.0**THRESHOLD_DECIMALS
    steps = int(probability * unit)
    return steps / unit if steps / unit <= probability else (steps - 1) / unit


def log_loss(truth: Ints, probabilities: Array) -> float:
    """Return the mean negative logarithm of the true class's probability, taken as 1e-15 at least."""
    own = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return float(np.abs(np.log(np.maximum(own, 1e-15))).mean())


def calibration_error(truth: Ints, probabilities: Array) -> float:
    """Return the expected calibration error: how far confidence is from accuracy.

    Images are put into 15 bins of equal width by the probability of their predicted class; the differences between
    mean probability and accuracy are averaged, weighted by the bins' sizes (Naeini et al. 2015; Guo et al. 2017).
    """
    bins = calibration_bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth)
    return float(sum(abs(one["confidence"] - one["accuracy"]) * one["n"] for one in bins) / len(truth))


def calibration_bins(confidence: Array, right: Bools) -> list[dict[str, Any]]:
    """Return mean ``confidence``, ``accuracy`` and ``n`` of each of 15 bins of equal width that is not empty.

    `confidence` (n,) is the probability of each predicted class, `right` (n,) whether it is the true one.
    """
    exact = confidence.astype(np.float64)
    number = np.minimum((exact * ECE_BINS).astype(int), ECE_BINS - 1)
    counts = np.bincount(number, minlength=ECE_BINS)
    sums, hits = (np.bincount(number, values, minlength=ECE_BINS) for values in (exact, right))
    return [
        {"confidence": float(sums[i] / n), "accuracy": float(hits[i] / n), "n": int(n)}
        for i, n in enumerate(counts)
        if n
    ]


def _per_class(confusion: Array) -> tuple[Array, Array, Array]:
    """Return precision, recall and F1 of shape (…, classes); 0 where nothing was predicted or true."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    predicted, true = confusion.sum(axis=-2), confusion.sum(axis=-1)
    return hits / np.maximum(predicted, 1), hits / np.maximum(true, 1), 2 * hits / np.maximum(predicted + true, 1)


def _bootstrap(cells: Ints, size: int, groups: Ints | None) -> list[float]:
    """Return an interval of the macro F1 from resampled groups; `cells` are rows of the flat confusion matrix."""
    rng = np.random.default_rng(0)
    n = len(cells)
    occupied, cell = np.unique(cells, return_inverse=True)
    member = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(member.max()) + 1
    shares = np.bincount(cell) / n
    scores = []
    for _ in range(RESAMPLES):
        if count == n:  # n independent images: the resampled cells are multinomial
            weights = rng.multinomial(n, shares)
        else:
            times = np.bincount(rng.integers(0, count, count), minlength=count)
            weights = np.bincount(cell, times[member], minlength=len(occupied))
        scores.append(_macro_f1_of_cells(occupied, weights, size))
    low, high = np.percentile(scores, [2.5, 97.5])
    return [float(low), float(high)]


def _macro_f1_of_cells(cells: Ints, weights: Array, size: int) -> float:
    """Return the mean F1 over the classes that occur, from the occupied cells of a confusion matrix."""
    true, predicted = np.divmod(cells, size)
    both = np.bincount(true, weights, size) + np.bincount(predicted, weights, size)
    hits = np.bincount(true, weights * (true == predicted), size)
    return float((2 * hits / np.maximum(both, 1)).sum() / max(np.count_nonzero(both), 1))
