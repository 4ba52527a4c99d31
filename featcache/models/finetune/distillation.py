"""A head that a network can express learns to answer as one does that it cannot express."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np

from featcache.cache import FeatureCache
from featcache.errors import HeadError, OptionError
from featcache.heads import Head
from featcache.training.examples import Examples, evaluation_examples, probabilities, training_examples
from featcache.training.fitting import score
from featcache.training.single import Plan, train

log = logging.getLogger(__name__)

STUDENTS = ("ridge", "dense")


def distilled(teacher: Head, clf: str, *, seed: int = 0) -> tuple[Head, dict[str, Any]]:
    """Train a head on the classes that another one predicts for the training rows of its cache.

    The head is not saved, and its metrics are on the true classes. The dict has ``teacher``, ``student``, ``metrics``
    of the teacher, and ``agreement``: by split, ``n`` and the part for which both predict the same. HeadError or
    CacheError say that the cache is gone or holds other features.
    """
    if clf not in STUDENTS:
        raise OptionError(f"`distill` must be {' or '.join(STUDENTS)}. Received: {clf!r}.")
    if "cache" not in teacher.card:
        raise HeadError(
            "This head does not say which cache it was trained on, so it cannot be distilled. Train it again."
        )
    cache = FeatureCache(teacher.card["cache"])
    if cache.recipe.to_dict() != teacher.card["recipe"]:
        raise HeadError(
            f"The cache {str(cache.path)!r} has another recipe now than when the head was trained on it. "
            "Train the head again."
        )
    examples = training_examples(cache, teacher.layer)
    answers = probabilities(teacher, examples.rows).argmax(axis=1)
    plan = Plan(clf, teacher.layer, teacher.class_names, seed=seed)
    student = train(plan, dataclasses.replace(examples, labels=answers))
    kept = ("layer_index", "cache", "source", "listing", "recipe", "request")
    estimator = student.estimator.estimator_
    student.trained_on = teacher.trained_on
    student.card |= {key: teacher.card[key] for key in kept} | {
        "all_params": {**estimator.get_params(), **student.card["params"]},
        "history": getattr(estimator, "history_", {}),
        "metrics": score(student, cache),
    }
    agreement = {
        split: _agreement(teacher, student, evaluation_examples(cache, split, teacher.layer)) for split in cache.splits
    }
    agree = ", ".join(f"{found['part']:.4f} of {split} agree" for split, found in agreement.items())
    log.info("%s distilled into %s: %s", teacher.clf, clf, agree)
    return student, {"teacher": teacher.clf, "student": clf, "metrics": teacher.metrics, "agreement": agreement}


def _agreement(teacher: Head, student: Head, examples: Examples) -> dict[str, Any]:
    one, other = (probabilities(head, examples.rows).argmax(axis=1) for head in (teacher, student))
    return {"n": len(examples), "part": float(np.mean(one == other))}
