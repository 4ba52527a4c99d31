"""What a worker does, of the engine `processes` or of dask, and what it needs from the process that starts it."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from featcache.cache.shard import Key
from featcache.errors import FeatcacheError, HungError, one_line
from featcache.extraction.engines.parts import run_part
from featcache.extraction.engines.running import Runner
from featcache.extraction.engines.tasks import Done, Outcome, Task, Work
from featcache.files.publishing import publish
from featcache.images.decoding import take_over_pillow
from featcache.system.cpus import threads_each

PROGRESS_SECONDS = 1.0


def main() -> None:
    """Do tasks from standard input, and answer on standard output, until nobody sends any more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    take_over_pillow()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's business
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, tasks), daemon=True).start()

    def answer(message: Any) -> None:
        pickle.dump(message, answers)
        answers.flush()

    try:
        with errors():
            work, known = tasks.get()
            runner = load(work, known)
            answer(0)
            while True:
                progress = _Progress(answer)
                outcome = run_and_note(runner, tasks.get(), progress)
                progress.flush()
                answer(outcome)
    except (FeatcacheError, RuntimeError) as error:
        answer(error)
    os._exit(1)


def environment(workers: int) -> dict[str, str]:
    """Return the variables with which each of some workers starts: its part of the processors, a quiet TensorFlow."""
    level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3")
    return {"TF_CPP_MIN_LOG_LEVEL": level, "TF_NUM_INTRAOP_THREADS": str(threads_each(workers))}


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Raise what can be sent to the process that started the run; end as if killed if a decoding never ends."""
    try:
        yield
    except HungError:
        os._exit(1)  # the next one finds the image
    except FeatcacheError:
        raise
    except Exception as error:
        raise RuntimeError(f"{type(error).__name__}: {one_line(error)}") from None


class KnownRows:
    """Rows that a cache had when a run began, in a file that workers map: 16 bytes each, a digest of the key, in order.

    There must be one at least.
    """

    def __init__(self, file: Path) -> None:
        self._marks = np.memmap(file, "S16", "r")

    def __contains__(self, key: object) -> bool:
        assert isinstance(key, Key)
        mark = _mark(key)
        place = int(np.searchsorted(self._marks, np.bytes_(mark)))
        return place < len(self._marks) and self._marks[place] == mark.rstrip(b"\0")

    @staticmethod
    def write(file: Path, keys: Iterable[Key]) -> None:
        """Write keys to a file."""
        marks = np.frombuffer(b"".join(map(_mark, keys)), "S16").copy()
        marks.sort()
        publish(file, marks.tobytes())


def _mark(key: Key) -> bytes:
    text = key.digest + key.view.to_bytes(2, "big") + key.augmentation.encode()
    return hashlib.blake2b(text, digest_size=16).digest()


def load(work: Work, known: Path | None) -> Runner:
    """Load what a worker needs."""
    return Runner.load(work, set[Key]() if known is None else KnownRows(known))


def run_and_note(runner: Runner, task: Task, progress: Done = lambda more: None) -> Outcome:
    """Do a task, and keep what the library has to say for the process that started the run."""
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
