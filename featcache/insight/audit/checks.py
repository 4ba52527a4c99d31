"""Findings without a model: unusable, blank and small images, classes of unequal size, images unlike all others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from featcache.cache.listing import Entry
from featcache.errors import ImageError
from featcache.extraction.originals import Originals
from featcache.insight.audit.findings import Finding, Image
from featcache.insight.similarity import Floats

ENLARGED = 4
"""An image is small if the base sees it enlarged by more than this."""
HEADERS = 100_000
"""Images whose size is looked up; of more, so many drawn at random."""
COMMON = 0.1
"""From this part on, being small is how the images are, and one finding says it."""
UNEQUAL = 10
"""A class is small if the largest has more than so many times its images."""
ONE_COLOUR = 4
"""Levels of 255 by which the channels of a blank picture differ at most: what compression and scanners make of it."""
BITS = 0.5
"""For each pixel; a picture of one colour takes fewer in every format that compresses."""
HEADER_BYTES = 2048
SIDE = 32
"""Areas on each side of a picture that is looked at for being blank."""
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


def sizes(
    originals: Originals, entries: Sequence[Entry], *, seed: int = 0
) -> tuple[dict[int, tuple[int, int]], list[str]]:
    """Return height and width of entries by their number, from headers of files and shapes of arrays, and notes."""
    notes, chosen = [], np.arange(len(entries))
    if len(entries) > HEADERS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(entries), HEADERS, replace=False))
        notes.append(
            f"sizes of {HEADERS:,} of {len(entries):,} images were looked up, drawn at random: small and blank images "
            "were sought among these"
        )
    found = {i: size for i in chosen.tolist() if (size := originals.size(entries[i])) is not None}
    if unknown := len(chosen) - len(found):
        notes.append(f"the sizes of {unknown:,} images are not known: they are gone, or no header says it")
    return found, notes


def small(entries: Sequence[Entry], known: Mapping[int, tuple[int, int]], size: tuple[int, int]) -> list[Finding]:
    """Return the images that are enlarged more than `ENLARGED` times to `size` (height, width).

    `known` is what `sizes` returns. The score is 1 - (image's side / base's side).
    """
    found = []
    for i, own in known.items():
        part = min(own[0] / size[0], own[1] / size[1])
        if part * ENLARGED < 1:
            reason = f"{own[1]}x{own[0]} pixels, enlarged to {size[1]}x{size[0]}"
            found.append(Finding("small", (image_of(entries[i]),), 1 - part, reason, "find a larger copy or drop it"))
    if len(found) > max(COMMON * len(known), SHOWN):
        images = tuple(image for one in found[:SHOWN] for image in one.images)
        many = f"{len(found):,} of {len(known):,} images are so small, such as {found[0].reason}"
        advice = (
            "extract with a smaller --image-size, or an earlier --layer: most of what the base sees is interpolated"
        )
        found = [Finding("small", images, max(one.score for one in found), many, advice)]
    return found


def blank(
    originals: Originals, entries: Sequence[Entry], known: Mapping[int, tuple[int, int]]
) -> tuple[list[Finding], list[str]]:
    """Return the images of one colour, and what to note. Those alone are decoded whose size in bytes allows it.

    `known` is what `sizes` returns. The score is 1 - (largest range of a channel / 255), over averages of 32x32 areas.
    """
    wanted = [entries[i] for i, size in known.items() if _may_be_blank(entries[i].size, *size)]

    def look(entry: Entry) -> tuple[int, npt.NDArray[np.float32]] | None:
        try:
            pixels = originals.thumbnail(entry, SIDE)
        except ImageError:
            return None
        return math.ceil(np.ptp(pixels, axis=(0, 1)).max()), pixels.mean(axis=(0, 1))

    with ThreadPoolExecutor() as pool:
        seen = list(zip(wanted, pool.map(look, wanted), strict=True))
    found = []
    for entry, one in seen:
        if one is not None and one[0] <= ONE_COLOUR:
            reason = f"one colour: RGB {', '.join(str(round(value)) for value in one[1].tolist())}"
            advice = "find the picture that was meant, or drop it"
            found.append(Finding("blank", (image_of(entry, "drop"),), 1 - one[0] / 255, reason, advice))
    gone = sum(one is None for _, one in seen)
    return found, [f"{gone:,} images that may be blank have changed or cannot be read"] if gone else []


def _may_be_blank(size: int, height: int, width: int) -> bool:
    """Return whether so many bytes are few for an image of this size, or are its pixels without compression."""
    if size - HEADER_BYTES < height * width * BITS / 8:
        return True
    plain = (size - height * width * channels for channels in (1, 2, 3, 4, 6, 8, 12, 16))
    return any(0 <= more <= HEADER_BYTES + 3 * height for more in plain)


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
    """Return the images that are far from their neighbours; `cosines` (n, k) are those with the k nearest others.

    An image's distance is 1 less the cosine with the k-th of its neighbours, so that fewer than k odd images do not
    hide each other (Ramaswamy, Rastogi and Shim, SIGMOD 2000). It is an outlier if that is more than `DEVIATIONS`
    times 1.4826 times the median absolute deviation above the median of all (Leys et al. 2013).
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
