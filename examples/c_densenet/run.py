"""Arrays of 64x64 images and DenseNet121: a head with batch normalisation, against a small network from scratch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import featcache
from featcache.charts import curves, draw
from featcache.training.metrics import wilson_interval

TOTAL, TRAINABLE = 7_093_360, 53_808


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the workflow and return the accuracy of both on the test images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        help=".npz with x_train, y_train, x_test, y_test of 10 classes; default: "
        "scikit-learn's digits, enlarged to 64x64",
    )
    parser.add_argument("--weights", help="imagenet or a weights file; default: drawn by a seed")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--limit", type=int, help="use so many training and test images at most")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    arrays = dict(np.load(options.data)) if options.data else enlarged_digits()
    if options.data is None:
        print("no --data: scikit-learn's digits, enlarged to 64x64")
    arrays = {name: values[: options.limit] for name, values in arrays.items()}
    np.savez(options.out / "arrays.npz", **arrays)

    cache = featcache.extract(
        options.out / "arrays.npz",
        base="densenet121",
        weights=options.weights,
        pooling="max",
        image_size=options.image_size,
        resize="pad",
        cache=options.out / "cache",
    )
    head = featcache.fit_head(
        cache,
        "dense",  # BatchNorm on the input, Dense 50, Dropout 0.5, Dense 10; Adam; early stopping
        params={"input_norm": "batch", "hidden": 50, "dropout": 0.5, "patience": 5, "epochs": options.epochs},
    )
    draw(curves({"head": head.card["history"]}), options.out / "head")
    total, trainable = counted(featcache.export_model(head, options.out / "densenet.keras").path)
    assert (total, trainable) == (TOTAL, TRAINABLE)
    print(f"parameters: {total:,}, of which {trainable:,} train")

    test = head.metrics["test"]
    own, history = from_scratch(arrays, options.epochs)
    draw(curves({"from scratch": history}), options.out / "from-scratch")
    n = len(arrays["y_test"])
    low, high = wilson_interval(round(own * n), n)
    print(
        f"DenseNet121    {test['accuracy']:.4f} (95 % {test['accuracy_ci95'][0]:.4f} to "
        f"{test['accuracy_ci95'][1]:.4f}, n={test['n']} test images)"
    )
    print(f"from scratch   {own:.4f} (95 % {low:.4f} to {high:.4f}, n={n})")
    return {"densenet121": test["accuracy"], "from scratch": own}


def enlarged_digits() -> dict[str, Any]:
    """Return the digits as RGB images of 64x64 pixels; the last fifth is for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * 255 / 16).astype(np.uint8)
    images = np.repeat(np.kron(pixels, np.ones((1, 8, 8), np.uint8))[..., None], 3, axis=-1)
    cut = len(images) * 4 // 5
    return {
        "x_train": images[:cut],
        "y_train": digits.target[:cut],
        "x_test": images[cut:],
        "y_test": digits.target[cut:],
    }


def counted(path: Path) -> tuple[int, int]:
    """Return how many parameters an exported model has, and how many of them train, as plain Keras counts them."""
    import keras

    model = keras.models.load_model(path)
    return model.count_params(), sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def from_scratch(arrays: dict[str, Any], epochs: int) -> tuple[float, dict[str, list[float]]]:
    """Train a small convolutional network on the pixels; return its accuracy on test and its history."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(arrays["x_train"].shape[1:]),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(50, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(int(arrays["y_train"].max()) + 1, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True)
    fitted = model.fit(
        arrays["x_train"], arrays["y_train"].ravel(), validation_split=0.2, epochs=epochs, callbacks=[stop], verbose=0
    )
    accuracy = model.evaluate(arrays["x_test"], arrays["y_test"].ravel(), verbose=0)[1]
    return float(accuracy), fitted.history


if __name__ == "__main__":
    main()
