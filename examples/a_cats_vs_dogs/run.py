"""Cats and dogs with MobileNetV2: a head on cached features, then base and head together from layer 100."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import featcache

COUNTS = {1.0: (2_257_984, 1_862_721), 0.35: (410_208, 335_137)}  # the base; what trains from index 100, with the head
HEAD = 1_281
AUGMENT = "flip,rotation=0.2"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the workflow and return its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a folder with train/ and validation/; default: the digits 3 and 8")
    parser.add_argument("--weights", help="imagenet or a weights file; default: drawn by a seed")
    parser.add_argument("--alpha", type=float, default=1.0, choices=COUNTS, help="MobileNetV2's width")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--views", type=int, default=2, help="augmented views of each training image in the cache")
    parser.add_argument("--epochs", type=int, default=10, help="of each phase")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args(arguments)
    if options.data is None:
        print("no --data: the digits 3 and 8 instead of cats and dogs")

    cache = featcache.extract(
        options.data or "digits",
        base="mobilenetv2",
        base_params={"alpha": options.alpha},
        weights=options.weights,
        image_size=options.image_size,
        views=options.views,
        augment=AUGMENT if options.views else None,
        classes=None if options.data else ["3", "8"],
        test_from=("validation", 0.2),
        cache=options.out / "cache",
    )
    head = featcache.fit_head(
        cache,
        "dense",  # Dropout(0.2) and one logit, as two classes need no more
        params={"input_dropout": 0.2, "input_norm": "none", "epochs": options.epochs, "learning_rate": 1e-3},
    )
    tuned = featcache.fine_tune(
        head,
        from_index=100,  # of the base's own layers; the rate is a tenth of the head's, epochs count on
        epochs=options.epochs,
        augment=AUGMENT,
        out=options.out / "model",
    ).fine_tuning

    base, trainable = COUNTS[options.alpha]
    assert (tuned.total, tuned.trainable, tuned.non_trainable) == (base + HEAD, trainable, base + HEAD - trainable)
    print(f"parameters: {base:,} + {HEAD:,}; {tuned.trainable:,} train from index 100, {tuned.non_trainable:,} do not")
    figures = {
        "head": tuned.before["validation"],
        "composed": tuned.composed_accuracy,
        "fine-tuned": tuned.after["validation"],
        "test": {**tuned.before, **tuned.after}["test"],
    }
    print(f"head          {_shown(figures['head'])}")
    print(f"as one model  {figures['composed']:.4f}")
    print(f"fine-tuned    {_shown(figures['fine-tuned'])}; kept: {tuned.kept}")
    print(f"test          {_shown(figures['test'])}, of what was kept")
    print(f"{options.out / 'model'}, with curves.png of both phases where featcache[report] is installed")
    return figures


def _shown(metrics: dict[str, Any]) -> str:
    low, high = metrics["accuracy_ci95"]
    return f"{metrics['accuracy']:.4f} (95 % {low:.4f} to {high:.4f}, n={metrics['n']})"


if __name__ == "__main__":
    main()
