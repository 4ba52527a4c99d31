"""Scores with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import OptionError

RESAMPLES = 1000


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion (Wilson 1927, as SciPy computes it)."""
    from scipy.stats import binomtest

    interval = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def classification_metrics(
    truth: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    class_names: Sequence[str],
    groups: npt.NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Return the scores of predicted classes.

    Parameters
    ----------
    truth, predicted : array, shape (n,), n ≥ 1
        Indices into `class_names`.
    class_names : sequence of str
        All classes.
    groups : array, shape (n,), optional
        Equal for images that belong together, such as copies of one; what is resampled is groups.

    Returns
    -------
    dict
        ``n``; ``accuracy`` with its Wilson interval ``accuracy_ci95``; ``macro_f1`` over the classes
        that occur in `truth` or `predicted`, with a bootstrap interval ``macro_f1_ci95`` (percentiles of
        1,000 resamples of groups, seeded); ``per_class`` with precision, recall, f1 and n; and
        ``confusion``, rows the true class, columns the predicted.

    Raises
    ------
    OptionError
        If there is nothing to score.
    """
    n = len(truth)
    if n == 0:
        raise OptionError("Expected at least one image to score. Received: none.")
    size = len(class_names)
    confusion = np.bincount(truth * size + predicted, minlength=size * size).reshape(size, size)
    correct = int(np.trace(confusion))
    precision, recall, f1 = _per_class(confusion)
    return {
        "n": n,
        "accuracy": correct / n,
        "accuracy_ci95": list(wilson_interval(correct, n)),
        "macro_f1": float(_macro_f1(confusion[None])[0]),
        "macro_f1_ci95": _bootstrap(truth * size + predicted, size, groups),
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "n": int(confusion[i].sum()),
            }
            for i, name in enumerate(class_names)
        },
        "confusion": confusion.tolist(),
    }


def _per_class(confusion: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Return precision, recall and F1 of shape (…, classes); 0 where nothing was predicted or true."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    predicted, true = confusion.sum(axis=-2), confusion.sum(axis=-1)
    return (
        hits / np.maximum(predicted, 1),
        hits / np.maximum(true, 1),
        2 * hits / np.maximum(predicted + true, 1),
    )


def _macro_f1(confusions: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the mean F1 over the classes that occur, for confusion matrices of shape (m, k, k)."""
    present = (confusions.sum(axis=-1) + confusions.sum(axis=-2)) > 0
    f1 = _per_class(confusions)[2]
    result: npt.NDArray[np.float64] = (f1 * present).sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)
    return result


def _bootstrap(cells: npt.NDArray[np.int64], size: int, groups: npt.NDArray[np.int64] | None) -> list[float]:
    rng = np.random.default_rng(0)
    n = len(cells)
    member = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(member.max()) + 1
    scores = []
    for _ in range(RESAMPLES):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        weights = times[member]
        confusion = np.bincount(cells, weights, minlength=size * size).reshape(1, size, size)
        scores.append(_macro_f1(confusion)[0])
    low, high = np.percentile(scores, [2.5, 97.5])
    return [float(low), float(high)]
