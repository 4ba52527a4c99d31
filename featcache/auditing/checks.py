"""Findings that need no model: unreadable and small images, classes of unequal size, images unlike all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from featcache.auditing.findings import Finding, Image
from featcache.cache.listing import Entry
from featcache.originals import Originals
from featcache.similarity import Floats

ENLARGED = 4
"""An image is small if the base sees it enlarged by more than this."""
HEADERS = 100_000
"""Images whose size is looked up; of more, so many drawn at random."""
COMMON = 0.1
"""From this part on, being small is how the images are, and one finding says it."""
UNEQUAL = 10
"""A class is small if the largest has more than so many times its images."""
DEVIATIONS = 2.5
"""An image is an outlier if its distance to its neighbours is so many robust deviations above the median."""
SHOWN = 5
"""Images that a finding about many names."""


def image_of(entry: Entry, suggestion: str = "look", label: str | None = None) -> Image:
    """Return an entry as a finding shows it."""
    return Image(entry.path, entry.label, entry.split, suggestion, label)


def unreadable(entries: Sequence[Entry]) -> list[Finding]:
    """Return the images that extraction could not use, with its reasons."""
    return [
        Finding("unreadable", (image_of(one, "drop"),), 1.0, one.reason, "mend the file or drop it")
        for one in entries
        if one.reason is not None
    ]


def small(
    originals: Originals, entries: Sequence[Entry], size: tuple[int, int], *, seed: int = 0
) -> tuple[list[Finding], list[str]]:
    """Return the images that are enlarged more than `ENLARGED` times to `size` (height, width), and what to note.

    Sizes come from the headers of files and the shapes of arrays. The score is 1 - (image's side / base's side).
    """
    notes, chosen = [], np.arange(len(entries))
    if len(entries) > HEADERS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(entries), HEADERS, replace=False))
        notes.append(f"sizes of {HEADERS:,} of {len(entries):,} images were looked up, drawn at random")
    found, unknown = [], 0
    for i in chosen.tolist():
        own = originals.size(entries[i])
        if own is None:
            unknown += 1
            continue
        part = min(own[0] / size[0], own[1] / size[1])
        if part * ENLARGED < 1:
            reason = f"{own[1]}x{own[0]} pixels, enlarged to {size[1]}x{size[0]}"
            found.append(Finding("small", (image_of(entries[i]),), 1 - part, reason, "find a larger copy or drop it"))
    if unknown:
        notes.append(f"the sizes of {unknown:,} images are not known: they are gone, or no header says it")
    if len(found) > max(COMMON * (len(chosen) - unknown), SHOWN):
        images = tuple(image for one in found[:SHOWN] for image in one.images)
        many = f"{len(found):,} of {len(chosen) - unknown:,} images are so small, such as {found[0].reason}"
        found = [Finding("small", images, max(one.score for one in found), many,
                         "extract with a smaller --image-size, or an earlier --layer: most of what the base sees is "
                         "interpolated")]  # fmt: skip
    return found, notes


def imbalance(entries: Sequence[Entry]) -> list[Finding]:
    """Return the classes with less than a tenth of the largest one's training images, or missing in a split.

    The score is 1 - (class's images / largest class's), in train; of a missing class 1.
    """
    splits = [split for split in ("train", "validation", "test") if any(one.split == split for one in entries)]
    counts = {split: Counter(one.label for one in entries if one.split == split and one.label) for split in splits}
    classes = sorted({one.label for one in entries if one.label is not None})
    found = []
    for split in splits:
        for name in classes:
            if counts[split] and not counts[split][name]:
                advice = "add images of it" if split == "train" else "its scores say nothing of this class: add images"
                found.append(Finding("imbalance", (), 1.0, f"class {name} has no image in {split}", advice))
    train = counts.get("train", Counter())
    most = max(train.values(), default=0)
    for name in classes:
        if 0 < train[name] * UNEQUAL < most:
            reason = f"class {name} has {train[name]:,} training images, the largest class {most:,}"
            advice = "add images of it, or train with --set class_weight=balanced and look at macro F1"
            found.append(Finding("imbalance", (), 1 - train[name] / most, reason, advice))
    return found


def outliers(entries: Sequence[Entry], cosines: Floats) -> list[Finding]:
    """Return the images that are far from their neighbours.

    An image's distance is 1 less the cosine with the k-th of its neighbours, so that fewer than k odd images do not
    hide each other (Ramaswamy, Rastogi and Shim, SIGMOD 2000). It is an outlier if that is more than `DEVIATIONS`
    times 1.4826 times the median absolute deviation above the median of all (Leys et al. 2013).

    Parameters
    ----------
    entries : sequence of Entry
        n images.
    cosines : array, shape (n, k)
        With the k nearest others, the nearest first.
    """
    if cosines.shape[1] == 0:
        return []
    distance = 1 - cosines[:, -1]
    middle = float(np.median(distance))
    spread = 1.4826 * float(np.median(np.abs(distance - middle)))
    deviations = (distance - middle) / max(spread, 1e-6)
    found = []
    for i in np.flatnonzero(deviations > DEVIATIONS).tolist():
        reason = (
            f"cosine {1 - distance[i]:.3f} with its neighbour number {cosines.shape[1]}, median of all "
            f"{1 - middle:.3f}, {deviations[i]:.1f} robust deviations"
        )
        score = float(min(distance[i] / 2, 1))
        found.append(Finding("outlier", (image_of(entries[i]),), score, reason, "look whether it belongs here"))
    return found
