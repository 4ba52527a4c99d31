"""One worker and two, of one thread and one processor each, of processes and of dask: images per second, equal results.

On Linux each run is kept on as many processors as it has workers: a worker decodes beside its one thread of TensorFlow,
and alone would use the processor that the second worker has in the other run. The driver shares them.
What counts is the time between the first and the last task that was committed: starting TensorFlow costs each worker
the same seconds, however long it works then. The local engine with one thread is beside them.
"""

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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keeping import RESULTS, keep

RUNS = {
    "local": ("local", None),
    "processes 1": ("processes", 1),
    "processes 2": ("processes", 2),
    "dask 1": ("dask", 1),
    "dask 2": ("dask", 2),
}


def make_photos(root: Path, count: int, side: int) -> None:
    """Write JPEG files of two classes: smooth noise, about as large as photographs are."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(count):
        file = root / "ab"[i % 2] / f"{i:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(file, quality=90)


def extracted(source: Path, cache: Path, engine: str, workers: int | None, arguments: dict[str, Any]) -> dict[str, Any]:
    """Extract on as many processors as workers, and say how fast from the first commit on, and what the shards are."""
    from featcache.extraction.extracting import Extraction

    marks: list[tuple[int, float]] = []

    def progress(done: int, total: int) -> None:
        marks.append((done, time.perf_counter()))

    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: workers or 1])
    start = time.perf_counter()
    options = {} if engine == "local" else {"engine": engine, "workers": workers}
    result = Extraction(source, cache=cache, **arguments, **options, progress=progress).run()
    seconds = time.perf_counter() - start
    (first, begun), (last, ended) = marks[0], marks[-1]
    return {
        "seconds": seconds,
        "rate": (last - first) / (ended - begun) if ended > begun else 0.0,
        "images": len(result),
        "shards": [info.name for info in result.shards.values()],
    }


def child(source: Path, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run one extraction in a fresh process into a cache that is thrown away."""
    with tempfile.TemporaryDirectory() as scratch:
        engine, workers = RUNS[name]
        task = json.dumps([str(source), str(Path(scratch) / "cache"), engine, workers, arguments])
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, __file__, "--one", task], capture_output=True, text=True, check=False, env=environment
        )
    if done.returncode:
        raise SystemExit((done.stderr.strip().splitlines() or ["killed"])[-1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(source: Path, names: Sequence[str], repeat: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run all in turn, `repeat` times.

    Raises
    ------
    AssertionError
        If two runs did not leave the same shards, byte for byte.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    shards = None
    for _ in range(repeat):
        for name in names:
            found = child(source, name, arguments)
            shards = found.pop("shards") if shards is None else shards
            assert found.pop("shards", shards) == shards, f"{name} left other shards"
            runs[name].append(found)
            print(f"  {name:12} {found['rate']:7.1f} images/s, {found['seconds']:6.1f} s in all", flush=True)
    return {
        name: {key: sorted(one[key] for one in found) for key in ("rate", "seconds")} | {"images": found[0]["images"]}
        for name, found in runs.items()
    }


def table(found: dict[str, Any]) -> str:
    """Return medians and spreads, and what two workers are of one."""
    lines = [f"{'':12} {'images/s: median (least to most)':>34} {'against one':>12}"]
    for name, values in found["runs"].items():
        rate = values["rate"]
        one = found["runs"].get(name.replace("2", "1"))
        ratio = f"{statistics.median(rate) / statistics.median(one['rate']):.2f}" if one and name.endswith("2") else ""
        lines.append(f"{name:12} {statistics.median(rate):16.1f} ({rate[0]:.1f} to {rate[-1]:.1f}) {ratio:>12}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, and keep the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder of class folders; default: made-up photographs")
    parser.add_argument("--images", type=int, default=4096, help="how many are made")
    parser.add_argument("--side", type=int, default=400, help="their size in pixels")
    parser.add_argument("--base", default="mobilenetv2")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--shard-rows", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--to", type=Path, default=RESULTS / "scale.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        source, cache, engine, workers, given = json.loads(options.one)
        print(json.dumps(extracted(Path(source), Path(cache), engine, workers, given)))
        return
    given = {
        "base": options.base,
        "weights": None,
        "image_size": options.image_size,
        "shard_rows": options.shard_rows,
        "batch_size": options.batch_size,
    }
    with contextlib.ExitStack() as stack:
        source = options.data
        if source is None:
            source = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "photos"
            make_photos(source, options.images, options.side)
        runs = measure(source, options.runs, options.repeat, given)
    result = {
        "arguments": given,
        "threads": 1,
        "repeat": options.repeat,
        "runs": runs,
    }
    keep(options.to, result, "tensorflow", "keras", "distributed")
    print(table(result))


if __name__ == "__main__":
    main()
