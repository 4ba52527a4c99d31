"""VGG19 at 256 pixels: cut at block2_pool with weights by name, and whole with its first five layers frozen."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import featcache
from featcache.bases import load_base
from featcache.recipe import Request

CLASSES = 16
CUT, WHOLE, TRAINABLE = 260_160, 54_645_840, 54_533_264


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run both parts and return their figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder of 16 class folders; default: patterns made up here")
    parser.add_argument("--weights", help="for the part up to block2_pool; default: drawn by a seed")
    parser.add_argument("--whole-weights", help="for all of VGG19: imagenet or a file; default: drawn by a seed")
    parser.add_argument("--images", type=int, default=8, help="made-up images of each class")
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning; 0: only count what would train")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    data = options.data
    if data is None:
        print(f"no --data: {CLASSES} patterns, {options.images} images of each")
        data = options.out / "patterns"
        make_patterns(data, options.images)

    cut = load_base(Request("vgg19", weights=None, layers=("block2_pool",), image_size=256))
    names = [layer for layer in featcache.list_layers("vgg19", image_size=256) if layer.weight_shapes]
    for layer in names:
        shapes = " ".join("x".join(map(str, shape)) for shape in layer.weight_shapes)
        print(f"{layer.address:14} {shapes:22} {layer.parameters:>10,}")
    assert cut.parameters == CUT
    print(f"{cut.parameters:,} parameters up to block2_pool")
    early = featcache.extract(
        data,
        base="vgg19",
        layers=["block2_pool"],
        weights=options.weights,
        image_size=256,
        cache=options.out / "block2_pool",
    )
    accuracy = featcache.fit_head(early, "logreg").metrics["validation"]["accuracy"]
    print(f"logreg on block2_pool: {accuracy:.4f} on {early.splits['validation']} images")

    whole = featcache.extract(
        data,
        base="vgg19",
        weights=options.whole_weights,
        image_size=256,
        pooling="flatten",
        cache=options.out / "whole",
    )
    training = {"optimizer": "sgd", "learning_rate": 1e-4, "momentum": 0.9}
    head = featcache.fit_head(
        whole,
        "dense",
        params={"hidden": (1024, 1024), "dropout": (0.5, 0.0), "input_norm": "none", "epochs": 5, **training},
        calibrate="none",
    )
    tuned = featcache.fine_tune(
        head,
        from_index=5,
        epochs=options.epochs or 1,
        augment="zoom=0.3,shift=0.3,rotation=0.0833",
        fill="nearest",
        schedule="exponential",
        patience=5,
        batch_size=16,
        tensorboard=options.out / "logs",
        out=options.out / "model",
        dry_run=not options.epochs,
        **training,
    ).fine_tuning
    assert (tuned.total, tuned.trainable) == (WHOLE, TRAINABLE)
    print(f"{tuned.total:,} parameters, {tuned.trainable:,} of them train with the first five layers frozen")
    for name, found in (("head", tuned.before), ("fine-tuned", tuned.after)):
        if found:
            low, high = found["validation"]["accuracy_ci95"]
            print(f"{name:10} {found['validation']['accuracy']:.4f} (95 % {low:.4f} to {high:.4f})")
    return {"block2_pool": accuracy, "before": tuned.before, "after": tuned.after, "history": tuned.history}


def make_patterns(root: Path, count: int) -> None:
    """Write PNG files of stripes: each class has a direction and a width, each image its colours and place."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[:256, :256]
    for number in range(CLASSES):
        folder = root / f"pattern {number:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        angle, width = np.pi * (number % 4) / 4, 8 * 2 ** (number // 4)
        for i in range(count):
            rng = np.random.default_rng([number, i])
            wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / width + rng.uniform(0, 2 * np.pi))
            pixels = (
                rng.uniform(64, 192, 3) + wave[..., None] * rng.uniform(-64, 64, 3) + rng.normal(0, 16, (256, 256, 3))
            )
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:03d}.png")


if __name__ == "__main__":
    main()
