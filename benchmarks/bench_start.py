"""A finished cache of many rows: what `info` and an `extract` that has nothing to do cost, in time and memory."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache import CacheWriter
from featcache.cache.manifest import Entry
from featcache.cache.shard import ShardBuilder
from featcache.recipe import Recipe, Request
from featcache.sources import SplitPolicy, open_source

CLASSES, WIDTH = 10, 8
BASE = {"base": "mobilenetv2", "weights": "none"}
RESULTS = Path(__file__).parent / "results"


def make_source(root: Path, count: int) -> None:
    """Make a folder of class folders with so many files, each of other content; none is ever decoded."""
    for number in range(CLASSES):
        (root / f"class {number}").mkdir(parents=True)
    for i in range(count):
        (root / f"class {i % CLASSES}" / f"{i:08d}.png").write_bytes(b"image %d" % i)


def make_cache(source_folder: Path, cache: Path) -> None:
    """Make the cache that a finished `extract` of a folder leaves, with features that no base computed."""
    request, source = Request(**BASE), open_source(source_folder)
    policy = SplitPolicy().settled(source)
    recipe = Recipe("a" * 64, "b" * 64, ("out",), "avg", (224, 224), "stretch", "bilinear", "tf", "float32")
    meta = {
        "fingerprint": recipe.fingerprint,
        "layers": [["out", [WIDTH]]],
        "source": {"name": source.name, "location": source.location},
        "listing": {"validation_split": policy.validation_split, "test_from": None, "seed": policy.seed,
                    "test_split": None, "classes": None},
        "views": {"count": 0, "augmentation": "", "policy": None},
    }  # fmt: skip
    entries = []
    with CacheWriter.open_for_writing(cache, recipe, request.to_dict()) as writer:
        builder = ShardBuilder(recipe, {"out": (WIDTH,)})
        for i, item in enumerate(source.items):
            identity = hashlib.sha256(source.read(item)).digest()
            split = policy.split_of(item, identity)
            entries.append(Entry(item.path, item.label, split, None, item.size, item.mtime_ns, identity, None))
            builder.append(identity, item.path, {"out": np.full(WIDTH, i, np.float32)})
            if builder.full:
                writer.commit(builder, [])
                builder = ShardBuilder(recipe, {"out": (WIDTH,)})
        writer.commit(builder, [])
        writer.replace_listing(entries, meta)


def measured(arguments: Sequence[str]) -> dict[str, Any]:
    """Run the command line in a fresh process: its JSON, wall seconds from start to end, and peak RSS in MB."""
    child = (
        "import json, resource, sys\nfrom featcache.cli import main\ntry:\n    main()\nfinally:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-P", "-c", child, *arguments, "--json", "-q"],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {"seconds": seconds, "peak_mb": int(done.stderr.split()[-1]) / unit, "data": json.loads(done.stdout)}


def measure(count: int, repeat: int, scratch: Path) -> dict[str, Any]:
    """Make a source and its cache, and measure both commands in turn; the first turn warms the disk's cache up.

    Raises
    ------
    AssertionError
        If a command did not find all images, or computed one.
    """
    source, cache = scratch / "photos", scratch / "cache"
    make_source(source, count)
    make_cache(source, cache)
    commands = {
        "info": ["info", str(cache)],
        "extract, nothing new": ["extract", str(source), "--base", BASE["base"], "--weights", BASE["weights"],
                                 "--cache", str(cache)],
    }  # fmt: skip
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for turn in range(repeat + 1):
        for name, arguments in commands.items():
            found = measured(arguments)
            assert found["data"]["images"] == count, found["data"]["images"]
            assert found["data"].get("computed", 0) == 0, found["data"]
            if turn:
                runs[name].append(found)
    return {
        "rows": count,
        "repeat": repeat,
        "commands": {
            name: {key: sorted(round(run[key], 3) for run in found) for key in ("seconds", "peak_mb")}
            for name, found in runs.items()
        },
        "machine": {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("featcache", "numpy", "h5py", "keras", "tensorflow")},
        },
    }


def table(found: dict[str, Any]) -> str:
    """Return medians and spreads as text."""
    lines = [f"{found['rows']:,} rows, {found['repeat']} fresh processes each: median (least to most)"]
    for name, values in found["commands"].items():
        seconds, peak = values["seconds"], values["peak_mb"]
        lines.append(
            f"  {name:22} {statistics.median(seconds):6.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f})"
            f"  {statistics.median(peak):6.0f} MB ({peak[0]:.0f} to {peak[-1]:.0f})"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, and keep the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--work", type=Path, help="where source and cache are made, and left; default: a temporary one")
    parser.add_argument("--to", type=Path, help="the JSON file; default: benchmarks/results/start-<rows>.json")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = measure(options.rows, options.repeat, work)
    target = options.to or RESULTS / f"start-{options.rows}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
