"""How much memory a block of a benchmark takes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from pathlib import Path
from types import TracebackType

from featcache.system.memory import kilobytes

INTERVAL = 0.01
"""Seconds between two looks at the memory in use."""


def _give_back() -> None:
    """Return what was freed to the system, where the C library can, so that taking it again is seen."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Peak:
    """The most anonymous memory this process had resident while a block ran.

    That is what arrays and libraries take; pages of mapped files do not count, as the kernel may drop them. It is
    looked at every 10 ms, and at the block's start and end; what comes and goes in between is missed.

    Parameters
    ----------
    root : Path
        The folder that has ``proc``.

    Attributes
    ----------
    peak : int or None
        Bytes; None where the system does not say (``RssAnon`` of Linux ≥ 4.5).
    increase : int or None
        Bytes of `peak` above what was in use at the start.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.peak: int | None = None
        self.increase: int | None = None
        self._status = root / "proc/self/status"
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Peak:
        _give_back()
        self.peak = start = kilobytes(self._status, "RssAnon")
        self.increase = None if start is None else 0
        if start is not None:
            self._ended.clear()
            self._thread = threading.Thread(target=self._watch, args=(start,), name="featcache-peak", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._thread = None

    def _watch(self, start: int) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(INTERVAL)
            self.peak = max(self.peak or 0, kilobytes(self._status, "RssAnon") or 0)
            self.increase = self.peak - start
