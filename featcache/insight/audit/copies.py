"""Exact copies by digest; near copies by features, confirmed on pixels; whether they cross splits or classes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from featcache.cache.listing import Entry
from featcache.errors import ImageError
from featcache.extraction.originals import Originals
from featcache.insight.audit.findings import Finding, Image
from featcache.insight.similarity import Floats

log = logging.getLogger(__name__)

CANDIDATE = 0.5
"""Cosine of features less their mean from which two images are compared on pixels."""
CONFIRMED = 0.98
"""Correlation of thumbnails from which they are copies."""
UNSEEN = 0.95
"""Cosine from which they are taken for copies where pixels cannot be read."""
MOST = 20_000
"""Candidate pairs that are compared on pixels, the most similar first."""
CHECKED = 10 * MOST
"""Pairs whose cosine is computed from features again, where neighbours were found by sketches."""
SIDE = 32
"""Pixels of a thumbnail's side."""

_KEPT_FIRST = ("test", "validation", "train")


def near_copies(
    originals: Originals,
    entries: Sequence[Entry],
    pairs: npt.NDArray[np.int64],
    cosines: Floats,
) -> tuple[list[tuple[int, int, float]], list[str]]:
    """Return which pairs (m, 2) of entries are copies and how alike they are, and what was not compared.

    Two images are copies if their thumbnails, 32x32 RGB averaged over areas, have a correlation of `CONFIRMED`. Where
    pixels cannot be read, pairs whose features have a cosine of at least `UNSEEN` are, with that.
    """
    notes = []
    order = np.argsort(-cosines, kind="stable")
    if len(order) > MOST:
        notes.append(f"of {len(order):,} pairs of similar images the {MOST:,} most similar were compared on pixels")
        order = order[:MOST]
    pairs, cosines = pairs[order], cosines[order]
    wanted = np.unique(pairs)

    def look(i: int) -> npt.NDArray[np.uint8] | None:
        try:
            return originals.thumbnail(entries[i], SIDE).round().astype(np.uint8)  # small, as there may be many
        except ImageError as error:
            log.debug("%s: %s", entries[i].path, error)
            return None

    with ThreadPoolExecutor() as pool:
        seen = dict(zip(wanted.tolist(), pool.map(look, wanted.tolist()), strict=True))
    found, unseen = [], 0
    for (a, b), cosine in zip(pairs.tolist(), cosines.tolist(), strict=True):
        left, right = seen[a], seen[b]
        if left is None or right is None:
            unseen += 1
            alike, least = cosine, UNSEEN
        else:
            alike, least = float((_standardised(left) * _standardised(right)).sum()), CONFIRMED
        if alike >= least:
            found.append((a, b, alike))
    if unseen:
        notes.append(
            f"{unseen:,} pairs of similar images could not be compared on pixels, as an image is gone or has changed: "
            f"those with a cosine of {UNSEEN:g} or more count as copies"
        )
    return found, notes


def _standardised(thumbnail: npt.NDArray[np.uint8]) -> Floats:
    """Return pixels less their mean and of length 1; a picture of one colour has its colour only."""
    pixels = thumbnail.astype(np.float32)
    values = pixels - pixels.mean()
    length = float(np.linalg.norm(values))
    return values / length if length > SIDE else pixels / max(float(np.linalg.norm(pixels)), 1.0)


def families(entries: Sequence[Entry], near: Iterable[tuple[int, int, float]]) -> list[tuple[list[int], float]]:
    """Return images that hang together as copies, each family's members in order, and its weakest link.

    The link is 1 where all are exact copies.
    """
    links = list(near)
    first: dict[bytes, int] = {}
    exact = [(first.setdefault(one.digest, i), i) for i, one in enumerate(entries) if one.digest is not None]
    part = _connected(len(entries), [*((a, b) for a, b in exact if a != b), *((a, b) for a, b, _ in links)]).tolist()
    weakest: dict[int, float] = {}
    for a, _, alike in links:
        weakest[part[a]] = min(weakest.get(part[a], 1.0), alike)
    members: dict[int, list[int]] = {}
    for i in range(len(entries)):
        members.setdefault(part[i], []).append(i)
    return [(own, weakest.get(number, 1.0)) for number, own in members.items() if len(own) > 1]


def joined(groups: npt.NDArray[np.int64], families: list[list[int]]) -> npt.NDArray[np.int64]:
    """Return groups (n,) in which the members of a family are one group too."""
    _, number = np.unique(groups, return_inverse=True)
    links = [(int(number[family[0]]), int(number[one])) for family in families for one in family[1:]]
    return _connected(int(number.max()) + 1 if len(number) else 0, links)[number]


def _connected(count: int, links: list[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """Return for each of so many things which it hangs together with, through links: equal numbers, from 0."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    a, b = np.array(links, np.int64).reshape(-1, 2).T
    _, part = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(count, count)), directed=False)
    return np.asarray(part, np.int64)


def copies(entries: Sequence[Entry], found: list[tuple[list[int], float]]) -> list[Finding]:
    """Return a finding for each family of copies: what they cross decides what is wrong with them."""
    return [_finding([entries[i] for i in members], link) for members, link in found]


def _finding(members: Sequence[Entry], link: float) -> Finding:
    splits = sorted({one.split for one in members if one.split}, key=_KEPT_FIRST.index)
    labels = sorted({one.label for one in members if one.label is not None})
    exact = len({one.digest for one in members}) == 1
    kept = min(members, key=lambda one: _KEPT_FIRST.index(one.split) if one.split else len(_KEPT_FIRST))
    what = f"{len(members)} {'exact' if exact else 'near'} copies"
    if not exact:
        what += f", alike to {link:.3f}"
    differ = f"; labels differ: {', '.join(labels)}" if len(labels) > 1 else ""
    if differ:
        kind = "leakage" if len(splits) > 1 else "conflict"
        suggestion = "find out which label is right, relabel, and keep one"
    else:
        kind = "leakage" if len(splits) > 1 else "duplicate"
        suggestion = f"keep {kept.path} and drop the others" + ("" if exact else ", if they show the same")
    if kind == "leakage":
        what += f" in {' and '.join(splits)}"
    images = tuple(
        Image(one.path, one.label, one.split, "look" if differ else "keep" if one is kept else "drop")
        for one in members
    )
    return Finding(kind, images, link, what + differ, suggestion)


def candidates(indices: npt.NDArray[np.int32], cosines: Floats, least: float) -> npt.NDArray[np.int64]:
    """Return each pair of neighbours of at least a cosine once, shape (m, 2), the smaller index first.

    Of many, about the `CHECKED` most similar.
    """
    kept = cosines[cosines >= least]
    if len(kept) > 2 * CHECKED:  # mostly each is there twice
        least = float(np.partition(kept, -2 * CHECKED)[-2 * CHECKED])
    row, place = np.nonzero(cosines >= least)
    pairs = np.sort(np.column_stack([row, indices[row, place]]).astype(np.int64), axis=1)
    return np.unique(pairs, axis=0)
