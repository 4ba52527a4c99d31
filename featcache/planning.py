"""What a source needs that a cache does not have: stage one before anything is computed."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.augmentation import Augmentation
from featcache.cache import FeatureCache
from featcache.cache.manifest import Entry
from featcache.cache.reader import read_description
from featcache.cache.shard import Key
from featcache.errors import CacheError, FeatcacheError, ImageError
from featcache.recipe import Recipe, Request
from featcache.sources import Item, Source, SplitPolicy, digest, folder_name

if TYPE_CHECKING:
    from featcache.extractor import Extractor

log = logging.getLogger(__name__)


class Job:
    """One source, one recipe, one folder; the base is loaded when something first needs it."""

    def __init__(
        self,
        source: Source,
        policy: SplitPolicy,
        request: Request,
        root: Path,
        folder: Path | None,
        views: int,
        augment: Augmentation | None,
    ) -> None:
        self.source, self.policy, self.request = source, policy, request
        self.views, self.augment = views, augment
        self.augmentation = "" if augment is None else augment.fingerprint
        self.entries: list[Entry] = []
        self.hashed: dict[str, bytes] = {}
        self._root, self._given = root, folder

    def keys(self, item: Item, identity: bytes) -> list[Key]:
        """Return the rows an image must have: augmented views are for training images only."""
        return self.keys_in(self.policy.split_of(item, identity), identity)

    def keys_in(self, split: str, identity: bytes) -> list[Key]:
        """Return the rows an image of a split must have."""
        views = self.views if split == "train" else 0
        return [Key(identity, view, self.augmentation if view else "") for view in range(views + 1)]

    @cached_property
    def extractor(self) -> Extractor:
        """The base, loaded."""
        from featcache.extractor import Extractor

        return Extractor(self.request)

    @cached_property
    def recipe(self) -> Recipe:
        """The request's recipe: from a cache with an equal request, else from the base."""
        wanted = self.request.to_dict()
        for folder in self._root.glob("*") if self._given is None else [self._given]:
            if wanted is not None and (folder / "recipe.json").is_file():
                try:
                    described = read_description(folder)
                    if described.get("request") == wanted:
                        return Recipe.from_dict(described["recipe"])
                except FeatcacheError as error:
                    if self._given is not None:
                        raise
                    log.debug("passing over %s: %s", folder, error)
        return self.extractor.recipe

    @cached_property
    def folder(self) -> Path:
        """The cache's folder: the given one, else the default one, wherever its source has moved from."""
        if self._given is not None:
            return self._given
        ending = f"-{folder_name(self.request.base_name)}-{self.recipe.fingerprint[:8]}"
        default = self._root / f"{folder_name(self.source.name)}{ending}"
        if default.exists():
            if not self._belongs_to_another(default):
                return default
            mark = hashlib.sha256(self.source.location.encode("utf-8", "surrogateescape")).hexdigest()[:6]
            return self._root / f"{folder_name(self.source.name)}-{mark}{ending}"
        for other in sorted(self._root.glob(f"*{ending}")):
            if (other / "manifest.sqlite").is_file() and self._moved_from(other):
                log.warning("%s was extracted from here before it was moved: going on with %s",
                            self.source.location, other)  # fmt: skip
                return other
        return default

    def _belongs_to_another(self, folder: Path) -> bool:
        """Whether a cache is of a source of the same name that still lies somewhere else."""
        try:
            location = FeatureCache(folder).source["location"]
        except FeatcacheError:
            return False  # opening it for writing says what is wrong with it
        return location != self.source.location and Path(location).is_absolute() and Path(location).exists()

    def _moved_from(self, other: Path) -> bool:
        """Whether a cache is this source's, or its source is no longer there and had an image of this one."""
        try:
            cache = FeatureCache(other)
            location = Path(cache.source["location"])
            if str(location) == self.source.location:
                return True
            gone = location.is_absolute() and not location.exists()
            return gone and self.first_shared({entry.digest for entry in cache.entries}) is not None
        except FeatcacheError as error:
            log.debug("passing over %s: %s", other, error)
            return False

    def hash_items(self, items: Iterable[Item]) -> Iterator[tuple[Item, bytes | None, str | None]]:
        """Yield the digest of each image, read in parallel, or the reason why it cannot be read."""

        def hashed(item: Item) -> tuple[Item, bytes | None, str | None]:
            if item.path not in self.hashed:
                try:
                    self.hashed[item.path] = digest(self.source.read(item))
                except ImageError as error:
                    return item, None, str(error)
            return item, self.hashed[item.path], None

        with ThreadPoolExecutor(4, "featcache-hash") as pool:
            waiting = iter(items)
            while some := list(itertools.islice(waiting, 64)):
                yield from pool.map(hashed, some)

    def first_shared(self, digests: Container[bytes | None]) -> Item | None:
        """Return an image whose digest is among the given ones."""
        hashed = self.hash_items(self.source.items)
        return next((item for item, found, _ in hashed if found and found in digests), None)


class Known:
    """What a cache held before this extraction.

    Parameters
    ----------
    meta : mapping
        The manifest's values.
    entries : sequence of Entry
        Its listing.
    rows : iterable of Key
        Its rows.
    """

    def __init__(self, meta: dict[str, Any], entries: Sequence[Entry], rows: Iterable[Key]) -> None:
        self.meta, self.entries, self.rows = meta, list(entries), set(rows)
        self.digests = {key.digest for key in self.rows if key.view == 0}
        self.location = meta.get("source", {}).get("location")

    def check_same_source(self, job: Job) -> None:
        """Raise `CacheError` if the cache was made from a source that shares no image with the job's."""
        if not self.rows or not self.entries or self.location == job.source.location:
            return  # rows without a listing: the manifest was rebuilt from its shards
        if job.first_shared(self.digests) is None:
            raise CacheError(
                f"Expected the source of the cache {str(job.folder)!r}, {self.location!r}. Received: "
                f"{job.source.location!r}, which shares no image with it. Choose another --cache, or "
                "--replace-source if you mean it."
            )


def compare(job: Job, known: Known, *, rehash: bool, retry_failed: bool) -> list[int]:
    """List the source anew in ``job.entries`` and return the positions of images to send through the base.

    Files of the same name, size and time stamp (unless it is 0, which says nothing) are taken to be
    unchanged, if the source lies where it lay. Others that could be known images under a new name are
    hashed; their pixels are not needed.
    """
    same_place = known.location == job.source.location
    by_path = {entry.path: entry for entry in known.entries} if same_place and not rehash else {}
    stamps = {(entry.size, entry.mtime_ns) for entry in known.entries if entry.digest}
    todo, to_hash = [], []
    for position, item in enumerate(job.source.items):
        entry = Entry(item.path, item.label, None, item.group, item.size, item.mtime_ns, None, None)
        old = by_path.get(item.path)
        if old is not None and (old.size, old.mtime_ns) == (item.size, item.mtime_ns) and item.mtime_ns:
            if old.digest is not None and old.reason is None:
                split = job.policy.split_of(item, old.digest)
                if known.rows.issuperset(job.keys_in(split, old.digest)):
                    entry = entry._replace(digest=old.digest, split=split)
                else:
                    todo.append(position)
            elif old.reason is not None and old.digest is None:  # it could not be read; perhaps it can now
                to_hash.append(position)
            elif old.reason is not None and not retry_failed:
                entry = entry._replace(digest=old.digest, reason=old.reason)
            else:
                todo.append(position)
        elif known.rows and (not same_place or rehash or (item.size, item.mtime_ns) in stamps):
            to_hash.append(position)
        else:
            todo.append(position)
        job.entries.append(entry)
    items = [job.source.items[position] for position in to_hash]
    failed = {entry.digest: entry.reason for entry in known.entries if entry.reason and entry.digest}
    for position, (item, found, reason) in zip(to_hash, job.hash_items(items), strict=True):
        entry = job.entries[position]
        if found is not None and known.rows.issuperset(job.keys(item, found)):
            job.entries[position] = with_digest(job, item, entry, found)
        elif reason is not None or (found in failed and not retry_failed):
            job.entries[position] = entry._replace(digest=found, reason=reason or failed[found or b""])
        else:
            todo.append(position)
    return todo


def with_digest(job: Job, item: Item, entry: Entry, found: bytes | None) -> Entry:
    """Return an image's entry with its digest and the split that follows from it."""
    return entry._replace(digest=found, split=None if found is None else job.policy.split_of(item, found))
