"""Heads beside plain scikit-learn on the same arrays, and the streaming heads on a cache larger than they may hold.

Each fit is a process of its own: seconds of fitting, the anonymous memory that fitting added, accuracy on 10,000
other rows. Ours are measured as users get them, with calibrated probabilities, and without calibration, which is the
work the plain estimator does.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keeping import RESULTS, keep

ALPHAS = (1.0, 10.0, 100.0, 1e3, 1e4)
TEST_ROWS = 10_000
NOISE = 2.0


def features(n: int, width: int, classes: int, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return rows like pooled features: correlated, cut off at 0, of classes that overlap; and their classes."""
    fixed = np.random.default_rng(0)
    rank = min(64, width)
    mixing = fixed.normal(size=(rank, width)).astype(np.float32) / rank**0.5
    means = fixed.normal(size=(classes, rank)).astype(np.float32)
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    X = np.empty((n, width), np.float32)
    for start in range(0, n, 10_000):
        part = slice(start, start + 10_000)
        hidden = means[y[part]] + noise * rng.standard_normal((len(y[part]), rank), np.float32)
        X[part] = np.maximum(hidden @ mixing + 0.3 * rng.standard_normal((len(hidden), width), np.float32), 0)
    return X, y


def plain(clf: str) -> Any:
    """Return what a user of scikit-learn would take; None where it has nothing of the kind."""
    from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
    from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC, LinearSVC

    makers: dict[str, Callable[[], Any]] = {
        "logreg": lambda: LogisticRegression(max_iter=1000),
        "linear-svm": lambda: LinearSVC(max_iter=10_000),
        "svm": SVC,
        "ridge": lambda: RidgeClassifierCV(alphas=ALPHAS),
        "knn": lambda: KNeighborsClassifier(10, weights="distance", metric="cosine"),
        "centroid": NearestCentroid,
        "dense": lambda: MLPClassifier((64,), early_stopping=True, random_state=0),
    }
    return makers[clf]() if clf == "knn" else make_pipeline(StandardScaler(), makers[clf]())


def ours(clf: str, calibrate: str) -> Any:
    """Return featcache's head with the plain one's parameters."""
    from featcache.heads import build

    params = {"ridge": {"alphas": ALPHAS}, "dense": {"hidden": (64,)}, "logreg": {"C": 1.0}, "linear-svm": {"C": 1.0}}
    return build(clf, params.get(clf), calibrate=calibrate)


def fitted(kind: str, clf: str, folder: Path) -> dict[str, Any]:
    """Fit one head on the arrays of a folder, in this process."""
    import warnings

    from peak_memory import Peak

    from featcache.heads import Rows

    warnings.simplefilter("ignore")
    X, y, V, v = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("X", "y", "V", "v"))
    estimator = plain(clf) if kind == "plain" else ours(clf, "none" if kind == "bare" else "temperature")
    if clf == "dense" and kind != "plain":
        from featcache.system.startup import import_tensorflow

        import_tensorflow()
    with Peak() as memory:
        start = time.perf_counter()
        if kind == "plain":
            estimator.fit(np.asarray(X), y)
        else:
            estimator.fit(Rows(X), np.asarray(y), np.arange(len(y)))
        seconds = time.perf_counter() - start
    right = np.concatenate([estimator.predict(V[a : a + 1000]) == v[a : a + 1000] for a in range(0, len(v), 1000)])
    return {"seconds": seconds, "memory": memory.increase, "accuracy": float(right.mean())}


def streamed(clf: str, cache: Path, params: dict[str, Any]) -> dict[str, Any]:
    """Fit one head on a cache as `fit-head` does, in this process; the memory is all that the process has."""
    from peak_memory import Peak

    import featcache

    with Peak() as memory:
        start = time.perf_counter()
        head = featcache.fit_head(cache, clf, params=params)
        seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "fit_seconds": head.card["fit_seconds"],
        "memory": memory.peak,
        "accuracy": head.metrics["validation"]["accuracy"],
        "n": head.metrics["validation"]["n"],
    }


def reading(cache: Path) -> dict[str, Any]:
    """Read all training rows of a cache in order and shuffled, in turn, and say how fast, in this process."""
    from featcache.cache import FeatureCache
    from featcache.heads import Rows

    rows = Rows(FeatureCache(cache).features("train", order="storage"))
    size = len(rows) * rows.shape[1] * 4 / 1e9
    speed: dict[str, list[float]] = {"in order": [], "shuffled": []}
    for turn in range(4):
        start = time.perf_counter()
        total = 0
        for _, block in rows.blocks():
            total += len(block)
        speed["in order"].append(size / (time.perf_counter() - start))
        start = time.perf_counter()
        for numbers, _ in rows.shuffled(np.random.default_rng(turn), 256):
            total -= len(numbers)
        speed["shuffled"].append(size / (time.perf_counter() - start))
        assert total == 0
    return {name: sorted(values[1:]) for name, values in speed.items()}  # the first turn checks every block's checksum


def child(arguments: Sequence[str], limit: float) -> dict[str, Any]:
    """Run this script's own task in a fresh process; what it prints, or that it took too long."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(
            [sys.executable, __file__, *arguments], capture_output=True, text=True, timeout=limit, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"error": f"over {limit:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["killed"])[-1][:200]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def make_cache(path: Path, n: int, width: int, classes: int) -> None:
    """Make a cache of synthetic rows, a fiftieth of them for validation, shard after shard."""
    from featcache.cache import CacheWriter
    from featcache.cache.manifest import Entry
    from featcache.cache.shard import ShardBuilder
    from featcache.recipe import Recipe

    recipe = Recipe("a" * 64, "b" * 64, ("out",), "avg", (224, 224), "stretch", "bilinear", "tf", "float16")
    meta = {
        "fingerprint": recipe.fingerprint,
        "layers": [["out", [width]]],
        "source": {"name": "made", "location": "made"},
        "listing": {"classes": None},
    }
    entries = []
    with CacheWriter.open_for_writing(path, recipe, None) as writer:
        builder = ShardBuilder(recipe, {"out": (width,)})
        for start in range(0, n, 50_000):
            X, y = features(min(50_000, n - start), width, classes, start, NOISE)
            for i, row in enumerate(X, start):
                digest, split = i.to_bytes(32, "big"), "validation" if i % 50 == 0 else "train"
                label = f"class {y[i - start]}"
                entries.append(Entry(f"{i:08d}.jpg", label, split, None, 1, 1, digest, None))
                builder.append(digest, f"{i:08d}.jpg", {"out": row.astype(np.float16)})
                if builder.full:
                    writer.commit(builder, [])
                    builder = ShardBuilder(recipe, {"out": (width,)})
        writer.commit(builder, [])
        writer.replace_listing(entries, meta)


def compare(
    sizes: Sequence[int], width: int, classes: int, heads: Sequence[str], repeat: int, limit: float, noise: float
) -> list[dict[str, Any]]:
    """Fit each head and its plain counterpart, in turn, on growing arrays.

    A head whose plain counterpart took too long is not tried with more rows.
    """
    rows = []
    slow: set[tuple[str, str]] = set()
    for n in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            for names, count, seed in ((("X", "y"), n, 1), (("V", "v"), min(TEST_ROWS, n), 2)):
                for name, array in zip(names, features(count, width, classes, seed, noise), strict=True):
                    np.save(folder / f"{name}.npy", array)
            for clf in heads:
                row: dict[str, Any] = {"n": n, "clf": clf}
                for kind in ("plain", "bare", "calibrated"):
                    if (clf, kind) in slow:
                        row[kind] = {"error": f"over {limit:.0f} s at fewer rows"}
                        continue
                    found = [child(["--one", kind, clf, scratch], limit)]
                    if "error" in found[0]:
                        slow.add((clf, kind))
                    elif found[0]["seconds"] < 10:
                        found += [child(["--one", kind, clf, scratch], limit) for _ in range(repeat - 1)]
                    failed = next((one for one in found if "error" in one), None)
                    row[kind] = failed or {
                        "seconds": statistics.median(one["seconds"] for one in found),
                        "spread": [min(one["seconds"] for one in found), max(one["seconds"] for one in found)],
                        "memory": max(one["memory"] or 0 for one in found),
                        "accuracy": found[0]["accuracy"],
                    }
                rows.append(row)
                print(line(row), flush=True)
    return rows


def cell(found: dict[str, Any]) -> str:
    """Return seconds, memory and accuracy of one fit."""
    if "error" in found:
        return f"{found['error']:>32}"
    return f"{found['seconds']:9.2f} s {found['memory'] / 1e6:8,.0f} MB {found['accuracy']:9.4f}"


def line(row: dict[str, Any]) -> str:
    """Return one line of the table."""
    return f"{row['n']:>9,} {row['clf']:10} " + " | ".join(cell(row[kind]) for kind in ("plain", "bare", "calibrated"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and keep the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["centroid", "ridge", "logreg", "linear-svm", "dense", "knn", "svm"]
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 50_000, 200_000])
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--noise", type=float, default=NOISE, help="how much the classes overlap")
    parser.add_argument("--heads", nargs="+", default=names)
    parser.add_argument("--repeat", type=int, default=3, help="of fits below 10 seconds")
    parser.add_argument("--limit", type=float, default=120, help="seconds after which a fit is given up")
    parser.add_argument("--streamed", type=int, default=1_000_000, help="rows of the cache; 0: none")
    parser.add_argument("--fits", type=int, default=5, help="of each head on the cache")
    parser.add_argument("--to", type=Path, default=RESULTS / "heads.json")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--stream", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(fitted(options.one[0], options.one[1], Path(options.one[2]))))
        return
    if options.stream:
        print(json.dumps(streamed(options.stream[0], Path(options.stream[1]), json.loads(options.stream[2]))))
        return
    if options.read:
        print(json.dumps(reading(Path(options.read))))
        return
    result: dict[str, Any] = {
        "width": options.width,
        "classes": options.classes,
    }
    if options.rows != [0]:
        print(f"{'rows':>9} {'head':10} {'plain scikit-learn':>33} | {'ours, not calibrated':>33} | {'ours':>33}")
        result["heads"] = compare(
            options.rows, options.width, options.classes, options.heads, options.repeat, options.limit, options.noise
        )
    if options.streamed:
        with contextlib.ExitStack() as stack:
            cache = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "cache"
            make_cache(cache, options.streamed, options.width, options.classes)
            result["streamed"] = {"rows": options.streamed}
            for clf in ("centroid", "ridge", "logreg", "dense"):
                params = {"dense": {"epochs": 5}, "logreg": {"C": 0.01}}.get(clf, {})
                fits = [child(["--stream", clf, str(cache), json.dumps(params)], 3600) for _ in range(options.fits)]
                result["streamed"][clf] = fits
                for found in fits:
                    print(f"{options.streamed:>9,} {clf:10} {cell(found)}", flush=True)
            result["reading"] = child(["--read", str(cache)], 3600)
            for name, speeds in result["reading"].items():
                print(f"reading {name}: {statistics.median(speeds):.2f} GB/s ({speeds[0]:.2f} to {speeds[-1]:.2f})")
    keep(options.to, result, "numpy", "scikit-learn", "keras")


if __name__ == "__main__":
    main()
