"""Errors planted in a labelled folder, and what an audit finds of them; what advice is given for how many images.

Labels are flipped anew in each draw; the cache is extracted once, as rows are found by their images. Copies are
planted in one more draw, exact ones and ones that were recompressed, every second of these made smaller too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from keeping import RESULTS, keep
from PIL import Image

COPIES = ("duplicate", "leakage", "conflict")


@dataclass(frozen=True)
class Planted:
    """A source with errors: its CSV, what is mislabelled, each copy's original and whether it is in another split."""

    source: Path
    wrong: frozenset[str]
    copied: dict[str, tuple[str, bool]]


def plant(items: Sequence[Any], folder: Path, *, flips: int, copies: int, seed: int) -> Planted:
    """Write `photos.csv` of some items into a folder: so many labels changed, twice so many copies made beside it."""
    rng = np.random.default_rng(seed)
    classes = sorted({item.label for item in items})
    flipped = set(rng.choice(len(items), flips, replace=False).tolist())
    lines, wrong = ["path,label,split"], set()
    for i, item in enumerate(items):
        label = item.label
        if i in flipped:
            label = classes[(classes.index(label) + 1 + int(rng.integers(len(classes) - 1))) % len(classes)]
            wrong.add(item.path)
        lines.append(f"{item.path},{label},{item.split}")
    copied = {}
    kept = [i for i in range(len(items)) if i not in flipped]
    for number, i in enumerate(rng.choice(kept, 2 * copies, replace=False)):
        original, copy, split = items[i], folder / f"copy{number}.jpg", ("train", "validation")[number % 4 // 2]
        if number < copies:
            shutil.copy2(original.path, copy)
        else:
            photo = Image.open(original.path).convert("RGB")
            if number % 2:
                photo = photo.resize((photo.width * 6 // 10, photo.height * 6 // 10), Image.Resampling.LANCZOS)
            photo.save(copy, quality=40)
        copied[copy.name] = (original.path, original.split != split)
        lines.append(f"{copy.name},{original.label},{split}")
    source = folder / "photos.csv"
    source.write_text("\n".join(lines) + "\n")
    return Planted(source, frozenset(wrong), copied)


def found(report: Any, planted: Planted) -> dict[str, Any]:
    """Return how many labels are flagged, precision and recall, and how many copies are found with their originals."""
    flagged = [one.images[0].path for one in report.findings if one.kind == "label"]
    hits = [path in planted.wrong for path in flagged]
    families = [{image.path for image in one.images} for one in report.findings if one.kind in COPIES]
    pairs = {frozenset((copy, original)) for copy, (original, _) in planted.copied.items()}
    return {
        "images": report.images,
        "planted": len(planted.wrong),
        "flagged": len(flagged),
        "precision": sum(hits) / max(len(hits), 1),
        "recall": sum(hits) / max(len(planted.wrong), 1),
        "precision_at_planted": sum(hits[: len(planted.wrong)]) / max(len(planted.wrong), 1),
        "copies": len(pairs),
        "copies_found": sum(any(pair <= family for family in families) for pair in pairs),
        "other_families": [
            sorted(Path(path).name for path in family) for family in families if not family & set(planted.copied)
        ],
    }


def items_of(data: str) -> list[Any]:
    """Return the labelled images of a folder with splits, with absolute paths."""

    from featcache.sources.opening import open_source

    root = Path(data).resolve()
    return [item._replace(path=str(root / item.path)) for item in open_source(root).items if item.label is not None]


def drawn(items: Sequence[Any], train: int, validation: int | None, seed: int = 0) -> list[Any]:
    """Return so many items of each split, as many of each class as can be."""
    rng, chosen = np.random.default_rng(seed), []
    for split, count in (("train", train), ("validation", validation)):
        own = [item for item in items if item.split == split]
        classes = sorted({item.label for item in own})
        for i, label in enumerate(classes):
            of_class = [item for item in own if item.label == label]
            share = len(of_class) if count is None else (count + i) // len(classes)
            chosen += [of_class[k] for k in sorted(rng.permutation(len(of_class))[:share])]
    return chosen


def said(cache: Any) -> dict[str, Any]:
    """Return what `advise` says of a cache, shortened to what a table takes."""
    from featcache.insight.advice import advise

    advice = advise(cache)
    twice = next((one for one in advice.extrapolation if one["times"] == 2), None)
    return {
        "images": dict(advice.images_per_class),
        "layers": advice.layers,
        "held_out": advice.held_out,
        "twice": twice,
        "amount": advice.amount,
        "similarity": advice.similarity,
        "enough": advice.enough,
        "recommendation": advice.recommendation,
    }


def middle(values: Sequence[float]) -> str:
    """Return the median and the range of some shares."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was found and said, and keep it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="a folder of splits of classes, or digits")
    parser.add_argument("--base", default="mobilenetv2")
    parser.add_argument("--alpha", type=float, help="of MobileNetV2")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--layers", nargs="+", default=[])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--draws", type=int, default=5, help="of labels to flip; 0: nothing is planted")
    parser.add_argument("--flip", type=float, default=0.05, help="part of the labels")
    parser.add_argument("--copies", type=int, default=20, help="exact ones, and as many that are not")
    parser.add_argument(
        "--sizes",
        nargs="*",
        default=["40/10", "50", "200", "1000"],
        help="training images to advise on, or training/validation images",
    )
    parser.add_argument("--to", type=Path, default=RESULTS / "quality.json")
    options = parser.parse_args(arguments)

    from featcache import extract
    from featcache.insight.audit import audit

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        asked: dict[str, Any] = {
            "base": options.base,
            "layers": options.layers,
            "weights": None if options.weights == "none" else options.weights,
            "base_params": {} if options.alpha is None else {"alpha": options.alpha},
            "image_size": options.image_size,
        }
        result: dict[str, Any] = {
            "data": Path(options.data).name,
            "asked": {**asked, "weights": None},
            "planted": [],
            "advice": {},
        }
        if options.data == "digits":
            result["advice"]["all"] = said(extract("digits", cache=root / "c", **asked))
        else:
            items = items_of(options.data)
            for draw in range(options.draws + 1 if options.draws else 0):
                folder = root / f"draw{draw}"
                folder.mkdir()
                copies = options.copies if draw == options.draws else 0
                planted = plant(items, folder, flips=round(options.flip * len(items)), copies=copies, seed=draw)
                cache = extract(planted.source, cache=root / "c", replace_source=True, **asked)
                result["planted"].append(found(audit(cache), planted))
            for size in options.sizes:
                train, _, validation = size.partition("/")
                folder = root / size.replace("/", "-")
                folder.mkdir()
                chosen = drawn(items, int(train), int(validation) if validation else None)
                source = plant(chosen, folder, flips=0, copies=0, seed=0).source
                cache = extract(source, cache=root / "c", replace_source=True, **asked)
                result["advice"][size] = said(cache)
    print(table(result))
    keep(options.to, result, "tensorflow", "keras", "scikit-learn", "cleanlab", "numpy")


def table(result: dict[str, Any]) -> str:
    """Return what was found and said as text."""
    lines = []
    for title, draws in (
        ("labels flipped", [one for one in result["planted"] if not one["copies"]]),
        ("with copies too", [one for one in result["planted"] if one["copies"]]),
    ):
        if draws:
            counts = [one["flagged"] for one in draws]
            lines.append(
                f"{title}: {draws[0]['planted']} of {draws[0]['images']}, {len(draws)} draws, {min(counts)} to "
                f"{max(counts)} flagged: "
                + ", ".join(
                    f"{name.replace('_', ' ')} {middle([one[name] for one in draws])}"
                    for name in ("precision", "recall", "precision_at_planted")
                )
            )
            if draws[0]["copies"]:
                lines.append(
                    f"  copies found: {draws[0]['copies_found']} of {draws[0]['copies']}; "
                    f"other families: {draws[0]['other_families']}"
                )
    for size, advice in result["advice"].items():
        scores = ", ".join(
            f"{one['accuracy']:.3f} ({one['accuracy_ci95'][0]:.2f}-{one['accuracy_ci95'][1]:.2f})"
            for one in advice["layers"]
        )
        lines.append(
            f"advise on {size} (n = {advice['held_out']['images']}): {scores}; twice: {advice['twice']}; "
            f"{advice['amount']}, {advice['similarity']}: {advice['recommendation']}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
