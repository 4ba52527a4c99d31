"""Processes of this machine, each with a base of its own and its part of the processors, or a GPU."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from featcache.errors import CacheError
from featcache.extraction.engines.retries import TaskQueue
from featcache.extraction.engines.tasks import Done, Outcome, Task, Work
from featcache.extraction.engines.worker import environment
from featcache.system.cpus import count, gpus
from featcache.system.startup import python_command

MOST_WORKERS = 8
"""How many there are unless somebody says: each holds TensorFlow and the base."""


def default_workers() -> int:
    """Return one for each GPU; without any, one for each processor up to `MOST_WORKERS`."""
    return len(gpus()) or min(count(), MOST_WORKERS)


def run_processes(
    work: Work, tasks: Sequence[Task], known: Path | None, workers: int, done: Done
) -> Generator[Outcome, None, None]:
    """Yield what becomes of each task, in the order in which they end.

    A worker that dies is replaced and its task done again, unless it has killed too many. What a worker raises is
    raised here; `CacheError` if workers die before they begin.
    """
    events: queue.SimpleQueue[tuple[_Worker, Any]] = queue.SimpleQueue()
    waiting = TaskQueue(work, tasks)
    at_work: dict[_Worker, Task | None] = {}
    unborn = 0

    def start(number: int) -> None:
        worker = _Worker(number, workers, events)
        at_work[worker] = None
        worker.send((work, known))

    def employ() -> None:
        for worker, task in at_work.items():
            if task is None and waiting:
                at_work[worker] = waiting.take()
                worker.send(at_work[worker])

    try:
        for number in range(min(workers, len(tasks))):
            start(number)
        employ()
        while any(at_work.values()):
            worker, message = events.get()
            if isinstance(message, int):
                unborn = 0
                done(message)
            elif isinstance(message, Outcome):
                at_work[worker] = None
                employ()  # before the consumer takes its time
                yield message
            elif message is not None:
                raise message
            else:
                task = at_work.pop(worker)
                unborn = 0 if worker.ready else unborn + 1
                if unborn > TaskQueue.MOST:
                    raise CacheError(
                        f"{unborn} workers ended while they were starting, the last with exit code {worker.end()}. If "
                        "memory is short, use fewer `workers`."
                    )
                given_up = None
                if task is not None and worker.ready:
                    given_up = waiting.killed(task)
                elif task is not None:
                    waiting.put_back(task)
                start(worker.number)
                employ()
                if given_up is not None:
                    yield given_up
    finally:
        for worker in at_work:
            worker.end()


class _Worker:
    """A process that does tasks; what it answers, and that it ended, goes to a queue."""

    def __init__(self, number: int, workers: int, events: queue.SimpleQueue[tuple[_Worker, Any]]) -> None:
        variables = {**os.environ, **environment(workers)}
        if devices := gpus():
            variables["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
        self.number, self.ready = number, False
        self._process = subprocess.Popen(
            python_command("featcache.extraction.engines.worker", "main"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=variables,
        )
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()

    def send(self, message: Any) -> None:
        """Give it something; that it has died is said by the queue."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()

    def end(self) -> int:
        """End it, and return its exit code."""
        self._process.kill()
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        return self._process.wait()

    def _listen(self, events: queue.SimpleQueue[tuple[_Worker, Any]]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as answers, contextlib.suppress(EOFError, pickle.UnpicklingError, OSError):
            while True:
                message = pickle.load(answers)
                self.ready = True
                events.put((self, message))
        self._process.wait()
        events.put((self, None))
