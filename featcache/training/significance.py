"""Whether one classifier is better than another, and how sure one can be after many such comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featcache.errors import OptionError
from featcache.heads.rows import Array


def mcnemar(first_correct: Array, second_correct: Array) -> float:
    """Return the exact two-sided p-value of McNemar's test (McNemar 1947).

    Of the images that only one of two classifiers has right, each has half of them by chance: a binomial test.

    Both arrays (n,) say which of the same images a classifier has right; if these are the same images, it is 1.
    """
    from scipy.stats import binomtest

    first, second = np.asarray(first_correct, bool), np.asarray(second_correct, bool)
    if first.shape != second.shape:
        raise OptionError(f"The two results are not of the same images: {first.size} and {second.size} of them.")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)


def paired_difference(first_correct: Array, second_correct: Array) -> tuple[float, float]:
    """Return how much more accurate the second of two classifiers is on the same images, and its standard error.

    The error is that of the mean of the n differences (each -1, 0 or 1): their standard deviation over √n.
    """
    differences = np.asarray(second_correct, float) - np.asarray(first_correct, float)
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    return float(differences.mean()), spread / float(np.sqrt(len(differences)))


def clearly_lower(difference: float, standard_error: float) -> bool:
    """Return whether a paired difference is below zero by more than its standard error, rounding aside."""
    return difference < -standard_error - 1e-9


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, by Holm's step-down procedure (Holm 1979).

    To reject what has an adjusted value of at most 0.05 keeps the chance of any false rejection at or below 5 %,
    however the tests depend on each other.

    The order stays: the k-th smallest of m becomes m + 1 - k times as large, at least the one before, at most 1.
    """
    values = np.asarray(p_values, dtype=np.float64).reshape(-1)
    wrong = values[~((values >= 0) & (values <= 1))]
    if len(wrong):
        raise OptionError(f"p-values are from 0 to 1. Received: {wrong[0]}.")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1)
    return [float(value) for value in adjusted]
