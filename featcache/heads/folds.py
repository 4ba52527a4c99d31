"""Dividing training rows by group, so that copies of an image never lie on two sides."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from featcache.heads.rows import Bools, Ints, Rows

ALIKE = 1e-6
"""Part of their length by which the features of equal pictures differ at most."""
ENOUGH = 20_000
"""Held-out rows that suffice to calibrate with."""


def grouped_folds(target: Ints, groups: Ints, folds: int, *, seed: int) -> Ints:
    """Return the fold of each row: stratified by class, whole groups, seeded.

    The groups of each class (a group's class is that of its first row) are shuffled, sorted by size and dealt to
    the folds in turn, so that folds are alike in classes and sizes. It does what scikit-learn's
    `StratifiedGroupKFold` does, which takes 100 µs a group. Equal `groups` belong together. Fold -1 is of rows that
    are always trained on: those of a class that has one group only, and groups without which a class would be missing.
    """
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    sizes = np.bincount(member)
    rng = np.random.default_rng(seed)
    number = np.full(len(first), -1)
    dealt = 0
    for label in np.unique(target):
        own = rng.permutation(np.flatnonzero(target[first] == label))
        if len(own) < 2:
            continue
        own = own[np.argsort(-sizes[own], kind="stable")]
        number[own] = (dealt + np.arange(len(own))) % folds
        dealt += len(own)
    result: Ints = number[member]
    for label in np.unique(target):
        own = target == label
        if (alone := result[own][0]) >= 0 and (result[own] == alone).all():
            result[np.isin(groups, groups[own])] = -1
    return result


def joined(rows: Rows, groups: Ints) -> Ints:
    """Return groups in which rows whose features agree to `ALIKE` of their length are together.

    These are pictures that are equal although their files are not. Rows are sorted by a random projection, in which
    equal ones are neighbours, and neighbours that have two projections and a length alike are compared.
    """
    n, d = rows.shape
    directions = np.random.default_rng(0).standard_normal((d, 2)).astype(np.float32)
    keys, lengths = np.empty((n, 2)), np.empty(n)
    for part, block in rows.blocks():
        keys[part] = block @ directions
        lengths[part] = np.sqrt(np.einsum("ij,ij->i", block, block))
    order = np.argsort(keys[:, 0], kind="stable")
    first, second = order[:-1], order[1:]
    limit = 10 * ALIKE * lengths[first]
    near = (np.abs(keys[first] - keys[second]) <= limit[:, None]).all(axis=1)
    near &= (np.abs(lengths[first] - lengths[second]) <= limit) & (groups[first] != groups[second])
    pairs = np.column_stack([first[near], second[near]])
    same = [np.zeros(0, bool)]
    for start in range(0, len(pairs), rows.block_rows):
        one, other = (rows[pairs[start : start + rows.block_rows, side]] for side in (0, 1))
        same.append(np.linalg.norm(one - other, axis=1) <= ALIKE * np.linalg.norm(one, axis=1))
    pairs = pairs[np.concatenate(same)]
    if not len(pairs):
        return groups
    _, member = np.unique(groups, return_inverse=True)
    count = int(member.max()) + 1
    links = coo_matrix((np.ones(len(pairs)), (member[pairs[:, 0]], member[pairs[:, 1]])), shape=(count, count))
    together: Ints = connected_components(links, directed=False)[1].astype(np.int64)[member]
    return together


def held_out(target: Ints, groups: Ints, fraction: float, *, seed: int) -> Bools:
    """Return which rows to hold out, shape (n,): of each class about a fraction of its groups.

    Each class keeps at least one group to train on, and with a fraction above 0 gives one if it has two.
    """
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    rng = np.random.default_rng(seed)
    held = np.zeros(len(first), bool)
    for label in np.unique(target):
        own = rng.permutation(np.flatnonzero(target[first] == label))
        count = max(round(fraction * len(own)), 1 if fraction > 0 else 0)
        held[own[: min(count, len(own) - 1)]] = True
    result: Bools = held[member]
    for label in np.unique(target):
        if result[target == label].all():  # its groups pass for another class: keep them
            result[np.isin(groups, groups[target == label])] = False
    return result


def enough(rows: Ints, *, seed: int) -> Ints:
    """Return at most 20,000 of some rows' indices, drawn at random, in order."""
    if len(rows) <= ENOUGH:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, ENOUGH, replace=False))
