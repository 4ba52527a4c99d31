"""Tables of images, labels, splits and groups: CSV as people have it, and JSON lines."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from featcache.errors import OptionError, SourceError
from featcache.files.publishing import unquoted_cell
from featcache.sources.columns import Words
from featcache.sources.files import MISSING, FileSource, Lister, Named
from featcache.sources.messages import number_of, quoted, shown
from featcache.sources.names import known_splits
from featcache.sources.options import NO_OPTIONS, SourceOptions
from featcache.sources.source import SPLITS, Items, counted
from featcache.sources.tables import labels
from featcache.sources.tables.lookup import NO_ZEROS, SEVERAL, has_dicom
from featcache.sources.tables.roles import DICOM, ROW_NUMBER, Columns, flag, open_columns
from featcache.sources.tables.rows import NESTED, Table, readable

log = logging.getLogger(__name__)

TABLE_OPTIONS = ("splits", "images", "image_column", "label_column", "split_column", "group_column")
"""Options that a table has."""


def table_source(path: Path, options: SourceOptions = NO_OPTIONS, *, labelled: bool = True) -> FileSource:
    """Return the source that a table lists, in its order; paths are relative to its folder.

    CSV has any usual delimiter and a header, see `roles`, or none (a column of files, alone or beside one of labels);
    of JSON lines, keys are the columns. Text is UTF-8, UTF-16 with a byte order mark, or else cp1252. An empty cell
    means none. What is wrong with rows is reported together. Without `labelled`, images are to be predicted.
    """
    options.check("a table", *TABLE_OPTIONS)
    items = table_items(path, options, labelled=labelled)
    return FileSource(path.absolute().parent, items, origin=path, options=options)


def table_items(path: Path, options: SourceOptions, *, labelled: bool = True, split: str | None = None) -> Items:
    """Return what a table lists; `split` is that of all, if there are tables of other splits beside it."""
    table, columns = open_columns(path, options, labelled=labelled)
    if columns.one_hot:
        if labelled:
            labels.check_one_hot(table, columns)
        else:
            columns = replace(columns, labels=(), one_hot=False)
    elif len(columns.labels) > 1:
        columns = replace(columns, labels=(labels.one_label_column(table, columns),) if labelled else ())
    splits = _splits(table, columns, options)
    lister = Lister(path.absolute().parent, columns.finder.find, splits)
    rows = counted(_named(table, columns, lister), str(path))
    items = Items.of(item for row in rows if (item := lister.item(row)))
    lister.check(repr(str(path)), _advice(table, columns, lister, splits))
    if not items:
        raise SourceError(f"{str(path)!r} lists no images: it has no rows.")
    _say(table, columns)
    if labelled and columns.split is None and split is None and options.split_column is None:
        items = _split_by_folders(path, items)
    if labelled:
        _check(table, columns, items, options, part=split is not None)
    return items


def _split_by_folders(path: Path, items: Items) -> Items:
    """Return images whose folders are those of splits (``train/1.jpg``, ``test/a/2.jpg``) in these splits."""
    folders = {name.rpartition("/")[0] for name in items.paths if name}
    if len(folders) < 2:
        return items
    parts = {folder: [part for part in folder.split("/") if part not in ("", ".")] for folder in folders}
    alike = [len(set(names)) == 1 for names in zip(*parts.values(), strict=False)]
    common = [*alike, False].index(False)
    tops = {folder: names[common] if len(names) > common else "." for folder, names in parts.items()}
    known = known_splits(set(tops.values()))
    if "train" not in known.values() or len(set(known.values())) < 2:
        return items
    if others := set(tops.values()) - known.keys():
        advice = f"({shown(sorted(others), 20)}): no split is read from them. Add a column split"
        log.warning("%s: the paths have folders of splits (%s) and others %s", path, shown(sorted(known), 20), advice)
        return items
    advice = "If they are none, give --split-column none"
    log.warning("%s: the splits are read from the folders of the paths: %s. %s", path, shown(sorted(known), 20), advice)
    return replace(items, splits=Words.of(known[tops[name.rpartition("/")[0]]] for name in items.paths if name))


def _named(table: Table, columns: Columns, lister: Lister) -> Iterator[Named]:
    """Yield what the rows name."""
    text, header = _Text(table.path, quoted=table.delimiter is not None), [readable(name) for name in table.header]
    used = [i for i in (columns.image, *columns.labels, columns.split, columns.group) if i is not None]
    for line, cells in table.rows(lister.problems, first=columns.headless):
        where, label = f"line {line}", ""
        if table.delimiter is None and any(cells[i] == NESTED for i in used):
            lister.problems.add("rows with a list or an object where one value is needed", where)
            continue
        if columns.one_hot:
            label = next((header[i] for i in columns.labels if flag(cells[i])), "")
        elif columns.labels:
            label = labels.label_of(text(cells[columns.labels[0]]))
        others = ("" if i is None else text(cells[i]) for i in (columns.split, columns.group))
        yield Named(where, cells[columns.image], label, *others)


class _Text:
    """Gives cells their text, and says once if that is not UTF-8.

    Where cells may be `quoted`, an apostrophe that keeps a spreadsheet program from computing one is no part of it.
    """

    def __init__(self, path: Path, *, quoted: bool) -> None:
        self._path, self._quoted, self._said = path, quoted, False

    def __call__(self, cell: str) -> str:
        plain = unquoted_cell(cell.strip()) if self._quoted else cell.strip()
        if plain.isascii():
            return plain
        text = readable(plain)
        if text != plain and not self._said:
            said = f"Windows-1252 (cp1252), such as {text!r}. Save it as UTF-8 if that is wrong"
            log.warning("%s is not UTF-8: read as %s", self._path, said)
            self._said = True
        return text


def _splits(table: Table, columns: Columns, options: SourceOptions) -> dict[str, str]:
    """Return which split each cell of the column with the splits means."""
    given = options.split_of
    if columns.split is None:
        if given:
            raise OptionError(
                f"splits (--split) was given, but it is not clear which column of {str(table.path)!r} is the split. "
                f"Its columns: {table.names()}. Choose one with --split-column."
            )
        return {}
    cells = table.words(columns.split, first=columns.headless)
    if unknown := given.keys() - set(cells):
        raise OptionError(
            f"splits (--split) names {shown(sorted(unknown), 20)}, which are not in the column "
            f"{table.header[columns.split]!r} of {str(table.path)!r}. It has {shown(sorted(cells), 20)}."
        )
    return options.known_splits(cells)


def _split_words(table: Table, columns: Columns, splits: Mapping[str, str]) -> str:
    """Return options that say what is meant by the cells of the split column that are no names of splits."""
    cells = table.words(columns.split or 0, first=columns.headless)
    unknown = [cell for cell in cells if cell not in splits]
    free = [split for split in SPLITS if split not in splits.values()]
    words = []
    for cell in unknown[:3]:
        late = re.search("test|val|eval|hold|hidden", cell, re.IGNORECASE)
        fits = [split for split in free if not (late and split == "train")] or ["test"]
        split = "test" if len(unknown) == 1 and late and "test" in fits else fits[0]
        free = [one for one in free if one != split]
        words.append(f"--split {quoted(f'{split}={cell}')}")
    return " ".join(words)


def _advice(table: Table, columns: Columns, lister: Lister, splits: Mapping[str, str]) -> str:
    """Return what to do about what is wrong."""
    said = []
    if lister.problems.counts[MISSING] and not columns.finder.hits:
        if has_dicom(str(table.path.absolute().parent)):
            said.append(DICOM)
        elif any(cell.strip() and "\0" not in cell and Path(cell.strip()).is_file() for cell in columns.finder.tried):
            why = "Paths are looked up beside the table, but these are relative to the working folder"
            said.append(f"{why}: add --images .")
        else:
            said.append("If the images are elsewhere, give their folder with --images.")
    if lister.problems.counts[SEVERAL]:
        said.append("Write names with folder and extension.")
    if lister.problems.counts[NO_ZEROS]:
        said.append("Write the numbers as text, with their zeros.")
    if lister.unknown_split:
        said.append(f"Say what splits are called with --split, such as {_split_words(table, columns, splits)}.")
    return " ".join(said or ["Mend the table."])


def _say(table: Table, columns: Columns) -> None:
    """Log what the columns were taken for, unless they say so themselves."""
    if columns.headless:
        log.info("%s has no header: the files are in column %d", table.path, columns.image + 1)
        return
    label = columns.labels[0] if columns.labels and not columns.one_hot else None
    roles = (
        ("images", "path", columns.image),
        ("labels", "label", label),
        ("splits", "split", columns.split),
        ("groups", "group", columns.group),
    )
    used = [(role, plain, table.header[i]) for role, plain, i in roles if i is not None]
    taken = {columns.image, *columns.labels, columns.split, columns.group}
    others = [name for i, name in enumerate(table.header) if i not in taken and not ROW_NUMBER.fullmatch(name)]
    if others or any(name.lower() != plain for _, plain, name in used):
        said = ", ".join(f"{role} from {name!r}" for role, _, name in used)
        log.info("%s: %s%s", table.path, said, f"; not used: {shown(others, 20)}" if others else "")
    if columns.finder.base:
        log.info("%s: the images are in %s", table.path, columns.finder.base)


def _check(table: Table, columns: Columns, items: Items, options: SourceOptions, *, part: bool) -> None:
    """Raise `SourceError` if labels or groups cannot be what they were taken for; `part` as in `check_labels`."""
    if columns.split is not None and (empty := int((items.splits.codes < 0).sum())):
        said = number_of(empty, "image has an empty cell", "images have an empty cell")
        counts = "counts" if empty == 1 else "count"
        log.warning("%s: %s in %r and %s as train", table.path, said, table.header[columns.split], counts)
    if not items.labels.names:
        log.warning("%s: no image has a label", table.path)
        return
    if not columns.one_hot:
        name = f"column {columns.labels[0] + 1}" if columns.headless else table.header[columns.labels[0]]
        labels.check_labels(table.path, items, name, headless=columns.headless, part=part)
    labels.check_same_classes(table.path, items)
    labels.warn_of_folders(table.path, items)
    if columns.group is not None and options.group_column is None and not items.splits.names:
        labels.check_groups(table.path, items, table.header[columns.group])
