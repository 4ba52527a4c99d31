"""The whole story on embedded data: what `featcache demo` runs, with the functions every user calls."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from featcache.extraction.extracting import extract
from featcache.models.classifier import ImageClassifier
from featcache.sources import SplitPolicy, digest
from featcache.sources.named import named_source
from featcache.sources.opening import open_source
from featcache.system.startup import import_tensorflow
from featcache.training import fit_head

log = logging.getLogger(__name__)

KNOWN, NEW = ["0", "1", "2", "3", "4"], ["5", "6", "7", "8", "9"]


def train_model_a(path: Path, *, epochs: int = 20, seed: int = 0) -> float:
    """Train a small convolutional network on the digits 0 to 4 and save it as a legacy ``.h5`` file.

    Returns its accuracy on the validation images of these digits.
    """
    import_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    source = open_source(named_source("digits"), classes=KNOWN)
    policy = SplitPolicy().settled(source)
    images = [np.asarray(source.read(item)) for item in source.items]
    held = np.array([policy.split_of(i, digest(x)) == "validation" for i, x in zip(source.items, images, strict=True)])
    X = np.stack(images)[..., None].astype("float32") / 255
    y = np.array([KNOWN.index(item.label or "") for item in source.items])
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="pixels"),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_1"),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu", name="conv_2"),
            keras.layers.MaxPooling2D(name="pool"),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu", name="conv_3"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(64, activation="relu", name="features"),
            keras.layers.Dense(len(KNOWN), activation="softmax", name="digit"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(X[~held], y[~held], epochs=epochs, batch_size=32, verbose=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return float(model.evaluate(X[held], y[held], verbose=0)[1])


def save_examples(folder: Path, *, each: int = 2) -> list[Path]:
    """Write the first validation images of each new digit as PNG files and return the files."""
    from PIL import Image

    source = open_source(named_source("digits"), classes=NEW)
    policy = SplitPolicy().settled(source)
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Path]] = {label: [] for label in NEW}
    for item in source.items:
        pixels = np.asarray(source.read(item))
        files = found[item.label or ""]
        if len(files) < each and policy.split_of(item, digest(pixels)) == "validation":
            files.append(folder / f"{item.label}-{len(files) + 1}.png")
            Image.fromarray(pixels).save(files[-1])
    return [file for files in found.values() for file in files]


def run(out: Path) -> tuple[dict[str, Any], str]:
    """Train Model A, reuse it for new digits, compare heads, predict; return the result, and its story for people."""
    model_a = out / "model_a.h5"
    log.info("1/4 training Model A on the digits 0 to 4")
    accuracy_a = train_model_a(model_a)
    log.info("2/4 extracting: Model A, cut at its layer 'features', over the digits 5 to 9")
    cache = extract(
        named_source("digits"),  # whatever folder of that name lies here
        base=model_a,
        layers=["pixels", "features"],
        pooling="flatten",
        preprocess="rescale",
        classes=NEW,
        cache_root=out,
    )
    log.info("3/4 fitting heads, on the features and on the raw pixels")
    heads = {
        "logreg on features": fit_head(cache, "logreg"),
        "dense on features": fit_head(cache, "dense", params={"hidden": 32}),
        "logreg on raw pixels": fit_head(cache, "logreg", layer="pixels"),
    }
    log.info("4/4 predicting new images")
    chosen = heads["logreg on features"]
    assert chosen.path is not None
    predictions = list(ImageClassifier.load(chosen.path).predict_records(save_examples(out / "examples")))
    scores = {
        name: {key: head.metrics["validation"][key] for key in ("accuracy", "accuracy_ci95", "n")}
        for name, head in heads.items()
    }
    result = {
        "model_a": str(model_a),
        "model_a_accuracy": accuracy_a,
        "cache": str(cache.path),
        "rows": len(cache),
        "computed": cache.report.computed,
        "accuracy": scores,
        "heads": {name: str(head.path) for name, head in heads.items()},
        "predictions": [{"path": p.path, "label": p.label, "probability": p.probability} for p in predictions],
    }
    lines = [
        f"Model A knows the digits 0 to 4 (validation accuracy {accuracy_a:.3f}): {model_a}",
        f"Cut at its layer 'features', it became the frozen base for {len(cache)} images of the digits 5 to 9, "
        f"which it has never seen: {cache.path} ({cache.report.seconds:.1f} s, once)",
        "Heads, on validation:",
        *(
            f"  {name:22} {s['accuracy']:.3f} (95 % {s['accuracy_ci95'][0]:.3f}-{s['accuracy_ci95'][1]:.3f}, "
            f"n={s['n']}), fitted in {heads[name].card['fit_seconds']:.2f} s"
            for name, s in scores.items()
        ),
        "Predictions from image files:",
        *(f"  {p.path}: {p.label} ({p.probability:.2f})" for p in predictions),
        "Try next:",
        f"  python cli.py info {cache.path}",
        f"  python cli.py evaluate {chosen.path}",
        f"  python cli.py predict {chosen.path} {out / 'examples'}",
    ]
    return result, "\n".join(lines)
