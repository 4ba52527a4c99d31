"""Probable label errors: confident learning on probabilities of heads that were trained without the image."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.heads.folds import grouped_folds
from featcache.training.examples import Examples, probabilities
from featcache.training.single import Plan, train

log = logging.getLogger(__name__)

FOLDS = 5
MOST_VALUES = 10**8
"""Probabilities that are held at most."""


def label_errors(
    examples: Examples, class_names: list[str], layer: str, *, seed: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], list[str]]:
    """Return rows whose label is probably wrong, the worst first; none without cleanlab, and a note.

    A ridge head is trained on four fifths of the groups and gives the probabilities of the rest, for each fifth.
    cleanlab's `find_label_issues` estimates from them how often each class is mistaken for each other, and takes as
    many of the least probable labels (confident learning: Northcutt, Jiang and Chuang, JAIR 2021; here with
    ``filter_by="prune_by_noise_rate"``, ranked by the probability of the given label).

    Labels index `class_names`, each of which occurs. Returned are indices of rows (m,), the most probable class of
    each (m,), their held-out probabilities (m, k), and notes on what was not looked at.
    """
    nothing = np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, len(class_names)), np.float32)
    if len(class_names) < 2:
        return *nothing, ["labels were not looked at: there are fewer than two classes"]
    if (find_label_issues := _cleanlab()) is None:
        return *nothing, ["labels were not looked at: pip install 'featcache[audit]' for cleanlab, which finds errors"]
    notes = []
    chosen = np.arange(len(examples))
    if len(chosen) * len(class_names) > MOST_VALUES:
        count = MOST_VALUES // len(class_names)
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, count, replace=False))
        notes.append(f"labels of {count:,} of {len(examples):,} images were looked at, drawn at random")
        examples = examples.take(chosen)
    fold = grouped_folds(examples.labels, examples.groups, FOLDS, seed=seed)
    shares = np.zeros((len(examples), len(class_names)), np.float32)
    plan = Plan("ridge", layer, class_names, seed=seed)
    for number in range(FOLDS):
        held = np.flatnonzero(fold == number)
        if len(held):
            head = train(plan, examples.take(fold != number))
            shares[held] = probabilities(head, examples.rows.take(held))
    scored = np.flatnonzero(fold >= 0)
    if alone := int((fold < 0).sum()):
        notes.append(f"labels of {alone:,} images were not looked at: their class has too few different images")
    present, labels = np.unique(examples.labels[scored], return_inverse=True)
    if len(present) < 2:
        return *nothing, [*notes, "labels were not looked at: fewer than two classes have several images"]
    own = shares[scored][:, present].astype(np.float64)
    own /= own.sum(axis=1, keepdims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        how = {"filter_by": "prune_by_noise_rate", "return_indices_ranked_by": "self_confidence"}
        ranked = find_label_issues(labels, own, **how, n_jobs=1)
    ranked = np.asarray(ranked, np.int64)
    rows = scored[ranked]
    return chosen[rows], present[own[ranked].argmax(axis=1)], shares[rows], notes


def labelled(examples: Examples) -> tuple[Examples, npt.NDArray[np.int64]]:
    """Return the rows that have a label, numbered from 0 in order of the classes that occur, and these classes."""
    some = examples.take(examples.labels >= 0)
    classes, labels = np.unique(some.labels, return_inverse=True)
    return replace(some, labels=labels), classes


def _cleanlab() -> Any:
    """Return cleanlab's `find_label_issues`, None where it is not installed."""
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return None
    return find_label_issues
