"""Ten epochs on a frozen base in plain Keras, against extracting once and fitting one, three and eight heads."""

from __future__ import annotations

import argparse
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

from keeping import RESULTS, keep

CHEAP = ("logreg", "ridge", "linear-svm", "centroid", "sgd")
HEADS: dict[str, list[str]] = {
    "one head": ["logreg"],
    "three heads": ["logreg", "ridge", "centroid"],
    "eight heads": ["logreg", "ridge", "centroid", "linear-svm", "sgd", "svm", "knn", "dense"],
}


def plain_keras(data: Path, options: argparse.Namespace, weights: Path) -> dict[str, Any]:
    """Do what the usual script does; accuracy on the validation folder after the last epoch."""
    import keras

    from featcache.bases import find_application

    size, application = options.image_size, find_application(options.base)
    module = getattr(keras.applications, application.build.__module__.rpartition(".")[2])
    base = application.build(include_top=False, weights=None, input_shape=(size, size, 3), **_settings(options))
    base.load_weights(weights)
    base.trainable = False
    keras.utils.set_random_seed(0)
    read: dict[str, Any] = {"image_size": (size, size), "batch_size": 32, "verbose": False}
    train = keras.utils.image_dataset_from_directory(data / "train", shuffle=True, seed=0, **read)
    validation = keras.utils.image_dataset_from_directory(data / "validation", shuffle=False, **read)
    classes = len(train.class_names)
    train, validation = (part.prefetch(2) for part in (train, validation))
    inputs = keras.Input((size, size, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(base(module.preprocess_input(inputs), training=False))
    model = keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(pooled))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(train, epochs=options.epochs, validation_data=validation, verbose=0).history
    return {"accuracy": history["val_accuracy"][-1]}


def extraction(data: Path, cache: Path, options: argparse.Namespace, weights: Path) -> dict[str, Any]:
    """Extract as the command line does, and say how many images there are."""
    from featcache import extract, processors

    processors.pass_side_by_side()
    found = extract(data, base=options.base, settings=_settings(options), weights=weights,
                    image_size=options.image_size, cache=cache)  # fmt: skip
    return {"images": len(found), "computing": found.report.seconds}


def heads(cache: Path, names: list[str]) -> dict[str, Any]:
    """Fit heads on a cache; the accuracy of each, and the seconds of fitting it."""
    import featcache

    if len(names) == 1:
        head = featcache.fit_head(cache, names[0])
        return {"heads": {names[0]: {"accuracy": head.metrics["validation"]["accuracy"],
                                     "fit_seconds": head.card["fit_seconds"]}}}  # fmt: skip
    found = featcache.compare(cache, names, fresh=True)
    assert not found.failed, found.failed
    return {"heads": {row["clf"]: {key: row[key] for key in ("accuracy", "fit_seconds")} for row in found.leaderboard}}


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {} if options.alpha is None else {"alpha": options.alpha}


def child(task: str, scratch: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Do one task in a fresh process; what it found, and its wall seconds from start to exit, imports included."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, __file__, *arguments, "--task", task, str(scratch)],
                          capture_output=True, text=True, check=False, env=environment)  # fmt: skip
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{task}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": seconds, **found}


def do(task: str, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Do a task in this process."""
    weights = scratch / "base.weights.h5"
    if task == "weights":  # both ways load these, so that both have the same base
        from featcache.bases import find_application

        size, start = options.image_size, None if options.weights == "none" else options.weights
        model = find_application(options.base).build(
            include_top=False, weights=start, input_shape=(size, size, 3), **_settings(options)
        )
        model.save_weights(weights)
        return {}
    if task == "plain Keras":
        return plain_keras(options.data, options, weights)
    if task == "extract":
        return extraction(options.data, scratch / "cache", options, weights)
    return heads(scratch / "cache", HEADS[task])


def measure(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """Do all tasks in turn, `repeat` times, with a new cache each time.

    Raises
    ------
    AssertionError
        If a head that does what the plain one does is less accurate by more than 5 points.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("plain Keras", "extract", *HEADS)}
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory() as scratch:
            child("weights", Path(scratch), arguments)
            for name, found in runs.items():
                found.append(child(name, Path(scratch), arguments))
    plain = statistics.median(run["accuracy"] for run in runs["plain Keras"])
    ours = statistics.median(run["heads"]["logreg"]["accuracy"] for run in runs["one head"])
    assert ours >= plain - 0.05, (ours, plain)
    ratios = {
        name: sorted(k["seconds"] / (e["seconds"] + h["seconds"])
                     for k, e, h in zip(runs["plain Keras"], runs["extract"], runs[name], strict=True))
        for name in HEADS
    }  # fmt: skip
    return {"runs": runs, "ratios": ratios, "accuracy": {"plain Keras": plain, "logreg": ours}}


def table(found: dict[str, Any], epochs: int) -> str:
    """Return medians and spreads as text."""
    runs = found["runs"]
    extracting = statistics.median(run["seconds"] for run in runs["extract"])
    lines = [f"{runs['extract'][0]['images']:,} images, {epochs} epochs, {len(runs['extract'])} runs: median (spread)"]
    for name, done in runs.items():
        seconds = sorted(run["seconds"] for run in done)
        text = f"  {name:12} {statistics.median(seconds):8.1f} s ({seconds[0]:.1f} to {seconds[-1]:.1f})"
        if name in HEADS:
            ratio = found["ratios"][name]
            text += (
                f"  with extraction {statistics.median(ratio):5.1f} times as fast ({ratio[0]:.1f} to {ratio[-1]:.1f})"
            )
        lines.append(text)
    lines.append(f"  accuracy on validation: plain Keras {found['accuracy']['plain Keras']:.4f}")
    for clf in HEADS["eight heads"]:
        one = [run["heads"][clf] for run in runs["eight heads"]]
        fit = statistics.median(row["fit_seconds"] for row in one)
        lines.append(
            f"    {clf:10} {one[0]['accuracy']:.4f}, fitted in {fit:.2f} s: {fit / extracting:.1%} of extraction"
            f"{' (goal: below 2 %)' if clf in CHEAP else ''}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, and keep the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="train/ and validation/ of class folders")
    parser.add_argument("--base", default="mobilenetv2")
    parser.add_argument("--weights", default="none", help="none, imagenet or a file that the application takes")
    parser.add_argument("--alpha", type=float, help="for MobileNets")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=10, help="of plain Keras")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--to", type=Path, default=RESULTS / "workflow.json")
    parser.add_argument("--task", nargs=2, help=argparse.SUPPRESS)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if options.task:
        print(json.dumps(do(options.task[0], Path(options.task[1]), options)))
        return
    found = measure(options, given)
    print(table(found, options.epochs))
    result = {
        "base": options.base, "image_size": options.image_size, "epochs": options.epochs, **found,
    }  # fmt: skip
    keep(options.to, result, "numpy", "scikit-learn", "keras", "tensorflow")


if __name__ == "__main__":
    main()
