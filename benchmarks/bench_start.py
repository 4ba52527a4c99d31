"""A finished cache of many rows: what it costs to start, in time and memory, when there is nothing to compute."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
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

CLASSES, WIDTH = 10, 8
BASE = {"base": "mobilenetv2", "weights": None}
FILES = 200_000
"""Images that are files of their own; more are pixels of one file that is mapped."""
BATCHES, BATCH = 200, 256


def make_source(root: Path, count: int) -> None:
    """Make a folder of class folders with so many files, or of two arrays; no image is ever decoded."""
    if count > FILES:
        root.mkdir(parents=True)
        np.save(root / "images.npy", np.zeros((count, 2, 2), np.uint8))
        np.save(root / "labels.npy", (np.arange(count) % CLASSES).astype(np.uint8))
        return
    for number in range(CLASSES):
        (root / f"class {number}").mkdir(parents=True)
    for i in range(count):
        (root / f"class {i % CLASSES}" / f"{i:08d}.png").write_bytes(b"image %d" % i)


def make_cache(source_folder: Path, cache: Path) -> None:
    """Make the cache that a finished `extract` of a source leaves, with digests and features that nobody computed."""
    from featcache.cache import CacheWriter
    from featcache.cache.listing import Listing
    from featcache.cache.shard import ShardBuilder
    from featcache.recipe import Recipe, Request
    from featcache.sources import Items, SplitPolicy
    from featcache.sources.opening import open_source

    time.sleep(2.1)  # what changed within two seconds is read again, and these digests are made up
    request, source = Request(**BASE), open_source(source_folder)
    policy = SplitPolicy().settled(source)
    recipe = Recipe("a" * 64, "b" * 64, ("out",), "avg", (224, 224), "stretch", "bilinear", "tf", "float32")
    meta = {
        "fingerprint": recipe.fingerprint,
        "layers": [["out", [WIDTH]]],
        "channels": 3,
        "source": {"name": source.name, "location": source.location},
        "listing": {
            "validation_split": policy.validation_split,
            "test_from": None,
            "seed": policy.seed,
            "test_split": None,
            "classes": None,
        },
        "views": {"count": 0, "augmentation": "", "policy": None},
    }
    items = Items.of(source.items)
    labels = items.labels.codes
    digests = np.random.default_rng(0).integers(0, 256, (len(items), 32), np.uint8)
    splits = policy.splits_of(items, digests)
    entries = Listing.listed(items, splits, digests, np.ones(len(items), bool), {})
    with CacheWriter.open_for_writing(cache, recipe, request.to_dict()) as writer:
        builder = ShardBuilder(recipe, {"out": (WIDTH,)})
        for i in np.random.default_rng(1).permutation(len(items)).tolist():
            builder.append(digests[i].tobytes(), f"{i:08d}", {"out": np.full(WIDTH, labels[i], np.float32)})
            if builder.full:
                writer.commit(builder, [])
                builder = ShardBuilder(recipe, {"out": (WIDTH,)})
        writer.commit(builder, [])
        start = time.perf_counter()
        writer.replace_listing(entries, meta)
        print(f"listing written in {time.perf_counter() - start:.1f} s", file=sys.stderr)


def reading(cache: Path) -> dict[str, float]:
    """Open a cache, choose its training rows and read batches of random ones; seconds of each, in this process."""
    from featcache.cache import FeatureCache

    seconds = {}
    start = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal start
        seconds[name], start = time.perf_counter() - start, time.perf_counter()

    opened = FeatureCache(cache)
    assert len(opened) > 0
    lap("open")
    features, labels = (getattr(opened, name)("train", order="storage") for name in ("features", "label_indices"))
    groups = opened.groups("train", order="storage")
    assert len(features) == len(labels) == len(groups)
    lap("split selection")
    rng = np.random.default_rng(0)
    for _ in range(BATCHES):
        rows = rng.integers(0, len(features), BATCH)
        assert (features[rows][:, 0] == labels[rows]).all()
    lap(f"{BATCHES} batches of {BATCH} random rows")
    return seconds


def measured(arguments: Sequence[str], *, imports: bool = False) -> dict[str, Any]:
    """Run the command line in a fresh process: its JSON, wall seconds from start to end, peak RSS in MB.

    With `imports`, which slow it down: whether it, or a process that it started, imported TensorFlow.
    """
    child = (
        "import resource, sys\nfrom featcache.cli import main\ntry:\n    main()\nfinally:\n"
        "    used = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]\n"
        "    print(max(used), file=sys.stderr)"
    )
    options = [] if arguments == ["--help"] else ["--json", "-q"]
    environment = {**os.environ, **({"PYTHONPROFILEIMPORTTIME": "1"} if imports else {})}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-P", "-c", child, *arguments, *options],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    seconds = time.perf_counter() - start
    data = json.loads(done.stdout) if options else {}
    return {
        "seconds": seconds,
        "peak_mb": int(done.stderr.split()[-1]) / _unit(),
        "tensorflow": "| tensorflow\n" in done.stderr,
        "data": data,
    }


def _unit() -> int:
    """Return how many of what the system counts memory in are a megabyte."""
    return 2**20 if sys.platform == "darwin" else 2**10


def measure(count: int, repeat: int, scratch: Path) -> dict[str, Any]:
    """Make a source and its cache, and measure all commands in turn; the first turn warms the disk's cache up.

    Raises
    ------
    AssertionError
        If a command did not find all images, or computed one, or imported TensorFlow.
    """
    source, cache = scratch / f"photos-{count}", scratch / f"cache-{count}"
    if not cache.exists():
        subprocess.run([sys.executable, __file__, "--make", str(count), str(source), str(cache)], check=True)
    extract = ["extract", str(source), "--base", BASE["base"], "--weights", "none", "--cache", str(cache)]
    commands = {
        "--help": ["--help"],
        "info": ["info", str(cache)],
        "extract --dry-run": [*extract, "--dry-run"],
        "extract, nothing new": extract,
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    read: list[dict[str, Any]] = []
    for turn in range(repeat + 1):
        for name, arguments in commands.items():
            found = measured(arguments, imports=not turn)
            assert found["data"].get("images", count) == count, found["data"]
            assert found["data"].get("computed", 0) == found["data"].get("rows_to_compute", 0) == 0, found["data"]
            assert not found["tensorflow"], name
            if turn:
                runs[name].append(found)
        done = subprocess.run([sys.executable, __file__, "--read", str(cache)], capture_output=True, check=True)
        if turn:
            read.append(json.loads(done.stdout))
    return {
        "rows": count,
        "repeat": repeat,
        "commands": {
            name: {key: sorted(round(run[key], 3) for run in found) for key in ("seconds", "peak_mb")}
            for name, found in runs.items()
        },
        "reading": {key: sorted(round(one[key], 4) for one in read) for key in read[0]},
        "manifest_bytes": (cache / "manifest.sqlite").stat().st_size,
    }


def table(found: dict[str, Any]) -> str:
    """Return medians and spreads as text."""
    lines = [f"{found['rows']:,} rows, {found['repeat']} fresh processes each: median (least to most)"]
    for name, values in found["commands"].items():
        seconds, peak = values["seconds"], values["peak_mb"]
        lines.append(
            f"  {name:36} {statistics.median(seconds):7.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f})"
            f"  {statistics.median(peak):6.0f} MB ({peak[0]:.0f} to {peak[-1]:.0f})"
        )
    for name, values in found["reading"].items():
        unit = "MB" if name == "peak_mb" else "s"
        lines.append(f"  {name:36} {statistics.median(values):7.2f} {unit} ({values[0]:.2f} to {values[-1]:.2f})")
    lines.append(f"  manifest: {found['manifest_bytes'] / found['rows']:.1f} bytes for each image and its row")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print tables, and keep the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_500, 100_000])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--work", type=Path, help="where sources and caches are made and left")
    parser.add_argument("--to", type=Path, help="the JSON file; default: benchmarks/results/start-<most rows>.json")
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.make:
        count, source, cache = options.make  # in a process of its own, or all others would begin with its memory
        make_source(Path(source), int(count))
        make_cache(Path(source), Path(cache))
        return
    if options.read:
        seconds = reading(options.read)
        print(json.dumps({**seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _unit()}))
        return
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = []
        for count in options.rows:
            found.append(measure(count, options.repeat, work))
            print(table(found[-1]), flush=True)
    result = {
        "sizes": found,
    }
    target = options.to or RESULTS / f"start-{max(options.rows)}.json"
    keep(target, result, "numpy", "h5py", "keras", "tensorflow")


if __name__ == "__main__":
    main()
