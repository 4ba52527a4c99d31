"""What a process of the engine `processes` does: tasks from its standard input, answers on its output."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from featcache.cache.shard import Key
from featcache.errors import FeatcacheError, HungError
from featcache.extraction.engines.known import KnownRows
from featcache.extraction.engines.parts import run_part
from featcache.extraction.engines.running import Runner
from featcache.extraction.engines.tasks import Outcome, Task, Work
from featcache.system.startup import own_process

PROGRESS_SECONDS = 1.0


def main() -> None:
    """Do tasks until nobody sends any more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    own_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's business
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, tasks), daemon=True).start()

    def answer(message: Any) -> None:
        pickle.dump(message, answers)
        answers.flush()

    try:
        work, known = tasks.get()
        runner = load(work, known)
        answer(0)
        while True:
            progress = _Progress(answer)
            outcome = run_and_note(runner, tasks.get(), progress)
            progress.flush()
            answer(outcome)
    except HungError:
        os._exit(1)  # as if it had been killed: the next one finds the image
    except FeatcacheError as error:
        answer(error)
    except Exception as error:
        answer(RuntimeError(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
    os._exit(1)


def load(work: Work, known: Path | None) -> Runner:
    """Load what a worker needs."""
    return Runner.load(work, set[Key]() if known is None else KnownRows(known))


def run_and_note(runner: Runner, task: Task, progress: Any = lambda more: None) -> Outcome:
    """Do a task, and keep what the library has to say for whoever started the run."""
    records, library = _Records(), logging.getLogger("featcache")
    library.addHandler(records)
    propagate, library.propagate = library.propagate, False
    try:
        outcome = run_part(runner, task, progress)
    finally:
        library.removeHandler(records)
        library.propagate = propagate
    outcome.said.extend(records.said)
    return outcome


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append((record.levelno, record.getMessage()))


class _Progress:
    """Counts images, and says so once a second."""

    def __init__(self, answer: Any) -> None:
        self._answer, self._count, self._last = answer, 0, time.monotonic()

    def __call__(self, more: int) -> None:
        self._count += more
        if time.monotonic() - self._last > PROGRESS_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self._count:
            self._answer(self._count)
        self._count, self._last = 0, time.monotonic()


def _listen(stream: IO[bytes], tasks: queue.SimpleQueue[Any]) -> None:
    """Pass on what is sent; when the driver is gone, so is this process."""
    with contextlib.suppress(EOFError, pickle.UnpicklingError):
        while True:
            tasks.put(pickle.load(stream))
    os._exit(1)
