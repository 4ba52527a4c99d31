"""Removing what a cache no longer needs: rows of images that left the source, and files of killed runs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featcache.cache.listing import Entry
from featcache.cache.reader import FeatureCache
from featcache.cache.shard import Shard, ShardBuilder, check_same, inspect
from featcache.cache.writer import CacheWriter
from featcache.errors import CacheError
from featcache.files.publishing import TEMPORARY
from featcache.options import SHARD_ROWS, Compression
from featcache.sources import Digests

_YOUNG = 60.0
"""Seconds in which a temporary file may be another process's draft of a lock or of a part."""


@dataclass(frozen=True)
class GcReport:
    """What `gc` removed (files relative to the cache), or would remove; then `bytes_freed` is an estimate."""

    cache: Path
    rows_dropped: int
    rows_kept: int
    shards_rewritten: int
    files_removed: list[str]
    bytes_freed: int
    dry_run: bool


def gc(cache: FeatureCache | str | os.PathLike[str], *, dry_run: bool = False) -> GcReport:
    """Drop the rows of images that are no longer listed and of views that are no longer wanted.

    Shards that lose rows are written anew, then the manifest goes over to them in one transaction, and only then are
    old files deleted: killed at any moment, the cache is as before or as after, with files that the next call removes.

    Parameters
    ----------
    cache : FeatureCache or path
        A cache. One that is open stays what it was: open it again.
    dry_run : bool
        Change nothing, and say what would be removed.

    Returns
    -------
    GcReport
        Rows, shards, files and bytes.

    Raises
    ------
    CacheError
        If there is no cache, another process is writing it (`CacheBusyError`), or it is damaged
        (`CacheDamagedError`).
    """
    path = cache.path if isinstance(cache, FeatureCache) else Path(cache)
    cache = FeatureCache(path)
    if dry_run:
        return _report(_Plan(cache), dry_run=True)
    with CacheWriter.open_for_writing(path, cache.recipe, None) as writer:
        plan = _Plan(FeatureCache(path))
        before = plan.bytes()
        if plan.losing:
            writer.replace_shards(plan.losing, _rewritten(plan))
        if plan.litter:
            writer.remove(plan.litter)
        return _report(plan, dry_run=False, freed=before - plan.bytes())


def drop_images(path: Path, entries: Sequence[Entry], positions: Sequence[int]) -> None:
    """Drop all rows of some listed images, and what is known of them, so that the next extraction computes them."""
    recipe = FeatureCache(path).recipe
    with CacheWriter.open_for_writing(path, recipe, None) as writer:
        plan = _Plan(FeatureCache(path), without=[entry.digest for entry in entries if entry.digest])
        listing = writer.listing().load()
        for position, entry in zip(positions, entries, strict=True):
            if listing[position] == entry:  # else another process has settled it since
                listing.known[position] = False
        if plan.losing:
            writer.replace_shards(plan.losing, _rewritten(plan))
        writer.replace_listing(listing, writer.meta())


class _Plan:
    """What goes and what stays; `without`: nothing goes but the rows of these digests."""

    def __init__(self, cache: FeatureCache, without: Sequence[bytes] = ()) -> None:
        self.cache = cache
        places = cache.places
        if places and not cache.entries:
            raise CacheError(
                f"The cache {str(cache.path)!r} has rows but no listing of images, so nobody knows which rows are "
                "needed. Run `featcache extract`, which lists them again, then `featcache gc`."
            )
        if without:
            self.wanted = Digests.of(without).find(places.digests) < 0
        else:
            sound = cache.entries.digests[cache.entries.readable]
            self.wanted = np.zeros(len(places.views), bool)
            for view in range(cache.views + 1):
                rows = places.find(sound, view, cache.augmentation if view else "")
                self.wanted[rows[rows >= 0]] = True
        counts = places.effective()
        self.kept, self.dropped = int(self.wanted.sum()), int((counts & ~self.wanted).sum())
        numbers, losses = np.unique(places.shards[counts & ~self.wanted], return_counts=True)
        lost = dict(zip(numbers.tolist(), losses.tolist(), strict=True))
        self.losing = {number: cache.shards[number] for number in lost}
        self.estimate = sum(cache.shards[n].size * count // cache.shards[n].rows for n, count in lost.items())
        self.emptied = sum(count == cache.shards[n].rows for n, count in lost.items())
        self.litter = list(_litter(cache))

    def bytes(self) -> int:
        """Return the bytes of all shards and of what killed runs left."""
        return sum(map(_size, {*(self.cache.path / "shards").iterdir(), *self.litter}))


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if it is gone."""
    total = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        with contextlib.suppress(FileNotFoundError):  # another process has removed it meanwhile
            total += file.stat().st_size if file.is_file() else 0
    return total


def _litter(cache: FeatureCache) -> Iterator[Path]:
    """Yield the files that killed runs left, and their drafts of folders: of the base and of heads."""
    known = {info.name for info in cache.shards.values()}
    for file in sorted((cache.path / "shards").iterdir()):
        if file.name.startswith(TEMPORARY) or (file.suffix == ".h5" and file.name not in known):
            yield file
    for place in (cache.path, cache.path / "parts", cache.path / "heads"):
        for file in sorted(place.glob(f"{TEMPORARY}*")):
            if time.time() - file.stat().st_mtime > _YOUNG:
                yield file


def _rewritten(plan: _Plan) -> Iterator[ShardBuilder]:
    """Yield the kept rows of shards that lose some, compressed as they were, after checking every byte of those."""
    cache = plan.cache
    builders: dict[Compression, ShardBuilder] = {}
    for number, info in plan.losing.items():
        own = cache.places.of_shard(number)
        wanted = np.zeros(info.rows, bool)
        wanted[cache.places.positions[own]] = plan.wanted[own]
        file = cache.path / "shards" / info.name
        contents = inspect(file)
        check_same(file, (contents.info.size, contents.info.checksum), info)
        shard = Shard(file)
        features = {layer: shard.features(layer) for layer in cache.layers}
        kind = shard.compression
        for position in np.flatnonzero(wanted).tolist():
            row = {layer: rows[position] for layer, rows in features.items()}
            digest, view = contents.digests[position].tobytes(), int(contents.views[position])
            if kind not in builders:
                builders[kind] = ShardBuilder(cache.recipe, cache.layers, SHARD_ROWS, cache.augmentation, kind)
            builders[kind].append(digest, contents.paths[position], row, view)
            if builders[kind].full:
                yield builders.pop(kind)
    yield from builders.values()


def _report(plan: _Plan, *, dry_run: bool, freed: int | None = None) -> GcReport:
    path = plan.cache.path
    old = [path / "shards" / info.name for info in plan.losing.values()]
    litter = sum(map(_size, plan.litter))
    return GcReport(
        cache=path,
        rows_dropped=plan.dropped,
        rows_kept=plan.kept,
        shards_rewritten=len(plan.losing) - plan.emptied,
        files_removed=[str(file.relative_to(path)) for file in [*old, *plan.litter]],
        bytes_freed=plan.estimate + litter if freed is None else freed,
        dry_run=dry_run,
    )
