"""How a comparison is shown: text for people, HTML for notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.display import html_table, text_table
from featcache.errors import printable
from featcache.heads.showing import accuracy_interval, params_text

if TYPE_CHECKING:
    from featcache.training.comparison import Comparison

TOP = 10
"""How many heads are shown."""


def comparison_line(found: Comparison) -> str:
    """Return the best of a comparison on one line."""
    best, heads = found.best, len(found.leaderboard)
    return (
        f"Comparison({heads} {'head' if heads == 1 else 'heads'}, best: {best['clf']!r} on {best['layer']!r}, "
        f"{best['accuracy']:.4f} accurate on {best['selected_on']} (n={best['n']}))"
    )


def comparison_html(found: Comparison) -> str:
    """Return what a notebook shows of a comparison: its best heads."""
    rows = _rows(found, TOP)
    return html_table(rows, caption=comparison_line(found), right=set(range(len(rows[0]) - 4, len(rows[0]))))


def comparison_text(found: Comparison, top: int = TOP) -> str:
    """Return the best heads as a table (all, if `top` is 0), and what it means."""
    rows, best = _rows(found, top), found.best
    hidden = len(found.leaderboard) + 1 - len(rows)
    lines = [text_table(rows, right=set(range(len(rows[0]) - 4, len(rows[0]))))]
    if hidden:
        lines.append(f"… and {hidden} more (--top 0, --json or --out)")
    single = len({row["layer"] for row in found.leaderboard}) == 1
    equal = [row["clf"] if single else f"{row['clf']} on {row['layer']}" for row in found.indistinguishable]
    ranked = f"ranked by {best['selected_on']}, n={best['n']}"
    if equal:
        shown = ", ".join(equal[:TOP]) + (f" and {len(equal) - TOP} more" if len(equal) > TOP else "")
        ranked += f"; = not distinguishable from the best (McNemar, Holm, 5 %): {printable(shown)}"
    lines.append(ranked)
    lines += [f"failed: {one['clf']} on {one['layer']}: {printable(one['error'])}" for one in found.failed]
    if test := best.get("test"):
        lines.append(f"best on test, scored once: {test['accuracy']:.4f} ({accuracy_interval(test)}, n={test['n']})")
    return "\n".join(lines)


def _rows(found: Comparison, top: int) -> list[list[str]]:
    """Return a row per head, after one with headings; the cache is named where there are several."""
    several = len({row["cache"] for row in found.leaderboard}) > 1
    rows = [["", *(["cache"] if several else []), "layer", "head", "parameters", "accuracy", "95 %", "log loss", "fit"]]
    for place, row in enumerate(found.leaderboard[: top or None], 1):
        mark = "" if place == 1 or row["distinguishable"] else "="
        cache = [Path(row["cache"]).name] if several else []
        names = map(printable, [*cache, row["layer"], row["clf"], params_text(row["params"])])
        scores: list[Any] = [f"{row['accuracy']:.4f}", accuracy_interval(row), f"{row['log_loss']:.4f}"]
        rows.append([f"{place}{mark}", *names, *scores, f"{row['fit_seconds']:.2f} s"])
    return rows
