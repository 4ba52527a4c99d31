"""From what a table says of an image to the file that it means."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache

from featcache.errors import SourceError
from featcache.sources.files import MISSING, Found, status_of
from featcache.sources.folders.trees import Content, content
from featcache.sources.names import IMAGE_NAME
from featcache.sources.tables.rows import readable

SEVERAL, NO_ZEROS = "names that several files have", "numbers without the leading zeros of their files"
_ELSEWHERE = re.compile(r"[/\\]|[a-z]:[/\\]|[a-z]+://", re.IGNORECASE)
_TRIED = 20
_FOLDERS = 2000


class Finder:
    """Finds files by names in a column of a table.

    A name is that of a file as it stands; without white space around it; with ``/`` for a back-slash; without the
    file's extension; or in another Unicode normal form. What two files fit is not found. The first of `cells` decide
    where the images lie: `hits` is for how many of the `tried` ones there is a file, in `base` (relative to the table's
    folder); `among` are several folders below it that have files of these names: none was chosen.
    """

    def __init__(self, folder: str, images: str | None, cells: Sequence[str]) -> None:
        self._folder, self.base, self.among = folder, "", list[str]()
        self._dropped, self._below = 0, dict[str, str | None]()
        self._names, self._numbered = lru_cache(256)(_names), lru_cache(16)(_numbered)
        self.tried = list(itertools.islice(filter(str.strip, cells), _TRIED))
        self.elsewhere = sum(bool(_ELSEWHERE.match(cell.strip())) for cell in self.tried) > len(self.tried) / 2
        if images is not None:
            self._settle_in(images)
        else:
            self.hits = self._count()
            if not self.hits and not self.elsewhere:
                self._search()

    def find(self, cell: str) -> Found:
        """Return the path of the file that a cell means, and its status; else in words what is wrong."""
        found = self._find(cell)
        if found == MISSING and (number := cell.strip()).isdecimal() and number.isascii():
            folder = os.path.join(self._folder, self.base)  # noqa: PTH118
            if int(number) in self._numbered(folder):
                return NO_ZEROS
        return found

    def _find(self, cell: str) -> Found:
        for name in self._spellings(cell):
            if not name or "\0" in name:
                continue
            path = os.path.join(self.base, name)  # noqa: PTH118
            if (found := status_of(self._folder, path)) is not None:
                return path, found
            several = {
                path: found for path in self._similar(name) if (found := status_of(self._folder, path)) is not None
            }
            if len(several) == 1:
                return next(iter(several.items()))
            if several or (self._below and self._below.get(_key(name), "") is None):
                return SEVERAL
        return MISSING

    def found(self, cells: Sequence[str]) -> list[str]:
        """Return the paths that some cells mean, empty where there is no file."""
        return [path[0] if isinstance(path := self._find(cell), tuple) else "" for cell in cells]

    def _count(self) -> int:
        return sum(map(bool, self.found(self.tried)))

    def _settle_in(self, images: str) -> None:
        """Find how many folders at the beginning of names stand for the given one."""
        above, given = os.path.abspath(self._folder) + os.sep, os.path.abspath(images)  # noqa: PTH100
        self.base = os.path.relpath(given, above) if (given + os.sep).startswith(above) else given
        self.base = "" if self.base == "." else self.base
        deepest = max((len(re.split(r"[\\/]+", cell.strip())) for cell in self.tried), default=1)
        counts = []
        least = int(self.elsewhere)
        for self._dropped in range(least, max(deepest, least + 1)):
            counts.append((self._count(), -self._dropped))
        self.hits, dropped = max(counts)
        self._dropped = -dropped
        if not self.hits and deepest == 1:
            self._below = _all_below(given)
            self.hits = self._count()

    def _search(self) -> None:
        """Look for the folder below the table's that has the images."""
        found = []
        for folder in itertools.islice(_folders(self._folder), _FOLDERS):
            self.base = folder
            if hits := self._count():
                found.append((folder, hits))
        self.base = ""
        if len(found) == 1:
            self.base, self.hits = found[0]
        else:
            self.among = [folder for folder, _ in found]

    def _spellings(self, cell: str) -> Iterator[str]:
        """Yield what a cell may mean, the likeliest first, each once."""
        if self._dropped:
            name = "/".join(re.split(r"[\\/]+", cell.strip())[self._dropped :])
            yield from dict.fromkeys((name, readable(name)))
            return
        yield cell
        stripped = cell.strip()
        if stripped != cell:
            yield stripped
        if "\\" in stripped:
            yield stripped.replace("\\", "/")
        if not cell.isascii() and (text := readable(stripped)) != stripped:
            yield text

    def _similar(self, name: str) -> Iterator[str]:
        """Yield paths of files whose name is another one's only by extension and Unicode normal form."""
        bare = IMAGE_NAME.search(name) is None
        if name.isascii() and not self._below:  # the same as below, in half the time
            if bare:
                path = os.path.join(self.base, name)  # noqa: PTH118
                folder = os.path.dirname(os.path.join(self._folder, path))  # noqa: PTH118, PTH120
                yield from (path + ending for ending in self._names(folder)[0])
            return
        if self._below and (below := self._below.get(_key(name))):
            yield os.path.join(self.base, below)  # noqa: PTH118
        *above, last = name.split("/")
        places = [self.base]
        for part in above:
            places = [os.path.join(place, one) for place in places for one in self._spelled(place, part)]  # noqa: PTH118
        for place in places:
            folder = os.path.join(self._folder, place)  # noqa: PTH118
            endings = self._names(folder)[0] if bare else ()
            for one in dict.fromkeys(f"{last}{ending}" for ending in ("", *endings)):
                for spelled in self._spelled(place, one):
                    yield os.path.join(place, spelled)  # noqa: PTH118

    def _spelled(self, place: str, name: str) -> list[str]:
        """Return the names in a folder that are this one in any Unicode normal form."""
        folder = os.path.join(self._folder, place)  # noqa: PTH118
        if name.isascii() or os.path.lexists(os.path.join(folder, name)):  # noqa: PTH118
            return [name]
        return self._names(folder)[1].get(unicodedata.normalize("NFC", name), [])


def has_dicom(folder: str) -> bool:
    """Whether DICOM files are in a folder or in those below it."""
    names = (name for _, inside in _contents(folder) for name in inside.files)
    return any(name.lower().endswith((".dcm", ".dicom")) for name in names)


def _key(name: str) -> str:
    """Return by what a file below the folder of the images is found: its name, or that up to the dot."""
    plain = unicodedata.normalize("NFC", name)
    return plain if IMAGE_NAME.search(plain) else f"{plain}."


def _names(folder: str) -> tuple[tuple[str, ...], dict[str, list[str]]]:
    """Return how names of images in a folder end, and its names that are not ASCII by their composed form."""
    endings: dict[str, None] = {}
    forms: dict[str, list[str]] = {}
    for name in _listed(folder):
        if not name.isascii():
            forms.setdefault(unicodedata.normalize("NFC", name), []).append(name)
        if ending := IMAGE_NAME.search(name):
            endings[ending[0]] = None
    return tuple(endings), forms


def _numbered(folder: str) -> frozenset[int]:
    """Return the numbers that names of images in a folder are, written with leading zeros."""
    stems = (IMAGE_NAME.sub("", name) for name in _listed(folder))
    return frozenset(int(stem) for stem in stems if stem.startswith("0") and stem.isdecimal())


def _listed(folder: str) -> Iterator[str]:
    with suppress(OSError, ValueError), os.scandir(folder) as entries:
        yield from (entry.name for entry in entries)


def _all_below(folder: str) -> dict[str, str | None]:
    """Return the path of each image below a folder by its name, and by its name up to the dot; None if two have it."""
    found: dict[str, str | None] = {}
    for here, inside in _contents(folder, deep=True):
        for name in filter(IMAGE_NAME.search, inside.files):
            plain = unicodedata.normalize("NFC", name)
            for key in (plain, IMAGE_NAME.sub(".", plain)):
                found[key] = None if key in found else os.path.join(here, name)  # noqa: PTH118
    return found


def _contents(folder: str, *, deep: bool = False) -> Iterator[tuple[str, Content]]:
    """Yield a folder ("") and those below it, as `_folders` does, with what lies in them."""
    for here in itertools.chain([""], itertools.islice(_folders(folder, deep=deep), _FOLDERS)):
        with suppress(SourceError):
            yield here, content(os.path.join(folder, here))  # noqa: PTH118


def _folders(folder: str, *, deep: bool = False) -> Iterator[str]:
    """Yield the folders below one, those of theirs too, and with `deep` all others."""
    waiting = [("", 0)]
    for here, depth in waiting:
        if depth == 2 and not deep:
            continue
        names: list[str] = []
        with suppress(SourceError):
            names = content(os.path.join(folder, here)).folders  # noqa: PTH118
        for name in names:
            path = os.path.join(here, name)  # noqa: PTH118
            yield path
            if not os.path.islink(os.path.join(folder, path)):  # noqa: PTH114, PTH118
                waiting.append((path, depth + 1))
