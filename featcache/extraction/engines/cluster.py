"""Workers of a dask cluster: one that is there already, or processes of this machine for this run alone."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Generator, Sequence
from pathlib import Path

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, WorkerPlugin, as_completed

from featcache.errors import FeatcacheError, OptionError, one_line
from featcache.extraction.engines.retries import TaskQueue
from featcache.extraction.engines.running import Runner
from featcache.extraction.engines.tasks import Done, Outcome, Task, Work
from featcache.extraction.engines.worker import environment, errors, load, run_and_note
from featcache.images.decoding import take_over_pillow
from featcache.system.startup import safe_children

log = logging.getLogger(__name__)

WAIT_SECONDS = 30
"""How long a scheduler may take to answer, and how often it is said that there are no workers."""
_ENVIRONMENT = "distributed.nanny.pre-spawn-environ"


def run_dask(
    work: Work, tasks: Sequence[Task], known: Path | None, workers: int, scheduler: str | None, done: Done
) -> Generator[Outcome, None, None]:
    """Yield what becomes of each task, in the order in which they end.

    At most one task for each worker is with the scheduler, so that a death has one task to blame. What a worker raises
    is raised here; `OptionError` if the scheduler does not answer.
    """
    with contextlib.ExitStack() as stack:
        address = scheduler
        if address is None:
            variables = {f"{_ENVIRONMENT}.{name}": value for name, value in environment(workers).items()}
            stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 0, **variables}))
            stack.enter_context(safe_children())  # to the end, as workers that die are started again
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=min(workers, len(tasks)),
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address=None,
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,
                )
            )
            address = cluster.scheduler_address
        try:
            client = stack.enter_context(Client(address, timeout=WAIT_SECONDS, set_as_default=False))
        except (OSError, ValueError) as error:
            raise OptionError(
                f"No dask scheduler answers at {address!r}: {one_line(error)[:200]}. Start one with: dask scheduler."
            ) from None
        run = uuid.uuid4().hex
        client.register_plugin(_Prepared(run, work, known, scheduler is None), name=f"featcache-{run}")
        stack.callback(_quietly_unregister, client, f"featcache-{run}")
        yield from _outcomes(client, run, work, tasks, done, 1 if scheduler is None else TaskQueue.MOST)


def _outcomes(
    client: Client, run: str, work: Work, tasks: Sequence[Task], done: Done, deaths: int
) -> Generator[Outcome, None, None]:
    waiting, attempts = TaskQueue(work, tasks), itertools.count()
    with_scheduler: dict[Future, Task] = {}
    ended = as_completed(loop=client.loop)

    def employ() -> None:
        while waiting and len(with_scheduler) < max(1, len(client.nthreads())):
            task = waiting.take()
            name = f"featcache-{run[:8]}-{task.number}-{next(attempts)}"
            future = client.submit(_do, run, task, key=name, pure=False)
            with_scheduler[future] = task
            ended.add(future)

    try:
        _await_workers(client)
        employ()
        while with_scheduler:
            future = next(ended)
            task = with_scheduler.pop(future)
            error = future.exception() if future.status == "error" else None
            outcome = None
            if future.status == "finished":
                outcome = future.result()
            elif isinstance(error, KilledWorker):
                outcome = waiting.killed(task, deaths)
            elif error is None:  # lost with the scheduler's memory of it
                waiting.put_back(task)
            elif isinstance(error, FeatcacheError | RuntimeError):
                raise error
            else:
                raise RuntimeError(f"{type(error).__name__}: {error}")
            future.release()  # else the scheduler does it again if the worker dies that has the result
            employ()
            if outcome is not None:
                done(len(task.items))
                yield outcome
    finally:
        with contextlib.suppress(Exception):  # a cluster that is gone needs no telling
            client.cancel(list(with_scheduler), force=True)


def _await_workers(client: Client) -> None:
    last = time.monotonic()
    while not client.nthreads():
        time.sleep(0.2)
        if time.monotonic() - last > WAIT_SECONDS:
            last = time.monotonic()
            log.warning("waiting for workers: start some with: dask worker %s", client.scheduler.address)


def _quietly_unregister(client: Client, name: str) -> None:
    with contextlib.suppress(Exception):
        client.unregister_worker_plugin(name)


_prepared: dict[str, tuple[Work, Path | None]] = {}
_runners: dict[str, Runner] = {}
_one_at_a_time = threading.Lock()


class _Prepared(WorkerPlugin):
    """Tells every worker, present and to come, what a run is about."""

    def __init__(self, run: str, work: Work, known: Path | None, ours: bool) -> None:
        self.run, self.work, self.known, self.ours = run, work, known, ours

    def setup(self, worker: object) -> None:
        if self.ours:
            take_over_pillow()
        _prepared[self.run] = self.work, self.known

    def teardown(self, worker: object) -> None:
        _prepared.pop(self.run, None)
        _runners.pop(self.run, None)


def _do(run: str, task: Task) -> Outcome:
    """Do a task in a worker, which builds its base for its first one."""
    with _one_at_a_time, errors():
        if run not in _runners:
            _runners[run] = load(*_prepared[run])
        return run_and_note(_runners[run], task)
