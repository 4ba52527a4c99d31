"""CSV tables: ``path,label[,split][,group]``, paths relative to the table."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from featcache.errors import SourceError
from featcache.sources.files import FileSource, Lister, Named
from featcache.sources.options import NO_OPTIONS, SourceOptions
from featcache.sources.source import Problems

_COLUMNS = ("path", "label", "split", "group")
_SAMPLE = 8192


def table_source(path: Path, options: SourceOptions = NO_OPTIONS) -> FileSource:
    """Return the source that a table lists.

    Parameters
    ----------
    path : Path
        UTF-8, with or without a byte order mark, with a header that names the column ``path``, and as far as
        they are known ``label``, ``split`` (a name as folders have it) and ``group``, in any order; other
        columns are not read. Any delimiter that `csv.Sniffer` finds. An empty field means none.
    options : SourceOptions
        How it is read.

    Raises
    ------
    SourceError
        If the table cannot be read, or lists nothing; all rows with missing files, paths that were named
        twice, unknown splits or too few or too many fields are reported together.
    """
    options.check("a table")
    folder = path.absolute().parent
    lister = Lister(folder)
    rows = _rows(path, lister.problems)
    try:
        source = FileSource(folder, (item for row in rows if (item := lister.item(row))), origin=path, options=options)
    except (OSError, csv.Error) as error:
        raise SourceError(
            f"Expected a readable table. Received: {str(path)!r}: {getattr(error, 'strerror', None) or error}."
        ) from None
    lister.check(repr(str(path)), "Mend the table.")
    if not source.items:
        raise SourceError(f"Expected a table of images. Received: {str(path)!r}, which has no rows.")
    return source


def _rows(path: Path, problems: Problems) -> Iterator[Named]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        delimiter, spaced = _delimiter(file.read(_SAMPLE))
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=spaced, strict=True)
        header = [name.strip().lower() for name in next(reader, [])]
        if "path" not in header or len(set(header) & set(_COLUMNS)) != sum(name in _COLUMNS for name in header):
            raise SourceError(
                f"Expected a header with path, label and, if they are known, split and group, each once, in "
                f"{str(path)!r}. Received: {', '.join(map(repr, header)) or 'an empty file'}."
            )
        columns = [header.index(name) if name in header else None for name in _COLUMNS]
        line = reader.line_num
        for row in reader:
            where, line = f"line {line + 1}", reader.line_num
            if len(row) != len(header):
                if row:
                    problems.add(f"rows without {len(header)} fields", f"{where}: {len(row)}")
                continue
            yield Named(where, *("" if column is None else row[column] for column in columns))


def _delimiter(sample: str) -> tuple[str, bool]:
    """Return what divides the first line so that a field is ``path``, and whether a space follows it."""
    header = sample.splitlines()[0] if sample else ""
    try:
        sniffed = csv.Sniffer().sniff(sample).delimiter
    except csv.Error:  # one column, mostly
        sniffed = ","
    for delimiter in (sniffed, *re.findall(r"[^\w\s\"]|\t", header)):
        fields = [field.strip(' "').lower() for field in header.split(delimiter)]
        if "path" in fields and len(fields) > 1 and delimiter != '"':
            return delimiter, f"{delimiter} " in header
    return ",", False
