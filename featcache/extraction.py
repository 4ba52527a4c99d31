"""Stage one: plan → compute what is missing → commit."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from featcache import poison
from featcache.augmentation import Augmentation
from featcache.batching import BATCH_SIZE
from featcache.cache import CacheWriter, FeatureCache
from featcache.cache.manifest import Entry
from featcache.cache.shard import SHARD_ROWS, Compression, Key, ShardBuilder, check_compression
from featcache.cache.writer import check_recipe
from featcache.errors import CacheError, FeatcacheError, ImageError, OptionError
from featcache.planning import Job, Known, compare, with_digest
from featcache.profiling import Profile
from featcache.recipe import Dtype, Fill, Interpolation, Pooling, Precision, Preprocess, Request, Resize, Runtime
from featcache.sources import Item, Source, SplitPolicy, digest, open_source

if TYPE_CHECKING:
    from featcache.extractor import Progress

log = logging.getLogger(__name__)

_HINT_ABOVE = 1000
"""Images to compute above which a faster runtime is worth a line."""


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
    profile : dict or None
        Where the time went, if that was asked for: ``seconds`` by step, see `featcache.profiling.Profile`, and the
        ``bottleneck``.
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
    profile: dict[str, Any] | None = None


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
    precision: Precision = "float32",
    runtime: Runtime = "tensorflow",
    fast_decode: bool = False,
    classes: Sequence[str] | None = None,
    validation_split: float | None = None,
    test_split: float | None = None,
    test_from: tuple[str, float] | None = None,
    seed: int = 0,
    views: int = 0,
    augment: str | Augmentation | None = None,
    fill: Fill = "nearest",
    batch_size: int | None = None,
    shard_rows: int = SHARD_ROWS,
    compression: Compression = "none",
    on_error: Literal["skip", "fail"] = "skip",
    retry_failed: bool = False,
    rehash: bool = False,
    replace_source: bool = False,
    cache: str | os.PathLike[str] | None = None,
    cache_root: str | os.PathLike[str] = "cache",
    profile: bool = False,
    progress: Progress | None = None,
) -> FeatureCache:
    """Run a frozen base over a source once; compute only rows that are not in the cache yet.

    Parameters
    ----------
    source : str, path, Source or iterable of (image, label)
        As `featcache.sources.open_source` takes it.
    base, layers, settings, weights, pooling, image_size, resize, interpolation, preprocess, dtype
        As in `featcache.recipe.Request`.
    precision, runtime, fast_decode
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
    batch_size : int, optional
        Images per forward pass; decides no more than the last bits of features. Default: 32, or with thousands of
        images whichever of 8 to 128 a short trial finds fastest.
    shard_rows : int
        Rows per file at most: what a kill can cost.
    compression : {"none", "zstd", "lz4"}
        How the shards of this call are stored, without loss; needs the extra ``compression``. A cache may mix.
    on_error : {"skip", "fail"}
        Whether an image that cannot be read is recorded with its reason, or ends the extraction: the first
        in source order, which shards then follow too.
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
    profile : bool
        Note where the time goes, in the report.
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
    return Extraction(
        source,
        base=base,
        layers=layers,
        settings=settings,
        weights=weights,
        pooling=pooling,
        image_size=image_size,
        resize=resize,
        interpolation=interpolation,
        preprocess=preprocess,
        dtype=dtype,
        precision=precision,
        runtime=runtime,
        fast_decode=fast_decode,
        classes=classes,
        validation_split=validation_split,
        test_split=test_split,
        test_from=test_from,
        seed=seed,
        views=views,
        augment=augment,
        fill=fill,
        batch_size=batch_size,
        shard_rows=shard_rows,
        compression=compression,
        on_error=on_error,
        retry_failed=retry_failed,
        rehash=rehash,
        replace_source=replace_source,
        cache=cache,
        cache_root=cache_root,
        profile=profile,
    ).run(progress)


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """The arguments of `extract`, to be planned or run.

    Parameters
    ----------
    source, base, layers, …
        As those of `extract`.

    Raises
    ------
    OptionError
        If a value is not possible.
    CacheError
        If shards are to be compressed and hdf5plugin is not installed.
    """

    source: str | os.PathLike[str] | Source | Iterable[tuple[Any, Any]] = field(default="digits", kw_only=False)
    base: Any = "vgg19"
    layers: Sequence[str] = ()
    settings: Mapping[str, Any] | None = None
    weights: str | Path | None = None
    pooling: Pooling = "avg"
    image_size: int | tuple[int, int] | None = None
    resize: Resize = "stretch"
    interpolation: Interpolation = "bilinear"
    preprocess: Preprocess = "auto"
    dtype: Dtype = "float32"
    precision: Precision = "float32"
    runtime: Runtime = "tensorflow"
    fast_decode: bool = False
    classes: Sequence[str] | None = None
    validation_split: float | None = None
    test_split: float | None = None
    test_from: tuple[str, float] | None = None
    seed: int = 0
    views: int = 0
    augment: str | Augmentation | None = None
    fill: Fill = "nearest"
    batch_size: int | None = None
    shard_rows: int = SHARD_ROWS
    compression: Compression = "none"
    on_error: Literal["skip", "fail"] = "skip"
    retry_failed: bool = False
    rehash: bool = False
    replace_source: bool = False
    cache: str | os.PathLike[str] | None = None
    cache_root: str | os.PathLike[str] = "cache"
    profile: bool = False

    def __post_init__(self) -> None:
        if self.on_error not in ("skip", "fail"):
            raise OptionError(f"Expected on_error to be skip or fail. Received: {self.on_error!r}.")
        for name, least in (("batch_size", 1), ("shard_rows", 1), ("views", 0)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise OptionError(f"Expected {name} of {least} or more. Received: {getattr(self, name)}.")
        check_compression(self.compression)
        if bool(self.views) != (self.augment is not None):
            raise OptionError(
                f"Expected views and augment together. Received: views={self.views}, augment={self.augment!r}."
            )

    def run(self, progress: Progress | None = None) -> FeatureCache:
        """Do what `extract` does."""
        start = time.perf_counter()
        profile = Profile() if self.profile else None
        job = self._job()
        with (
            CacheWriter.open_for_writing(job.folder, job.recipe, job.request.to_dict()) as writer,
            poison.Journal(job.folder / "decoding") as journal,
        ):
            places = writer.rows()
            known = Known(writer.meta(), writer.listing(), places)
            todo = self._todo(job, known)
            failed = next((entry for entry in job.entries if entry.reason), None)
            if self.on_error == "fail" and failed:
                raise ImageError(f"{failed.path}: {failed.reason}")
            meta = self._meta(job, known)
            if job.entries != known.entries or any(known.meta.get(key) != value for key, value in meta.items()):
                writer.replace_listing(job.entries, meta)
            computed, nothing_to_do = 0, not todo
            if todo:
                if len(todo) > _HINT_ABOVE:
                    _hint(job.request)
                if self.compression == "none":  # else nobody knows how much it will be
                    _check_space(job, len(todo), meta["layers"])
                names = [name for name, _ in meta["layers"]]
                todo = _without_poison(job, writer, todo, known, journal.suspects, self.on_error)
                job.extractor.profile = profile
                computed = _compute(
                    job,
                    writer,
                    todo,
                    known.rows,
                    names,
                    self.batch_size or job.extractor.fastest_batch(len(todo) * (1 + self.views)),
                    self.shard_rows,
                    self.compression,
                    self.on_error,
                    journal,
                    progress,
                )
            result = FeatureCache(job.folder)
            if nothing_to_do:  # what was read under the lock is what there is
                result.adopt(job.entries, places)
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
            warnings=[*_one_sided_classes(result), *_contradictions(result)],
            profile=None if profile is None else {"seconds": profile.seconds, "bottleneck": profile.bottleneck},
        )
        return result

    def plan(self) -> ExtractionPlan:
        """Say what `run` would do, from the listing and a timed batch; write nothing."""
        job = self._job()
        known = Known({}, [], [])
        if (job.folder / "recipe.json").is_file():
            there = FeatureCache(job.folder)
            check_recipe(job.folder, there.recipe, job.recipe)
            layers = [[name, list(shape)] for name, shape in there.layers.items()]
            known = Known({"source": there.source, "layers": layers}, there.entries, there.places)
        todo = self._todo(job, known)
        layers = self._meta(job, known)["layers"]
        size = self.batch_size or BATCH_SIZE
        rate = _timed(job, [job.source.items[i] for i in todo[: 2 * size]], size) if todo else 0.0
        rows = len(todo) * (1 + self.views)
        return ExtractionPlan(
            cache=job.folder,
            images=len(job.source.items),
            rows_to_compute=rows,
            layers={name: tuple(shape) for name, shape in layers},
            bytes=rows * _row_bytes(job, layers),
            bytes_free=shutil.disk_usage(_existing(job.folder)).free,
            images_per_second=rate,
            seconds=len(todo) / rate if rate else 0.0,
        )

    def _job(self) -> Job:
        source = open_source(self.source, classes=self.classes)
        request = Request(
            base=self.base,
            settings=dict(self.settings or {}),
            weights=self.weights,
            layers=tuple(self.layers),
            pooling=self.pooling,
            image_size=self.image_size,
            resize=self.resize,
            interpolation=self.interpolation,
            preprocess=self.preprocess,
            dtype=self.dtype,
            precision=self.precision,
            runtime=self.runtime,
            fast_decode=self.fast_decode,
            seed=self.seed,
        )
        policy = SplitPolicy(self.validation_split, self.test_from, self.seed, self.test_split).settled(source)
        augment = self.augment
        if isinstance(augment, str):
            augment = Augmentation.parse(augment, fill=self.fill, seed=self.seed)
        folder = None if self.cache is None else Path(self.cache)
        return Job(source, policy, request, Path(self.cache_root), folder, self.views, augment)

    def _todo(self, job: Job, known: Known) -> list[int]:
        if not self.replace_source:
            known.check_same_source(job)
        return compare(job, known, rehash=self.rehash, retry_failed=self.retry_failed)

    def _meta(self, job: Job, known: Known) -> dict[str, Any]:
        """Return what the manifest keeps of source, listing and views, as it reads back from JSON."""
        meta = {
            "fingerprint": job.recipe.fingerprint,
            "layers": known.meta.get("layers") or list(job.extractor.layers.items()),
            "source": {"name": job.source.name, "location": job.source.location},
            "listing": {**asdict(job.policy), "classes": None if self.classes is None else list(self.classes)},
            "views": {
                "count": self.views,
                "augmentation": job.augmentation,
                "policy": None if job.augment is None else asdict(job.augment),
            },
        }
        result: dict[str, Any] = json.loads(json.dumps(meta))
        return result


@dataclass(frozen=True)
class ExtractionPlan:
    """What an extraction would do.

    Attributes
    ----------
    cache : Path
        Where.
    images : int
        Images of the source.
    rows_to_compute : int
        Rows that would go through the base at most: copies count here, and views of every image.
    layers : dict
        Shape of one row by layer.
    bytes, bytes_free : int
        Of these rows' features before any compression; of the disk.
    images_per_second, seconds : float
        As measured on a batch of them; how long they would take at that rate.
    """

    cache: Path
    images: int
    rows_to_compute: int
    layers: dict[str, tuple[int, ...]]
    bytes: int
    bytes_free: int
    images_per_second: float
    seconds: float


def _hint(request: Request) -> None:
    from featcache.runtimes import faster_on_this_cpu

    hint = faster_on_this_cpu(request)
    if hint:
        log.info("%s", hint)


def _row_bytes(job: Job, layers: Sequence[tuple[str, Sequence[int]]]) -> int:
    return sum(math.prod(shape) for _, shape in layers) * np.dtype(job.recipe.dtype).itemsize


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _check_space(job: Job, images: int, layers: Sequence[tuple[str, Sequence[int]]]) -> None:
    """Raise `CacheError` if the plain features of so many images cannot fit on the disk."""
    needed, free = images * _row_bytes(job, layers), shutil.disk_usage(job.folder).free
    if needed > free:
        raise CacheError(
            f"Expected {needed / 1e9:.2f} GB of free space in {str(job.folder)!r} for {images} images. Received: "
            f"{free / 1e9:.2f} GB. Free some space, choose another --cache, or take --pooling avg or --dtype float16."
        )


def _timed(job: Job, items: Sequence[Item], batch_size: int) -> float:
    """Return images per second over the second half of some images; the first warms up."""
    half = len(items) // 2
    stream = job.extractor.stream(job.source, items, batch_size=batch_size)
    for _ in itertools.islice(stream, half):
        pass
    start = time.perf_counter()
    count = sum(1 for _ in stream)
    return count / (time.perf_counter() - start)


def _without_poison(
    job: Job, writer: CacheWriter, todo: Sequence[int], known: Known, suspects: set[str], on_error: str
) -> list[int]:
    """Let another process decode the suspects first; record the guilty ones and return the others.

    Guilt is committed at once: whatever happens next, the image is not decoded here.
    """
    suspects = suspects | {entry.path for entry in known.entries if poison.is_poison(entry.reason)}
    suspected = [position for position in todo if job.entries[position].path in suspects]
    guilty = set()
    if suspected:
        with poison.Probe(job.extractor.spec) as probe:
            for position in suspected:
                item = job.source.items[position]
                try:
                    content = job.source.read(item)
                except ImageError:
                    continue
                reason = probe.reason(content) if isinstance(content, bytes) else None
                if reason is not None:
                    entry = job.entries[position]._replace(digest=digest(content), reason=reason)
                    writer.commit(None, [(position, entry)])
                    guilty.add(position)
                    poison.blamed()
                    if on_error == "fail":
                        raise ImageError(f"{item.path}: {reason}")
                    log.warning("skipped %s: %s", item.path, reason)
    return [position for position in todo if position not in guilty]


def _compute(
    job: Job,
    writer: CacheWriter,
    todo: Sequence[int],
    known: set[Key],
    layer_names: Sequence[str],
    batch_size: int,
    shard_rows: int,
    compression: Compression,
    on_error: str,
    journal: poison.Journal,
    progress: Progress | None,
) -> int:
    """Send images through the base, shard by shard, and return the number of rows computed.

    The order is shuffled by a hash of the path, so that every shard is a random sample; a sequential
    source keeps its own, and so does a run that is to end at the first image that fails.
    """
    if job.extractor.recipe != job.recipe:
        raise CacheError(
            f"Expected the base that {str(job.folder)!r} was made with. Received another behind the same names and "
            f"time stamps: {'; '.join(job.recipe.differences(job.extractor.recipe))}. Choose another --cache."
        )
    order = sorted(todo)
    if not job.source.sequential and on_error == "skip":
        order.sort(key=lambda i: hashlib.sha256(os.fsencode(job.entries[i].path)).digest())
    shapes = dict(zip(layer_names, job.extractor.layers.values(), strict=True))
    computed = 0

    def empty() -> ShardBuilder:
        return ShardBuilder(job.recipe, shapes, shard_rows, job.augmentation, compression)

    builder = empty()
    settled: list[tuple[int, Entry]] = []

    def wanted(item: Item, identity: bytes) -> list[int]:
        return [key.view for key in job.keys(item, identity) if key not in known]

    items = [job.source.items[position] for position in order]
    stream = job.extractor.stream(
        job.source, items, wanted=wanted, augmentation=job.augment, batch_size=batch_size, journal=journal
    )
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
                settled.append((position, with_digest(job, item, entry, identity)))
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
                builder, settled = empty(), []
            if progress is not None:
                progress(done, len(order))
    except (KeyboardInterrupt, FeatcacheError) as error:
        stream.close()
        if not isinstance(error, CacheError):
            writer.commit(builder, settled)  # what is done is done
        raise
    writer.commit(builder, settled)
    return computed


def _contradictions(cache: FeatureCache) -> list[str]:
    """Name the images that are in two classes."""
    seen: dict[bytes, Entry] = {}
    found = []
    for entry in cache.entries:
        if entry.digest is not None and entry.reason is None:
            first = seen.setdefault(entry.digest, entry)
            if first.label != entry.label:
                found.append(f"one image has two labels: {first.path} ({first.label}), {entry.path} ({entry.label})")
    return found if len(found) <= 10 else [*found[:10], f"{len(found) - 10} more images have two labels"]


def _one_sided_classes(cache: FeatureCache) -> list[str]:
    """Name the classes that have no image in a split that others have."""
    present = {split: set(np.unique(cache.labels(split)).tolist()) for split in cache.splits}
    return [
        f"class {name!r} has no image in {split}"
        for split, labels in present.items()
        for index, name in enumerate(cache.class_names)
        if index not in labels
    ]
