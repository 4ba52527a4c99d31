"""How much memory there is for this process, and how much it takes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from types import TracebackType

ROOT = Path("/")
INTERVAL = 0.01
"""Seconds between two looks at the memory in use."""


def available(root: Path = ROOT) -> int | None:
    """Return how many bytes of memory this process may still take, or None where the system does not say.

    On Linux, what the kernel could give without swapping (``MemAvailable``), or what a control group leaves if that
    is less. Elsewhere the free pages, if there is such a number.

    Parameters
    ----------
    root : Path
        The folder that has ``proc`` and ``sys``.
    """
    system = _kilobytes(root / "proc/meminfo", "MemAvailable")
    known = [*_groups(root), *([] if system is None else [system])]
    return min(known) if known else _free_pages()


def _free_pages() -> int | None:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return free if free >= 0 else None


def _groups(root: Path) -> Iterator[int]:
    """Yield what each control group with a limit that this process is in leaves to it: version 2, then version 1."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        mount = root / "sys/fs/cgroup"
        if number == "0" and not controllers:
            files = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            mount = mount / "memory"
        else:
            continue
        inner = PurePosixPath(path.strip("/"))
        for group in (inner, *inner.parents):
            left = _left(mount / group, *files)
            if left is not None:
                yield left


def _left(group: Path, limit_file: str, usage_file: str, reclaimable: str) -> int | None:
    """Return the limit of a group less what it uses and cannot drop; None if it has no limit."""
    limit, usage = (_text(group / limit_file) or "").strip(), (_text(group / usage_file) or "").strip()
    if not limit.isdecimal() or not usage.isdecimal():
        return None
    inactive = 0
    for line in (_text(group / "memory.stat") or "").splitlines():
        if line.startswith(f"{reclaimable} "):
            inactive = int(line.split()[1])
    return max(0, int(limit) - max(0, int(usage) - inactive))


def _kilobytes(path: Path, name: str) -> int | None:
    """Return the bytes of a line ``Name:  1234 kB``."""
    for line in (_text(path) or "").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


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

    def __init__(self, root: Path = ROOT) -> None:
        self.peak: int | None = None
        self.increase: int | None = None
        self._status = root / "proc/self/status"
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Peak:
        _give_back()
        self.peak = start = _kilobytes(self._status, "RssAnon")
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
            self.peak = max(self.peak or 0, _kilobytes(self._status, "RssAnon") or 0)
            self.increase = self.peak - start
