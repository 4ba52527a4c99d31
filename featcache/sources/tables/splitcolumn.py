"""Which column of a table says the splits."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from featcache.errors import SourceError
from featcache.sources.names import known_splits
from featcache.sources.options import SourceOptions
from featcache.sources.source import SPLITS as ORDER
from featcache.sources.tables.headers import (
    MEANT,
    SPLITS,
    WANTED,
    are_flags,
    as_word,
    ask,
    flag_name,
    named,
    names_shown,
)
from featcache.sources.tables.rows import Table, readable, squashed

log = logging.getLogger(__name__)


_FEW = 8
"""Words in a column that may be those of splits."""

_TOLD = frozenset(SPLITS[1]) - {"dataset", "usage", "phase", "datensatz", "jeu"}
"""Names of columns that hardly mean anything but a split."""


def split_column(table: Table, options: SourceOptions, taken: set[int], labelled: bool) -> int | None:
    """Return the column of the splits; without `labelled` nothing is said of columns that may be it."""
    found = named(table, SPLITS[0], taken)
    if not found:
        for column in named(table, SPLITS[1], taken):
            cells = _cells(table, column)
            if known_splits(cells) or cells & options.split_of.keys():
                found.append(column)
    if not found and options.split_column is None:
        found = [i for i in range(len(table.header)) if _has_only_splits(table, i, taken)]
        if len(found) == 1 and labelled:
            log.warning("%s: the splits are read from %r, as it holds nothing else. If it is no split, give "
                        "--split-column none", table.path, table.header[found[0]])  # fmt: skip
    if len(found) > 1:
        raise ask(table, "several columns could be the split", found, "split")
    if not found and labelled:
        _check_others(table, options, taken)
    return found[0] if found else None


def _check_others(table: Table, options: SourceOptions, taken: set[int]) -> None:
    """Refuse a column most of whose words are splits; say that others are not read which may be one."""
    for column, name in enumerate(table.header):
        if column in taken or squashed(name) in MEANT | set(WANTED):
            continue
        cells = sorted(_cells(table, column))
        known = known_splits(cells)
        told = len(set(known.values())) > 1 and 2 * len(known) >= len(cells)
        words = _words(table, column, cells, known)
        if told and len(cells) <= _FEW:
            raise SourceError(
                f"{str(table.path)!r}: the column {name!r} has names of splits ({names_shown(known)}) and others. If "
                f"it is the split: {words}. If it is none: --split-column none."
            )
        if squashed(name) in _TOLD and 1 < len(cells) <= _FEW and not options.splits:
            log.warning("%s: %r is not read, as its words are no names of splits: %s. If it is the split: %s",
                        table.path, name, names_shown(cells), words)  # fmt: skip
    flags = [i for i, name in enumerate(table.header) if i not in taken and known_splits([flag_name(name)])]
    if flags := [i for i in flags if table.sample and are_flags(table, i)]:
        log.warning("%s: %s is not read: a split is told by one column of names, such as train and test",
                    table.path, names_shown(table.header[i] for i in flags))  # fmt: skip


def _words(table: Table, column: int, cells: Sequence[str], known: Mapping[str, str]) -> str:
    """Return options that say that a column is the split, and what its unknown words may mean."""
    others = [cell for cell in cells if cell not in known]
    free = [split for split in ORDER if split not in known.values()] or ["test"]
    if not known and len(others) == 2:
        free = ["train", "test"]
    free += free[-1:] * len(others)
    pairs = [f"--split {as_word(f'{split}={cell}')}" for cell, split in zip(others, free, strict=False)]
    return " ".join([f"--split-column {as_word(table.header[column])}", *pairs])


def _cells(table: Table, column: int) -> set[str]:
    return {readable(row[column].strip()) for row in table.sample} - {""}


def _has_only_splits(table: Table, column: int, taken: set[int]) -> bool:
    """Whether a column of another name has nothing but names of splits, and several of them."""
    if column in taken or squashed(table.header[column]) in MEANT | set(WANTED):
        return False

    def other(cells: set[str]) -> bool:
        return not cells or cells != known_splits(cells).keys()

    if other(_cells(table, column)):
        return False
    cells = {readable(row[column].strip()) for _, row in table.rows()} - {""}
    return not other(cells) and len(set(known_splits(cells).values())) > 1
