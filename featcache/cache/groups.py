"""Which images hang together: copies of one image, and members of one group of the source."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from featcache.sources import SPLITS, Words


def components(firsts: npt.NDArray[np.int64], groups: Words) -> npt.NDArray[np.int64]:
    """Return the first image that each hangs together with, maybe through others, shape (n,).

    `firsts` are the first images of the same content, `groups` are the source's.
    """
    codes = groups.numbers
    grouped = np.flatnonzero(codes >= 0)
    if not len(grouped):
        return firsts
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, size = len(codes), len(codes) + len(groups.names)
    one, other = np.concatenate([np.arange(n), grouped]), np.concatenate([firsts, n + codes[grouped]])
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(size, size))
    component: npt.NDArray[np.int32] = connected_components(graph, directed=False)[1][:n]
    _, first, member = np.unique(component, return_index=True, return_inverse=True)
    return first[member]


def divided(groups: Words, splits: npt.NDArray[np.int8]) -> list[str]:
    """Return the names of groups that have images in more than one split; splits are indices into `SPLITS`, or -1."""
    grouped = (groups.codes >= 0) & (splits >= 0)
    sides = np.unique(groups.numbers[grouped] * len(SPLITS) + splits[grouped])
    codes, counts = np.unique(sides // len(SPLITS), return_counts=True)
    return [groups.names[code] for code in codes[counts > 1].tolist()]
