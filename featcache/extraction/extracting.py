"""Stage one: plan → compute what is missing → commit."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featcache.bases.finding import keep_base
from featcache.cache import CacheWriter, FeatureCache
from featcache.cache.description import check_recipe
from featcache.cache.listing import Listing
from featcache.cache.shard import check_compression
from featcache.errors import CacheError, ImageError, OptionError
from featcache.extraction.cache_warnings import cache_warnings
from featcache.extraction.engines.driving import Driver, check_engine
from featcache.extraction.engines.parts import run_part
from featcache.extraction.engines.running import Runner
from featcache.extraction.engines.tasks import Task, Work, counted, cut, in_order, task_size, travelling
from featcache.extraction.planning import Job, Known, compare
from featcache.extraction.profiling import Profile
from featcache.images.augmentation import Augmentation
from featcache.images.decode_crashes import Journal, find_culprits, is_decode_crash
from featcache.options import BATCH_SIZE, ExtractOptions, Progress, subset, takes
from featcache.recipe import Request
from featcache.saved.base import NAME as BASE_FOLDER
from featcache.sources import Item, Source, SourceOptions, SplitPolicy
from featcache.sources.opening import describe, open_source
from featcache.system.progress import shown

log = logging.getLogger(__name__)
skips = logging.getLogger("featcache.skipped")

MOST_VIEWS = 65_535
"""A view's number has two bytes in a shard."""
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
        Where the time went, if that was asked for: ``seconds`` by step and the ``bottleneck``, see
        `featcache.extraction.profiling.Profile`.
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


class Extraction(ExtractOptions):
    """The options of `extract`, to be planned or run; `OptionError` or `CacheError` if they are not possible.

    `passes` is how many forward passes this process is set up to run at once; `on_culprit` is called when an image was
    found to crash or hang whoever decodes it.
    """

    passes: int = field(default=1, kw_only=True)
    on_culprit: Callable[[], None] = field(default=lambda: None, kw_only=True)

    def __post_init__(self) -> None:
        if self.on_error not in ("skip", "fail"):
            raise OptionError(f"`on_error` must be skip or fail. Received: {self.on_error!r}.")
        for name, least in (("batch_size", 1), ("shard_rows", 1), ("views", 0)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise OptionError(f"`{name}` must be {least} or more. Received: {getattr(self, name)}.")
        if self.views > MOST_VIEWS:
            raise OptionError(f"`views` can be {MOST_VIEWS:,} at most. Received: {self.views:,}.")
        check_compression(self.compression)
        check_engine(self.engine, self.workers, self.scheduler)
        if bool(self.views) != (self.augment is not None):
            raise OptionError(
                f"`views` and `augment` belong together. Received: views={self.views}, augment={self.augment!r}."
            )

    @property
    def _progress(self) -> Progress | None:
        return None if isinstance(self.progress, bool) else self.progress

    def run(self) -> FeatureCache:
        """Do what `extract` does, without a bar."""
        start = time.perf_counter()
        profile = Profile() if self.profile else None
        job = self._job()
        with (
            CacheWriter.open_for_writing(job.folder, job.recipe, job.asked) as writer,
            Journal(job.folder / "decoding") as journal,
        ):
            places, shards = writer.stored()
            known = Known(writer.meta(), writer.listing(), places)
            todo = self._todo(job, known)
            if self.on_error == "fail" and job.entries.reasons:
                first, reason = min(job.entries.reasons.items())
                raise ImageError(f"{job.entries.paths[first]}: {reason}")
            meta = self._meta(job, known)
            if job.entries != known.entries or any(known.meta.get(key) != value for key, value in meta.items()):
                writer.replace_listing(job.entries, meta)
            nothing_to_do = not todo
            if todo:
                with writer.changing():  # who wrote before must stop now, not when the first shard is done
                    pass
                if len(todo) > _HINT_ABOVE:
                    from featcache.bases.runtimes import faster_on_this_cpu

                    if hint := faster_on_this_cpu(job.request):
                        log.info("%s", hint)
                if self.compression == "none":  # else nobody knows how much it will be
                    _check_space(job, len(todo), meta["layers"])
                todo = self._without_culprits(job, writer, todo, known, journal.suspects)
            if "extractor" in vars(job) or (todo and self.engine == "local"):  # the base is in memory anyway
                keep_base(job.folder / BASE_FOLDER, job.extractor.base, job.recipe, job.request)
            work = self._work(job, meta, self._batch(job, len(todo)))
            driver, tasks = Driver(job, work, writer, known.rows), self._tasks(job, todo, work)
            driver.adopt(tasks)
            if self.engine == "local":
                driver.run_local(tasks, journal, self._progress, profile)
            else:
                driver.run_elsewhere(tasks, self.engine, self.workers, self.scheduler, self._progress)
            result = FeatureCache(job.folder)
            if nothing_to_do and not known.rows.added:  # what was read under the lock is what there is
                result.adopt(job.entries, places, shards)
        with contextlib.suppress(
            OSError
        ):  # another user's, or one that cannot be written: it is the newest all the same
            os.utime(job.folder / "shards")
        seconds = time.perf_counter() - start
        result.report = ExtractionReport(
            cache=job.folder,
            images=len(result),
            rows=result.rows,
            computed=driver.computed,
            reused=result.rows - driver.computed,
            skipped=result.skipped,
            seconds=seconds,
            images_per_second=driver.computed / seconds,
            bytes=sum(shard.size for shard in result.shards.values()),
            warnings=cache_warnings(result, job.policy),
            profile=None if profile is None else {"seconds": profile.seconds, "bottleneck": profile.bottleneck},
        )
        return result

    def run_part(self, part: int, of: int) -> PartReport:
        """Compute every `of`-th task, from the `part`-th on (1 ≤ part ≤ of), and leave them for `run` to commit.

        Nothing but the folder ``parts`` of the cache is written, so that all parts may run at once, on any machine
        that sees the cache and the source at the same paths. Which tasks there are follows from the source and
        what the cache holds. A part that was stopped goes on where it was.
        """
        start = time.perf_counter()
        if not 1 <= part <= of:
            raise OptionError(f"A part is I/N, with I from 1 to N. Received: {part}/{of}.")
        if self.engine != "local":
            raise OptionError(f"A part is computed with `engine` local. Received: {self.engine!r}. Leave one out.")
        job = self._job()
        known = self._known(job)
        todo = self._todo(job, known, splits=self.views > 0)  # else they decide no rows
        meta = self._meta(job, known)
        work = self._work(job, meta, self.batch_size or BATCH_SIZE)  # the same for all parts
        tasks = self._tasks(job, todo, work)[part - 1 :: of]
        rows, skipped = 0, []
        if tasks:
            runner, done = Runner(work, job.extractor, job.source, known.rows), counted(tasks, self._progress)
            for task in tasks:
                outcome = run_part(runner, task, done, self.on_culprit)
                if outcome.failure:
                    raise ImageError(outcome.failure)
                rows += sum(len(keys) for _, keys in outcome.shards)
                for item, (_, reason) in zip(task.items, outcome.images, strict=True):
                    if reason is not None:
                        skips.warning("skipped %s: %s", item.path, reason)
                        skipped.append({"path": item.path, "reason": reason})
        images, seconds = sum(len(task.items) for task in tasks), time.perf_counter() - start
        return PartReport(job.folder, part, of, len(tasks), images, rows, skipped, seconds)

    def plan(self) -> ExtractionPlan:
        """Say what `run` would do, from the listing and a timed batch; write nothing."""
        job = self._job()
        known = self._known(job)
        todo = self._todo(job, known, splits=False)
        layers = self._meta(job, known)["layers"]
        size = self.batch_size or BATCH_SIZE
        rate = _timed(job, [job.source.items[i] for i in todo[: 2 * size]], size) if todo else 0.0
        rows = len(todo) * (1 + self.views)
        existing = next(folder for folder in (job.folder, *job.folder.absolute().parents) if folder.exists())
        return ExtractionPlan(
            cache=job.folder,
            images=len(job.source.items),
            rows_to_compute=rows,
            layers={name: tuple(shape) for name, shape in layers},
            bytes=rows * _row_bytes(job, layers),
            bytes_free=shutil.disk_usage(existing).free,
            images_per_second=rate,
            seconds=len(todo) / rate if rate else 0.0,
        )

    def _job(self) -> Job:
        source = open_source(self.source, classes=self.classes, options=subset(self, SourceOptions))
        request = subset(self, Request)
        policy = SplitPolicy(self.validation_split, self.test_from, self.seed, self.test_split).settled(source)
        augment = self.augment
        if isinstance(augment, str):
            augment = Augmentation.parse(augment, fill=self.fill, seed=self.seed)
        root, folder = Path(self.cache_root), None if self.cache is None else Path(self.cache)
        return Job(source, policy, request, root, folder, self.views, augment, self.rehash, self.passes)

    def _known(self, job: Job) -> Known:
        """Return what a cache holds, without its lock."""
        if not (job.folder / "recipe.json").is_file():
            return Known({}, Listing.of([]), None)
        there = FeatureCache(job.folder)
        check_recipe(job.folder, there.recipe, job.recipe, asked=(there.description.get("request"), job.asked))
        layers = [[name, list(shape)] for name, shape in there.layers.items()]
        return Known(
            {"source": there.source, "layers": layers, "channels": there.channels}, there.entries, there.places
        )

    def _without_culprits(
        self, job: Job, writer: CacheWriter, todo: Sequence[int], known: Known, suspects: set[str]
    ) -> list[int]:
        """Let another process decode the suspects first; record those that crash or hang it, and return the others.

        They are committed at once: whatever happens next, such an image is not decoded here.
        """
        before, paths = known.entries, job.entries.paths
        suspects = suspects | {before.paths[i] for i, reason in before.reasons.items() if is_decode_crash(reason)}
        suspected = {paths[position]: position for position in todo if suspects and paths[position] in suspects}
        if not suspected:
            return list(todo)
        items, culprits = [job.source.items[position] for position in suspected.values()], set()
        with contextlib.closing(find_culprits(job.extractor.spec, job.source, items)) as found:
            for item, identity, reason in found:
                position = suspected[item.path]
                writer.commit(None, [(position, job.entries[position]._replace(digest=identity, reason=reason))])
                culprits.add(position)
                self.on_culprit()
                if self.on_error == "fail":
                    raise ImageError(f"{item.path}: {reason}")
                skips.warning("skipped %s: %s", item.path, reason)
        return [position for position in todo if position not in culprits]

    def _batch(self, job: Job, images: int) -> int:
        """Return the batch size: the given one, or for large runs in this process the fastest."""
        if self.batch_size is not None or not images or self.engine != "local":
            return self.batch_size or BATCH_SIZE
        return job.extractor.fastest_batch(images * (1 + self.views))

    def _work(self, job: Job, meta: Mapping[str, Any], batch_size: int) -> Work:
        """Return what all tasks have in common, fit for the engine."""
        request = job.request
        source: Source | None = job.source
        if self.engine != "local":
            if request.in_memory:
                raise OptionError(
                    f"The base is a model in memory, which other processes (`engine` {self.engine}) cannot load. "
                    "Save it to a .keras file and give that, or use `engine` local."
                )
            request, source = request.absolute(), travelling(job.source, self.source, self.engine)
        return Work(
            request=request,
            recipe=job.recipe,
            shapes={name: tuple(shape) for name, shape in meta["layers"]},
            source=source,
            described=describe(job.source),
            classes=None if self.classes is None else tuple(self.classes),
            policy=job.policy,
            views=job.views,
            augment=job.augment,
            folder=job.folder.absolute(),
            size=task_size(
                _row_bytes(job, meta["layers"]), views=job.views, shard_rows=self.shard_rows, batch_size=batch_size
            ),
            batch_size=batch_size,
            shard_rows=self.shard_rows,
            compression=self.compression,
            on_error=self.on_error,
        )

    def _tasks(self, job: Job, todo: Sequence[int], work: Work) -> list[Task]:
        """Cut what is to do, shuffled unless the source or the end at the first image that fails forbids it."""
        shuffled = not job.source.sequential and self.on_error == "skip"
        return cut(in_order(todo, job.entries.paths, shuffled=shuffled), job.source.items, work.size)

    def _todo(self, job: Job, known: Known, *, splits: bool = True) -> list[int]:
        if not self.replace_source:
            known.check_same_source(job)
        return compare(job, known, retry_failed=self.retry_failed, ranked=splits)

    def _meta(self, job: Job, known: Known) -> dict[str, Any]:
        """Return what the manifest keeps of source, listing and views, as it reads back from JSON."""
        meta = {
            "fingerprint": job.recipe.fingerprint,
            "layers": known.meta.get("layers") or list(job.extractor.layers.items()),
            "channels": known.meta.get("channels") or job.extractor.spec.channels,
            "source": describe(job.source),
            "listing": {**asdict(job.policy), "classes": None if self.classes is None else list(self.classes)},
            "views": {
                "count": self.views,
                "augmentation": job.augmentation,
                "policy": None if job.augment is None else asdict(job.augment),
            },
        }
        result: dict[str, Any] = json.loads(json.dumps(meta))
        return result


@takes(ExtractOptions)
def extract(options: ExtractOptions) -> FeatureCache:
    """Run a frozen base over a source once; compute only rows that are not in the cache yet.

    The source may also be an iterable of (image, label), or a `featcache.sources.Source`; the base may be a model.

    Returns
    -------
    FeatureCache
        Opened for reading; its ``report`` is the `ExtractionReport`.

    Raises
    ------
    SourceError, OptionError, BaseError, CacheError
        See `featcache.errors`. Rows committed before an error stay; the next call resumes.
    ImageError
        If an image fails and `on_error` is ``"fail"``.
    """
    with shown(options.progress, "extracting") as progress:
        return subset(options, Extraction, progress=progress or False).run()


@dataclass(frozen=True)
class PartReport:
    """What a part of an extraction did; tasks, images and rows are those published so far, by earlier calls too.

    `cache` is the folder, which may not be a cache yet; `skipped` has ``path`` and ``reason`` of every image without
    features.
    """

    cache: Path
    part: int
    of: int
    tasks: int
    images: int
    rows: int
    skipped: list[dict[str, str]]
    seconds: float


@dataclass(frozen=True)
class ExtractionPlan:
    """What an extraction would do.

    Rows that would go through the base at most: copies count here, and views of every image. Bytes of these rows'
    features are before any compression; `seconds` is how long they would take at the rate that a batch of them had.
    """

    cache: Path
    images: int
    rows_to_compute: int
    layers: dict[str, tuple[int, ...]]
    bytes: int
    bytes_free: int
    images_per_second: float
    seconds: float


def _row_bytes(job: Job, layers: Sequence[tuple[str, Sequence[int]]]) -> int:
    return sum(math.prod(shape) for _, shape in layers) * np.dtype(job.recipe.dtype).itemsize


def _check_space(job: Job, images: int, layers: Sequence[tuple[str, Sequence[int]]]) -> None:
    """Raise `CacheError` if the plain features of a number of images cannot fit on the disk."""
    needed, free = images * _row_bytes(job, layers), shutil.disk_usage(job.folder).free
    if needed > free:
        raise CacheError(
            f"There is too little space in {str(job.folder)!r}: {images} images need {needed / 1e9:.2f} GB, and "
            f"{free / 1e9:.2f} GB are free. Free some space, choose another `cache`, or use `pooling` avg or `dtype` "
            "float16."
        )


def _timed(job: Job, items: Sequence[Item], batch_size: int) -> float:
    """Return images per second, from reading to features, over the second half of some images; the first warms up."""
    half = len(items) // 2
    for part in (items[:half], items[half:]):  # each to its end: what runs ahead of a stream would not be timed
        start = time.perf_counter()
        for _ in job.extractor.stream(job.source, part, batch_size=batch_size):
            pass
    return len(items[half:]) / (time.perf_counter() - start)
