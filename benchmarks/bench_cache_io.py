"""Reading a cache: in order, shuffled into training batches, and random rows; from the disk and from memory."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keeping import RESULTS, keep

BATCH = 256
RANDOM_ROWS = 20_000


def make_cache(path: Path, n: int, width: int) -> None:
    """Make a cache of n training rows, shard after shard; a row begins with the number of its image."""
    from featcache.cache import CacheWriter
    from featcache.cache.listing import Entry
    from featcache.cache.shard import ShardBuilder
    from featcache.recipe import Recipe

    recipe = Recipe("a" * 64, "b" * 64, ("out",), "avg", (224, 224), "stretch", "bilinear", "tf", "float16")
    meta = {
        "fingerprint": recipe.fingerprint,
        "layers": [["out", [width]]],
        "source": {"name": "made", "location": "made"},
        "listing": {"classes": None},
    }
    rng = np.random.default_rng(0)
    with CacheWriter.open_for_writing(path, recipe, None) as writer:
        builder = ShardBuilder(recipe, {"out": (width,)})
        for i in range(n):
            row = rng.random(width, np.float32).astype(np.float16)
            row[:2] = i >> 10, i & 1023
            builder.append(i.to_bytes(32, "big"), f"{i:08d}.jpg", {"out": row})
            if builder.full:
                writer.commit(builder, [])
                builder = ShardBuilder(recipe, {"out": (width,)})
        writer.commit(builder, [])
        listed = (Entry(f"{i:08d}.jpg", "a", "train", None, 1, 1, i.to_bytes(32, "big"), None) for i in range(n))
        writer.replace_listing(listed, meta)


def forget(folder: Path) -> None:
    """Have the system drop a cache's files from memory; no process may have them mapped."""
    for file in (folder / "shards").iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def passes(folder: Path, kind: str, cold: bool, repeat: int) -> dict[str, Any]:
    """Read a cache `repeat` times in one way, in this process: GB/s of float16 as stored, and peak anonymous memory.

    A pass before them finds every block's checksum right, so that none is computed again. With `cold`, the system
    drops the files from memory before each pass.

    Raises
    ------
    AssertionError
        If a row is not the row that was asked for, or one is missing.
    """
    from peak_memory import Peak

    from featcache.cache import FeatureCache
    from featcache.heads import Rows

    cache = FeatureCache(folder)
    features = cache.features("train", order="storage")
    images = cache.numbers("train", order="storage")[0]
    rows = Rows(features)

    def in_order() -> int:
        return sum(_right(block, images[part]) for part, block in rows.blocks())

    def shuffled(seed: int = 0) -> int:
        return sum(_right(x, images[part]) for part, x in rows.shuffled(np.random.default_rng(seed), BATCH))

    def random(seed: int = 0) -> int:
        chosen = np.random.default_rng(seed).integers(
            0, len(rows), (max(1, min(RANDOM_ROWS, len(rows)) // BATCH), BATCH)
        )
        return sum(_right(features[some], images[some]) for some in chosen)

    ways: dict[str, Callable[[], int]] = {"in order": in_order, "shuffled batches": shuffled, "random rows": random}
    assert in_order() == len(rows)
    speeds = []
    with Peak() as memory:
        for _ in range(repeat):
            if cold:
                cache._stored_features._maps.clear()
                forget(folder)
            start = time.perf_counter()
            count = ways[kind]()
            speeds.append(count * rows.shape[1] * 2 / 1e9 / (time.perf_counter() - start))
            assert kind == "random rows" or count == len(rows)
    return {"gb_per_s": sorted(speeds), "peak_anonymous_mb": None if memory.peak is None else memory.peak / 1e6}


def _right(block: Any, images: Any) -> int:
    block = block[:, :2].astype(np.float32)
    assert (block @ [1024, 1] == images).all()
    return len(block)


def measure(folder: Path, repeat: int) -> dict[str, Any]:
    """Measure every way of reading, each in a process of its own."""
    found: dict[str, Any] = {}
    for state in ("cold", "warm") if hasattr(os, "posix_fadvise") else ("warm",):
        for kind in ("in order", "shuffled batches", "random rows"):
            done = subprocess.run(
                [sys.executable, __file__, "--read", str(folder), kind, state, str(repeat)],
                capture_output=True,
                text=True,
                check=True,
            )
            found[f"{kind}, {state}"] = json.loads(done.stdout)
            print(line(f"{kind}, {state}", found[f"{kind}, {state}"]), flush=True)
    return found


def line(name: str, found: dict[str, Any]) -> str:
    """Return one line of the table."""
    speeds = found["gb_per_s"]
    return (
        f"  {name:24} {statistics.median(speeds):6.2f} GB/s ({speeds[0]:.2f} to {speeds[-1]:.2f})"
        f"  {found['peak_anonymous_mb'] or 0:6.0f} MB anonymous"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, and keep the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--work", type=Path, help="where the cache is made and left; default: a temporary folder")
    parser.add_argument("--to", type=Path, default=RESULTS / "cache-io.json")
    parser.add_argument("--read", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.read:
        folder, kind, state, repeat = options.read
        print(json.dumps(passes(Path(folder), kind, state == "cold", int(repeat))))
        return
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if not (work / "cache").exists():
            make_cache(work / "cache", options.rows, options.width)
        size = options.rows * options.width * 2
        print(f"{options.rows:,} rows of {options.width:,} float16 ({size / 1e9:.2f} GB), {options.repeat} passes each")
        found = measure(work / "cache", options.repeat)
    medians = {name: statistics.median(one["gb_per_s"]) for name, one in found.items()}
    for state in ("cold", "warm"):
        if f"in order, {state}" in medians:
            ratio = medians[f"shuffled batches, {state}"] / medians[f"in order, {state}"]
            print(f"  shuffled batches / in order, {state}: {ratio:.2f}")
    result = {
        "rows": options.rows,
        "width": options.width,
        "repeat": options.repeat,
        "reading": found,
    }
    keep(options.to, result, "numpy", "h5py")


if __name__ == "__main__":
    main()
