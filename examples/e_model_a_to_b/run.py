"""Model A knows some classes; Model B reuses all its layers but the last to tell two others from few images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import featcache
from featcache.training.metrics import wilson_interval

HIDDEN = (300, 100, 50, 50, 50)
SAME: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 8}  # for whatever is trained
FROZEN_EPOCHS, ALL_EPOCHS = 4, 16
SETS = {"digits": ("01234", "89"), "fashion_mnist": ("01234789", "56")}  # classes of Model A and of Model B


def main(arguments: Sequence[str] | None = None) -> dict[int, dict[str, list[float]]]:
    """Run the workflow and return accuracies on test, by number of training images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", choices=SETS, help="fashion_mnist is downloaded; default: digits")
    parser.add_argument("--weights", type=Path, help="a Model A that there is already, .h5; default: train it")
    parser.add_argument("--train-images", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--draws", type=int, default=10, help="how often training images are drawn")
    parser.add_argument("--epochs", type=int, default=20, help="of Model A")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.data == "digits":
        print("data: the digits of scikit-learn instead of Fashion-MNIST")
    classes_a, classes_b = SETS[options.data]
    images, labels = pictures(options.data)
    model_a = options.weights or options.out / "model_a.h5"
    if not options.weights:
        known = np.isin(labels, list(classes_a))
        print(
            f"Model A: {train_model_a(model_a, images[known], labels[known], options.epochs):.4f} on a fifth of its "
            f"{known.sum()} images"
        )
    mine = np.isin(labels, list(classes_b))
    images, labels = images[mine], labels[mine]

    found: dict[int, dict[str, list[float]]] = {}
    print("training images   test n   Model B from A        from scratch     (mean, least and most of the draws)")
    for count in options.train_images:
        scores: dict[str, list[float]] = {"from A": [], "from scratch": []}
        for draw in range(options.draws):
            folder = options.out / f"b-{count}-{draw}"
            n = divided(images, labels, count, draw, folder)
            head = featcache.fit_head(
                featcache.extract(
                    folder / "arrays.npz",
                    base=model_a,
                    layers=[f"hidden_{len(HIDDEN)}"],  # all layers but the last
                    pooling="flatten",
                    preprocess="rescale",
                    cache=folder / "cache",
                ),
                "dense",
                params={"input_norm": "none", "epochs": FROZEN_EPOCHS, "validation_fraction": 0.0, **SAME},
                calibrate="none",
            )
            ours = featcache.fine_tune(
                head, all_layers=True, epochs=ALL_EPOCHS, patience=ALL_EPOCHS, seed=draw, out=folder / "from-a", **SAME
            ).fine_tuning
            scratch = featcache.fine_tune(
                head,
                reinitialise=True,
                epochs=FROZEN_EPOCHS + ALL_EPOCHS,
                initial_epoch=0,
                patience=FROZEN_EPOCHS + ALL_EPOCHS,
                seed=draw,
                out=folder / "from-scratch",
                **SAME,
            ).fine_tuning
            scores["from A"].append({**ours.before, **ours.after}["test"]["accuracy"])
            scores["from scratch"].append(scratch.after["test"]["accuracy"])
        shown = "   ".join(f"{np.mean(s):.3f} ({min(s):.3f}-{max(s):.3f})" for s in scores.values())
        print(f"{count:>15}   {n:>6}   {shown}")
        found[count] = scores
    low, high = wilson_interval(round(0.95 * n), n)
    print(f"95 % interval of one accuracy of 0.95 on {n} images: {low:.3f} to {high:.3f}")
    return found


def pictures(name: str) -> tuple[Any, Any]:
    """Return grey images (uint8) and their labels (one character each)."""
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return (digits.images * 255 / 16).astype(np.uint8), digits.target.astype(str)
    import keras

    (x, y), (x_test, y_test) = keras.datasets.fashion_mnist.load_data()
    return np.concatenate([x, x_test]), np.concatenate([y, y_test]).astype(str)


def train_model_a(path: Path, images: Any, labels: Any, epochs: int) -> float:
    """Train Model A, save it as .h5 and return its accuracy on a fifth that was held out."""
    import keras

    keras.utils.set_random_seed(0)
    names, y = np.unique(labels, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(y))
    held, rest = np.split(order, [len(y) // 5])
    hidden = [
        keras.layers.Dense(n, "selu", kernel_initializer="lecun_normal", name=f"hidden_{i}")
        for i, n in enumerate(HIDDEN, 1)
    ]
    model = keras.Sequential(
        [
            keras.Input(images.shape[1:], name="pixels"),
            keras.layers.Flatten(name="flat"),
            *hidden,
            keras.layers.Dense(len(names), "softmax", name="classes"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    X = images.astype("float32") / 255
    model.fit(X[rest], y[rest], epochs=epochs, verbose=0)
    model.save(path)
    return float(model.evaluate(X[held], y[held], verbose=0)[1])


def divided(images: Any, labels: Any, count: int, draw: int, folder: Path) -> int:
    """Write arrays with so many training images, half of each class, and return how many there are for testing.

    The test images are the same for every draw and number: the last 60 %; training and validation images (as
    many of one as of the other, at least 20) come from the rest.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order], labels[order]
    first = len(labels) * 2 // 5
    rng = np.random.default_rng(draw + 1)
    pool = rng.permutation(first)
    each = [pool[labels[pool] == name] for name in np.unique(labels)]
    train = np.concatenate([some[: count // 2] for some in each])
    assert len(train) == count, f"expected {count // 2} images of each class to draw from"
    validation = np.setdiff1d(pool, train)[: max(20, count)]
    parts = {"train": train, "validation": validation, "test": np.arange(first, len(labels))}
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{x}_{split}": values[rows] for split, rows in parts.items() for x, values in (("x", images), ("y", labels))
    }
    np.savez(folder / "arrays.npz", **arrays)
    return len(labels) - first


if __name__ == "__main__":
    main()
