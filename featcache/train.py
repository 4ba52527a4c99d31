"""Stage two: heads on cached features."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache import FeatureCache
from featcache.cache.writer import versions
from featcache.errors import GateError, HeadError
from featcache.heads import Head, build
from featcache.heads import fit as fit_estimator
from featcache.metrics import classification_metrics
from featcache.sources import folder_name

log = logging.getLogger(__name__)


def fit_head(
    cache: FeatureCache | str | os.PathLike[str],
    clf: str = "logreg",
    *,
    layer: str | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    assert_accuracy: float | None = None,
) -> Head:
    """Train one head on a cache's training rows, score it on every split and save it.

    Parameters
    ----------
    cache : FeatureCache or path
        Where the features are.
    clf : str
        Which head, see `featcache.heads.build`.
    layer : str, optional
        Which features; default: the deepest layer.
    params : mapping, optional
        The head's parameters.
    seed : int
        For everything random.
    out : path, optional
        The head's folder; default: ``<cache>/heads/<clf>-<layer>``.
    assert_accuracy : float, optional
        Accuracy to reach on validation (test, where there is no validation), or no head is written.

    Returns
    -------
    Head
        Saved in ``head.path``.

    Raises
    ------
    OptionError, HeadError, CacheError
        If a name is wrong, there is too little to train on, or a file cannot be used.
    GateError
        If `assert_accuracy` was not reached.
    """
    opened = cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
    if opened.missing:
        log.warning("%d of %d images have no features yet: run extract again to go on with them",
                    opened.missing, len(opened.entries))  # fmt: skip
    chosen = layer if layer is not None else list(opened.layers)[-1]
    estimator = build(clf, params, seed=seed)
    if "train" not in opened.splits:
        raise HeadError(f"Expected training images in {str(opened.path)!r}. Received: {opened.splits or 'no rows'}.")
    X, y = matrix(opened, "train", chosen, views=True), opened.labels("train", views=True)
    if unlabelled := int((opened.labels() < 0).sum()):
        raise HeadError(
            f"Expected a class for every image. Received: {unlabelled} of {len(opened)} images without one."
        )
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_estimator(estimator, X, y, opened.groups("train", views=True), seed=seed)
    fit_seconds = time.perf_counter() - start
    for text in {" ".join(str(w.message).split())[:160] for w in caught if "onverge" in str(w.message)}:
        log.warning("%s: %s", clf, text)
    head = Head(clf, estimator, opened.class_names, chosen, trained_on=set(opened.digests("train")))
    named = estimator.get_params()
    head.card = {
        "params": {name: named[name] for name in named} if clf == "dense" else dict(params or {}),
        "metrics": score(head, opened),
        "fit_seconds": fit_seconds,
        "seed": seed,
        "layer_index": list(opened.layers).index(chosen),
        "trained_classes": [int(label) for label in estimator.classes_],
        "history": getattr(estimator, "history_", {}),
        "cache": str(opened.path.absolute()),
        "source": opened.source,
        "listing": opened.listing_options,
        "recipe": opened.recipe.to_dict(),
        "request": opened.description.get("request"),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    if assert_accuracy is not None:
        _check_gate(head, assert_accuracy)
    head.save(out if out is not None else opened.path / "heads" / folder_name(f"{clf}-{chosen}"))
    return head


def matrix(cache: FeatureCache, split: str, layer: str, *, views: bool = False) -> npt.NDArray[np.float32]:
    """Return a split's features as X of shape (n, d), float32, rows in source order."""
    rows = np.asarray(cache.features(split, layer, views=views))
    return rows.reshape(len(rows), -1).astype(np.float32, copy=False)


def score(head: Head, cache: FeatureCache) -> dict[str, Any]:
    """Return a head's metrics on each split of a cache.

    Copies of training images in another split are left out and counted as ``copies_left_out``.
    """
    result = {}
    for split in cache.splits:
        predicted = head.predict_proba(matrix(cache, split, head.layer)).argmax(axis=1)
        scored = split_metrics(split, cache.labels(split), predicted, cache.digests(split), cache.groups(split), head)
        if scored is not None:
            result[split] = scored
    return result


def split_metrics(
    split: str,
    truth: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    digests: list[bytes],
    groups: npt.NDArray[np.int64],
    head: Head,
) -> dict[str, Any] | None:
    """Return the metrics of one split without its copies of training images; None if nothing is left."""
    kept = np.array([split == "train" or d not in head.trained_on for d in digests], bool)
    if not kept.any():
        log.warning("every image of %s is a copy of a training image: it is not scored", split)
        return None
    metrics = classification_metrics(truth[kept], predicted[kept], head.class_names, groups[kept])
    return {**metrics, "copies_left_out": int((~kept).sum())}


def _check_gate(head: Head, wanted: float) -> None:
    split = next((split for split in ("validation", "test") if split in head.metrics), None)
    if split is None:
        raise HeadError("Expected validation or test images to assert an accuracy on. Received: none.")
    reached = head.metrics[split]["accuracy"]
    if reached < wanted:
        low, high = head.metrics[split]["accuracy_ci95"]
        raise GateError(
            f"Expected an accuracy of {wanted:g} on {split}. Received: {reached:.4f} (95 % interval {low:.4f} to "
            f"{high:.4f}, n={head.metrics[split]['n']}). No head was written."
        )
