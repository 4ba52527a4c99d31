"""What is to be computed, cut into tasks, and what becomes of each."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache.shard import SHARD_BYTES, Key, ShardInfo
from featcache.errors import OptionError
from featcache.extraction.planning import row_keys
from featcache.images.augmentation import Augmentation
from featcache.options import Compression, Progress
from featcache.recipe import Recipe, Request, canonical_json
from featcache.sources import Item, Items, Selected, Source, SplitPolicy
from featcache.sources.arrays import PartsSource
from featcache.sources.files import FileSource
from featcache.sources.opening import reopen
from featcache.sources.pairs import PairSource


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all tasks of a run have in common; it can be sent to other processes.

    `shapes` are those of one row by layer, named as the manifest names them. `source` reads the items; it is None if a
    process that gets it opens that itself (`reader`), from what `described` and `classes` say. `folder` is the cache's,
    absolute, `size` the images of a task.
    """

    request: Request
    recipe: Recipe
    shapes: Mapping[str, tuple[int, ...]]
    source: Source | None
    described: Mapping[str, Any]
    classes: Sequence[str] | None
    policy: SplitPolicy
    views: int
    augment: Augmentation | None
    folder: Path
    size: int
    batch_size: int
    shard_rows: int
    compression: Compression
    on_error: str

    @property
    def augmentation(self) -> str:
        """Fingerprint of how views are made, empty without any."""
        return "" if self.augment is None else self.augment.fingerprint

    @cached_property
    def splits(self) -> str:
        """SHA-256 of how images are split, empty where it decides no rows: training images alone have views."""
        return hashlib.sha256(canonical_json(asdict(self.policy)).encode()).hexdigest() if self.views else ""

    def keys(self, item: Item, identity: bytes) -> list[Key]:
        """Return the rows an image must have."""
        return row_keys(self.policy.split_of(item, identity), identity, self.views, self.augmentation)

    def reader(self) -> Source:
        """Return the source, opened here."""
        return reopen(self.described, classes=self.classes) if self.source is None else self.source


@dataclass(frozen=True)
class Task:
    """Images that are computed together, by position in the source's listing: what a killed worker costs.

    The items are in columns until they are sent to another process.
    """

    number: int
    positions: tuple[int, ...]
    items: Sequence[Item]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "items": tuple(self.items)}  # without the names that columns share

    def name(self, work: Work) -> str:
        """Return 16 hex digits that stand for these images, unchanged, and what is to be made of them."""
        images = [[item.path, item.size, item.mtime_ns] for item in self.items]
        location = work.described["location"]
        what = [work.recipe.fingerprint, location, work.augmentation, work.views, work.splits, work.batch_size, images]
        return hashlib.sha256(canonical_json(what).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Its shards are published but not committed. `images` has the digest of each, in order, if it could be read, and why
    it has no row, if it has none; fewer than the task's if it stopped at one, for which `failure` is the path and
    reason. `said` is to be logged where the run was started. `found`: a former run had done it.
    """

    number: int
    shards: list[tuple[ShardInfo, list[Key]]]
    images: list[tuple[bytes | None, str | None]]
    failure: str | None = None
    said: list[tuple[int, str]] = field(default_factory=list)
    found: bool = False


Done = Callable[[int], None]
"""Called with how many more images are done."""


def counted(tasks: Sequence[Task], progress: Progress | None) -> Done:
    """Return what adds up images done, for progress out of all."""
    total, count = sum(len(task.items) for task in tasks), 0

    def done(more: int) -> None:
        nonlocal count
        count += more
        if progress is not None and more:
            progress(min(count, total), total)

    return done


def task_size(row_bytes: int, *, views: int, shard_rows: int, batch_size: int) -> int:
    """Return how many images make a task: one shard's, or a batch's if a shard holds fewer rows of such maps.

    Where bytes are what limits a shard, batches of a task are whole ones.
    """
    by_bytes = max(1, SHARD_BYTES // row_bytes // (1 + views) // batch_size) * batch_size
    return max(1, min(by_bytes, shard_rows // (1 + views)))


def in_order(positions: Sequence[int], paths: Sequence[str], *, shuffled: bool) -> list[int]:
    """Return positions as they go into shards: as listed, or by a hash of their path, so that each is a sample."""
    order = sorted(positions)
    if shuffled:
        order.sort(key=lambda i: hashlib.sha256(os.fsencode(paths[i])).digest())
    return order


def cut(order: Sequence[int], items: Sequence[Item], size: int) -> list[Task]:
    """Cut images, given by their positions, into tasks of `size`."""
    columns, pieces = Items.of(items), (order[start : start + size] for start in range(0, len(order), size))
    return [Task(number, tuple(piece), columns.take(np.array(piece))) for number, piece in enumerate(pieces)]


def travelling(source: Source, given: object, engine: str) -> Source | None:
    """Return a source without its listing for another process, None if that process opens it again itself.

    One in this process's memory only is an `OptionError`.
    """
    origin = source.origin if isinstance(source, Selected) else source
    if isinstance(origin, FileSource):
        light = copy.copy(origin)
        light.items = Items.of([])
        return light
    if isinstance(given, str | os.PathLike):
        return None
    if isinstance(origin, PairSource | PartsSource):
        raise OptionError(
            f"Images in memory cannot be read by other processes (`engine` {engine}). Use `engine` local, or "
            "write them to files."
        )
    return origin
