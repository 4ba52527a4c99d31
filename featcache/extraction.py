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

from featcache.cache import CacheWriter, FeatureCache
from featcache.cache.manifest import Entry
from featcache.cache.reader import read_description
from featcache.cache.shard import SHARD_ROWS, ShardBuilder
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
    rows : int
        Images of the source that have features now.
    computed : int
        Rows that went through the base in this call.
    reused : int
        Images whose row was there already (or that are copies of another image).
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
        As in `featcache.recipe.Request`; an integer `image_size` means a square.
    classes : sequence of str, optional
        Keep these classes only.
    validation_split, test_split, test_from, seed
        As in `featcache.sources.SplitPolicy`; `seed` also initialises ``weights="none"``.
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
    for name, value in (("batch_size", batch_size), ("shard_rows", shard_rows)):
        if value < 1:
            raise OptionError(f"Expected {name} of 1 or more. Received: {value}.")
    start = time.perf_counter()
    opened_source = open_source(source, classes=classes)
    request = Request(
        base=base,
        settings=dict(settings or {}),
        weights=weights,
        layers=tuple(layers),
        pooling=pooling,
        image_size=(image_size, image_size) if isinstance(image_size, int) else image_size,
        resize=resize,
        interpolation=interpolation,
        preprocess=preprocess,
        dtype=dtype,
        seed=seed,
    )
    policy = SplitPolicy(validation_split, test_from, seed, test_split).settled(opened_source)
    job = _Job(opened_source, policy, request, Path(cache_root), None if cache is None else Path(cache))
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
        rows=len(result),
        computed=computed,
        reused=len(result) - computed,
        skipped=result.skipped,
        seconds=seconds,
        images_per_second=computed / seconds,
        bytes=sum(shard.size for shard in result.shards.values()),
        warnings=_one_sided_classes(result),
    )
    return result


class _Job:
    """One source, one recipe, one folder; the base is loaded when something first needs it."""

    def __init__(self, source: Source, policy: SplitPolicy, request: Request, root: Path, folder: Path | None) -> None:
        self.source, self.policy, self.request = source, policy, request
        self.entries: list[Entry] = []
        self.hashed: dict[str, bytes] = {}
        self._root, self._given = root, folder

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
                described = read_description(folder)
                if described.get("request") == wanted:
                    return Recipe.from_dict(described["recipe"])
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
        """Whether a cache's source lay elsewhere, is no longer there, and had an image of this one."""
        cache = FeatureCache(other)
        location = Path(cache.source["location"])
        gone = location.is_absolute() and not location.exists()
        return gone and self.first_shared({entry.digest for entry in cache.entries}) is not None

    def hash_items(self, items: Iterable[Item]) -> Iterator[tuple[Item, bytes | None]]:
        """Yield the digest of each image, read in parallel; None if it cannot be read."""

        def hashed(item: Item) -> tuple[Item, bytes | None]:
            if item.path not in self.hashed:
                try:
                    self.hashed[item.path] = digest(self.source.read(item))
                except ImageError:
                    return item, None
            return item, self.hashed[item.path]

        with ThreadPoolExecutor(4, "featcache-hash") as pool:
            waiting = iter(items)
            while some := list(itertools.islice(waiting, 64)):
                yield from pool.map(hashed, some)

    def first_shared(self, digests: Container[bytes | None]) -> Item | None:
        """Return an image whose digest is among the given ones."""
        return next((item for item, found in self.hash_items(self.source.items) if found and found in digests), None)


class _Known:
    """What a cache held before this extraction."""

    def __init__(self, writer: CacheWriter) -> None:
        self.meta = writer.meta()
        self.entries = writer.listing()
        self.rows = {key.digest for key in writer.rows() if key.view == 0}
        self.location = self.meta.get("source", {}).get("location")

    def check_same_source(self, job: _Job) -> None:
        """Raise `CacheError` if the cache was made from a source that shares no image with the job's."""
        if not self.rows or self.location == job.source.location:
            return
        if job.first_shared(self.rows) is None:
            raise CacheError(
                f"Expected the source of the cache {str(job.folder)!r}, {self.location!r}. Received: "
                f"{job.source.location!r}, which shares no image with it. Choose another --cache, or "
                "--replace-source if you mean it."
            )


def _compare(job: _Job, known: _Known, *, rehash: bool, retry_failed: bool) -> list[int]:
    """List the source anew in ``job.entries`` and return the positions of images to send through the base.

    Files of the same name, size and time stamp are taken to be unchanged, if the source lies where it
    lay. Others that could be known images under a new name are hashed; their pixels are not needed.
    """
    same_place = known.location == job.source.location
    by_path = {entry.path: entry for entry in known.entries} if same_place and not rehash else {}
    stamps = {(entry.size, entry.mtime_ns) for entry in known.entries if entry.digest}
    todo, to_hash = [], []
    for position, item in enumerate(job.source.items):
        entry = Entry(item.path, item.label, None, item.group, item.size, item.mtime_ns, None, None)
        old = by_path.get(item.path)
        if old is not None and (old.size, old.mtime_ns) == (item.size, item.mtime_ns):
            if old.digest in known.rows and old.reason is None:
                entry = _with_digest(job, item, entry, old.digest)
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
    for position, (item, found) in zip(to_hash, job.hash_items(items), strict=True):
        if found in known.rows:
            job.entries[position] = _with_digest(job, item, job.entries[position], found)
        else:
            todo.append(position)
    return todo


def _with_digest(job: _Job, item: Item, entry: Entry, found: bytes | None) -> Entry:
    return entry._replace(digest=found, split=None if found is None else job.policy.split_of(item, found))


def _compute(
    job: _Job,
    writer: CacheWriter,
    todo: Sequence[int],
    known: set[bytes],
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
    order = sorted(todo)
    if not job.source.sequential:
        order.sort(key=lambda i: hashlib.sha256(os.fsencode(job.entries[i].path)).digest())
    shapes = dict(zip(layer_names, job.extractor.layers.values(), strict=True))
    computed = 0
    builder = ShardBuilder(job.recipe, shapes, shard_rows)
    settled: list[tuple[int, Entry]] = []
    items = [job.source.items[position] for position in order]
    stream = job.extractor.stream(job.source, items, known=known, batch_size=batch_size)
    try:
        for done, (position, extracted) in enumerate(zip(order, stream, strict=True), 1):
            entry = _with_digest(job, extracted.item, job.entries[position], extracted.digest)
            settled.append((position, entry._replace(reason=extracted.reason)))
            if extracted.reason is not None:
                if on_error == "fail":
                    raise ImageError(f"{extracted.item.path}: {extracted.reason}")
                log.warning("skipped %s: %s", extracted.item.path, extracted.reason)
            elif extracted.features is not None and extracted.digest not in known:
                assert extracted.digest is not None
                builder.append(
                    extracted.digest,
                    extracted.item.path,
                    dict(zip(layer_names, extracted.features.values(), strict=True)),
                )
                known.add(extracted.digest)
                computed += 1
            if builder.full:
                writer.commit(builder, settled)
                builder, settled = ShardBuilder(job.recipe, shapes, shard_rows), []
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
