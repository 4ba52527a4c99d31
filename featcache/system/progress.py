"""Progress of long work: a bar in a terminal or in a notebook."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from featcache.system import status

_SHORT = 0.5
"""Seconds: what takes less needs no bar."""
_GAP = 0.05
"""Seconds between the bursts in which things are done."""
_WIDTH = 30


class Bar:
    """A bar with what is done, how fast, and the time left, as soon as it is known."""

    def __init__(self, what: str, unit: str = "images") -> None:
        self._what, self._unit = what, unit
        self._start = self._mark = (0, 0.0)
        self._calls, self._batches = 0, False
        self._first: tuple[int, float] | None = None
        self._latest: tuple[int, float] | None = None
        self._begun, self._drawn = time.monotonic(), 0.0
        self._bar: Any = None

    def rate(self, done: int) -> float:
        """Return how many are done in a second, 0 if that is not known yet.

        They often come in bursts, a batch at a time, and what comes before the first is loading: the rate is that
        between the end of the first burst and the end of the last one that is complete.
        """
        now = time.monotonic()
        if self._latest is None:
            self._start = (done, now)
        elif now - self._latest[1] > _GAP:
            self._first = self._first or self._latest
            self._mark = self._latest
            self._batches |= self._calls > 1
            self._calls = 0
        self._latest = (done, now)
        self._calls += 1
        if self._first is not None and not self._batches:  # each call is a burst of its own
            self._mark = self._latest
        begun, end = (self._first, self._mark) if self._first is not None else (self._start, self._latest)
        known = end[1] - begun[1] > (0 if self._first is not None else 1)
        return (end[0] - begun[0]) / (end[1] - begun[1]) if known else 0.0

    def speed(self, rate: float) -> str:
        """Return a rate as text."""
        return f"{rate:.{0 if rate >= 10 else 1}f} {self._unit}/s" if rate else ""

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        rate, now = self.rate(done), time.monotonic()
        if self._bar is None and (now - self._begun < _SHORT or done == total):
            return
        if in_notebook():
            if done == total or now - self._drawn >= _SHORT:
                self._drawn = now
                self._draw_in_notebook(done, total, rate)
        else:
            self._draw_in_terminal(done, total, rate)
        if done == total:
            self.close()

    def _draw_in_terminal(self, done: int, total: int, rate: float) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            text, rate_text = TextColumn(self._what), TextColumn("{task.fields[rate]}")
            columns = (text, BarColumn(), MofNCompleteColumn(), rate_text, TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=total, rate="")
            status.hold(1)
            self._bar.start()
        self._bar.update(self._task, completed=done, rate=self.speed(rate))

    def _draw_in_notebook(self, done: int, total: int, rate: float) -> None:
        """Write a line that replaces itself: rich draws nothing there without ipywidgets."""
        import IPython.display

        display: Any = IPython.display.display  # it has no types

        filled = _WIDTH * done // max(total, 1)
        left = f", {(total - done) / rate:.0f} s left" if rate and done < total else ""
        line = f"{self._what} {'━' * filled}{'╌' * (_WIDTH - filled)} {done:,} of {total:,} {self.speed(rate)}{left}"
        content = {"text/plain": line}
        if self._bar is None:
            self._bar = display(content, raw=True, display_id=True)
        else:
            self._bar.update(content, raw=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if hasattr(self._bar, "stop"):
            self._bar.stop()
            status.hold(-1)
        self._bar = None


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


@contextlib.contextmanager
def shown(
    progress: bool | Callable[[int, int], None] | None, what: str, unit: str = "images"
) -> Iterator[Callable[[int, int], None] | None]:
    """Give what is to be called with (done, to do): for True a bar, where there is a terminal or a notebook."""
    if not isinstance(progress, bool):
        yield progress
    elif not progress or not (in_notebook() or (sys.stderr is not None and sys.stderr.isatty())):
        yield None
    else:
        bar = Bar(what, unit)
        try:
            yield bar
        finally:
            bar.close()
