"""A line on a terminal that says what is being done while nothing else is written."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType

_SILENCE = 1.0
"""Seconds without other output after which the line appears."""
_EVERY = 0.5

_current: Status | None = None


class Status:
    """The line, as long as the context lasts; its last word is what `doing` names.

    It is written to a copy of standard error, which TensorFlow's import replaces for a while.
    """

    def __init__(self, what: str) -> None:
        self._steps = [(what, time.monotonic())]
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._last, self._drawn, self._held = time.monotonic(), False, 0

    def __enter__(self) -> Status:
        global _current
        self._stderr = os.dup(sys.stderr.fileno())
        _current = self
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        _current = None
        self._ended.set()
        self._thread.join()
        self.hide()
        os.close(self._stderr)

    def _run(self) -> None:
        while not self._ended.wait(_EVERY):
            with self._lock:
                now = time.monotonic()
                if self._held or now - self._last < _SILENCE:
                    continue
                what, begun = self._steps[-1]
                self._write(f"\r\x1b[K{what}, {now - begun:.0f} s"[: self._columns() + 3])
                self._drawn = True

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stderr).columns or 80
        except OSError:
            return 80

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone
            os.write(self._stderr, text.encode())

    def hide(self) -> None:
        """Remove the line, because something else is written now."""
        with self._lock:
            if self._drawn:
                self._write("\r\x1b[K")
            self._drawn, self._last = False, time.monotonic()

    def hold(self, times: int) -> None:
        """Write nothing until it is held as often by -1 as by 1."""
        self.hide()
        self._held += times

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Name what is being done."""
        self._steps.append((what, time.monotonic()))
        try:
            yield
        finally:
            self._steps.pop()


def hide() -> None:
    """Remove the line, if there is one, because something else is written now."""
    if _current is not None:
        _current.hide()


def hold(times: int) -> None:
    """Let a bar have the terminal (1), or give it back (-1)."""
    if _current is not None:
        _current.hold(times)


def doing(what: str) -> contextlib.AbstractContextManager[None]:
    """Name a step that may take long; a command on a terminal shows it. Steps in other threads are not for it."""
    if _current is None or threading.current_thread() is not threading.main_thread():
        return contextlib.nullcontext()
    return _current.step(what)
