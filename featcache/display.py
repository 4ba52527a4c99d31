"""Rows as a table: text for a terminal, HTML for a notebook, a pandas frame."""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featcache.errors import OptionError, printable

if TYPE_CHECKING:
    import pandas as pd


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, such as ``1 image`` and ``2 images``."""
    ending = "" if count == 1 else "es" if noun.endswith("ss") else "s"
    return f"{count} {noun}{ending}"


_NARROWEST = 6
"""Characters of a column that is cut as far as possible."""


def text_table(
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
    width: int | None = None,
    first: Collection[int] = (),
) -> str:
    """Return rows as columns two spaces apart, the columns of `right` flush right.

    Where they are wider than `width`, columns are cut, which "…" shows: those of `first`, then others that are not in
    `right`, the widest one each time.
    """
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    flexible = [i for i in range(len(widths)) if i not in right]
    while width is not None and sum(widths) + 2 * (len(widths) - 1) > width and flexible:
        able = [i for i in flexible if widths[i] > _NARROWEST]
        if not able:
            break
        widest = max([i for i in able if i in first] or able, key=widths.__getitem__)
        widths[widest] -= 1
    rows = [[_cut(cell, limit) for cell, limit in zip(row, widths, strict=True)] for row in rows]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _cut(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters; of a longer one its start and its end, which tells names apart."""
    if len(text) <= limit:
        return text
    end = limit // 3
    return f"{text[: limit - end - 1]}…{text[len(text) - end :]}"


def html_table(rows: Sequence[Sequence[object]], *, caption: str = "", right: Collection[int] = ()) -> str:
    """Return rows, the first with the headings, as an HTML table; all text in it is escaped.

    Cells of the columns of `right` are flush right. A first row of empty headings is left out.
    """

    def cells(row: Sequence[object], tag: str) -> str:
        styles = [' style="text-align: right"' if i in right else ' style="text-align: left"' for i in range(len(row))]
        return "".join(
            f"<{tag}{style}>{html.escape(printable(str(cell)))}</{tag}>"
            for style, cell in zip(styles, row, strict=True)
        )

    head, *body = rows
    parts = ["<table>"]
    if caption:
        parts.append(f'<caption style="text-align: left">{html.escape(printable(caption))}</caption>')
    if any(head):
        parts.append(f"<thead><tr>{cells(head, 'th')}</tr></thead>")
    parts += ["<tbody>", *(f"<tr>{cells(row, 'td')}</tr>" for row in body), "</tbody></table>"]
    return "\n".join(parts)


def frame(data: Sequence[Mapping[str, Any]] | Mapping[str, Any], columns: Sequence[str]) -> pd.DataFrame:
    """Return rows, or columns of equal lengths, as a pandas frame; OptionError says that pandas is not installed."""
    try:
        import pandas as pd
    except ImportError:
        raise OptionError("`to_frame` needs pandas, which is not installed. Run: pip install pandas") from None
    return pd.DataFrame(dict(data) if isinstance(data, Mapping) else list(data), columns=list(columns))
