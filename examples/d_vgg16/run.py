"""VGG16 at 64 pixels: Flatten, Dense 256 and a sigmoid on cached features, then its last four layers too."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import featcache

BASE, HEAD = 14_714_688, 2 * 2 * 512 * 256 + 256 + 256 + 1
LAST_FOUR = 3 * (3 * 3 * 512 * 512 + 512)  # three convolutions; the pooling has no weights


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the workflow and return its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a folder of two classes; default: the digits 3 and 8")
    parser.add_argument("--weights", help="imagenet or a weights file; default: drawn by a seed")
    parser.add_argument("--epochs", type=int, default=10, help="of fine-tuning")
    parser.add_argument("--learning-rate", type=float, default=1e-5, help="of fine-tuning")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    if options.data is None:
        print("no --data: the digits 3 and 8")

    cache = featcache.extract(
        options.data or "digits",
        base="vgg16",
        weights=options.weights,
        image_size=64,
        pooling="flatten",
        classes=None if options.data else ["3", "8"],
        cache=options.out / "cache",
    )
    head = featcache.fit_head(cache, "dense", params={"hidden": 256, "input_norm": "none"})
    tuned = featcache.fine_tune(
        head, last=4, epochs=options.epochs, learning_rate=options.learning_rate, out=options.out / "model"
    ).fine_tuning

    assert (tuned.total, tuned.trainable) == (BASE + HEAD, LAST_FOUR + HEAD)
    print(f"parameters: {tuned.total:,}, of which {tuned.trainable:,} train")
    before, after = tuned.before["validation"], tuned.after["validation"]
    for name, found in (("head", before), ("fine-tuned", after)):
        low, high = found["accuracy_ci95"]
        print(f"{name:10} {found['accuracy']:.4f} (95 % {low:.4f} to {high:.4f}, n={found['n']})")
    return {"head": before, "fine-tuned": after, "kept": tuned.kept}


if __name__ == "__main__":
    main()
