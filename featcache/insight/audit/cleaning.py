"""A source without the images that somebody decided to drop, as a table; images are never touched."""

from __future__ import annotations

import csv
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from featcache.cache import FeatureCache
from featcache.errors import OptionError, nearest
from featcache.extraction.originals import Originals
from featcache.files.publishing import csv_text, publish, quoted_cell, unquoted_cell
from featcache.files.reading import odd_file
from featcache.insight.audit.findings import harmless_path

log = logging.getLogger(__name__)

ACTIONS = ("drop", "relabel", "keep")
_SHOWN = 3


@dataclass(frozen=True)
class Cleaned:
    """A table ``path,label,split,group`` that was written, and how many images it lists.

    Its paths are relative to it. Cells that a spreadsheet program would compute have an apostrophe before them, which
    is no part of them where the table is read as a source. `gone` were left out because their files are no longer
    there, `decided` have an action in the decisions, and no image had one of the `new_classes` before.
    """

    path: Path
    images: int
    dropped: int
    relabelled: int
    gone: list[str]
    decided: int
    new_classes: list[str]


def clean(
    cache: FeatureCache | str | os.PathLike[str],
    decisions: str | os.PathLike[str],
    out: str | os.PathLike[str],
) -> Cleaned:
    """Write a cache's listing as a table without the images that were decided against; its images must be files.

    Splits are kept as they are settled; images that could not be used stay listed unless they are dropped. The
    decisions are a CSV file with a column ``path``, as the cache has them. Without a column ``action``, all that it
    lists are dropped; with one, ``drop`` drops, ``relabel`` gives the label in the column ``new_label``, and ``keep``
    or nothing changes nothing: the findings of `audit`, with actions filled in, are such a file. An image may be named
    several times, with one action. `out` is replaced, but never the source's own table. OptionError if the decisions
    contradict each other, or name images or actions that there are not.
    """
    cache = cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
    target, originals = Path(out).absolute(), Originals(cache)
    _check_target(cache, Path(decisions), target)
    chosen = _decisions(Path(decisions))
    known = {entry.path for entry in cache.entries}
    if unknown := [path for path in chosen if path not in known]:
        raise OptionError(
            f"{len(unknown)} paths in {str(decisions)!r} are not images of {str(cache.path)!r}, such as "
            f"{', '.join(map(repr, unknown[:_SHOWN]))}. Use paths as `featcache audit --out` writes them."
        )
    kept = [entry for entry in cache.entries if chosen.get(entry.path, ("keep", ""))[0] != "drop"]
    if not kept:
        raise OptionError(
            f"All {len(chosen):,} images would be dropped, so that no source would be left. Keep some in "
            f"{str(decisions)!r}."
        )
    gone = [entry.path for entry in kept if originals.file(entry) is None]
    if len(gone) == len(kept):
        raise OptionError(
            f"None of the {len(kept):,} images is a file under {str(originals.root)!r}. Only folders and "
            "tables can be cleaned, while they lie where they were extracted from."
        )
    missing = set(gone)
    rows = [["path", "label", "split", "group"]]
    relabelled = 0
    for entry in kept:
        if entry.path not in missing:
            action, label = chosen.get(entry.path, ("keep", ""))
            relabelled += action == "relabel"
            path = os.path.relpath(originals.root.absolute() / entry.path, target.parent).replace(os.sep, "/")
            label = label if action == "relabel" else entry.label or ""
            rows.append([harmless_path(path), quoted_cell(label), entry.split or "", quoted_cell(entry.group or "")])
    target.parent.mkdir(parents=True, exist_ok=True)
    publish(target, csv_text(rows).encode("utf-8", "surrogateescape"))
    dropped = len(cache.entries) - len(kept)
    return Cleaned(target, len(kept) - len(gone), dropped, relabelled, gone, len(chosen), _new_classes(cache, chosen))


def _new_classes(cache: FeatureCache, chosen: dict[str, tuple[str, str]]) -> list[str]:
    """Return the classes that images are relabelled to and none had before; say so, as each may be a mistake."""
    before = cache.class_names
    found = sorted({label for action, label in chosen.values() if action == "relabel"} - set(before))
    for name in found:
        count = sum(label == name for _, label in chosen.values())
        near = nearest(name, before)
        log.warning("no image had the class %r before (%s). Images relabelled to it: %d", name, near, count)
    return found


def _check_target(cache: FeatureCache, decisions: Path, target: Path) -> None:
    source = Path(cache.source["location"] or ".").absolute()
    for taken, what in ((source, "the source itself"), (decisions.absolute(), "the decisions")):
        if os.path.realpath(taken) == os.path.realpath(target):
            raise OptionError(f"{str(target)!r} cannot be written, because it is {what}. Choose another `out`.")
    if target.suffix.lower() != ".csv":
        raise OptionError(f"The cleaned source is a table, so its name must end in .csv. Received: {str(target)!r}.")


def _decisions(path: Path) -> dict[str, tuple[str, str]]:
    """Return action and new label of each path that a table lists."""
    if (kind := odd_file(path)) is not None:
        raise OptionError(f"The decisions {str(path)!r} are {kind}, not a file. Name a CSV file.")
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        header = list(reader.fieldnames or [])
        if "path" not in header:
            raise OptionError(
                f"The table {str(path)!r} has no column 'path'. Its columns are: {', '.join(header) or 'none'}."
            )
        if twice := [name for name in ("path", "action", "new_label") if header.count(name) > 1]:
            raise OptionError(f"The table {str(path)!r} has two columns {twice[0]!r}. Rename or remove one of them.")
        everything = "action" not in header
        chosen: dict[str, tuple[str, str]] = {}
        lines = 0
        for row in reader:
            lines += 1
            image = os.path.normpath(row["path"]) if row["path"].startswith("./") else row["path"]
            action = "drop" if everything else (row["action"] or "").strip().lower()
            label = unquoted_cell((row.get("new_label") or "").strip()) if action == "relabel" else ""
            where = f"line {reader.line_num} of {str(path)!r}"
            if not action:
                continue
            if action not in ACTIONS:
                raise OptionError(f"{where}: unknown action {action!r}. The actions are: {', '.join(ACTIONS)}.")
            if action == "relabel" and not label:
                raise OptionError(f"{where}: {image!r} is to be relabelled, but its new_label is empty. Fill it in.")
            if chosen.setdefault(image, (action, label)) != (action, label):
                raise OptionError(f"{where}: {image!r} has another action than in an earlier line. Keep one of them.")
    if lines and not chosen:
        log.warning(
            "%s: the column 'action' is empty in all %s lines, so nothing is dropped or relabelled. Write drop, "
            "relabel or keep there",
            path,
            f"{lines:,}",
        )
    return chosen
