"""What a table's file holds: a header, and rows of cells; from CSV in any usual form, or from JSON lines."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.errors import SourceError
from featcache.sources.messages import Problems, reason, shown
from featcache.sources.names import JSON_LINES
from featcache.sources.source import label_name

SAMPLE_ROWS = 200
"""Rows that are looked at before it is decided what the columns mean."""
_SAMPLE_BYTES = 1 << 16
_SAMPLE_LINES, _MOST_CHARACTERS = 20, 1 << 24
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    **dict.fromkeys((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),  # UTF-16's is the start of one of these
    **dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
}
_DELIMITERS = ",;\t|:"
_SEP = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
NESTED = "\N{REPLACEMENT CHARACTER}nested"
"""Stands for a cell of JSON that holds a list or an object, whose text nobody wants."""

Row = tuple[int, list[str]]
"""Number of a row's line, and its cells as they are written."""


@dataclass(frozen=True)
class Table:
    """A table's file: names of its columns, without white space around them, and cells of its first rows.

    Of a CSV file the header is the first row, whatever that is, after `skip` lines; of JSON lines `delimiter` is None.
    """

    path: Path
    header: list[str]
    sample: list[list[str]]
    encoding: str = "utf-8-sig"
    delimiter: str | None = None
    spaced: bool = False
    skip: int = 0

    def rows(self, problems: Problems | None = None, *, first: bool = False) -> Iterator[Row]:
        """Yield all rows that have a cell for each column, noting the others; `first` takes the header for one, too."""
        noted = Problems() if problems is None else problems
        try:
            yield from self._json(noted) if self.delimiter is None else self._csv(noted, first)
        except (OSError, csv.Error, UnicodeError) as error:
            raise unreadable(self.path, error) from None

    def names(self, columns: Iterable[int] | None = None) -> str:
        """Return the names of some columns, or of all, for a message."""
        return shown(self.header if columns is None else (self.header[i] for i in columns), 20)

    def cells(self, column: int) -> list[str]:
        """Return a column's cells in the first rows, without white space around them."""
        return [row[column].strip() for row in self.sample]

    def words(self, column: int, *, first: bool = False) -> list[str]:
        """Return the different words in a column of all rows; `first` as in `rows`."""
        return distinct(row[column] for _, row in self.rows(first=first))

    def _csv(self, problems: Problems, first: bool) -> Iterator[Row]:
        width = len(self.header)
        with _opened(self.path, self.encoding) as file:
            for _ in range(self.skip):
                file.readline()
            reader = csv.reader(file, delimiter=self.delimiter or ",", skipinitialspace=self.spaced, strict=True)
            if not first:
                next(reader, None)
            line = self.skip + reader.line_num
            for row in reader:
                number, line = line + 1, self.skip + reader.line_num
                if len(row) > width and not any(map(str.strip, row[width:])):
                    row = row[:width]
                if not any(map(str.strip, row)):
                    continue
                if len(row) == width:
                    yield number, row
                else:
                    problems.add(f"rows without {width} fields", f"line {number}: {len(row)}")

    def _json(self, problems: Problems) -> Iterator[Row]:
        known = set(self.header)
        for number, found in _objects(self.path):
            if isinstance(found, str):
                problems.add("lines that are not a JSON object with each key once", f"line {number}: {found}")
                continue
            for key in found.keys() - known:
                known.add(key)
                problems.add("columns that the first rows do not have", f"line {number}: {key!r}")
            yield number, [_cell(found.get(name)) for name in self.header]


def open_table(path: Path, wanted: Sequence[str]) -> Table:
    """Return a table's file, looked at but not read whole; `wanted` names of columns should be in its header.

    CSV is UTF-8, or what its byte order mark says; divided by comma, semicolon, tab, bar, colon or white space.
    """
    try:
        if path.suffix.lower() in JSON_LINES:
            return _json_table(path)
        with path.open("rb") as file:
            start = file.read(_SAMPLE_BYTES)
        encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
        if encoding == "utf-8" and b"\0" in start:
            raise SourceError(
                f"{str(path)!r} is not a table: it has zero bytes in it. If it is UTF-16 without a byte order mark, "
                "save it as UTF-8."
            )
        with _opened(path, encoding) as file:
            text = file.read(_SAMPLE_BYTES)
            while text.count("\n") < _SAMPLE_LINES and len(text) < _MOST_CHARACTERS and (more := file.read(len(text))):
                text += more
            whole = not file.read(1)
        return _csv_table(path, text, whole, encoding, wanted)
    except (OSError, csv.Error, UnicodeError) as error:
        raise unreadable(path, error) from None


def squashed(name: str) -> str:
    """Return a column's name without case and anything but letters and digits: ``File Name`` is ``filename``."""
    return re.sub(r"[\W_]+", "", name).casefold()


def readable(text: str) -> str:
    """Return a text whose bytes are not UTF-8 as Windows' Western code page (cp1252) has them, others as they are."""
    if text.isascii():
        return text
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        pass
    try:
        return text.encode("utf-8", "surrogateescape").decode("cp1252")
    except UnicodeError:
        return text


def distinct(cells: Iterable[str]) -> list[str]:
    """Return the different words that cells hold, in order."""
    return list(filter(None, dict.fromkeys(readable(cell.strip()) for cell in cells)))


def unreadable(path: Path, error: Exception) -> SourceError:
    """Return the error that says why a table cannot be read."""
    return SourceError(f"{str(path)!r} cannot be read as a table: {reason(error)}.")


def _opened(path: Path, encoding: str) -> io.TextIOWrapper:
    return path.open(encoding=encoding, errors="surrogateescape" if "8" in encoding else "strict", newline="")


def _csv_table(path: Path, text: str, whole: bool, encoding: str, wanted: Sequence[str]) -> Table:
    skip, lines = 0, text.splitlines(keepends=True)
    named = _SEP.fullmatch(lines[0]) if lines else None
    if named:
        skip, lines = 1, lines[1:]
    if len(lines) > 1 and not whole:
        lines = lines[:-1]  # cut off
    delimiter = named[1] if named else _delimiter(path, lines, wanted)
    spaced = delimiter == " " or bool(lines and f"{delimiter} " in lines[0])
    rows = _parsed(lines, delimiter, spaced)
    header = [readable(name.strip("\ufeff \t\r\n\"'")) for name in rows[0]] if rows else []
    if not any(header):
        raise SourceError(f"{str(path)!r} is not a table: its first line is empty. Add a line that names the columns.")
    sample = [row[: len(header)] for row in rows[1:] if len(row) >= len(header) and any(map(str.strip, row))]
    return Table(path, header, sample, encoding, delimiter, spaced, skip)


def _parsed(lines: Sequence[str], delimiter: str, spaced: bool = False) -> list[list[str]]:
    """Return the first rows that some lines hold; none after one that cannot be read."""
    rows: list[list[str]] = []
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=spaced)
    with suppress(csv.Error):
        rows += itertools.islice(reader, SAMPLE_ROWS + 1)
    return rows


def _delimiter(path: Path, lines: Sequence[str], wanted: Sequence[str]) -> str:
    """Return what divides the lines: best so that a wanted column is there, and all rows are of one length."""

    def worth(delimiter: str) -> tuple[bool, float, bool]:
        rows = [row for row in _parsed(lines, delimiter, delimiter == " ") if row]
        width = len(rows[0]) if rows else 0
        alike = sum(len(row) == width for row in rows) / len(rows) if width > 1 else 0.0
        named = width > 1 and any(squashed(name) in wanted for name in rows[0])
        if delimiter == ":" and not named:  # C:\\a.png, https://a.png
            alike = 0
        return named, alike, delimiter == ("\t" if path.suffix.lower() == ".tsv" else ",")

    best = max(_DELIMITERS, key=worth)
    if worth(best)[1]:
        return best
    first = [line.strip().strip('"') for line in lines[:2]]
    if any(squashed(line) in wanted or os.path.isfile(path.parent / line) for line in first if "\0" not in line):  # noqa: PTH113
        return ","  # one column
    named, alike, _ = worth(" ")
    return " " if named or alike == 1 else ","


def _json_table(path: Path) -> Table:
    found = [row for _, row in itertools.islice(_objects(path), SAMPLE_ROWS) if not isinstance(row, str)]
    header = list(dict.fromkeys(key for row in found for key in row))
    if not header:
        raise SourceError(
            f"{str(path)!r} has no JSON object in its first {SAMPLE_ROWS} lines. Write one object per line, such as "
            '{"file_name": "a.jpg", "label": "cat"}.'
        )
    return Table(path, header, [[_cell(row.get(name)) for name in header] for row in found])


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield each line's number and object, or in words what it is instead."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape").strip()
            if not text:
                continue
            try:
                found = json.loads(text, object_pairs_hook=_each_once)
                json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogateescape")
            except (ValueError, RecursionError):
                found = text[:40]
            yield number, found if isinstance(found, dict) else repr(found)[:60]


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def json_label(value: Any) -> str | None:
    """Return the label that a JSON value is; of a list of one that one; raise `ValueError` if it is none."""
    if isinstance(value, list) and len(value) < 2:
        value = value[0] if value else None
    return json.dumps(value) if isinstance(value, bool) else label_name(value)


def _cell(value: Any) -> str:
    """Return a JSON value as a cell has it."""
    if isinstance(value, float):
        return repr(value)
    try:
        return json_label(value) or ""
    except ValueError:
        return NESTED
