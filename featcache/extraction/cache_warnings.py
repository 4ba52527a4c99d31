"""What the caller of an extraction should know of the finished cache: labels and splits that cannot be meant so."""

from __future__ import annotations

import numpy as np

from featcache.cache import FeatureCache
from featcache.sources import SplitPolicy


def cache_warnings(cache: FeatureCache, policy: SplitPolicy) -> list[str]:
    """Return a line for everything that looks wrong about a cache whose images a policy has split."""
    return [*divided_groups(cache), *_empty_splits(cache, policy), *_one_sided_classes(cache), *_contradictions(cache)]


def divided_groups(cache: FeatureCache) -> list[str]:
    """Say which groups the source's own splits divide, and that their images do not count then."""
    names = cache.divided_groups
    if not names:
        return []
    shown = ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")
    members = {split: int(cache.left_out(split)[1].sum()) for split in cache.splits}
    counts = [f"{count:,} of {cache.splits[split]:,} {split} images" for split, count in members.items() if count]
    effect = (
        f"{' and '.join(counts)} do not count in scores, because train has images of their groups"
        if counts
        else "validation and test are not independent"
    )
    return [
        f"{len(names):,} groups have images in more than one split ({shown}): {effect}. Correct the splits of the "
        "source, or leave them out: splits that featcache draws never divide a group"
    ]


def _empty_splits(cache: FeatureCache, policy: SplitPolicy) -> list[str]:
    """Say that a split which was to be drawn has no image, as all classes are too small for its share."""
    shares = {"validation": policy.validation_split, "test": policy.test_split}
    return [
        f"no class has enough images for a {split} share of {share:g}, so there is no {split} set: add images, or use "
        "a larger share"
        for split, share in shares.items()
        if share and split not in cache.splits and len(cache)
    ]


def _one_sided_classes(cache: FeatureCache) -> list[str]:
    """Name the classes that have no image in a split that others have."""
    present = {split: set(np.unique(cache.label_indices(split)).tolist()) for split in cache.splits}
    return [
        f"class {name!r} has no image in {split}"
        for split, labels in present.items()
        for index, name in enumerate(cache.class_names)
        if index not in labels
    ]


def _contradictions(cache: FeatureCache) -> list[str]:
    """Name the images that are in two classes."""
    entries, first = cache.usable, cache.identities()
    codes = entries.labels.codes
    twice = np.flatnonzero(codes != codes[first])
    found = [
        f"one image has two labels: {one.path} ({one.label}), {other.path} ({other.label})"
        for one, other in ((entries[first[i]], entries[i]) for i in twice[:11].tolist())
    ]
    return found if len(twice) <= 10 else [*found[:10], f"{len(twice) - 10} more images have two labels"]
