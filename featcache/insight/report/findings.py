"""The section of an audit: what looks wrong with the images, the worst first, with their pictures."""

from __future__ import annotations

from collections.abc import Sequence

from featcache.extraction.originals import Originals
from featcache.insight.audit import KINDS, AuditReport, Finding, Image
from featcache.insight.commands import after_audit
from featcache.insight.report.page import Block, Case, Cases, Commands, Section, Shot, Table, table
from featcache.insight.report.pictures import Pictures
from featcache.insight.report.subject import Subject

EACH = 9
"""Findings of a kind that are shown with pictures."""
TOGETHER = 4
"""Pictures of a finding."""
SIDE = 112
"""Pixels of the longer side of one."""
_MOST_ROWS = 50
_LONGEST = 400
_WITHOUT_PICTURES = ("unreadable", "blank", "imbalance")
_WORDS = {
    "leakage": ("leak between splits", "leaks between splits"),
    "conflict": ("conflict of labels between copies", "conflicts of labels between copies"),
    "label": ("probable label error", "probable label errors"),
    "unreadable": ("unusable image", "unusable images"),
    "blank": ("blank image", "blank images"),
    "duplicate": ("group of copies in one split", "groups of copies in one split"),
    "imbalance": ("class with few images or none", "classes with few images or none"),
    "small": ("finding about small images", "findings about small images"),
    "outlier": ("outlier", "outliers"),
}


def shown(audit: AuditReport) -> list[str]:
    """Return the paths of the images whose pictures `audited` shows."""
    return [
        image.path
        for kind in KINDS
        if kind not in _WITHOUT_PICTURES
        for finding in _of(audit, kind)[:EACH]
        for image in _chosen(finding)
    ]


def audited(subject: Subject, audit: AuditReport, pictures: Pictures) -> Section:
    """Return what an audit of the subject's cache found, by kind, the worst first, and the commands that follow.

    `pictures` were told of `shown`.
    """
    counts = [f"{n:,} {_WORDS[kind][n != 1]}" for kind, n in audit.counts.items() if n]
    what = f"Found, the worst first: {', '.join(counts)}." if counts else "Nothing was found."
    texts = [f"{audit.images:,} images were looked at, their features those of {audit.layer}. {what}"]
    if counts:
        texts.append(
            "These are suggestions: look before you drop or relabel an image. Below them are the commands for a table "
            "of all, and for a source without what you decide to drop."
        )
    texts += [f"{note[:1].upper()}{note[1:]}." for note in audit.notes]
    blocks: list[Block] = []
    for kind in KINDS:
        if found := _of(audit, kind):
            pictured = pictures.possible and kind not in _WITHOUT_PICTURES
            blocks.append(_cases(kind, found, pictures) if pictured else _table(audit, kind, found))
    if counts:
        originals = Originals(subject.cache) if subject.cache is not None else None
        files = originals is not None and any(originals.file(entry) for entry in originals.entries[:EACH])
        blocks.append(Commands(after_audit(subject, audit.layer, files=files)))
    return Section("audit", "Audit", texts, blocks)


def _of(audit: AuditReport, kind: str) -> list[Finding]:
    return [one for one in audit.findings if one.kind == kind]


def _chosen(finding: Finding) -> list[Image]:
    """Return the images of a finding that are shown: of many, such as differ in split or label, one to keep first."""
    if len(finding.images) <= TOGETHER:
        return list(finding.images)
    kept_first = sorted(finding.images, key=lambda one: one.suggestion != "keep")
    different = list({(one.split, one.label): one for one in reversed(kept_first)}.values())[::-1]
    paths = {one.path for one in different}
    return [*different, *(one for one in kept_first if one.path not in paths)][:TOGETHER]


def _cases(kind: str, found: Sequence[Finding], pictures: Pictures) -> Cases:
    chosen = [_chosen(one) for one in found[:EACH]]
    images = pictures.of([image.path for each in chosen for image in each], side=SIDE)
    cases = []
    for finding, each in zip(found, chosen, strict=False):
        shots = []
        for one in each:
            wrong = one.suggestion in ("drop", "relabel")
            below = [_advised(one), _place(one), _short(one.path)]
            shots.append(Shot(images[one.path], f"{one.path}, {_place(one)}", below, wrong))
        lines = [_sentence(finding.reason), _sentence(finding.suggestion)]
        if len(finding.images) > len(each) and kind != "small":  # whose many images are examples
            lines.append(f"Shown are {len(each)} of {len(finding.images):,}.")
        cases.append(Case(shots, lines))
    worst = f" These are the {EACH} worst; the table has all." if len(found) > EACH else ""
    return Cases(_caption(kind, found), _sentence(KINDS[kind]) + worst, cases)


def _table(audit: AuditReport, kind: str, found: Sequence[Finding]) -> Table:
    """Return findings in words, a row for each image, or for each finding about classes."""
    first = audit.findings.index(found[0]) + 1
    rows: list[list[str]] = []
    for rank, one in enumerate(found[:_MOST_ROWS], first):
        reason, advice = _short(one.reason), _short(one.suggestion)
        if not one.images:
            rows.append([f"{rank:,}", reason, advice])
        for image in one.images:
            single = advice if len(one.images) == 1 else _advised(image)
            rows.append([f"{rank:,}", _short(image.path), _place(image), reason, single])
    names = ["found", "what to do"] if not found[0].images else ["image", "class, split", "found", "what to do"]
    note = f"The first {_MOST_ROWS} rows of {len(rows):,}; the table has all." if len(rows) > _MOST_ROWS else ""
    caption = f"{_caption(kind, found)} ({KINDS[kind]})"
    return table(caption, ["rank", *names], rows[:_MOST_ROWS], broad=True, note=note)


def _caption(kind: str, found: Sequence[Finding]) -> str:
    return f"{kind.capitalize()}: {len(found):,}"


def _advised(image: Image) -> str:
    if image.suggestion == "relabel":
        return f"✗ relabel: {image.suggested_label}"
    return f"✗ {image.suggestion}" if image.suggestion == "drop" else image.suggestion


def _place(image: Image) -> str:
    return ", ".join(text for text in (image.label or "no class", image.split) if text)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{_short(text[1:])}."


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
