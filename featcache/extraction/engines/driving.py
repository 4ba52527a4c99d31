"""The driver of a run: hands tasks to an engine and commits what comes back, in order."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import time
import uuid
from collections.abc import Generator, Sequence
from pathlib import Path

from featcache.cache import CacheWriter
from featcache.cache.listing import Entry
from featcache.cache.shard import Key, Shard, ShardBuilder, ShardInfo, inspect
from featcache.errors import CacheDamagedError, CacheError, ImageError, OptionError
from featcache.extraction.engines.parts import discard, forget, found_part, parts_folder, read_part, shard_names
from featcache.extraction.engines.processes import default_workers, run_processes
from featcache.extraction.engines.running import Runner
from featcache.extraction.engines.tasks import Done, Outcome, Task, Work, counted
from featcache.extraction.engines.worker import KnownRows
from featcache.extraction.planning import Job, RowSet
from featcache.extraction.profiling import Profile
from featcache.images.decode_crashes import Journal
from featcache.options import Engine, Progress

log = logging.getLogger(__name__)
skips = logging.getLogger("featcache.skipped")

STALE = 24 * 3600.0
"""Seconds after which a file among the parts that belongs to none is nobody's any more."""


class Driver:
    """Has tasks done for a job and commits them to its locked cache, whose `known` rows grow.

    `computed` is how many rows were computed and committed.
    """

    def __init__(self, job: Job, work: Work, writer: CacheWriter, known: RowSet) -> None:
        self._job, self._work, self._writer, self._known = job, work, writer, known
        self.computed = 0
        self._shards, self._parts = writer.path / "shards", parts_folder(writer.path)

    def adopt(self, tasks: Sequence[Task]) -> None:
        """Commit the rows of parts that are of none of these tasks, as the source has changed since.

        The tasks find them there; parts that are of one of them are committed in its turn. A part of another recipe
        is left alone, a damaged one removed.
        """
        if not self._parts.is_dir():
            return
        expected = {task.name(self._work) for task in tasks}
        for file in sorted(file for file in self._parts.glob("*.json") if file.stem not in expected):
            try:
                part = read_part(file)
            except CacheDamagedError as error:
                discard(file, error)
                continue
            if part.fingerprint != self._work.recipe.fingerprint:
                log.warning("%s is of another recipe and was left alone", file)
                continue
            self._commit(self._parts, part.shards, [])
            file.unlink(missing_ok=True)
        with self._writer.changing():  # else another process has taken over, and its files lie here
            mine = {name for part in self._parts.glob("*.json") for name in (part.name, *shard_names(part))}
            for file in self._parts.iterdir():
                with contextlib.suppress(OSError):
                    stale = file.name not in mine and time.time() - file.stat().st_mtime > STALE
                    if file.suffix == ".known" or stale:
                        file.unlink()

    def run_local(
        self, tasks: Sequence[Task], journal: Journal, progress: Progress | None, profile: Profile | None = None
    ) -> None:
        """Do tasks in this process, decoding ahead across them."""
        if tasks:
            self._job.extractor.profile = profile
        done = counted(tasks, progress)
        following: list[Task] = []
        for task in tasks:
            found = self._found(task)
            if found is None:
                following.append(task)
            else:
                self._compute(following, journal, done)
                self._take(task, found, self._parts)
                done(len(task.items))
                following = []
        self._compute(following, journal, done)
        self._clear()

    def _found(self, task: Task) -> Outcome | None:
        """Return what a former run has published of a task; if its images have changed since, only commit its rows."""
        found = found_part(self._work, task)
        if found is None or self._still_true(found, task):
            return found
        self._commit(self._parts, found.shards, [])
        forget(self._work, task)
        return None

    def _still_true(self, found: Outcome, task: Task) -> bool:
        """Read the images of a part of a former run: whether they are the ones it had. Names and times may deceive."""
        items = [self._job.source.items[position] for position in task.positions]
        now = [(digest, reason) for _, digest, reason in self._job.hash_items(items)]
        return all(
            identity == digest if reason is None else digest is None or identity in (None, digest)
            for (identity, reason), (digest, _) in zip(found.images, now, strict=True)
        )

    def _compute(self, tasks: Sequence[Task], journal: Journal, done: Done) -> None:
        if not tasks:
            return
        by_number = {task.number: task for task in tasks}
        runner = Runner(self._work, self._job.extractor, self._job.source, self._known)
        try:
            with contextlib.closing(runner.run(tasks, self._shards, journal, done=done)) as outcomes:
                for outcome in outcomes:
                    try:
                        self._take(by_number[outcome.number], outcome, self._shards)
                    except KeyboardInterrupt:
                        self._take(by_number[outcome.number], outcome, self._shards)  # what is done is done
                        raise
        except CacheError:
            with self._writer.holding():  # another process that has taken over may have removed what was not committed
                raise

    def _clear(self) -> None:
        """Remove the folder of parts, if none is left."""
        with contextlib.suppress(OSError):
            self._parts.rmdir()

    def run_elsewhere(
        self,
        tasks: Sequence[Task],
        engine: Engine,
        workers: int | None,
        scheduler: str | None,
        progress: Progress | None,
    ) -> None:
        """Have tasks done by an engine's workers and commit them in their order."""
        if not tasks:
            return self._clear()
        done, known = counted(tasks, progress), None
        for task in tasks:
            self._found(task)
        self._parts.mkdir(exist_ok=True)
        count = default_workers() if workers is None else workers
        if scheduler is None and len(tasks) < count:
            log.warning("%d tasks for %d workers: fewer rows per shard make more tasks", len(tasks), count)
        if self._known:
            known = self._parts / f"{uuid.uuid4().hex}.known"
            KnownRows.write(known, self._known)
        outcomes: Generator[Outcome, None, None]
        if engine == "processes":
            outcomes = run_processes(self._work, tasks, known, count, done)
        else:
            from featcache.extraction.engines.cluster import run_dask

            outcomes = run_dask(self._work, tasks, known, count, scheduler, done)
        held: dict[int, Outcome] = {}
        following = 0
        try:
            with contextlib.closing(outcomes):
                for outcome in outcomes:
                    held[outcome.number] = outcome
                    while following in held:
                        self._take(tasks[following], held.pop(following), self._parts)
                        following += 1
        finally:  # what came before its turn stays a part, which the next run takes in its turn
            if known is not None:
                known.unlink(missing_ok=True)
            self._clear()

    def _take(self, task: Task, outcome: Outcome, folder: Path) -> None:
        """Commit what became of a task; raise `ImageError` if it ended at an image."""
        for level, text in outcome.said:
            log.log(level, "%s", text)
        images = zip(task.positions, outcome.images, strict=False)
        settled = [(position, identity, reason) for position, (identity, reason) in images]
        count = self._commit(folder, outcome.shards, settled)
        self.computed += 0 if outcome.found else count
        if folder != self._shards:
            forget(self._work, task)
        if outcome.failure is not None:
            raise ImageError(outcome.failure)
        for position, _, reason in settled:
            if reason is not None:
                skips.warning("skipped %s: %s", self._job.entries[position].path, reason)

    def _commit(
        self,
        folder: Path,
        shards: Sequence[tuple[ShardInfo, list[Key]]],
        settled: Sequence[tuple[int, bytes | None, str | None]],
    ) -> int:
        """Commit shards and images, and return how many rows are new."""
        entries: list[tuple[int, Entry]] = []
        for position, identity, reason in settled:
            entry = self._job.entries[position]._replace(digest=identity)
            if reason is not None:
                entry = entry._replace(reason=reason)
            else:
                item = self._job.source.items[position]
                split = None if identity is None else self._job.policy.split_of(item, identity)
                entry = entry._replace(split=split)
            entries.append((position, entry))
        count = 0
        for i, (info, keys) in enumerate(shards):
            file = folder / info.name
            if not file.exists():  # killed before, just after it had been moved
                file = self._shards / info.name
            fresh = [key not in self._known for key in keys]
            settling = entries if i == len(shards) - 1 else []
            if all(fresh):
                self._writer.add(file, info, keys, settling)
            else:  # a copy of one of its images was committed before
                self._writer.commit(self._thinned(file, fresh) if any(fresh) else None, settling)
                if file.parent != self._shards:
                    file.unlink(missing_ok=True)
            self._known.update(keys)
            count += sum(fresh)
        if not shards:
            self._writer.commit(None, entries)
        return count

    def _thinned(self, file: Path, keep: Sequence[bool]) -> ShardBuilder:
        """Return some rows of a shard."""
        contents, shard, work = inspect(file), Shard(file), self._work
        builder = ShardBuilder(work.recipe, work.shapes, len(keep), work.augmentation, shard.compression)
        for i, key in enumerate(contents.keys):
            if keep[i]:
                row = {layer: shard.features(layer)[i] for layer in work.shapes}
                builder.append(key.digest, contents.paths[i], row, key.view)
        return builder


def check_engine(engine: str, workers: int | None, scheduler: str | None) -> None:
    """Raise `OptionError` if there is no such engine, or options do not go together or need what is not installed."""
    if engine not in ("local", "processes", "dask"):
        raise OptionError(f"`engine` must be local, processes or dask. Received: engine={engine!r}.")
    if workers is not None and workers < 1:
        raise OptionError(f"`workers` must be 1 or more. Received: {workers}.")
    if workers is not None and (engine == "local" or scheduler is not None):
        raise OptionError(
            "`workers` can be set for the engine processes, or for dask without `scheduler`. Received: "
            f"`workers`={workers} with `engine`={engine}. Leave one out."
        )
    if scheduler is not None and engine != "dask":
        raise OptionError(
            f"`scheduler` can be set for the engine dask only. Received: `engine`={engine}. Add `engine`=dask."
        )
    if engine == "dask" and not importlib.util.find_spec("distributed"):
        raise OptionError(
            "The engine dask needs dask and distributed, which are not installed. Run: pip install 'featcache[dask]'"
        )
