"""What a source needs that a cache does not have: stage one before anything is computed."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featcache.cache import FeatureCache
from featcache.cache.description import read_description
from featcache.cache.listing import Listing
from featcache.cache.rows import RowTable
from featcache.cache.shard import Key
from featcache.errors import CacheError, FeatcacheError, ImageError, OptionError
from featcache.images.augmentation import Augmentation
from featcache.images.decoding import worth_another_try
from featcache.recipe import Recipe, Request
from featcache.sources import SPLITS, Digests, Item, Items, Source, SplitPolicy, Words, digest, folder_name, read_image
from featcache.sources.source import counted

if TYPE_CHECKING:
    from featcache.extraction.extractor import Extractor

log = logging.getLogger(__name__)


def row_keys(split: str, identity: bytes, views: int, augmentation: str) -> list[Key]:
    """Return the rows an image of a split must have: augmented views are for training images only."""
    return [Key(identity, view, augmentation if view else "") for view in range((views if split == "train" else 0) + 1)]


@dataclass
class Job:
    """One source, one recipe, one folder (the given one, or one under the root); the base is loaded when needed."""

    source: Source
    policy: SplitPolicy
    request: Request
    root: Path
    given: Path | None
    views: int
    augment: Augmentation | None
    rehash: bool = False
    passes: int = 1

    def __post_init__(self) -> None:
        self.augmentation = "" if self.augment is None else self.augment.fingerprint
        self.entries = Listing.of([])
        self.hashed: dict[str, bytes] = {}

    def keys(self, item: Item, identity: bytes) -> list[Key]:
        """Return the rows an image must have."""
        return row_keys(self.policy.split_of(item, identity), identity, self.views, self.augmentation)

    @cached_property
    def asked(self) -> dict[str, Any] | None:
        """The request, normalised, its files as they were before they were read."""
        return self.request.to_dict()

    @cached_property
    def extractor(self) -> Extractor:
        """The base, loaded."""
        from featcache.extraction.extractor import Extractor

        assert self.asked is not None or self.request.in_memory
        return Extractor(self.request, passes=self.passes)

    @cached_property
    def recipe(self) -> Recipe:
        """The request's recipe: from a cache with an equal request, else from the base, which `rehash` always reads."""
        wanted = self.asked
        if wanted is not None and (self.rehash or Request.may_have_changed(wanted)):
            return self.extractor.recipe
        for folder in self.root.glob("*") if self.given is None else [self.given]:
            if wanted is not None and (folder / "recipe.json").is_file():
                try:
                    described = read_description(folder)
                    if described.get("request") == wanted:
                        return Recipe.from_dict(described["recipe"])
                except FeatcacheError as error:
                    if self.given is not None:
                        raise
                    log.debug("passing over %s: %s", folder, error)
        return self.extractor.recipe

    @cached_property
    def folder(self) -> Path:
        """The cache's folder: the given one, else the default one, wherever its source has moved from."""
        if self.given is not None:
            return self.given
        ending = f"-{folder_name(self.request.base_name)}-{self.recipe.fingerprint[:8]}"
        default = self.root / f"{folder_name(self.source.name)}{ending}"
        if default.exists():
            if not self._belongs_to_another(default):
                return default
            mark = hashlib.sha256(self.source.location.encode("utf-8", "surrogateescape")).hexdigest()[:6]
            return self.root / f"{folder_name(self.source.name)}-{mark}{ending}"
        for other in sorted(self.root.glob(f"*{ending}")):
            if (other / "manifest.sqlite").is_file() and self._moved_from(other):
                here = self.source.location
                log.warning("%s was extracted from here before it was moved: continuing with %s", here, other)
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
            return gone and self.first_shared(Digests(cache.entries.digests).__contains__) is not None
        except FeatcacheError as error:
            log.debug("passing over %s: %s", other, error)
            return False

    def hash_items(
        self, items: Iterable[Item], *, keep: bool = True
    ) -> Iterator[tuple[Item, bytes | None, str | None]]:
        """Yield the digest of each image, read in parallel, or why it cannot be read; `keep` it for later."""

        def hashed(item: Item) -> tuple[Item, bytes | None, str | None]:
            found = self.hashed.get(item.path)
            if found is None:
                try:
                    found = digest(read_image(self.source, item))
                except ImageError as error:
                    return item, None, str(error)
                if keep:
                    self.hashed[item.path] = found
            return item, found, None

        with ThreadPoolExecutor(4, "featcache-hash") as pool:
            waiting = iter(items)
            while some := list(itertools.islice(waiting, 64)):
                yield from pool.map(hashed, some)

    def first_shared(self, known: Callable[[bytes], bool]) -> Item | None:
        """Return an image whose digest is known."""
        hashed = self.hash_items(self.source.items)
        return next((item for item, found, _ in hashed if found and known(found)), None)


class RowSet(Set[Key]):
    """The rows that there are: those of a cache's table, and what is added."""

    def __init__(self, table: RowTable | None) -> None:
        self.table, self.added = table, set[Key]()

    def __contains__(self, key: object) -> bool:
        return key in self.added or (self.table is not None and key in self.table)

    def __iter__(self) -> Iterator[Key]:
        return itertools.chain(self.table or (), self.added)

    def __len__(self) -> int:
        return len(self.table or ()) + len(self.added)

    def __bool__(self) -> bool:
        return bool(self.added or self.table)

    def update(self, keys: Iterable[Key]) -> None:
        """Add rows."""
        self.added.update(key for key in keys if key not in self)

    def have(self, digests: npt.NDArray[np.uint8], view: int, augmentation: str) -> npt.NDArray[np.bool_]:
        """Return of which images (k, 32) a cache had a view, shape (k,)."""
        if self.table is None:
            return np.zeros(len(digests), bool)
        found: npt.NDArray[np.bool_] = self.table.find(digests, view, augmentation) >= 0
        return found


class Known:
    """What a cache held before this extraction: the manifest's values, its listing and its rows."""

    def __init__(self, meta: dict[str, Any], entries: Listing, rows: RowTable | None) -> None:
        self.meta, self.entries, self.rows = meta, entries.load(), RowSet(rows)
        self.location = meta.get("source", {}).get("location")

    def check_same_source(self, job: Job) -> None:
        """Raise `CacheError` if the cache was made from a source that shares no image with the job's."""
        if not self.rows or not self.entries or self.location == job.source.location:
            return  # rows without a listing: the manifest was rebuilt from its shards
        if job.first_shared(lambda digest: Key(digest, 0, "") in self.rows) is None:
            raise CacheError(
                f"The cache {str(job.folder)!r} is of the source {self.location!r}, which shares no image with "
                f"{job.source.location!r}. Choose another `cache`, or use `replace_source` if you mean it."
            )


def compare(job: Job, known: Known, *, retry_failed: bool, ranked: bool = True) -> list[int]:
    """List the source again in ``job.entries`` and return the positions of images to send through the base.

    Files of the same name, size, time stamp and changes (unless these are 0, which says nothing) are taken to be
    unchanged, if the source lies where it lay. Others that could be known images are hashed, be it under a new name
    or in a place of their own again; their pixels are not needed. `ranked`: whether small classes are drawn by rank,
    which reads all their files.
    """
    items, old = Items.of(job.source.items), known.entries
    n, same_place = len(items), known.location == job.source.location
    before = _before(items, old) if same_place and not job.rehash else np.full(n, -1)
    alike = before >= 0
    for now, then in ((items.sizes, old.sizes), (items.stamps, old.stamps)):
        alike[alike] = now[alike] == then[before[alike]]
    unchanged = alike & (items.changes != 0)
    unchanged[unchanged] = items.changes[unchanged] == old.changes[before[unchanged]]
    read, failed = np.zeros(n, bool), np.zeros(n, bool)
    read[alike] = old.known[before[alike]]
    reasons = {}
    if old.reasons:
        bad = np.zeros(len(old), bool)
        bad[list(old.reasons)] = True
        failed[alike] = bad[before[alike]]
        reasons = {i: old.reasons[int(before[i])] for i in np.flatnonzero(unchanged & failed & read).tolist()}
    limit = job.request.max_pixels
    if retry_failed:
        reasons = {}
    reasons = {i: reason for i, reason in reasons.items() if not worth_another_try(reason, limit)}

    def identify(rows: npt.NDArray[np.integer[Any]]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Return digests, as the cache has them or of the files, and which could be read."""
        there = (unchanged & read)[rows]
        identities, readable = np.zeros((len(rows), 32), np.uint8), there.copy()
        identities[there] = old.digests[before[rows[there]]]
        readable |= items.groups.codes[rows] >= 0  # drawn by their group
        others = np.flatnonzero(~readable)
        unread = counted((items[j] for j in rows[others].tolist()), job.source.location)
        keep = bool(known.rows)  # most of them are hashed below
        for i, (_, identity, _) in zip(others, job.hash_items(unread, keep=keep), strict=True):
            if identity is not None:
                identities[i], readable[i] = np.frombuffer(identity, np.uint8), True
        return identities, readable

    if ranked:
        job.policy = _policy_of_before(job, known, items, unchanged) or job.policy.ranked(items, identify)
    settled, digests, splits = _settled(job, items, known, np.flatnonzero(unchanged & read & ~failed), before)
    to_hash = alike & failed & ~read  # it could not be read; perhaps it can now
    if known.rows:
        if not same_place or job.rehash:
            to_hash |= ~unchanged
        else:
            changed = np.flatnonzero(~unchanged)
            stamps = Digests(_stamps(old.sizes, old.stamps)[old.known])
            to_hash[changed] |= stamps.find(_stamps(items.sizes[changed], items.stamps[changed])) >= 0
    read = settled.copy()
    lasting = ((i, reason) for i, reason in old.reasons.items() if not worth_another_try(reason, limit))
    failures = {old.digests[i].tobytes(): reason for i, reason in lasting if old.known[i]}
    for i in reasons:
        read[i], digests[i] = True, old.digests[before[i]]
    todo = ~settled & ~to_hash
    todo[list(reasons)] = False
    positions = np.flatnonzero(to_hash).tolist()
    for position, (item, found, why) in zip(
        positions, job.hash_items(items[position] for position in positions), strict=True
    ):
        if found is not None and all(key in known.rows for key in job.keys(item, found)):
            splits[position] = SPLITS.index(job.policy.split_of(item, found))
        elif why is not None or (found in failures and not retry_failed):
            reasons[position] = why or failures[found or b""]
        else:
            todo[position] = True
            continue
        if found is not None:
            read[position], digests[position] = True, np.frombuffer(found, np.uint8)
    job.entries = Listing.listed(items, Words(splits, SPLITS), digests, read, reasons)
    return [int(position) for position in np.flatnonzero(todo)]


def _policy_of_before(job: Job, known: Known, items: Items, unchanged: npt.NDArray[np.bool_]) -> SplitPolicy | None:
    """Return the policy with the cutoffs that a cache keeps, if it was the same and nothing has changed since."""
    old = known.entries
    if items.splits.names or len(items) != len(old) or not (unchanged.all() and old.known.all()):
        return None
    if not (items.paths == old.paths and items.labels == old.labels and items.groups == old.groups):
        return None
    try:
        policy = SplitPolicy.from_listing(known.meta["listing"])
    except (KeyError, TypeError, OptionError):
        return None
    return policy if replace(policy, cutoffs={}, shared=()) == job.policy else None


def _before(items: Items, old: Listing) -> npt.NDArray[np.int64]:
    """Return where each image was in a listing, shape (n,), -1 where it was not."""
    if items.paths == old.paths:
        return np.arange(len(items))
    return Digests.of_texts(old.paths).find(Digests.of_texts(items.paths).rows)


def _settled(
    job: Job, items: Items, known: Known, unchanged: npt.NDArray[np.int64], before: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """Return which of the unchanged images have all their rows, and the digests and splits of these; shape (n, …)."""
    everything = len(unchanged) == len(items)
    some, own = (items, known.entries.digests) if everything else (items.take(unchanged), None)
    if own is None or len(own) != len(items) or (before != np.arange(len(items))).any():
        own = known.entries.digests[before[unchanged]]
    drawn = job.policy.splits_of(some, own).among(SPLITS).astype(np.int8)
    there = known.rows.have(own, 0, "")
    train = np.flatnonzero(there & (drawn == SPLITS.index("train")))
    for view in range(1, job.views + 1):
        there[train] &= known.rows.have(own[train], view, job.augmentation)
    if everything and there.all():
        return there, own, drawn
    settled, splits = np.zeros(len(items), bool), np.full(len(items), -1, np.int8)
    digests = np.zeros((len(items), 32), np.uint8)
    settled[unchanged], splits[unchanged[there]], digests[unchanged[there]] = there, drawn[there], own[there]
    return settled, digests, splits


def _stamps(sizes: npt.NDArray[Any], stamps: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return sizes and time stamps together, shape (n, 16)."""
    return np.stack([sizes, stamps], axis=1).astype("<i8").view(np.uint8).reshape(-1, 16)
