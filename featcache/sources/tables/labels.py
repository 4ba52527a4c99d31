"""What the labels of a table can be: one class an image, and nothing that only looks like it."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from featcache.errors import SourceError
from featcache.sources.messages import Problems, number_of, shown
from featcache.sources.names import each_word
from featcache.sources.source import SPLITS, Item, Items
from featcache.sources.tables.roles import Columns, flag
from featcache.sources.tables.rows import Table, squashed

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)(e[-+]?\d+)?", re.IGNORECASE)
_WHOLE = re.compile(r"[-+]?\d+([.,]0*)?")
_EMPTY = {"not labeled", "not labelled", "no label"}.union(
    each_word(
        """nan none null na n/a n.a. <na> #n/a #na #nv (none) nil ? ?? ??? - -- todo tbd xxx unknown unlabeled
        unlabelled undefined missing"""
    )
)
"""What programs and people write where there is no label, in lower case."""
_LIST = re.compile(r"\[\s*(?:(['\"])(?P<text>[^'\"]+)\1|(?P<number>\d+))\s*\]")
_NOTHING = re.compile(r"\[\s*\]|\{\s*\}")
_OBJECT = re.compile(r"\{\s*(['\"]).*?\1\s*:.*\}", re.DOTALL)
_SEVERAL = {"tags", "labels", "findings", "findinglabels", "categories"}
"""Names of columns that may hold several labels, as `squashed` gives them."""
_LEAST, _FEW = 3, 20
_GAPS = 15  # numbers from which on those that are missing between them are a hint
"""Images from which on a number of its own for each is looked at, and is never a class."""


def check_one_hot(table: Table, columns: Columns) -> None:
    """Raise `SourceError` unless every row has one 1 in the columns of the classes, and else 0; or nothing there."""
    problems = Problems()
    for line, cells in table.rows():
        if sum(flags := [flag(cells[i]) or False for i in columns.labels]) == 1:
            if all(flag(cells[i]) is not None for i in columns.labels):
                continue
            problems.add("with neither 0 nor 1", f"line {line}")
        elif any(cells[i].strip() for i in columns.labels):
            problems.add("with several 1s" if any(flags) else "without a 1", f"line {line}")
    names = table.names(columns.labels)
    if problems:
        raise SourceError(
            f"{str(table.path)!r}: the columns {names} look like classes with a single 1 in each row, but some rows "
            f"are not so: {problems}. Several labels per image are not supported yet. If one column is the label, "
            "choose it with --label-column."
        )
    log.info("%s: the classes are the columns %s, as each row has one 1", table.path, names)


def one_label_column(table: Table, columns: Columns) -> int:
    """Return the column of the labels among several that name the same classes: one with text, if there is one."""
    first, *others = columns.labels
    there: list[dict[str, str]] = [{} for _ in others]
    back: list[dict[str, str]] = [{} for _ in others]
    rows, same = 0, True
    numbers = set(columns.labels)
    for _, cells in table.rows():
        rows += 1
        numbers = {i for i in numbers if _NUMBER.fullmatch(cells[i].strip()) or not cells[i].strip()}
        for column, to, fro in zip(others, there, back, strict=True):
            a, b = cells[first].strip(), cells[column].strip()
            same = same and to.setdefault(a, b) == b and fro.setdefault(b, a) == a
        if not same:
            break
    names = table.names(columns.labels)
    if not same or len(there[0]) == rows:
        raise SourceError(
            f"{str(table.path)!r}: several columns could be the label, and they name different classes: {names}. "
            "Choose one with --label-column."
        )
    chosen = next((i for i in columns.labels if i not in numbers), first)
    log.info("%s: the columns %s name the same classes: labels are from %r", table.path, names, table.header[chosen])
    return chosen


def check_labels(path: Path, items: Items, column: str, *, headless: bool = False, part: bool = False) -> None:
    """Raise `SourceError` if labels are no classes; warn where they may not be meant so.

    In a `headless` table nobody says that it is the labels; of a `part` other tables belong to it: then a class may
    have one image here.
    """
    names, counts = items.labels.names, items.labels.counts
    where, labelled = f"{str(path)!r}: the labels in {column!r}", int(counts.sum())
    other = "Choose another column with --label-column."
    numbers = [name for name in names if _NUMBER.fullmatch(name)]
    parts = [name for name in numbers if not _WHOLE.fullmatch(name)]
    if parts and 2 * len(numbers) > len(names):
        raise SourceError(
            f"{where} are measurements, such as {parts[0]}, not classes. Predicting numbers is not supported yet. "
            f"{other}"
        )
    if len(numbers) == len(names) and labelled >= _FEW and 2 * len(names) > labelled:
        raise SourceError(f"{where} are {len(names):,} different numbers for {labelled:,} images, not classes. {other}")
    if len(numbers) == len(names) == labelled >= _LEAST and not part:
        if headless:
            raise SourceError(
                f"{where} are a different number for each image, not classes. If the images have no labels, give "
                "--label-column none."
            )
        log.warning("%s are a different number for each image: each class has one image", where)
    if len(numbers) == len(names) >= _GAPS:
        values = {int(float(name.replace(",", "."))) for name in names}
        low, high = min(values), max(values)
        if low not in (0, 1) or high - low + 1 > len(values):
            log.warning(
                f"{where} are {len(names)} whole numbers from {low} to {high} with gaps: each is a class. If they are "
                "measurements, predicting numbers is not supported yet"
            )
    if sets := _sets(names, spaces=squashed(column) in _SEVERAL):
        raise SourceError(
            f"{where} are several labels per image, such as {sets!r:.80}, which are not supported yet. {other}"
        )
    if objects := [name for name in names if _OBJECT.fullmatch(name)]:
        raise SourceError(
            f"{where} are objects of JSON, such as {objects[0]!r:.80}, not classes. Write the class itself into each "
            f"cell. {other}"
        )
    _warn_of_words(where, names, column)
    if labelled >= _FEW and 2 * len(names) > labelled:
        log.warning("%s are %s different classes for %s images", where, f"{len(names):,}", f"{labelled:,}")
    for name, count in zip(names, counts.tolist(), strict=True):
        if name.lower() in _EMPTY or (name == "-1" and set(names) != {"-1", "1"}):
            said = number_of(count, "image has", "images have")
            log.warning("%s: %s the label %r: it counts as a class. An empty cell means no label", path, said, name)
    if empty := len(items) - labelled:
        one, several = f"has no label, as its cell in {column!r} is", f"have no label, as their cells in {column!r} are"
        log.warning(f"{path}: {empty:,} of {len(items):,} images {one if empty == 1 else several} empty")


def label_of(cell: str) -> str:
    """Return the label that a cell has; of a list of one, as Python and JSON write it, the one: ``['cat']`` is cat.

    An empty list or object is no label.
    """
    if _NOTHING.fullmatch(cell):
        return ""
    found = _LIST.fullmatch(cell) if cell.startswith("[") else None
    return cell if found is None else (found["text"] or found["number"])


def _sets(names: Iterable[str], *, spaces: bool) -> str | None:
    """Return a label that is made of others; also one with `spaces` between them."""
    known = set(names)
    if objects := [name for name in names if _OBJECT.fullmatch(name) and re.search(r"\[[^\]]*,", name)]:
        return objects[0]
    lists = [name for name in names if name.startswith("[") and name.endswith("]")]
    if lists and len(lists) == len(known):
        return min(lists)
    for name in lists:
        if "," in name and any(part.strip(" '\"") in known for part in name[1:-1].split(",")):
            return name
    for mark in "|;":
        for name in known:
            if mark in name and any(part.strip() in known for part in name.split(mark)):
                return name
    return next((name for name in names if _made_of(name, known, ",/ " if spaces else ",/")), None)


def _made_of(name: str, known: Collection[str], marks: str) -> bool:
    """Whether all parts of a label are labels by themselves."""
    if name.lower() in _EMPTY or name.replace("/", "").replace(",", "").isdecimal():  # n/a, 1/2
        return False
    return any(mark in name and all(part.strip() in known for part in name.split(mark)) for mark in marks)


def _warn_of_words(where: str, names: Sequence[str], column: str) -> None:
    """Warn where words seem to be labels of their own, as in ``haze primary``."""
    if name := next((name for name in names if _made_of(name, set(names), " ")), None):
        log.warning("%s: %r is counted as a class of its own, and its words are classes, too", where, name)
    elif squashed(column) in _SEVERAL:
        parts = [re.split(r"[\s,/]+", name) for name in names]
        words = {word for one in parts for word in one}
        known = set(names)
        some = next((name for name, one in zip(names, parts, strict=True) if len(one) > 1 and known & set(one)), None)
        if some is None and len(words) < len(names) and 2 * sum(len(one) > 1 for one in parts) > len(names):
            some = names[0]
        if some is not None:
            log.warning("%s may be several labels per image, such as %r: each is counted as one class", where, some)


def check_same_classes(where: str | Path, items: Sequence[Item]) -> None:
    """Raise `SourceError` if a split with labels has no class in common with train, where both have labels."""
    listed = Items.of(items)
    codes = np.where(listed.splits.codes < 0, 0, listed.splits.among(SPLITS))  # without a split it is train
    classes = [set(np.unique(listed.labels.codes[codes == i]).tolist()) - {-1} for i in range(len(SPLITS))]
    train = classes[0]
    for split, found in zip(SPLITS[1:], classes[1:], strict=True):
        if not train or not found or train & found:
            continue
        if len(train) == len(found) == 1:
            log.warning("%s: no class of %s is one of train", where, split)
        else:
            new, old = (shown((listed.labels.names[i] for i in sorted(codes)), 20) for codes in (found, train))
            raise SourceError(
                f"{str(where)!r}: the classes of {split} ({new:.200}) are not those of train ({old:.200}): "
                "none is the same. Give each class one name in all splits."
            )


def warn_of_folders(path: Path, items: Items) -> None:
    """Say how many images lie in the folder of another class, where folders are named as the classes."""
    names = set(items.labels.names)
    count, first, right, folders = 0, "", 0, set()
    for name, label in zip(items.paths, items.labels, strict=True):
        folder = name.rpartition("/")[0].rpartition("/")[2]
        if label is not None and folder in names:
            folders.add(folder)
            right += folder == label
            count += folder != label
            first = first or (f"{name!r}, which is {label!r}" if folder != label else "")
    if count and (right or len(folders) > 1):
        said = f"{number_of(count, 'image has', 'images have')} another label than the folder it lies in"
        log.warning("%s: %s, such as %s: the table counts", path, said, first)


def check_groups(path: Path, items: Items, column: str) -> None:
    """Raise `SourceError` if groups are the classes under other names: each would be in one split only."""
    groups, labels = items.groups, items.labels
    both = (groups.codes >= 0) & (labels.codes >= 0)
    pairs = set(zip(groups.codes[both].tolist(), labels.codes[both].tolist(), strict=True))
    if len(pairs) == len(groups.names) == len(labels.names) > 1 and len(items) >= 2 * len(pairs):
        raise SourceError(
            f"{str(path)!r}: the groups in {column!r} are the same as the classes, so each class would be in one split "
            "only. Choose another column with --group-column, or give --group-column none."
        )
