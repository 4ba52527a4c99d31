"""An audit: everything that looks wrong with a cache's images, the worst first."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from featcache.cache import FeatureCache
from featcache.cache.listing import Entry
from featcache.errors import OptionError
from featcache.extraction.originals import Originals
from featcache.heads import Rows
from featcache.insight.audit.checks import blank, image_of, imbalance, outliers, sizes, small, unreadable
from featcache.insight.audit.copies import CANDIDATE, candidates, copies, families, joined, near_copies
from featcache.insight.audit.findings import AuditReport, Finding, ordered
from featcache.insight.audit.labels import label_errors, labelled
from featcache.insight.similarity import directions, mean_row, nearest, pair_cosines
from featcache.sources import Digests
from featcache.system.progress import shown
from featcache.training.examples import Examples

log = logging.getLogger(__name__)

NEIGHBORS = 10
MOST = 1_000_000
"""What is compared unless another number is given."""


def audit(
    cache: FeatureCache | str | os.PathLike[str],
    *,
    layer: str | None = None,
    labels: bool = True,
    most: int = MOST,
    confirm: FeatureCache | str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool | Callable[[int, int], None] = True,
) -> AuditReport:
    """Find bad data: copies, leaks between splits, wrong labels, unusable, small and odd images, unequal classes.

    Parameters
    ----------
    cache : FeatureCache or path
        What to look at. Pixels are read from where its source lies; where they cannot be, the notes say what that
        leaves out.
    layer : str, optional
        Whose features tell which images are alike; default: the deepest.
    labels : bool
        Look for label errors, which needs cleanlab (``pip install 'featcache[audit]'``) and trains five heads.
    most : int
        Distinct images among which near copies and outliers are sought: time grows with its square. Of more, so
        many are drawn.
    confirm : FeatureCache or path, optional
        Another cache of these images, with another base or layers. A label that features of both contradict, with
        the same class, is suggested to be relabelled; without it, all are to be looked at.
    seed : int
        For folds and samples.
    progress : bool or callable
        Show a bar, or call a function with (images done, images), while neighbours are sought: all pairs are looked
        at, a block at a time.

    Returns
    -------
    AuditReport
        Findings, the worst first, and notes on what was not done.

    Raises
    ------
    OptionError
        If there is no such layer, no image has features, `most` is no number of images, or `confirm` has no other
        features or none of these images.
    """
    cache = cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
    layer = cache.layer_name(layer)
    if most < 1:
        raise OptionError(f"`most` must be 1 or more images. Received: most={most}.")
    if not len(cache):
        raise OptionError(f"The cache {str(cache.path)!r} has no images with features. Run `featcache extract` first.")
    second = None if confirm is None else _second(cache, confirm)
    originals = Originals(cache)
    usable = cache.usable
    numbers = cache.numbers(order="storage")[0]
    rows = Rows(cache.features(layer=layer, order="storage"))
    with shown(progress, "comparing images") as show:
        alike, found, notes = _alike(originals, usable, numbers, rows, most, seed, show)
    everyone = families(usable, alike)
    found += copies(usable, everyone)
    if labels:
        members = [family for family, _ in everyone]
        groups = joined(cache.groups(), members)
        wrong, own = _labels(cache, layer, groups, seed)
        if second is not None:
            reader, there = second
            also, theirs = _labels(reader, reader.layer_name(None), groups[there], seed)
            wrong = _agreed(wrong, also)
            own += [f"{reader.path}: {note}" for note in theirs]
        found, notes = found + wrong, notes + own
    if cache.recipe.spec is None:
        known, own = sizes(originals, usable, seed=seed)
        more, unseen = blank(originals, usable, known)
        found += [*small(usable, known, cache.recipe.image_size), *more]
        notes += own + unseen
    found += [*unreadable(cache.entries), *imbalance(usable)]
    return AuditReport(cache.path, layer, len(cache.entries), ordered(found), tuple(notes))


def _alike(
    originals: Originals,
    usable: Sequence[Entry],
    numbers: npt.NDArray[np.int64],
    rows: Rows,
    most: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[tuple[int, int, float]], list[Finding], list[str]]:
    """Return near copies as pairs of images and how alike they are, outliers, and notes."""
    notes = []
    digests = np.array([usable[i].digest for i in numbers.tolist()], object)
    distinct = np.sort(np.unique(digests, return_index=True)[1])
    if len(distinct) > most:
        count = f"{most:,} of {len(distinct):,}"
        notes.append(f"near copies and outliers were sought among {count} distinct images, drawn at random")
        distinct = np.sort(np.random.default_rng(seed).choice(distinct, most, replace=False))
    numbers, rows = numbers[distinct], rows.take(distinct)
    mean = mean_row(rows)
    units, uncertainty = directions(rows, mean)
    indices, cosines = nearest(units, NEIGHBORS, progress=progress)
    pairs = candidates(indices, cosines, CANDIDATE - 3 * uncertainty * (1 - CANDIDATE**2))
    exact = pair_cosines(rows, mean, pairs[:, 0], pairs[:, 1])
    entries = [usable[i] for i in numbers.tolist()]
    near, more = near_copies(originals, entries, pairs[exact >= CANDIDATE], exact[exact >= CANDIDATE])
    images = numbers.tolist()
    alike = [(images[a], images[b], link) for a, b, link in near]
    return alike, outliers(entries, cosines), [*notes, *more]


def _second(
    cache: FeatureCache, confirm: FeatureCache | str | os.PathLike[str]
) -> tuple[FeatureCache, npt.NDArray[np.int64]]:
    """Return another cache with the listing of the first, as far as it has these images, and which of them it has."""
    other = confirm if isinstance(confirm, FeatureCache) else FeatureCache(confirm)
    if other.recipe.fingerprint == cache.recipe.fingerprint:
        raise OptionError(
            f"{str(other.path)!r} has the same features as {str(cache.path)!r}, so it cannot confirm what those say. "
            "Name a cache of the same images with another base."
        )
    there = np.flatnonzero(Digests(other.usable.digests).find(cache.usable.digests) >= 0)
    if not len(there):
        raise OptionError(
            f"{str(other.path)!r} has none of the images of {str(cache.path)!r}. Name a cache of the same images."
        )
    return other.with_listing(cache.usable.take(there)), there


def _agreed(found: list[Finding], others: list[Finding]) -> list[Finding]:
    """Return findings about labels; where others suggest the same class for an image, relabelling is suggested."""
    said = {(image.path, image.suggested_label) for one in others for image in one.images if image.suggested_label}
    return [
        replace(one, images=(replace(image, suggestion="relabel"),), reason=f"{one.reason}; the other cache agrees")
        if (image.path, image.suggested_label) in said
        else one
        for one in found
        for image in one.images
    ]


def _labels(
    cache: FeatureCache, layer: str, groups: npt.NDArray[np.int64], seed: int
) -> tuple[list[Finding], list[str]]:
    """Return labels that are probably wrong; images of one group (n,) are on one side of every fold."""
    numbers = cache.numbers(order="storage")[0]
    rows = Rows(cache.features(layer=layer, order="storage"))
    everything, nothing = np.ones(len(numbers), bool), np.zeros(len(numbers), bool)
    examples, classes = labelled(
        Examples(rows, cache.label_indices(order="storage"), groups[numbers], numbers, everything, nothing)
    )
    names = [cache.class_names[i] for i in classes.tolist()]
    wrong, best, shares, notes = label_errors(examples, names, layer, seed=seed)
    found = []
    for row, other, share in zip(wrong.tolist(), best.tolist(), shares, strict=True):
        entry, given = cache.usable[int(examples.images[row])], int(examples.labels[row])
        likely = names[other] if other != given else None
        reason = f"labelled {names[given]}, which has probability {share[given]:.3f}"
        reason += f"; {names[other]} has {share[other]:.3f}" if likely else ""
        image = image_of(entry, "look", likely)
        advice = f"look, and relabel to {likely} if that is what it shows" if likely else "look which class it shows"
        found.append(Finding("label", (image,), float(1 - share[given]), reason, advice))
    return found, notes
