"""What an audit finds, as values for tables, pages and spreadsheets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featcache.files.publishing import csv_text, is_formula, quoted_cell

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


@dataclass(frozen=True)
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

    def to_csv(self) -> str:
        """Return a table with a line for each image of each finding, which `featcache.insight.audit.clean` takes.

        Columns are `COLUMNS`. Cells that a spreadsheet would take for formulas are made harmless: paths begin
        with ``./``, other texts with an apostrophe.
        """
        rows: list[Sequence[object]] = [COLUMNS]
        for rank, finding in enumerate(self.findings, 1):
            for image in finding.images:
                texts = (image.split, image.label, image.suggestion, image.suggested_label, finding.reason, "", "")
                path, cells = harmless_path(image.path), [quoted_cell(text or "") for text in texts]
                rows.append([rank, finding.kind, f"{finding.score:.4f}", path, *cells])
        return csv_text(rows)


def ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    """Return findings with the worst first."""
    severity = {kind: place for place, kind in enumerate(KINDS)}
    return tuple(sorted(findings, key=lambda one: (severity[one.kind], -one.score)))


def harmless_path(path: str) -> str:
    """Return the same path, beginning with nothing that a spreadsheet takes for a formula."""
    return f"./{path}" if is_formula(path) else path
