"""Extraction against plain Keras on the same images: images per second, and whether the features are equal."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np


def plain_keras(data: Path, model: Any, preprocess: Any, size: int) -> np.ndarray:
    """Return average-pooled features as the usual script computes them."""
    import keras

    images = keras.utils.image_dataset_from_directory(data, image_size=(size, size), shuffle=False, verbose=False)
    result: np.ndarray = model.predict(images.map(lambda x, y: preprocess(x)).prefetch(2), verbose=0)
    return result


def compare(data: Path, base: str, size: int, weights: str, settings: dict[str, Any], repeat: int) -> dict[str, Any]:
    """Time both ways in turn; return medians, spreads and the largest relative difference of features."""
    import keras

    from featcache import extract
    from featcache.bases import find_application

    application = find_application(base)
    module = getattr(keras.applications, application.build.__module__.rpartition(".")[2])
    seconds: dict[str, list[float]] = {"featcache": [], "plain Keras": []}
    difference = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        weights_file = Path(scratch) / "base.weights.h5"
        start = None if weights == "none" else weights
        model = application.build(
            include_top=False, weights=start, input_shape=(size, size, 3), pooling="avg", **settings
        )
        model.save_weights(weights_file)
        for turn in range(repeat + 1):  # the first warms up
            begin = time.perf_counter()
            cache = extract(data, base=base, settings=settings, weights=weights_file, image_size=size,
                            cache=Path(scratch) / f"cache-{turn}", validation_split=0.0)  # fmt: skip
            middle = time.perf_counter()
            expected = plain_keras(data, model, module.preprocess_input, size)
            end = time.perf_counter()
            difference = float(np.abs(np.asarray(cache.features()) - expected).max() / np.abs(expected).max())
            if turn:
                seconds["featcache"].append(middle - begin)
                seconds["plain Keras"].append(end - middle)
    images = len(cache)
    return {
        "images": images,
        "difference": difference,
        "rates": {name: sorted(images / s for s in times) for name, times in seconds.items()},
        "ratio": sorted(k / f for f, k in zip(seconds["featcache"], seconds["plain Keras"], strict=True)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--base", default="mobilenetv2")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--weights", default="none", help="none, imagenet or a file that the application takes")
    parser.add_argument("--alpha", type=float, help="for MobileNets")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args(arguments)
    settings = {} if options.alpha is None else {"alpha": options.alpha}
    found = compare(options.data, options.base, options.image_size, options.weights, settings, options.repeat)
    print(f"{found['images']} images, {options.base} at {options.image_size}, {options.repeat} runs each")
    for name, rates in found["rates"].items():
        print(f"  {name:12} {statistics.median(rates):8.1f} images/s (from {rates[0]:.1f} to {rates[-1]:.1f})")
    ratio = found["ratio"]
    print(f"  ratio        {statistics.median(ratio):8.2f} (from {ratio[0]:.2f} to {ratio[-1]:.2f})")
    print(f"  largest difference / largest feature: {found['difference']:.1e}")


if __name__ == "__main__":
    main()
