"""``predict``, ``evaluate`` and ``export``: a classifier at work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from featcache.cli.app import DONE, SKIPPED, Outcome, command, metrics_table, printable, progress, skipped_text, table
from featcache.options import DecodingOptions, ReadingOptions, TableOptions, subset
from featcache.system.processors import pass_side_by_side

if TYPE_CHECKING:
    from featcache.models.predictions import Prediction

Model = Annotated[Path, typer.Argument(help="The folder of a head or of a fine-tuned model.")]
Base = Annotated[str | None, typer.Option(help="The base, where it is not where it was.")]
Weights = Annotated[str | None, typer.Option(help="Likewise the base's weights.")]


@command(
    "predict",
    example="featcache predict cache/photos-vgg19-1a2b3c4d/heads/logreg-block5_pool new/ --out predictions.csv",
)
def predict(
    model: Model,
    images: Annotated[list[str], typer.Argument(
        metavar="IMAGE|SOURCE",
        help="Images, folders (all files below them), tables, tar files or folders of them, arrays.",
    )],
    table: TableOptions,
    decoding: DecodingOptions,
    out: Annotated[Path | None, typer.Option(
        help="Write predictions to a .csv or .jsonl file as they come. It lies in FILE.partial until it is complete; "
             "after a kill, the same command goes on there."
    )] = None,
    top_k: Annotated[int, typer.Option(
        help="Name so many classes, the most probable first: `top` in JSON, label_2, label_2_probability, … in CSV."
    )] = 1,
    threshold: Annotated[float | None, typer.Option(
        help="Below this probability the label is \"unsure\": `unsure` is true then, and `best` has the class. A class "
             "of that name has `unsure` false. `evaluate --coverage` helps to choose."
    )] = None,
    base: Base = None,
    weights: Weights = None,
) -> Outcome:  # fmt: skip
    """Predict the class of images."""
    from featcache.models.classifier import ImageClassifier
    from featcache.sources import SourceOptions

    passes = 1 if out is None else pass_side_by_side()
    options = subset(table, SourceOptions)
    classifier = ImageClassifier.load(model, base=base, weights=weights, max_pixels=decoding.max_pixels)
    classifier.passes = passes
    with progress("predicting") as shown:
        if out is None:
            found = classifier.predict(images, options=options, threshold=threshold, top_k=top_k, progress=shown)
            return _listed(found, classifier.class_names, threshold, top_k)
        report = classifier.predict_to(out, images, options=options, threshold=threshold, top_k=top_k, progress=shown)
    data = {
        "out": str(report.out),
        "predicted": report.predicted,
        "resumed": report.resumed,
        "unsure": report.unsure,
        "skipped": report.skipped,
    }
    line = f"{report.predicted} predictions in {printable(str(out))}"
    line += f", {report.unsure} of them unsure" if threshold is not None else ""
    line += f"; {report.resumed} rows were there" if report.resumed else ""
    return _outcome(data, line)


def _listed(found: list[Prediction], class_names: list[str], threshold: float | None, top_k: int) -> Outcome:
    from featcache.models.predictions import Answering

    answering = Answering(class_names, threshold, top_k)
    good = [one for one in found if one.reason is None]
    rows = []
    for one in good:
        label = f"{one.label}: {one.best}" if one.unsure else str(one.label)
        pairs = [(label, one.probability), *one.top[1:]]
        rows.append([printable(one.path), *(cell for name, p in pairs for cell in (printable(name), f"{p:.4f}"))])
    data: dict[str, Any] = {
        "predictions": [answering.as_dict(one) for one in good],
        "skipped": [{"path": one.path, "reason": one.reason} for one in found if one.reason is not None],
        "out": None,
    }
    if threshold is not None:
        data["unsure"] = sum(one.unsure for one in good)
    return _outcome(data, table(rows))


@command(
    "evaluate",
    example="featcache evaluate cache/photos-vgg19-1a2b3c4d/heads/logreg-block5_pool held-out/ --coverage",
)
def evaluate(
    model: Model,
    reading: ReadingOptions,
    decoding: DecodingOptions,
    source: Annotated[str | None, typer.Argument(
        help="Labelled images. Default: those the head's cache was extracted from."
    )] = None,
    coverage: Annotated[bool, typer.Option(
        "--coverage", help="A table to choose predict's --threshold by: how many images are answered, how accurately."
    )] = False,
    base: Base = None,
    weights: Weights = None,
) -> Outcome:  # fmt: skip
    """Score a classifier on labelled images. From their pixels, not from the cache."""
    from featcache.models.classifier import ImageClassifier
    from featcache.sources import SourceOptions

    options = subset(reading, SourceOptions)
    with progress("evaluating") as shown:
        classifier = ImageClassifier.load(model, base=base, weights=weights, max_pixels=decoding.max_pixels)
        result = classifier.evaluate(source, options=options, coverage=coverage, progress=shown)
    tables = [_coverage_table(split, rows) for split, rows in result.get("coverage", {}).items()]
    return _outcome(result, metrics_table(result["metrics"]), *tables)


def _coverage_table(split: str, rows: list[dict[str, Any]]) -> str:
    cells = [["threshold", "answered", "n", "accuracy", "95 %"]]
    cells += [
        [f"{row['threshold']:.6f}", f"{row['coverage']:.1%}", str(row["n"]), f"{row['accuracy']:.4f}",
         "{:.4f}-{:.4f}".format(*row["accuracy_ci95"])]
        for row in rows
    ]  # fmt: skip
    return f"{split}, by predict's --threshold:\n{table(cells, right={0, 1, 2, 3, 4})}"


def _outcome(data: dict[str, Any], *parts: str) -> Outcome:
    skipped = data["skipped"]
    text = "\n".join(part for part in [*parts, skipped_text(skipped)] if part)
    return Outcome(data, text, SKIPPED if skipped else DONE)


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
    input: Annotated[Literal["any", "fixed"], typer.Option(
        help="Decoded pictures that the model takes: of any size, which it resizes itself, or already of the base's "
             "size (fixed). A SavedModel takes any size, and JPEG or PNG bytes."
    )] = "any",
    base: Base = None,
    weights: Weights = None,
) -> Outcome:  # fmt: skip
    """Write a model that needs no featcache. Its answers are compared before it is put in place."""
    from featcache.models.export import export_model

    report = export_model(model, to, images=images, compare=compare, input=input, base=base, weights=weights)
    on = f"{report.compared} images" if report.compared else "random pixels only"
    lines = [
        f"{report.format} of {len(report.classes)} classes in {to}; class names, recipe and digests in "
        f"{report.metadata}",
        f"loaded without featcache, its probabilities differ from those of {report.compared_with} by at most "
        f"{report.max_difference:.2g}, on {on}",
        *report.notes,
    ]
    data = {
        "path": str(report.path),
        "metadata": str(report.metadata),
        "format": report.format,
        "max_difference": report.max_difference,
        "compared_with": report.compared_with,
        "compared": report.compared,
        "classes": report.classes,
        "notes": report.notes,
        "own_score": report.own_score,
    }
    return Outcome(data, "\n".join(map(printable, lines)))
