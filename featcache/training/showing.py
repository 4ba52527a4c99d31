"""How a comparison is shown: text for people, HTML for notebooks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.display import html_table, plural, text_table
from featcache.errors import printable
from featcache.heads.showing import accuracy_interval, params_text

if TYPE_CHECKING:
    from featcache.training.comparison import Comparison

TOP = 10
"""How many heads are shown."""


def comparison_line(found: Comparison) -> str:
    """Return the best of a comparison on one line."""
    best = found.best
    return (
        f"Comparison({plural(len(found.leaderboard), 'head')}, best: {best['clf']!r} on {best['layer']!r}, "
        f"{best['accuracy']:.4f} accurate on {best['selected_on']} (n={best['n']}))"
    )


def comparison_html(found: Comparison) -> str:
    """Return what a notebook shows of a comparison: its best heads."""
    rows = _rows(found, TOP)
    return html_table(rows, caption=comparison_line(found), right=set(range(len(rows[0]) - 4, len(rows[0]))))


def comparison_text(found: Comparison, top: int = TOP, *, all_rows: str = "`leaderboard` has all") -> str:
    """Return the best heads as a table (all, if `top` is 0) that fits the terminal, and what it means."""
    rows, best = _rows(found, top), found.best
    hidden = len(found.leaderboard) + 1 - len(rows)
    right = set(range(len(rows[0]) - 4, len(rows[0])))
    names = [i for i, title in enumerate(rows[0]) if title in ("cache", "layer")]
    lines = [text_table(rows, right=right, width=shutil.get_terminal_size().columns, first=names)]
    if hidden:
        lines.append(f"… and {hidden} more ({all_rows})")
    single, one_cache = (len({row[key] for row in found.leaderboard}) == 1 for key in ("layer", "cache"))
    equal = [
        row["clf"] + ("" if single else f" on {row['layer']}") + ("" if one_cache else f" of {Path(row['cache']).name}")
        for row in found.as_good
    ]
    on = f"layer {printable(best['layer'])}, " if single else ""
    ranked = f"{on}ranked by {best['selected_on']}, n={best['n']}"
    if equal:
        shown = ", ".join(equal[:TOP]) + (f" and {len(equal) - TOP} more" if len(equal) > TOP else "")
        ranked += f"; = within one standard error of the best: {printable(shown)}"
    lines.append(ranked)
    simplest = found.simplest
    if equal and simplest is not found.leaderboard[0]:
        low, high = simplest["difference_ci95"]
        lines.append(
            f"these images do not tell them from the best; the simplest is {printable(simplest['clf'])}: "
            f"{simplest['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
        )
    lines += [f"failed: {one['clf']} on {one['layer']}: {printable(one['error'])}" for one in found.failed]
    if test := best.get("test"):
        lines.append(f"best on test, scored once: {test['accuracy']:.4f} ({accuracy_interval(test)}, n={test['n']})")
    return "\n".join(lines)


def _rows(found: Comparison, top: int) -> list[list[str]]:
    """Return a row per head, after one with headings, without the names that are alike in all rows."""
    board = found.leaderboard
    columns: dict[str, list[str]] = {
        "cache": [Path(row["cache"]).name for row in board],
        "layer": [row["layer"] for row in board],
        "head": [row["clf"] for row in board],
        "parameters": [params_text(row["params"]) for row in board],
    }
    named = {title: column for title, column in columns.items() if title == "head" or len(set(column)) > 1}
    rows = [["", *named, "accuracy", "95 %", "log loss", "fit"]]
    for i, row in enumerate(board[: top or None]):
        mark = "=" if i and row["as_good"] else ""
        names = [printable(column[i]) for column in named.values()]
        scores: list[Any] = [f"{row['accuracy']:.4f}", accuracy_interval(row), f"{row['log_loss']:.4f}"]
        rows.append([f"{i + 1}{mark}", *names, *scores, f"{row['fit_seconds']:.2f} s"])
    return rows
