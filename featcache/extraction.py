"""Stage one: plan → compute what is missing → commit."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from featcache.augmentation import Augmentation, Fill
from featcache.cache import CacheWriter, FeatureCache
from featcache.cache.manifest import Entry
from featcache.cache.reader import read_description
from featcache.cache.shard import SHARD_ROWS, Key, ShardBuilder
from featcache.errors import CacheError, FeatcacheError, ImageError, OptionError
from featcache.recipe import Dtype, Interpolation, Pooling, Preprocess, Recipe, Request, Resize
from featcache.sources import Item, Source, SplitPolicy, digest, folder_name, open_source

if TYPE_CHECKING:
    from featcache.extractor import Extractor, Progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtractionReport:
    """What one call of `extract` did.

    Attributes
    ----------
    cache : Path
        The cache's folder.
    images : int
        Images of the source that have features now.
    rows : int
        Rows they have: images, and augmented views of training images.
    computed : int
        Rows that went through the base in this call.
    reused : int
        Rows that were there already (or belong to copies of another image).
    skipped : list of dict
        ``path`` and ``reason`` of every image without features.
    seconds, images_per_second : float
        Of the whole call; computed images per second.
    bytes : int
        Of all shards.
    warnings : list of str
        What the caller should know.
    """

    cache: Path
    images: int
    rows: int
    computed: int
    reused: int
    skipped: list[dict[str, str]]
    seconds: float
    images_per_second: float
    bytes: int
    warnings: list[str] = field(default_factory=list)


def extract(
    source: str | os.PathLike[str] | Source | Iterable[tuple[Any, Any]] = "digits",
    *,
    base: Any = "vgg19",
    layers: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    pooling: Pooling = "avg",
    image_size: int | tuple[int, int] | None = None,
    resize: Resize = "stretch",
    interpolation: Interpolation = "bilinear",
    preprocess: Preprocess = "auto",
    dtype: Dtype = "float32",
    classes: Sequence[str] | None = None,
    validation_split: float | None = None,
    test_split: float | None = None,
    test_from: tuple[str, float] | None = None,
    seed: int = 0,
    views: int = 0,
    augment: str | Augmentation | None = None,
    fill: Fill = "nearest",
    batch_size: int = 32,
    shard_rows: int = SHARD_ROWS,
    on_error: Literal["skip", "fail"] = "skip",
    retry_failed: bool = False,
    rehash: bool = False,
    replace_source: bool = False,
    cache: str | os.PathLike[str] | None = None,
    cache_root: str | os.PathLike[str] = "cache",
    progress: Progress | None = None,
) -> FeatureCache:
    """Run a frozen base over a source once; compute only rows that are not in the cache yet.

    Parameters
    ----------
    source : str, path, Source or iterable of (image, label)
        As `featcache.sources.open_source` takes it.
    base, layers, settings, weights, pooling, image_size, resize, interpolation, preprocess, dtype
        As in `featcache.recipe.Request`.
    classes : sequence of str, optional
        Keep these classes only.
    validation_split, test_split, test_from, seed
        As in `featcache.sources.SplitPolicy`; `seed` also draws the views and initialises ``weights="none"``.
    views : int
        Augmented views of each training image, beside the image as it is.
    augment : str or Augmentation
        How views are made, such as ``"flip,rotation=0.2"``; see `featcache.augmentation.Augmentation`.
    fill : {"nearest", "reflect", "constant"}
        What appears beyond an augmented image's edges.
    batch_size : int
        Images per forward pass.
    shard_rows : int
        Rows per file at most: what a kill can cost.
    on_error : {"skip", "fail"}
        Whether an image that cannot be read is recorded with its reason, or ends the extraction.
    retry_failed : bool
        Try images again that failed before and have not changed.
    rehash : bool
        Read every file, even where size and time stamp say that it has not changed.
    replace_source : bool
        Let a cache go over to a source it shares no image with.
    cache : path, optional
        The cache's own folder; default: ``<cache_root>/<source>-<base>-<fingerprint8>``.
    cache_root : path
        Where default caches lie.
    progress : callable, optional
        Called with (done, to do).

    Returns
    -------
    FeatureCache
        Opened for reading; its ``report`` is the `ExtractionReport`.

    Raises
    ------
    SourceError, OptionError, BaseError, CacheError
        See `featcache.errors`. Rows committed before an error stay; the next call goes on.
    ImageError
        If an image fails and `on_error` is ``"fail"``.
    """
    if on_error not in ("skip", "fail"):
        raise OptionError(f"Expected on_error to be skip or fail. Received: {on_error!r}.")
    for name, value, least in (("batch_size", batch_size, 1), ("shard_rows", shard_rows, 1), ("views", views, 0)):
        if value < least:
            raise OptionError(f"Expected {name} of {least} or more. Received: {value}.")
    if bool(views) != (augment is not None):
        raise OptionError(f"Expected views and augment together. Received: views={views}, augment={augment!r}.")
    if isinstance(augment, str):
        augment = Augmentation.parse(augment, fill=fill, seed=seed)
    start = time.perf_counter()
    opened_source = open_source(source, classes=classes)
    request = Request(
        base=base,
        settings=dict(settings or {}),
        weights=weights,
        layers=tuple(layers),
        pooling=pooling,
        image_size=image_size,
        resize=resize,
        interpolation=interpolation,
        preprocess=preprocess,
        dtype=dtype,
        seed=seed,
    )
    policy = SplitPolicy(validation_split, test_from, seed, test_split).settled(opened_source)
    folder = None if cache is None else Path(cache)
    job = _Job(opened_source, policy, request, Path(cache_root), folder, views, augment)
    with CacheWriter.open_for_writing(job.folder, job.recipe, request.to_dict()) as writer:
        known = _Known(writer)
        if not replace_source:
            known.check_same_source(job)
        todo = _compare(job, known, rehash=rehash, retry_failed=retry_failed)
        failed = next((entry for entry in job.entries if entry.reason), None)
        if on_error == "fail" and failed:
            raise ImageError(f"{failed.path}: {failed.reason}")
        meta = {
            "fingerprint": job.recipe.fingerprint,
            "layers": known.meta.get("layers") or [[n, list(s)] for n, s in job.extractor.layers.items()],
            "source": {"name": opened_source.name, "location": opened_source.location},
            "listing": {**asdict(policy), "classes": None if classes is None else list(classes)},
            "views": {
                "count": views,
                "augmentation": job.augmentation,
                "policy": None if augment is None else asdict(augment),
            },
        }
        meta = json.loads(json.dumps(meta))
        if job.entries != known.entries or any(known.meta.get(key) != value for key, value in meta.items()):
            writer.replace_listing(job.entries, meta)
        computed = 0
        if todo:
            names = [name for name, _ in meta["layers"]]
            computed = _compute(job, writer, todo, known.rows, names, batch_size, shard_rows, on_error, progress)
    result = FeatureCache(job.folder)
    seconds = time.perf_counter() - start
    result.report = ExtractionReport(
        cache=job.folder,
        images=len(result),
        rows=result.rows,
        computed=computed,
        reused=result.rows - computed,
        skipped=result.skipped,
        seconds=seconds,
        images_per_second=computed / seconds,
        bytes=sum(shard.size for shard in result.shards.values()),
        warnings=_one_sided_classes(result),
    )
    return result


class _Job:
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
        views = self.views if self.policy.split_of(item, identity) == "train" else 0
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
            return default
        for other in sorted(self._root.glob(f"*{ending}")):
            if (other / "manifest.sqlite").is_file() and self._moved_from(other):
                log.warning("%s was extracted from here before it was moved: going on with %s",
                            self.source.location, other)  # fmt: skip
                return other
        return default

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


class _Known:
    """What a cache held before this extraction."""

    def __init__(self, writer: CacheWriter) -> None:
        self.meta = writer.meta()
        self.entries = writer.listing()
        self.rows = set(writer.rows())
        self.digests = {key.digest for key in self.rows if key.view == 0}
        self.location = self.meta.get("source", {}).get("location")

    def check_same_source(self, job: _Job) -> None:
        """Raise `CacheError` if the cache was made from a source that shares no image with the job's."""
        if not self.rows or not self.entries or self.location == job.source.location:
            return  # rows without a listing: the manifest was rebuilt from its shards
        if job.first_shared(self.digests) is None:
            raise CacheError(
                f"Expected the source of the cache {str(job.folder)!r}, {self.location!r}. Received: "
                f"{job.source.location!r}, which shares no image with it. Choose another --cache, or "
                "--replace-source if you mean it."
            )


def _compare(job: _Job, known: _Known, *, rehash: bool, retry_failed: bool) -> list[int]:
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
            if old.digest is not None and old.reason is None and known.rows.issuperset(job.keys(item, old.digest)):
                entry = _with_digest(job, item, entry, old.digest)
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
            job.entries[position] = _with_digest(job, item, entry, found)
        elif reason is not None or (found in failed and not retry_failed):
            job.entries[position] = entry._replace(digest=found, reason=reason or failed[found or b""])
        else:
            todo.append(position)
    return todo


def _with_digest(job: _Job, item: Item, entry: Entry, found: bytes | None) -> Entry:
    return entry._replace(digest=found, split=None if found is None else job.policy.split_of(item, found))


def _compute(
    job: _Job,
    writer: CacheWriter,
    todo: Sequence[int],
    known: set[Key],
    layer_names: Sequence[str],
    batch_size: int,
    shard_rows: int,
    on_error: str,
    progress: Progress | None,
) -> int:
    """Send images through the base, shard by shard, and return the number of rows computed.

    The order is shuffled by a hash of the path, so that every shard is a random sample; a sequential
    source keeps its own.
    """
    if job.extractor.recipe != job.recipe:
        raise CacheError(
            f"Expected the base that {str(job.folder)!r} was made with. Received another behind the same names and "
            f"time stamps: {'; '.join(job.recipe.differences(job.extractor.recipe))}. Choose another --cache."
        )
    order = sorted(todo)
    if not job.source.sequential:
        order.sort(key=lambda i: hashlib.sha256(os.fsencode(job.entries[i].path)).digest())
    shapes = dict(zip(layer_names, job.extractor.layers.values(), strict=True))
    computed = 0
    builder = ShardBuilder(job.recipe, shapes, shard_rows, job.augmentation)
    settled: list[tuple[int, Entry]] = []

    def wanted(item: Item, identity: bytes) -> list[int]:
        return [key.view for key in job.keys(item, identity) if key not in known]

    items = [job.source.items[position] for position in order]
    stream = job.extractor.stream(job.source, items, wanted=wanted, augmentation=job.augment, batch_size=batch_size)
    try:
        for done, (position, extracted) in enumerate(zip(order, stream, strict=True), 1):
            item, identity = extracted.item, extracted.digest
            entry = job.entries[position]
            if extracted.reason is not None:
                settled.append((position, entry._replace(digest=identity, reason=extracted.reason)))
                if on_error == "fail":
                    raise ImageError(f"{item.path}: {extracted.reason}")
                log.warning("skipped %s: %s", item.path, extracted.reason)
            elif identity is not None:
                settled.append((position, _with_digest(job, item, entry, identity)))
                for view, features in extracted.views.items():
                    key = Key(identity, view, job.augmentation if view else "")
                    if key not in known:  # a copy of this image may have come first
                        builder.append(
                            identity, item.path, dict(zip(layer_names, features.values(), strict=True)), view
                        )
                        known.add(key)
                        computed += 1
            if builder.full:
                writer.commit(builder, settled)
                builder, settled = ShardBuilder(job.recipe, shapes, shard_rows, job.augmentation), []
            if progress is not None:
                progress(done, len(order))
    except (KeyboardInterrupt, FeatcacheError) as error:
        if not isinstance(error, CacheError):
            writer.commit(builder, settled)  # what is done is done
        raise
    writer.commit(builder, settled)
    return computed


def _one_sided_classes(cache: FeatureCache) -> list[str]:
    """Name the classes that have no image in a split that others have."""
    present = {split: set(cache.labels(split).tolist()) for split in cache.splits}
    return [
        f"class {name!r} has no image in {split}"
        for split, labels in present.items()
        for index, name in enumerate(cache.class_names)
        if index not in labels
    ]
