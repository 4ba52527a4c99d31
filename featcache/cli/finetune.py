"""``fine-tune``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featcache.cli.app import DONE, SKIPPED, Outcome, command, printable, progress, skipped_text, table
from featcache.options import FineTuneOptions

if TYPE_CHECKING:
    from featcache.models.finetune import FineTuned


@command("fine-tune", example="featcache fine-tune cache/photos-vgg19-1a2b3c4d/heads/dense-block5_pool --last 4")
def fine_tune(options: FineTuneOptions) -> Outcome:
    """Train a head with a part of its base. Keeps the better of before and after."""
    from featcache.models.finetune import fine_tune as run

    with progress("fine-tuning") as shown:
        result = run(**vars(replace(options, progress=shown)))
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
