"""``predict``, ``evaluate`` and ``export``: a classifier at work."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.cli.app import DONE, SKIPPED, Outcome, command, metrics_table, printable, progress, skipped_text, table
from featcache.errors import OptionError

if TYPE_CHECKING:
    from featcache.classifier import Prediction

Model = Annotated[Path, typer.Argument(help="A head's folder.")]
Base = Annotated[str | None, typer.Option(help="The base, where it is not where it was.")]
Weights = Annotated[str | None, typer.Option(help="Likewise the base's weights.")]


@command("predict", example="featcache predict cache/photos-vgg19-1a2b3c4d/heads/logreg-block5_pool new/")
def predict(
    model: Model,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE|DIR...", help="Images, and folders of them.")],
    out: Annotated[Path | None, typer.Option(help="Write predictions to a .csv or .jsonl file.")] = None,
    base: Base = None,
    weights: Weights = None,
) -> Outcome:
    """Predict the class of images."""
    from featcache.classifier import ImageClassifier

    if out is not None and out.suffix not in (".csv", ".jsonl"):
        raise OptionError(f"Expected --out FILE.csv or FILE.jsonl. Received: {str(out)!r}.")
    classifier = ImageClassifier.load(model, base=base, weights=weights)
    with progress("predicting") as shown:
        results = classifier.predict(images, progress=shown)
    if out is not None:
        from featcache.files import publish

        with contextlib.suppress(FileExistsError):
            out.parent.mkdir(parents=True)
        publish(out, _rendered(results, classifier.class_names, out.suffix).encode("utf-8", "surrogateescape"))
    good = [_as_dict(one) for one in results if one.label is not None]
    skipped = [{"path": one.path, "reason": one.reason or ""} for one in results if one.label is None]
    rows = [[printable(one["path"]), printable(one["label"]), f"{one['probability']:.4f}"] for one in good]
    lines = [table(rows) if out is None else f"{len(good)} predictions in {printable(str(out))}"]
    return Outcome(
        {"predictions": good, "skipped": skipped, "out": None if out is None else str(out)},
        "\n".join(line for line in [*lines, skipped_text(skipped)] if line),
        SKIPPED if skipped else DONE,
    )


def _as_dict(one: Prediction) -> dict[str, Any]:
    return {
        "path": one.path,
        "label": one.label,
        "probability": one.probability,
        "probabilities": one.probabilities,
    }


def _rendered(results: list[Prediction], class_names: list[str], suffix: str) -> str:
    if suffix == ".jsonl":
        return "".join(json.dumps({**_as_dict(one), "reason": one.reason}) + "\n" for one in results)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "probability", *(f"probability_{name}" for name in class_names), "reason"])
    for one in results:
        shares = [one.probabilities.get(name, "") for name in class_names]
        writer.writerow([one.path, one.label or "", one.probability or "", *shares, one.reason or ""])
    return text.getvalue()


@command("evaluate", example="featcache evaluate cache/photos-vgg19-1a2b3c4d/heads/logreg-block5_pool held-out/")
def evaluate(
    model: Model,
    source: Annotated[str | None, typer.Argument(
        help="Labelled images. Default: those the head's cache was extracted from."
    )] = None,
    base: Base = None,
    weights: Weights = None,
) -> Outcome:  # fmt: skip
    """Score a classifier on labelled images, from their pixels."""
    from featcache.classifier import ImageClassifier

    with progress("evaluating") as shown:
        result = ImageClassifier.load(model, base=base, weights=weights).evaluate(source, progress=shown)
    skipped = result["skipped"]
    lines = [metrics_table(result["metrics"]), skipped_text(skipped)]
    return Outcome(result, "\n".join(line for line in lines if line), SKIPPED if skipped else DONE)


@command("export", example="featcache export cache/photos-vgg19-1a2b3c4d/heads/logreg-block5_pool --to photos.keras")
def export(
    model: Model,
    to: Annotated[Path, typer.Option(
        metavar="FILE|DIR", help="A .keras, .tflite or .onnx file, or a folder for a SavedModel."
    )],
    compare: Annotated[int, typer.Option(help="How many images to compare on.", min=0)] = 32,
    images: Annotated[str | None, typer.Option(
        metavar="DIR", help="Images to compare on. Default: validation images it was made from."
    )] = None,
    base: Base = None,
    weights: Weights = None,
) -> Outcome:  # fmt: skip
    """Write a classifier for programs without featcache, and compare its answers."""
    from featcache.export import export_model

    report = export_model(model, to, images=images, compare=compare, base=base, weights=weights)
    on = f"{report.compared} images" if report.compared else "random pixels only"
    lines = [
        f"{report.format} of {len(report.classes)} classes in {to}; class names, recipe and digests in "
        f"{report.metadata}",
        f"loaded without featcache, its probabilities differ by at most {report.max_difference:.2g}, on {on}",
        *report.notes,
    ]
    data = {
        "path": str(report.path),
        "metadata": str(report.metadata),
        "format": report.format,
        "max_difference": report.max_difference,
        "compared": report.compared,
        "classes": report.classes,
        "notes": report.notes,
    }
    return Outcome(data, "\n".join(map(printable, lines)))
