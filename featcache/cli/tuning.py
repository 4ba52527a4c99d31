"""``fine-tune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from featcache.cli.app import DONE, SKIPPED, Outcome, command, printable, progress, skipped_text, table
from featcache.cli.models import Base, Weights

if TYPE_CHECKING:
    from featcache.finetune import FineTuned


@command("fine-tune", example="featcache fine-tune cache/photos-vgg19-1a2b3c4d/heads/dense-block5_pool --last 4")
def fine_tune(
    head: Annotated[Path, typer.Argument(help="A head's folder.")],
    from_layer: Annotated[str | None, typer.Option(help="Train the base from this layer on.")] = None,
    from_index: Annotated[int | None, typer.Option(
        min=0, help="Or from this index into its layers, which begin with the input layer, as Keras counts them."
    )] = None,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="Or its last N layers.")] = None,
    all_layers: Annotated[bool, typer.Option("--all", help="Or all of it.")] = False,
    reinitialise: Annotated[bool, typer.Option(
        "--reinitialise", help="Or all of it from fresh weights, the head too: training from scratch."
    )] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the layers and which of them train.")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="At most, beside those of the head.")] = 10,
    initial_epoch: Annotated[int | None, typer.Option(
        min=0, help="Number of the first one. Default: as many as a dense head was trained for."
    )] = None,
    optimizer: Annotated[Literal["adam", "sgd", "rmsprop"], typer.Option(help="What trains.")] = "adam",
    learning_rate: Annotated[float | None, typer.Option(
        help="Default: a tenth of a dense head's, 1e-5 of others, 0.001 from fresh weights."
    )] = None,
    momentum: Annotated[float, typer.Option(help="For sgd.")] = 0.9,
    schedule: Annotated[Literal["constant", "cosine", "exponential"], typer.Option(
        help="How the learning rate falls: not, to 0, or to 1 %."
    )] = "constant",
    weight_decay: Annotated[float, typer.Option(help="Of kernels, decoupled from the gradient.")] = 0.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 32,
    mixed_precision: Annotated[bool, typer.Option("--mixed-precision", help="Train the base in bfloat16.")] = False,
    train_batch_norm: Annotated[bool, typer.Option(
        "--train-batch-norm", help="Let batch normalisation take and learn the batches' statistics."
    )] = False,
    augment: Annotated[str | None, typer.Option(
        metavar="OP[=X],...", help="Other views of the training images in each epoch, such as flip,rotation=0.1."
    )] = None,
    fill: Annotated[Literal["nearest", "reflect", "constant"], typer.Option(help="What lies beyond their edges.")]
    = "nearest",
    class_weight: Annotated[Literal["balanced"] | None, typer.Option(
        help="balanced: rare classes count as much as others."
    )] = None,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without a lower validation loss before it ends.")] = 5,
    distill: Annotated[Literal["ridge", "dense"] | None, typer.Option(
        help="First train such a head to answer as this one, which no network may express (svm, knn, isotonic)."
    )] = None,
    seed: Annotated[int, typer.Option(help="For everything random.")] = 0,
    tensorboard: Annotated[Path | None, typer.Option(metavar="DIR", help="Write logs for TensorBoard.")] = None,
    out: Annotated[Path | None, typer.Option(help="The model's folder. Default: the head's with -finetuned.")] = None,
    base: Base = None,
    weights: Weights = None,
) -> Outcome:  # fmt: skip
    """Train a head with a part of its base. Keeps the better of before and after."""
    from featcache.finetune import fine_tune as run

    with progress("fine-tuning") as shown:
        result = run(
            head, from_layer=from_layer, from_index=from_index, last=last, all_layers=all_layers,
            reinitialise=reinitialise, epochs=epochs, initial_epoch=initial_epoch, optimizer=optimizer,
            learning_rate=learning_rate, momentum=momentum, schedule=schedule, weight_decay=weight_decay,
            batch_size=batch_size, mixed_precision=mixed_precision, train_batch_norm=train_batch_norm,
            augment=augment, fill=fill, class_weight=class_weight, patience=patience, seed=seed,
            tensorboard=tensorboard, out=out, base=base, weights=weights, distill=distill, dry_run=dry_run,
            progress=shown,
        )  # fmt: skip
    numbers: dict[str, Any] = {name: getattr(result, name) for name in ("trainable", "non_trainable", "total")}
    if result.model is None:
        return Outcome({**numbers, "layers": result.layers}, f"{_layers(result)}\n{_counts(result)}")
    names = ("before", "after", "composed_accuracy", "difference", "history", "kept", "stopped", "distilled",
             "skipped", "seconds")  # fmt: skip
    data = {"model": str(result.model.path), **numbers, **{name: getattr(result, name) for name in names}}
    return Outcome(data, _story(result), SKIPPED if result.skipped else DONE)


def _layers(result: FineTuned) -> str:
    rows = [["", "layer", "type", "parameters", "trains"]]
    for one in result.layers:
        trains = ("yes" if one["trainable"] else "no") if one["parameters"] else ""
        rows.append([str(one["index"]), printable(one["name"]), one["type"], f"{one['parameters']:,}", trains])
    return table(rows, right={0, 3})


def _counts(result: FineTuned) -> str:
    return (
        f"{result.trainable:,} parameters train, {result.non_trainable:,} do not, {result.total:,} in all, the head's "
        "included"
    )


def _story(result: FineTuned) -> str:
    """Return before and after, and what was kept."""
    assert result.model is not None
    rows = [["", "accuracy", "95 %", "log loss", "ECE", "n"]]
    for when, splits in (("before", result.before), ("after", result.after)):
        for split, m in splits.items():
            rows.append([
                f"{when}, {split}", f"{m['accuracy']:.4f}", "{:.4f}-{:.4f}".format(*m["accuracy_ci95"]),
                f"{m['log_loss']:.4f}", f"{m['ece']:.4f}", str(m["n"]),
            ])  # fmt: skip
    lines = [
        f"before training, base and head as one model: accuracy {result.composed_accuracy:.4f}, probabilities within "
        f"{result.difference:.1e} of the head's",
        table(rows, right={1, 2, 3, 4, 5}),
    ]
    lesson = result.distilled or {}
    if "validation" in lesson.get("metrics", {}):
        lines.append(f"the {lesson['teacher']} head it was distilled from: accuracy "
                     f"{lesson['metrics']['validation']['accuracy']:.4f} on validation")  # fmt: skip
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
