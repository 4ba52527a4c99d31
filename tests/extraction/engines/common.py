"""What tests of engines share: a source with everything in it, and what a cache holds."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from conftest import random_image, write_image

from featcache.cache import FeatureCache
from featcache.cache.verification import verify

OPTIONS = {"shard_rows": 8, "views": 1, "augment": "flip"}


def make_photos(root: Path, count: int = 40) -> Path:
    """Write images in two classes: some are copies of others, two cannot be decoded."""
    for i in range(count):
        path = write_image(root / ("a" if i % 2 else "b") / f"{i:03d}.png", random_image(i % (count - 4)))
        if i in (5, 20):
            path.write_bytes(b"text %d" % i)
    return root


def content(path: Path) -> tuple[object, ...]:
    """Return everything a sound cache holds: its listing, its rows and where they lie, its files' bytes."""
    assert verify(path).problems == []
    cache = FeatureCache(path)
    left = [file.name for file in (path / "parts").glob("*") if not file.name.startswith(".tmp-")]
    assert left == []  # a worker that was killed as it wrote leaves a draft, which gc removes
    return (
        [entry._replace(changes=0) for entry in cache.entries],  # 0 or not by how old the files were
        [(number, info.name) for number, info in cache.shards.items()],
        dict(cache.places),
        {file.name: file.read_bytes() for file in (path / "shards").iterdir()},
        np.asarray(cache.features(views=True)).tobytes(),
    )


def children(of: int | None = None) -> list[int]:
    """Return the processes that a process (default: this one) and those it started have started, and that run."""
    return list(_descendants(of or os.getpid()))


def _descendants(pid: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state not in "ZX":
            yield int(stat.parent.name)
            yield from _descendants(int(stat.parent.name))


def killing(victims: Callable[[], list[int]], at: set[int]) -> Callable[[int, int], None]:
    """Return a progress that kills one of some processes at its so-manieth call."""
    calls = 0

    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls in at:
            os.kill(victims()[0], signal.SIGKILL)

    return progress
