"""Verifying a cache against its images: features computed again, and compared with the rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featcache.cache import FeatureCache, verification
from featcache.cache.compaction import drop_images
from featcache.cache.shard import Key
from featcache.cache.verification import Recomputed, VerifyReport
from featcache.errors import CacheError, FeatcacheError, OptionError
from featcache.extraction.originals import Originals
from featcache.sources import Item, Items, Source

if TYPE_CHECKING:
    from featcache.extraction.extractor import Extracted, Extractor
    from featcache.images.augmentation import Augmentation

EXACT, REDUCED = 1e-4, 2e-2
"""How far a feature may be from the stored one, as a part of the layer's largest: in float32, and below."""


def verify(
    cache: FeatureCache | str | os.PathLike[str], *, fix: bool = False, recompute: int = 0, seed: int = 0
) -> VerifyReport:
    """Read all of a cache and check every checksum, every row, and that all agree.

    Parameters
    ----------
    cache : FeatureCache or path
        A cache. One that is open stays what it was: open it again after `fix`.
    fix : bool
        Move what is broken to ``damaged``, and make the manifest, and ``recipe.json`` if need be, from the sound
        shards, so that the next extraction computes the rest. Rows that `recompute` finds to differ are dropped, too.
    recompute : int
        Compute the features of a number of images again, all if there are fewer, and compare them; with 0 no base is
        loaded.
    seed : int
        Draws these images.

    Returns
    -------
    VerifyReport
        What was read, found and mended.

    Raises
    ------
    CacheError
        If there is no cache, nothing is left to mend it from, or the source or the base that `recompute` needs is no
        longer there.
    OptionError
        If `recompute` is negative.
    """
    path = cache.path if isinstance(cache, FeatureCache) else Path(cache)
    if recompute < 0:
        raise OptionError(f"`recompute` must be 0 or more images. Received: {recompute}.")
    report = verification.verify(path, fix=fix)
    if not recompute or report.problems:
        return report
    cache = FeatureCache(path)
    if not cache.usable:
        raise CacheError(f"No features can be computed again: {str(path)!r} has no images. Run `featcache extract`.")
    usable = cache.usable_positions
    drawn = np.random.default_rng(seed).choice(usable, min(recompute, len(usable)), replace=False)
    found = _Comparison(cache, sorted(drawn.tolist()))
    if found.wrong and fix:
        drop_images(path, [cache.entries[position] for position in found.wrong.values()], list(found.wrong.values()))
    return replace(report, recomputed=found.report(fixed=fix))


class _Comparison:
    """Images computed again, beside their rows: `wrong` ones with their positions, and those that have `changed`."""

    def __init__(self, cache: FeatureCache, positions: Sequence[int]) -> None:
        self.cache = cache
        self.wrong: dict[str, int] = {}
        self.rows, self.note = 0, ""
        self.augmentation = self._policy()
        self._differences: dict[str, list[tuple[str, float]]] = {layer: [] for layer in cache.layers}
        self._largest = dict.fromkeys(cache.layers, 0.0)
        self._entries = {entry.path: entry for entry in (cache.entries[i] for i in positions)}
        self._places = dict(zip(self._entries, positions, strict=True))
        source, items = self._listed()
        self.changed = sorted(self._entries.keys() - {item.path for item in items})
        for one in self._extractor().stream(
            source, items, wanted=self._views, augmentation=self.augmentation, batch_size=min(32, max(2, len(items)))
        ):
            self._compare(one)
        allowed = EXACT if (cache.recipe.dtype, cache.recipe.precision) == ("float32", "float32") else REDUCED
        self.wrong |= {path: self._places[path] for path, value in self._relative() if not value <= allowed}

    def report(self, *, fixed: bool) -> Recomputed:
        """Return what was found."""
        differing = sorted(self.wrong)
        worst = max((value for _, value in self._relative()), default=0.0)
        count, dropped = len(self._entries), bool(fixed and differing)
        return Recomputed(count, self.rows, worst, differing, sorted(self.changed), self.note, dropped)

    def _policy(self) -> Augmentation | None:
        """Return what makes the views, None if there are none; note it where nobody knows."""
        if not self.cache.views:
            return None
        from featcache.images.augmentation import Augmentation

        try:
            policy = Augmentation.from_dict(self.cache.augmentation_policy or {})
            if policy.fingerprint == self.cache.augmentation:
                return policy
        except OptionError:
            pass
        self.note = "only images as they are were compared, as the cache does not say how its views are made"
        return None

    def _listed(self) -> tuple[Source, list[Item]]:
        try:
            source = Originals(self.cache).source()
            items = Items.of(source.items)
        except (FeatcacheError, OSError) as error:
            raise self._impossible(f"the source cannot be opened: {error}") from None
        return source, [items[i] for i, path in enumerate(items.paths) if path in self._entries]

    def _extractor(self) -> Extractor:
        from featcache.bases.finding import find_base
        from featcache.extraction.extractor import Extractor
        from featcache.recipe import Request
        from featcache.saved import base as base_folder

        cache, described = self.cache, self.cache.description.get("request")
        if cache.recipe.spec is not None:
            raise self._impossible("its features come from elsewhere, not from a base")
        try:
            asked = None if described is None else Request.from_dict(described)
            base = find_base(cache.recipe, asked, [cache.path / base_folder.NAME], advice="Put its files back.")
            extractor = Extractor(base.request, base.base, base.file)
        except FeatcacheError as error:
            raise self._impossible(f"the base cannot be loaded: {error}") from None
        if extractor.recipe != cache.recipe:
            differences = "; ".join(cache.recipe.differences(extractor.recipe))
            raise self._impossible(f"the base is another one now: {differences}. Put its files back")
        return extractor

    def _impossible(self, why: str) -> CacheError:
        return CacheError(f"The cache {str(self.cache.path)!r} is sound, but no features can be computed again: {why}")

    def _views(self, item: Item, identity: bytes) -> Sequence[int]:
        entry = self._entries[item.path]
        if identity != entry.digest:
            return ()
        return range(1 + self.cache.views) if self.augmentation and entry.split == "train" else (0,)

    def _compare(self, one: Extracted) -> None:
        path, entry = one.item.path, self._entries[one.item.path]
        if one.digest != entry.digest:
            listed = (one.item.size, one.item.mtime_ns, one.item.changes) == (entry.size, entry.mtime_ns, entry.changes)
            if one.digest is not None and listed and entry.changes:
                self.wrong[path] = self._places[path]  # its row is another image's
            else:
                self.changed.append(path)
        elif one.reason is not None:
            self.wrong[path] = self._places[path]
        for view, features in one.views.items():
            key = Key(one.digest or b"", view, self.cache.augmentation if view else "")
            if key not in self.cache.places:
                continue  # not extracted yet
            self.rows += 1
            stored = self.cache.rows_of(key)
            for layer, values in features.items():
                new, old = (np.asarray(array, np.float64) for array in (values, stored[layer]))
                self._largest[layer] = max(self._largest[layer], float(np.abs(new).max()))
                difference = float(np.abs(new - old).max())
                self._differences[layer].append((path, difference if np.isfinite(difference) else float("inf")))

    def _relative(self) -> list[tuple[str, float]]:
        """Return the largest difference of each row, as a part of its layer's largest feature."""
        return [
            (path, 0.0 if not difference else difference / (self._largest[layer] or 1.0))
            for layer, found in self._differences.items()
            for path, difference in found
        ]
