"""Run independent tasks in processes that map the same features, and lose none of them with another."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import joblib
from joblib._parallel_backends import LokyBackend
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.backend import resource_tracker as joblib_tracker
from joblib.externals.loky.process_executor import TerminatedWorkerError

from featcache.errors import FeatcacheError, OptionError
from featcache.system.startup import safe_children

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """What a task ended with instead of a result, and why, in one line."""

    reason: str


def run_all(
    function: Callable[[Any], Any],
    tasks: Sequence[Any],
    *,
    jobs: int = 1,
    done: Callable[[int, Any], None] = lambda number, result: None,
) -> list[Any]:
    """Return what a function makes of each task, in order; a `Failure` where it raised or its process died.

    Each of `jobs` processes (1: this one) has an equal part of the machine's threads, maps the arrays in tasks, and
    imports the function from its module. `done` is called with a task's index and result as soon as it is there.
    """
    results: dict[int, Any] = {}

    def take(number: int, result: Any, said: Iterable[tuple[int, str]] = ()) -> None:
        results[number] = result
        for level, text in said:
            log.log(level, "%s", text)
        done(number, result)

    if jobs == 1:
        for i, task in enumerate(tasks):
            take(i, _attempt(function, task))
        return [results[i] for i in range(len(tasks))]
    try:
        for found in _parallel(function, list(enumerate(tasks)), jobs):
            take(*found)
    except TerminatedWorkerError:
        for i, task in enumerate(tasks):  # one of them kills its process: each alone
            if i in results:
                continue
            try:
                take(*next(iter(_parallel(function, [(i, task)], 2))))
            except TerminatedWorkerError:
                take(i, Failure("its process was killed, as happens when memory runs out"))
    return [results[i] for i in range(len(tasks))]


def check_jobs(jobs: int | None) -> None:
    """Raise OptionError unless it is a number of processes."""
    if jobs is not None and jobs < 1:
        raise OptionError(f"`jobs` must be 1 or more. Received: {jobs}.")


def cores() -> int:
    """Return how many cores this process may use."""
    return int(joblib.cpu_count())


class _Loky(LokyBackend):
    """Processes that import nothing from the current folder."""

    started = False

    def _prepare_worker_env(self, n_jobs: int) -> dict[str, str]:
        return {**super()._prepare_worker_env(n_jobs), "PYTHONSAFEPATH": "1"}


def _parallel(function: Callable[[Any], Any], tasks: list[tuple[int, Any]], jobs: int) -> Any:
    threads = max(1, cores() // jobs)
    with safe_children():  # the processes that remove what others leave, joblib's and Python's
        joblib_tracker.ensure_running()
        resource_tracker.ensure_running()
    _Loky.started = True
    with joblib.parallel_config(_Loky(), inner_max_num_threads=threads):
        run = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
        return run(joblib.delayed(_in_worker)(i, function, task, threads) for i, task in tasks)


def end_workers() -> None:
    """End the processes that wait for more work; by themselves they take seconds, as TensorFlow is unloaded."""
    if _Loky.started:
        get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)


def _in_worker(
    number: int, function: Callable[[Any], Any], task: Any, threads: int
) -> tuple[int, Any, list[tuple[int, str]]]:
    """Do a task in a process of its own: what it says is said by the process that asked for it."""
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))  # TensorFlow heeds no other limit
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    records = logging.handlers.BufferingHandler(sys.maxsize)
    library = logging.getLogger("featcache")
    library.handlers, library.propagate = [records], False
    library.setLevel(logging.INFO)
    result = _attempt(function, task)
    return number, result, [(one.levelno, one.getMessage().strip()) for one in records.buffer]


def _attempt(function: Callable[[Any], Any], task: Any) -> Any:
    """Return a task's result; where it raised, a `Failure`."""
    try:
        return function(task)
    except FeatcacheError as error:
        return Failure(str(error))
    except MemoryError:
        return Failure("out of memory")
    except Exception as error:  # one head that fails must not take the others with it
        return Failure(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
