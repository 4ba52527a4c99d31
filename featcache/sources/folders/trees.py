"""Folders as they are looked into, on disk or in a tar."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from featcache.errors import SourceError
from featcache.sources.names import TABLES_BESIDE, Exclusion, is_litter, known_splits, may_be_image

NOTHING = Exclusion(())
_DEEP = 16


class Look(NamedTuple):
    """What lies in a folder: its folders (in one with an image, maybe some), a file that may be an `image`, an `other`
    one that is certainly none; of a folder that was looked into as a whole, files that may be `tables`.
    """

    folders: Sequence[str]
    image: str | None = None
    other: str | None = None
    tables: Sequence[str] = ()


class Tree(Protocol):
    """Folders, on disk or in a tar."""

    where: str

    def look(self, path: str, *, whole: bool = False) -> Look:
        """Return what lies in a folder, given by its path with a slash at its end (the top is ""); maybe `whole`."""
        ...


def wrapped(tree: Tree, path: str, wanted: Collection[str] = (), *, stop_at_splits: bool = False) -> str:
    """Return the path below folders that hold one folder of folders and nothing else; `wanted` ones are classes."""
    for _ in range(_DEEP):
        here = tree.look(path, whole=True)
        if here.image or here.other or len(here.folders) != 1 or here.folders[0] in wanted:
            break
        if stop_at_splits and known_splits(here.folders):
            break
        below = tree.look(f"{path}{here.folders[0]}/")
        if below.image or below.other or not below.folders:
            break
        path = f"{path}{here.folders[0]}/"
    return path


class Content(NamedTuple):
    """What a folder holds, each in alphanumeric order."""

    folders: list[str]
    files: list[str]

    @property
    def tables(self) -> list[str]:
        """The files that may be tables."""
        return [name for name in self.files if name.lower().endswith(TABLES_BESIDE)]


def content(folder: str | os.PathLike[str], below: str = "", exclusion: Exclusion = NOTHING) -> Content:
    """Return the names in a folder, which is at `below` in the source, without litter and what is excluded."""
    found = Content([], [])
    for entry in _entries(folder):  # names alone are kept: an entry is ten times as large
        if not exclusion.covers(below + entry.name):
            (found.folders if _is_folder(entry) else found.files).append(entry.name)
    found.folders.sort()
    found.files.sort()
    return found


def _entries(folder: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not is_litter(entry.name))
    except OSError as error:
        raise SourceError(
            f"The folder {os.fspath(folder)!r} cannot be read: {error.strerror}. Correct its permissions."
        ) from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: listed, so that reading it gives the reason
        return False


class Folders:
    """The folders of a source, looked into once each; of a folder with many images the first is enough."""

    def __init__(self, root: Path, exclusion: Exclusion) -> None:
        self.where, self.exclusion = str(root), exclusion
        self.contents: dict[str, Content] = {}
        self._looks: dict[str, Look] = {}

    def look(self, path: str, *, whole: bool = False) -> Look:
        """Return what lies in a folder."""
        if whole:
            found = self.content(path)
            image = next(filter(may_be_image, found.files), None)
            other = next((name for name in found.files if name != image), None)
            return Look(found.folders, image, other, found.tables)
        if path not in self._looks:
            self._looks[path] = self._glance(path)
        return self._looks[path]

    def content(self, path: str) -> Content:
        """Return all that lies in a folder."""
        if path not in self.contents:
            self.contents[path] = content(f"{self.where}/{path}", path, self.exclusion)
        return self.contents[path]

    def _glance(self, path: str) -> Look:
        folders, other = [], None
        for entry in _entries(f"{self.where}/{path}"):
            if self.exclusion.covers(path + entry.name):
                continue
            if _is_folder(entry):
                folders.append(entry.name)
            elif may_be_image(entry.name):
                return Look(folders, entry.name, other)
            else:
                other = entry.name
        return Look(sorted(folders), None, other)
