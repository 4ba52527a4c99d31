"""Files: read as they are, below a root or wherever a table names them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from featcache.errors import ImageError, SourceError, one_line
from featcache.files.publishing import change_stamp
from featcache.sources.messages import Problems
from featcache.sources.options import NO_OPTIONS, SourceOptions
from featcache.sources.source import Item, Items, counted, sole_content

MISSING = "missing files"


class FileSource:
    """Files below a root; `origin` (default: it) is what lists them, and gives the source its name and location."""

    sequential = False

    def __init__(
        self, root: Path, items: Iterable[Item], *, origin: Path | None = None, options: SourceOptions = NO_OPTIONS
    ) -> None:
        self.root, self.options = root.absolute(), options
        self.name = origin.stem if origin else self.root.name or "root"
        self.location = str(origin.absolute() if origin else self.root)
        self.items = Items.of(counted(items, self.location))

    def read(self, item: Item, /) -> bytes:
        """Return a file's bytes; raise `ImageError` if it cannot be read, or is empty."""
        return read_file(self.root / item.path)


def read_file(path: Path) -> bytes:
    """Return the bytes of an image's file; raise `ImageError` if it cannot be read, is empty, or is no regular file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError("not a regular file")  # a pipe could be waited for forever
        return sole_content(path.read_bytes())
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # not the image's fault
            raise SourceError(
                f"{str(path)!r} cannot be read: too many files are open. Raise the limit (`ulimit -n`) and run the "
                "same again: what was done is kept."
            ) from None
        raise ImageError(f"cannot be read: {one_line(error.strerror or error)}") from None


def item_of(
    path: str,
    status: os.stat_result,
    label: str | None = None,
    split: str | None = None,
    group: str | None = None,
    place: int = 0,
) -> Item:
    """Return the item of a file with such a status."""
    return Item(path, label, split, status.st_size, status.st_mtime_ns, group, place, change_stamp(status))


def status_of(folder: str, path: str) -> os.stat_result | None:
    """Return a regular file's status, None if it is none."""
    try:
        found = os.stat(os.path.join(folder, path))  # noqa: PTH116, PTH118  # half the time of Path's
    except (OSError, ValueError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def item_at(place: str, path: str, label: str | None = None, split: str | None = None) -> Item:
    """Return the item of a file that a folder lists; a dangling link, too, so that reading it gives the reason."""
    try:
        status = os.stat(place)  # noqa: PTH116  # half the time of Path.stat
    except OSError:
        status = os.lstat(place)
    return item_of(path, status, label, split)


class Named(NamedTuple):
    """An image that a table or a list names; `where` says in which line or position."""

    where: str
    path: str
    label: str | None = None
    split: str | None = None
    group: str | None = None


Found = tuple[str, os.stat_result] | str
"""A file's path and status; or in words why there is none."""


class Lister:
    """Makes items of files that are named one by one, noting all that is wrong with them.

    Paths are relative to a root; absolute ones and ``..`` may lead out of it, as files are only read. `find` returns
    what a name means (default: the file of that name), `splits` has the split that each name means (default: none has
    one).
    """

    def __init__(
        self, root: Path, find: Callable[[str], Found] | None = None, splits: Mapping[str, str] | None = None
    ) -> None:
        self.problems, self.unknown_split = Problems(), ""
        self._root, self._splits = str(root), splits or {}
        self._find = find or self._plain
        self._seen: set[str] = set()

    def claim(self, where: str, path: str) -> None:
        """Note that a path is named, which may happen once."""
        plain = os.path.normpath(path)
        if plain in self._seen:
            self.problems.add("paths named twice", f"{where}: {path!r}")
        self._seen.add(path if plain == path else plain)  # one string, not two, in a listing of millions

    def item(self, named: Named, place: int = 0) -> Item | None:
        """Return a file's item, None if there is no such file or split."""
        where, path, label, split, group = named
        known = self._splits.get(split) if split else None
        if split and known is None:
            self.problems.add("unknown splits", f"{where}: {split!r}")
            self.unknown_split = self.unknown_split or split
        found = self._find(path)
        if isinstance(found, str):
            self.problems.add(found, f"{where}: {path!r}")
            return None
        self.claim(where, found[0])
        return item_of(*found, label or None, known, group or None, place)

    def _plain(self, path: str) -> Found:
        found = status_of(self._root, path) if path else None
        return MISSING if found is None else (path, found)

    def check(self, origin: str, advice: str) -> None:
        """Raise `SourceError` with all that was noted."""
        if self.problems:
            raise SourceError(f"Not all of {origin} can be used: {self.problems}. {advice}")
