"""How heads and their scores are shown: text for people, HTML for notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.display import html_table, plural, text_table
from featcache.errors import printable

if TYPE_CHECKING:
    from featcache.heads.store import Head


def left_out_text(split: str, copies: int, members: int, of: int) -> str | None:
    """Return a line that says how many of a split's images do not count in scores, and why; None if all count."""
    reasons = [
        *(["1 copy of a training image" if copies == 1 else f"{copies:,} copies of training images"] if copies else []),
        *(
            [f"{members:,} {'image' if members == 1 else 'images'} of groups that train has images of"]
            if members
            else []
        ),
    ]
    if not reasons:
        return None
    what = "images" if split == "all" else f"{split} images"
    return f"{copies + members:,} of {of:,} {what} do not count in scores: {' and '.join(reasons)}"


def accuracy_interval(metrics: dict[str, Any]) -> str:
    """Return the 95 % interval of an accuracy."""
    return "{:.4f}-{:.4f}".format(*metrics["accuracy_ci95"])


def metrics_rows(metrics: dict[str, Any]) -> list[list[str]]:
    """Return a row per split, after one with headings: accuracy and macro F1 with 95 % intervals, losses, n."""
    rows = [["", "accuracy", "95 %", "macro F1", "95 %", "log loss", "ECE", "n"]]
    for split, m in metrics.items():
        accuracy, f1, *losses = [f"{m[name]:.4f}" for name in ("accuracy", "macro_f1", "log_loss", "ece")]
        interval = "{:.4f}-{:.4f}".format(*m["macro_f1_ci95"])
        rows.append([split, accuracy, accuracy_interval(m), f1, interval, *losses, str(m["n"])])
    return rows


def metrics_table(metrics: dict[str, Any]) -> str:
    """Return one line per split: accuracy and macro F1 with their 95 % intervals; then which images do not count."""
    notes = []
    for split, m in metrics.items():
        copies, members = m.get("copies_left_out", 0), m.get("group_members_left_out", 0)
        notes.append(left_out_text(split, copies, members, copies + members + m["n"]))
    table = text_table(metrics_rows(metrics), right=set(range(1, 8)))
    return "\n".join([table, *(text for text in notes if text is not None)])


def head_line(head: Head) -> str:
    """Return what a head is on one line: kind, layer, classes, accuracy."""
    validation = head.metrics.get("validation")
    scored = (
        "" if validation is None else f", {validation['accuracy']:.4f} accurate on validation (n={validation['n']})"
    )
    return f"Head({head.clf!r} on {head.layer!r}, {plural(len(head.class_names), 'class')}{scored})"


def head_html(head: Head) -> str:
    """Return what a notebook shows of a head: its scores by split."""
    rows = metrics_rows({split: m for split, m in head.metrics.items() if m})
    return html_table(rows, caption=head_line(head), right=set(range(1, 8)))


def head_text(head: Head) -> str:
    """Return what ``fit-head`` prints: how the head was made, its scores, where it lies."""
    card = head.card
    chosen = "".join(f", {name}={_short(value)}" for name, value in card["params"].items())
    lines = [f"{head.clf} on {head.layer}{chosen}, fitted in {card['fit_seconds']:.2f} s"]
    if card.get("tuning"):
        lines.append(_sweep(card["tuning"]))
    lines.append(metrics_table(head.metrics))
    if "cross_validation" in card:
        found = card["cross_validation"]
        shown = [f"{value:.4f}" for value in found["accuracy_folds"][:10]]
        spread = ", ".join([*shown, "…"] if found["folds"] > len(shown) else shown)
        lines.append(
            f"{found['folds']} folds of the training images: {found['accuracy']:.4f} ({accuracy_interval(found)}, "
            f"n={found['n']}); each: {spread}"
        )
    for row in card.get("fewshot", []):
        lines.append(
            f"{row['shots']} of each class: {row['accuracy']:.4f} on validation, standard deviation "
            f"{row['accuracy_sd']:.4f} over {len(row['accuracies'])} draws"
        )
    if head.path is None:
        return "\n".join(lines)
    size = _bytes_of_base(head)
    carried = f", which carries its base ({size / 1e6:.1f} MB)" if size else ""
    return "\n".join([*lines, printable(str(head.path)) + carried])


def _bytes_of_base(head: Head) -> int:
    """Return the size of the base in a head's folder, 0 if there is none."""
    return sum(file.stat().st_size for file in (head.path or Path()).glob("base/*")) if head.card.get("base") else 0


def _sweep(sweep: list[dict[str, Any]]) -> str:
    """Return one line per parameters that were tried."""
    rows = [["tried", "folds' score"]]
    for one in sweep:
        value = one.get("accuracy", one.get("squared_error"))
        what = "accuracy" if "accuracy" in one else "squared error"
        rows.append([params_text(one["params"]), "failed" if value is None else f"{what} {value:.4f}"])
    return text_table(rows)


def params_text(params: dict[str, Any]) -> str:
    """Return parameters as NAME=VALUE, numbers shortened."""
    return " ".join(f"{name}={_short(value)}" for name, value in params.items())


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
