"""Where the time of an extraction went."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

AHEAD = ("read", "decode")
"""Steps of the threads that work ahead, added up over them."""

STEPS = ("start", "wait", "forward", "write")
"""Steps of the thread that has features computed and stores them; the rest is listing the source and committing."""


class Profile:
    """Adds up seconds by step.

    ``start`` is until the base is ready, ``read`` hashes, too, ``decode`` resizes and augments, ``wait`` is for these
    two, ``forward`` for the base, and ``write`` is whatever is done with features.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys((*AHEAD, *STEPS), 0.0)
        self._lock, self._begin = threading.Lock(), time.perf_counter()

    def ready(self) -> None:
        """Say that the base is ready and the first image is about to be read."""
        self.seconds["start"] = self.seconds["start"] or time.perf_counter() - self._begin

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is done inside as a step."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[name] += time.perf_counter() - begin

    @property
    def bottleneck(self) -> str:
        """The step that took longest; where that is waiting, the step that was waited for."""
        longest = max(STEPS, key=self.seconds.__getitem__)
        return max(AHEAD, key=self.seconds.__getitem__) if longest == "wait" else longest


def step(profile: Profile | None, name: str) -> contextlib.AbstractContextManager[None]:
    """Return a context that times a step, or nothing without a profile."""
    return contextlib.nullcontext() if profile is None else profile.step(name)
