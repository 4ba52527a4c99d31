"""Ten epochs on a frozen base in plain Keras, against `extract` once and one, three and seven heads.

Each is a process of its own, ours the command lines that anyone would give. `--heads` with the names of heads fits
each by a `fit-head` of its own: what one more head costs.
"""

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

CLI = Path(__file__).parents[1] / "cli.py"
CHEAP = ("logreg", "ridge", "linear-svm", "centroid")
HEADS: dict[str, list[str]] = {
    "one head": ["logreg"],
    "three heads": ["logreg", "ridge", "centroid"],
    "four heads": list(CHEAP),
    "seven heads": ["logreg", "ridge", "centroid", "linear-svm", "svm", "knn", "dense"],
    **{clf: [clf] for clf in CHEAP},
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


def command(task: str, cache: Path, options: argparse.Namespace, weights: Path) -> list[str]:
    """Return the command line that does a task."""
    ours = [sys.executable, str(CLI)]
    if task == "extract":
        settings = [f"--base-set={key}={value}" for key, value in _settings(options).items()]
        return [
            *ours,
            "extract",
            str(options.data),
            "--base",
            options.base,
            *settings,
            "--weights",
            str(weights),
            "--image-size",
            str(options.image_size),
            "--cache",
            str(cache),
            "--json",
        ]
    heads = [f"--clf={name}" for name in HEADS[task]]
    return [*ours, *(["fit-head"] if len(heads) == 1 else ["compare", "--fresh"]), str(cache), *heads, "--json"]


def understood(task: str, found: dict[str, Any]) -> dict[str, Any]:
    """Return what matters of a command's JSON: images, or the accuracy of each head and the seconds of fitting it."""
    if task == "extract":
        return {"images": found["images"], "computing": found["seconds"]}
    if "metrics" in found:
        accuracy = found["metrics"]["validation"]["accuracy"]
        return {"heads": {found["clf"]: {"accuracy": accuracy, "fit_seconds": found["fit_seconds"]}}}
    assert not found["failed"], found["failed"]
    rows = found["leaderboard"]
    return {"heads": {row["clf"]: {key: row[key] for key in ("accuracy", "fit_seconds")} for row in rows}}


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {} if options.alpha is None else {"alpha": options.alpha}


def child(task: str, scratch: Path, options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """Do one task in a fresh process; what it found, and its wall seconds from start to exit, imports included."""
    environment, weights = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, scratch / "base.weights.h5"
    plain = task in ("weights", "plain Keras")
    line = [sys.executable, __file__, *arguments, "--task", task, str(weights)]
    if not plain:
        line = command(task, scratch / "cache", options, weights)
    start = time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{task}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": seconds, **(found if plain else understood(task, found))}


def do(task: str, weights: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Do a task of plain Keras' in this process."""
    if task == "plain Keras":
        return plain_keras(options.data, options, weights)
    from featcache.bases import find_application

    size, start = options.image_size, None if options.weights == "none" else options.weights
    model = find_application(options.base).build(
        include_top=False, weights=start, input_shape=(size, size, 3), **_settings(options)
    )
    model.save_weights(weights)  # both ways load these, so that both have the same base
    return {}


def measure(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """Do all tasks in turn, `repeat` times, with a new cache each time.

    Raises
    ------
    AssertionError
        If a head that does what the plain one does is less accurate by more than 5 points.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("plain Keras", "extract", *options.heads)}
    for _ in range(options.repeat):
        with tempfile.TemporaryDirectory() as scratch:
            child("weights", Path(scratch), options, arguments)
            for name, found in runs.items():
                found.append(child(name, Path(scratch), options, arguments))
    plain = statistics.median(run["accuracy"] for run in runs["plain Keras"])
    like = next(name for name in options.heads if "logreg" in HEADS[name])
    ours = statistics.median(run["heads"]["logreg"]["accuracy"] for run in runs[like])
    assert ours >= plain - 0.05, (ours, plain)
    ratios = {
        name: sorted(
            k["seconds"] / (e["seconds"] + h["seconds"])
            for k, e, h in zip(runs["plain Keras"], runs["extract"], runs[name], strict=True)
        )
        for name in options.heads
    }
    return {"runs": runs, "ratios": ratios, "accuracy": {"plain Keras": plain, "logreg": ours}}


def table(found: dict[str, Any], epochs: int) -> str:
    """Return medians and spreads as text."""
    runs = found["runs"]
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
    fewest = {clf: name for name in sorted(found["ratios"], key=lambda name: -len(HEADS[name])) for clf in HEADS[name]}
    for clf, name in fewest.items():
        one = [run["heads"][clf] for run in runs[name]]
        fit = statistics.median(row["fit_seconds"] for row in one)
        shares = sorted(row["fit_seconds"] / run["seconds"] for row, run in zip(one, runs["extract"], strict=True))
        lines.append(
            f"    {clf:10} {one[0]['accuracy']:.4f}, fitted in {fit:.2f} s: {statistics.median(shares):.2%} of "
            f"extraction ({shares[0]:.2%} to {shares[-1]:.2%}){'; goal: below 2 %' if clf in CHEAP else ''}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, and keep the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="train/ and validation/ of class folders")
    parser.add_argument("--base", default="mobilenetv2")
    parser.add_argument("--weights", default="none", help="none, imagenet or a file that the application takes")
    parser.add_argument("--alpha", type=float, help="for MobileNets")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=10, help="of plain Keras")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=["one head", "three heads", "seven heads"])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--to", type=Path, default=RESULTS / "workflow.json")
    parser.add_argument("--task", nargs=2, help=argparse.SUPPRESS)
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if not any("logreg" in HEADS[name] for name in options.heads):
        parser.error("--heads needs one with logreg, which is compared with plain Keras")
    if options.task:
        print(json.dumps(do(options.task[0], Path(options.task[1]), options)))
        return
    found = measure(options, given)
    print(table(found, options.epochs))
    result = {
        "base": options.base,
        "image_size": options.image_size,
        "epochs": options.epochs,
        **found,
    }
    keep(options.to, result, "numpy", "scikit-learn", "keras", "tensorflow")


if __name__ == "__main__":
    main()
