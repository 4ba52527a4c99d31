"""What an audit finds, as values for tables, pages and spreadsheets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.display import frame, html_table, text_table
from featcache.errors import printable
from featcache.files.publishing import csv_text, is_formula, quoted_cell

if TYPE_CHECKING:
    import pandas as pd

KINDS = {
    "leakage": "the same image in train and in what is evaluated, or in both evaluated splits",
    "conflict": "copies of one image with different labels",
    "label": "a label that heads trained without the image contradict",
    "unreadable": "an image that could not be used",
    "blank": "an image of one colour",
    "duplicate": "copies of one image in one split, which count several times",
    "imbalance": "classes of very different sizes, or missing in a split",
    "small": "an image that is enlarged much before the base sees it",
    "outlier": "an image unlike all others",
}
"""Kinds of findings, the worst first."""

_FOUND = ("rank", "kind", "score", "path", "split", "label", "suggestion", "suggested_label", "reason")
_SHOWN = 10
COLUMNS = (*_FOUND, "action", "new_label")
"""Columns of `AuditReport.to_csv`, in which `action` and `new_label` are left to the reader."""


@dataclass(frozen=True)
class Image:
    """An image of a finding.

    Attributes
    ----------
    path : str
        As the cache has it.
    label, split : str or None
        As the cache has them.
    suggestion : {"keep", "drop", "relabel", "look"}
        What is suggested for it.
    suggested_label : str or None
        The class to relabel it to.
    """

    path: str
    label: str | None
    split: str | None
    suggestion: str = "look"
    suggested_label: str | None = None


@dataclass(frozen=True)
class Finding:
    """Something that is probably wrong.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    images : tuple of Image
        Which; none where a finding is about classes.
    score : float
        In 0…1, higher is worse; comparable within a kind only.
    reason : str
        What was seen, with its numbers.
    suggestion : str
        What to do.
    """

    kind: str
    images: tuple[Image, ...]
    score: float
    reason: str
    suggestion: str


@dataclass(frozen=True, repr=False)
class AuditReport:
    """All that an audit found, the worst first.

    Attributes
    ----------
    cache : Path
        What was audited.
    layer : str
        Whose features.
    images : int
        How many were looked at.
    findings : tuple of Finding
        In the order of `KINDS`, by score within a kind.
    notes : tuple of str
        What was not done, or on a sample only, and why.
    """

    cache: Path
    layer: str
    images: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings of each kind, zeros included."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values: ``cache``, ``layer``, ``images``, ``counts``, ``findings`` and ``notes``."""
        return {
            "cache": str(self.cache),
            "layer": self.layer,
            "images": self.images,
            "counts": self.counts,
            "findings": [asdict(finding) for finding in self.findings],
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {kind}" for kind, count in self.counts.items() if count) or "nothing found"
        return f"AuditReport({str(self.cache)!r}, {self.images} images: {counts})"

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the worst findings of each kind."""
        rows: list[list[object]] = [["kind", "score", "images", "what was seen", "suggestion"]]
        for kind in KINDS:
            for one in self._of(kind)[:_SHOWN]:
                rows.append([kind, f"{one.score:.3f}", _paths(one), one.reason, one.suggestion])
        return html_table(rows, caption=repr(self), right={1})

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas frame with the columns of `to_csv`, but `action` and `new_label`: a row for each image."""
        rows = [
            dict(zip(_FOUND, (rank, one.kind, one.score, *_cells(image), one.reason), strict=True))
            for rank, one in enumerate(self.findings, 1)
            for image in one.images
        ]
        return frame(rows, _FOUND)

    def to_text(self, top: int = _SHOWN) -> str:
        """Return a table for each kind that was found, the worst `top` findings in it, and the notes."""
        parts = []
        for kind, count in self.counts.items():
            if not count:
                continue
            shown = self._of(kind)[:top]
            rows = [[f"  {one.score:.3f}", printable(one.reason), printable(_paths(one))] for one in shown]
            left = [f"  … and {count - len(shown)} more (--top, --json or --out)"] if count > len(shown) else []
            parts.append("\n".join([f"{kind}: {count} ({KINDS[kind]})", text_table(rows), *left]))
        if not parts:
            parts.append(f"nothing found in {self.images:,} images")
        return "\n".join([*parts, *(f"note: {printable(note)}" for note in self.notes)])

    def _of(self, kind: str) -> list[Finding]:
        return [one for one in self.findings if one.kind == kind]

    def to_csv(self) -> str:
        """Return a table with a line for each image of each finding, which `featcache.insight.audit.clean` takes.

        Columns are `COLUMNS`. Cells that a spreadsheet would take for formulas are made harmless: paths begin
        with ``./``, other texts with an apostrophe.
        """
        rows: list[Sequence[object]] = [COLUMNS]
        for rank, finding in enumerate(self.findings, 1):
            for image in finding.images:
                _, *texts = _cells(image)
                cells = [quoted_cell(text or "") for text in (*texts, finding.reason, "", "")]
                rows.append([rank, finding.kind, f"{finding.score:.4f}", harmless_path(image.path), *cells])
        return csv_text(rows)


def _cells(image: Image) -> tuple[str | None, ...]:
    """Return an image's cells of `_FOUND`."""
    return image.path, image.split, image.label, image.suggestion, image.suggested_label


def _paths(finding: Finding) -> str:
    """Return the paths of a finding, the first three of many."""
    paths = [image.path for image in finding.images[:3]]
    return ", ".join(paths) + (f" … {len(finding.images) - 3} more" if len(finding.images) > 3 else "")


def ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    """Return findings with the worst first."""
    severity = {kind: place for place, kind in enumerate(KINDS)}
    return tuple(sorted(findings, key=lambda one: (severity[one.kind], -one.score)))


def harmless_path(path: str) -> str:
    """Return the same path, beginning with nothing that a spreadsheet takes for a formula."""
    return f"./{path}" if is_formula(path) else path
