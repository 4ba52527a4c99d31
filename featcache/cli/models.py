"""``predict``, ``evaluate``, ``export`` and ``fine-tune``: base and head together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from featcache.cli.app import (
    DONE,
    SKIPPED,
    Outcome,
    command,
    printable,
    progress,
    skipped_text,
)
from featcache.display import plural, text_table
from featcache.options import DecodingOptions, FineTuneOptions, ReadingOptions, TableOptions, subset
from featcache.system.cpus import pass_side_by_side

if TYPE_CHECKING:
    from featcache.models.finetune import FineTuned
    from featcache.models.predictions import Prediction

Model = Annotated[Path, typer.Argument(help="The folder of a head or of a fine-tuned model.")]
Base = Annotated[str | None, typer.Option(help="The base, where it is not where it was.")]
Weights = Annotated[str | None, typer.Option(help="The base's weights, if they have moved.")]


@command(
    "predict",
    example="featcache predict cache/photos-vgg19-1a2b3c4d/heads/logreg-block5_pool new/ --out predictions.csv",
)
def predict(
    model: Model,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE|SOURCE")],
    table: TableOptions,
    decoding: DecodingOptions,
    out: Path | None = None,
    top_k: int = 1,
    threshold: float | None = None,
    base: Base = None,
    weights: Weights = None,
) -> Outcome:
    """Predict the class of images.

    images: Images, folders (all files below them), tables, tar files or folders of them, arrays.
    out: Write predictions to a .csv or .jsonl file as they come. It lies in FILE.partial until it is complete; after a
        kill, the same command resumes there.
    top_k: Name so many classes, the most probable first: `top` in JSON, label_2, label_2_probability, … in CSV.
    threshold: Below this probability the label is "unsure": `unsure` is true then, and `best` has the class. A class
        of that name has `unsure` false. `evaluate --coverage` helps to choose.
    """
    from featcache.models.classifier import ImageClassifier
    from featcache.sources import SourceOptions

    passes = 1 if out is None else pass_side_by_side()
    options = subset(table, SourceOptions)
    classifier = ImageClassifier.load(model, base=base, weights=weights, max_pixels=decoding.max_pixels)
    classifier.passes = passes
    with progress("predicting") as shown:
        if out is None:
            found = classifier.predict_records(
                images, options=options, threshold=threshold, top_k=top_k, progress=shown
            )
            return _listed(list(found), classifier.class_names, threshold, top_k)
        report = classifier.predict_to(out, images, options=options, threshold=threshold, top_k=top_k, progress=shown)
    counts = {name: getattr(report, name) for name in ("predicted", "resumed", "unsure", "skipped")}
    line = f"{report.predicted} predictions in {printable(str(out))}"
    line += f", {report.unsure} of them unsure" if threshold is not None else ""
    line += f"; {report.resumed} rows were there" if report.resumed else ""
    return _outcome({"out": str(report.out), **counts}, line)


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
    return _outcome(data, text_table(rows))


@command(
    "evaluate",
    example="featcache evaluate cache/photos-vgg19-1a2b3c4d/heads/logreg-block5_pool held-out/ --coverage",
)
def evaluate(
    model: Model,
    reading: ReadingOptions,
    decoding: DecodingOptions,
    source: Annotated[str | None, typer.Argument()] = None,
    coverage: Annotated[bool, typer.Option("--coverage")] = False,
    base: Base = None,
    weights: Weights = None,
) -> Outcome:
    """Score a classifier on labelled images. From their pixels, not from the cache.

    source: Labelled images. Default: those the head's cache was extracted from.
    coverage: A table to choose predict's --threshold by: how many images are answered, how accurately.
    """
    from featcache.heads.showing import metrics_table
    from featcache.models.classifier import ImageClassifier
    from featcache.sources import SourceOptions

    options = subset(reading, SourceOptions)
    with progress("evaluating") as shown:
        classifier = ImageClassifier.load(model, base=base, weights=weights, max_pixels=decoding.max_pixels)
        result = classifier.evaluate(source, options=options, coverage=coverage, progress=shown)
    tables = [_coverage_table(split, rows) for split, rows in result.get("coverage", {}).items()]
    return _outcome(result, metrics_table(result["metrics"]), *tables)


def _coverage_table(split: str, rows: list[dict[str, Any]]) -> str:
    from featcache.heads.showing import accuracy_interval

    cells = [["threshold", "answered", "n", "accuracy", "95 %"]]
    for row in rows:
        answered, accuracy = f"{row['coverage']:.1%}", f"{row['accuracy']:.4f}"
        cells.append([f"{row['threshold']:.6f}", answered, str(row["n"]), accuracy, accuracy_interval(row)])
    return f"{split}, by predict's --threshold:\n{text_table(cells, right={0, 1, 2, 3, 4})}"


def _outcome(data: dict[str, Any], *parts: str) -> Outcome:
    skipped = data["skipped"]
    text = "\n".join(part for part in [*parts, skipped_text(skipped)] if part)
    return Outcome(data, text, SKIPPED if skipped else DONE)


@command("export", example="featcache export cache/photos-vgg19-1a2b3c4d/heads/logreg-block5_pool --to photos.keras")
def export(
    model: Model,
    to: Annotated[Path, typer.Option(metavar="FILE|DIR")],
    compare: Annotated[int, typer.Option(min=0)] = 32,
    images: Annotated[str | None, typer.Option(metavar="DIR")] = None,
    input: Literal["any", "fixed"] = "any",
    base: Base = None,
    weights: Weights = None,
) -> Outcome:
    """Write a model that needs no featcache. Its answers are compared before it is put in place.

    to: A .keras, .tflite or .onnx file, or a folder for a SavedModel.
    compare: How many images to compare on.
    images: Images to compare on. Default: validation images it was made from.
    input: Decoded pictures that the model takes: of any size, which it resizes itself, or already of the base's size
        (fixed). A SavedModel takes any size, and JPEG or PNG bytes.
    """
    from featcache.models.export import export_model

    report = export_model(model, to, images=images, compare=compare, input=input, base=base, weights=weights)
    on = plural(report.compared, "image") if report.compared else "random pixels only"
    lines = [
        f"{report.format} of {plural(len(report.classes), 'class')} in {to}; class names, recipe and digests in "
        f"{report.metadata}",
        f"loaded without featcache, its probabilities differ from those of {report.compared_with} by at most "
        f"{report.max_difference:.2g}, on {on}",
        *report.notes,
    ]
    names = ("format", "max_difference", "compared_with", "compared", "classes", "notes", "own_score")
    data: dict[str, Any] = {"path": str(report.path), "metadata": str(report.metadata)}
    data |= {name: getattr(report, name) for name in names}
    return Outcome(data, "\n".join(map(printable, lines)))


@command("fine-tune", example="featcache fine-tune cache/photos-vgg19-1a2b3c4d/heads/dense-block5_pool --last 4")
def fine_tune(options: FineTuneOptions) -> Outcome:
    """Train a head with a part of its base. Keeps the better of before and after."""
    from featcache.models.finetune import fine_tune as run

    with progress("fine-tuning") as shown:
        result = run(**vars(replace(options, progress=shown))).fine_tuning
    assert result is not None
    numbers: dict[str, Any] = {name: getattr(result, name) for name in ("trainable", "non_trainable", "total")}
    if result.model is None:
        return Outcome({**numbers, "layers": result.layers}, f"{_layers(result)}\n{_counts(result)}")
    names = "before after composed_accuracy difference history kept stopped distilled skipped seconds"
    data = {"model": str(result.model.path), **numbers, **{name: getattr(result, name) for name in names.split()}}
    return Outcome(data, _fine_tuned(result), SKIPPED if result.skipped else DONE)


def _layers(result: FineTuned) -> str:
    rows = [["", "layer", "type", "parameters", "trains"]]
    for one in result.layers:
        trains = ("yes" if one["trainable"] else "no") if one["parameters"] else ""
        rows.append([str(one["index"]), printable(one["name"]), one["type"], f"{one['parameters']:,}", trains])
    return text_table(rows, right={0, 3})


def _counts(result: FineTuned) -> str:
    return (
        f"{result.trainable:,} parameters train, {result.non_trainable:,} do not, {result.total:,} in all, the head's "
        "included"
    )


def _fine_tuned(result: FineTuned) -> str:
    """Return before and after, and what was kept."""
    from featcache.heads.showing import accuracy_interval

    assert result.model is not None
    rows = [["", "accuracy", "95 %", "log loss", "ECE", "n"]]
    for when, splits in (("before", result.before), ("after", result.after)):
        for split, m in splits.items():
            accuracy, *losses = [f"{m[name]:.4f}" for name in ("accuracy", "log_loss", "ece")]
            rows.append([f"{when}, {split}", accuracy, accuracy_interval(m), *losses, str(m["n"])])
    lines = [
        f"before training, base and head as one model: accuracy {result.composed_accuracy:.4f}, probabilities within "
        f"{result.difference:.1e} of the head's",
        text_table(rows, right={1, 2, 3, 4, 5}),
    ]
    lesson = result.distilled or {}
    if "validation" in lesson.get("metrics", {}):
        accuracy = lesson["metrics"]["validation"]["accuracy"]
        lines.append(f"the {lesson['teacher']} head it was distilled from: accuracy {accuracy:.4f} on validation")
    for split, found in lesson.get("agreement", {}).items():
        lines.append(f"the distilled head agrees with its teacher on {found['part']:.4f} of {split}, n={found['n']}")
    if result.stopped:
        what = f"stopped in epoch {result.stopped['epoch']}: {result.stopped['reason']}"
        lines.append(f"{what}; the weights {'of the best epoch' if result.after else 'before training'} are taken")
    lines.append(_counts(result))
    if result.kept == "head":
        lines.append("fine-tuning did not help on validation: the model is base and head as they were before")
    lines += [line for line in (skipped_text(result.skipped),) if line]
    return "\n".join([*lines, printable(str(result.model.path))])
