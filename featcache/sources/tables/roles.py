"""Which column of a table has which role: by the option that names one, else by its name and by what it holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from featcache.errors import OptionError, SourceError, nearest
from featcache.sources.names import known_splits
from featcache.sources.options import SourceOptions
from featcache.sources.tables.headers import (
    FOLDS,
    GROUPS,
    IMAGES,
    LABELS,
    MAYBE_GROUPS,
    MEANT,
    NO_COLUMN,
    WANTED,
    Columns,
    are_flags,
    as_word,
    ask,
    flag,
    flag_name,
    is_row_number,
    named,
    names_shown,
)
from featcache.sources.tables.imagecolumn import check_place, image_column
from featcache.sources.tables.lookup import IMAGE_NAME, Finder
from featcache.sources.tables.rows import Table, open_table, squashed
from featcache.sources.tables.splitcolumn import split_column

log = logging.getLogger(__name__)


def open_columns(path: Path, options: SourceOptions, *, labelled: bool = True) -> tuple[Table, Columns]:
    """Return a table and what its columns mean; without `labelled`, columns that may be labels are not asked about."""
    table = open_table(path, [*WANTED, *map(squashed, filter(None, [options.image_column]))])
    images = None if options.images is None else str(options.images)
    folder = str(path.absolute().parent)
    if images is not None and not Path(images).is_dir():
        raise OptionError(
            f"images (--images) is not a folder: {images!r}. Give the one that has the images of {str(path)!r}."
        )

    def finder(column: int, first: Iterable[str] = ()) -> Finder:
        return Finder(folder, images, [*first, *(row[column] for row in table.sample)])

    named = [getattr(options, f"{role}_column") for role in ("image", "label", "split", "group")]
    if table.delimiter is not None and all(name in (None, NO_COLUMN) for name in named):
        headless = _headless(table, finder)
        if headless is not None:
            return table, headless if options.label_column is None else replace(headless, labels=())
    given = {role: _given(table, options, role) for role in ("image", "label", "split", "group")}
    image = given["image"]
    taken = {column for column in given.values() if column is not None}
    if image is None:
        image, found = image_column(table, finder, taken)
    else:
        found = finder(image)
        check_place(table, found, image)
    taken.add(image)
    split = _unless_none(options.split_column, given["split"], lambda: split_column(table, options, taken, labelled))
    group = _unless_none(options.group_column, given["group"], lambda: _group(table, taken))
    taken |= {column for column in (split, group) if column is not None}
    if labelled and split is None and group is None and options.group_column is None:
        _warn_of_groups(table, taken)
    if given["label"] is not None:
        _warn_of_others(table, given["label"], taken)
        return table, Columns(found, image, (given["label"],), split=split, group=group)
    if options.label_column is not None:
        return table, Columns(found, image, split=split, group=group)
    labels, one_hot = _labels(table, taken, labelled)
    return table, Columns(found, image, labels, one_hot, split, group)


def _unless_none(name: str | None, given: int | None, guess: Callable[[], int | None]) -> int | None:
    return guess() if name is None else given


def _given(table: Table, options: SourceOptions, role: str) -> int | None:
    """Return the column that an option names; None if it names none."""
    name = getattr(options, f"{role}_column")
    if name is None:
        return None
    columns = [i for i, one in enumerate(table.header) if one == name.strip()]
    columns = columns or [i for i, one in enumerate(table.header) if squashed(one) == squashed(name)]
    if len(columns) > 1:
        raise SourceError(f"{str(table.path)!r} has {len(columns)} columns named {name!r}. Rename all but one.")
    if columns:
        return columns[0]
    if name == NO_COLUMN and role != "image":
        return None
    raise OptionError(
        f"{str(table.path)!r} has no column {name!r} for {role}_column, but {names_shown(table.header)} "
        f"({nearest(name, table.header)})."
    )


def _headless(table: Table, finder: Callable[..., Finder]) -> Columns | None:
    """Return the columns of a table whose first row is an image; None if it is a header."""
    known = {*WANTED, *MEANT}
    if any(squashed(name) in WANTED for name in table.header) or len(table.header) > 9:
        return None
    files = []
    for column, name in enumerate(table.header):
        if squashed(name) not in known and not is_row_number(name):
            found = finder(column, [name])
            if IMAGE_NAME.search(name) or any(found.found([name])):
                files.append((column, found))
    if not files:
        return None
    if len(files) > 1 or len(table.header) > 2:
        raise SourceError(
            f"{str(table.path)!r} has no line that names its {len(table.header)} columns: its first line is "
            f"{names_shown(table.header)}. Add such a line at the top, for example path,label."
        )
    [(column, found)] = files
    check_place(table, found, column)
    return Columns(found, column, tuple(i for i in range(len(table.header)) if i != column), headless=True)


def _group(table: Table, taken: set[int]) -> int | None:
    for names in GROUPS:
        found = named(table, names, taken)
        if len(found) > 1:
            raise ask(table, "several columns could be the group", found, "group")
        if found:
            return found[0]
    return None


def _labels(table: Table, taken: set[int], labelled: bool) -> tuple[tuple[int, ...], bool]:
    """Return the columns that may be the classes, and whether each is a class of its own."""
    for names in LABELS:
        if found := named(table, names, taken):
            return tuple(found), False
    skipped = {name for names in IMAGES[:3] for name in names}
    others = [
        i for i, name in enumerate(table.header)
        if i not in taken and not (squashed(name) in skipped and _are_different(table, i))
        and not (is_row_number(name) and _are_numbers(table, i))
        and any(row[i].strip() for row in table.sample)
    ]  # fmt: skip
    split_names = known_splits({flag_name(table.header[i]) for i in others})
    flags = [
        i
        for i in others
        if squashed(table.header[i]) not in FOLDS
        and flag_name(table.header[i]) not in split_names
        and are_flags(table, i)
    ]
    if len(flags) > 1:
        return tuple(flags), True
    if others and labelled:
        name = as_word(next((table.header[i] for i in others if table.header[i]), "NAME"))
        raise SourceError(
            f"It is not clear which column of {str(table.path)!r} is the label. Its columns: "
            f"{names_shown(table.header)}. Choose one, such as --label-column {name}, or give --label-column none if "
            "the images have no labels."
        )
    return (), False


def _warn_of_groups(table: Table, taken: set[int]) -> None:
    """Say which column may tell what belongs together, as it has the name of that and each of it several times."""
    for column, name in enumerate(table.header):
        cells = [row[column].strip() for row in table.sample if row[column].strip()]
        if column not in taken and squashed(name) in MAYBE_GROUPS and 2 < len(set(cells)) < len(cells):
            log.warning("%s: images of one %r may be in several splits, as that column is not read. If they belong "
                        "together: --group-column %s", table.path, name, as_word(name))  # fmt: skip
            return


def _warn_of_others(table: Table, label: int, taken: set[int]) -> None:
    """Say so if the column that was named as the label is one of several that are a class each."""
    flags = [i for i in range(len(table.header)) if i == label or i not in taken]
    flags = [i for i in flags if squashed(table.header[i]) not in FOLDS and are_flags(table, i)]
    one = all(sum(flag(row[i]) or 0 for i in flags) == 1 for row in table.sample)
    if table.sample and label in flags and len(flags) > 1 and one:
        log.warning("%s: %r is one of the columns %s with a single 1 in each row: the classes are what stands in it, "
                    "such as %r. If each column is a class, leave out --label-column", table.path, table.header[label],
                    names_shown(table.header[i] for i in flags), table.sample[0][label].strip())  # fmt: skip


def _are_different(table: Table, column: int) -> bool:
    """Whether no cell of the first rows is there twice, as in a column with names or numbers of images."""
    cells = [row[column].strip() for row in table.sample]
    return len(set(cells)) == len(cells)


def _are_numbers(table: Table, column: int) -> bool:
    """Whether a column has a number of its own in each of the first rows."""
    cells = {row[column].strip() for row in table.sample}
    return len(cells) == len(table.sample) and all(map(str.isdecimal, cells))
