"""Folders of images: of class folders, of splits of those, or of nothing but images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from featcache.errors import SourceError
from featcache.sources.files import FileSource, item_of
from featcache.sources.folders.branches import Branch, branches
from featcache.sources.folders.inside import check_inside
from featcache.sources.folders.sieve import Sieve, are_the_same
from featcache.sources.folders.trees import Look, may_be_image, number_of, shown
from featcache.sources.names import Exclusion, is_litter
from featcache.sources.options import NO_OPTIONS, SourceOptions
from featcache.sources.source import Item
from featcache.sources.tables.rows import JSON_LINES

log = logging.getLogger(__name__)

_NOTHING = Exclusion(())

_TABLES = (".csv", ".tsv", *JSON_LINES)


class Content(NamedTuple):
    """What a folder holds, each in alphanumeric order."""

    folders: list[str]
    files: list[str]


def content(folder: str | os.PathLike[str], below: str = "", exclusion: Exclusion = _NOTHING) -> Content:
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
            f"Expected a readable folder. Received: {os.fspath(folder)!r}: {error.strerror}. Mend its permissions."
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
            image = next((name for name in found.files if may_be_image(name)), None)
            other = next((name for name in found.files if name != image), None)
            return Look(found.folders, image, other, [name for name in found.files if name.lower().endswith(_TABLES)])
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


def folder_source(
    tree: Folders, options: SourceOptions = NO_OPTIONS, *, classes: Collection[str] | None = None
) -> FileSource:
    """Return the source of a folder of class folders, of folders of splits, or of images without labels."""
    options.check("a folder", "exclude", "splits")
    found = branches(tree, options, classes)
    source = FileSource(Path(tree.where), _items(tree, found, frozenset(classes or ())), options=options)
    if not source.items:
        raise no_file(Path(tree.where), "image")
    tree.exclusion.warn(tree.where)
    return source


def _items(tree: Folders, found: Sequence[Branch], wanted: Collection[str]) -> Iterator[Item]:
    """Yield the images of all branches, and say what is odd about their names."""
    sieve = Sieve()
    for branch in found:
        prints, above = [], _ids(f"{tree.where}/{branch.path}")
        for name in ("",) if branch.classes is None else branch.classes:
            path = f"{branch.path}{name}/" if name else branch.path
            top = tree.contents.get(path)
            sieve.top = path if name else None
            yield from _walk(f"{tree.where}/{path}", path, name or None, branch.split, tree.exclusion, top, sieve,
                             above if name else None)  # fmt: skip
            if not sieve.count:
                log.warning("%s/%s has no image%s", tree.where, path.rstrip("/"), ": it is no class" if name else "")
            prints.append(sieve.print())
        few = branch.split is None and 1 < len(branch.classes or ()) < 6  # forms of one image: left, right, depth …
        if few and are_the_same(branch.classes or (), prints):
            log.warning("%s: folders have files of the same names: %s. If these are forms of the same images, not "
                        "classes, name one folder as the source", tree.where, shown(branch.classes or ()))  # fmt: skip
    check_inside(tree.where, found, sieve.inside, wanted)
    if sieve.others:
        log.warning("%s: %s by %s, such as %r", tree.where, number_of(
            sieve.others, "file is left out, as it is no image", "files are left out, as they are no images"),
            "its name" if sieve.others == 1 else "their names", sieve.other)  # fmt: skip


def files_source(paths: Iterable[str | os.PathLike[str]], *, exclude: Sequence[str] = ()) -> FileSource:
    """Return the unlabelled source of the given files, and of all files below the given folders, in the order given."""
    items: list[Item] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            exclusion = Exclusion(exclude)
            found = list(_walk(str(path), "", exclusion=exclusion))
            if not found:
                raise no_file(path)
            items += (item._replace(path=f"{path}/{item.path}") for item in found)
            exclusion.warn(str(path))
        else:
            try:
                stat = path.stat()
            except (OSError, ValueError):
                raise SourceError(
                    f"Expected an image or a folder. Received: {str(given)!r}, which does not exist."
                ) from None
            items.append(item_of(str(given), stat))
    return FileSource(Path(), items)


def no_file(folder: Path, what: str = "file") -> SourceError:
    """Return the error that says so."""
    return SourceError(f"Expected a folder with images. Received: {str(folder)!r}, which has no {what}.")


def _walk(
    folder: str,
    prefix: str,
    label: str | None = None,
    split: str | None = None,
    exclusion: Exclusion = _NOTHING,
    top: Content | None = None,
    sieve: Callable[[str, list[str]], list[str]] = lambda _, names: names,
    above: frozenset[tuple[int, int]] | None = None,
) -> Iterator[Item]:
    """Yield every file below a folder in alphanumeric order, a folder's own first, following links but none upwards.

    `prefix` is its path in the source, `top` what it holds if that is known; `sieve` returns which of a folder's files;
    `above` are the folders that it lies in.
    """
    above = _ids(os.path.dirname(os.path.abspath(folder))) if above is None else above  # noqa: PTH100, PTH120
    stack: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(folder, prefix, above)]
    while stack:
        here, below, above = stack.pop()
        found, top = content(here, below, exclusion) if top is None else top, None
        stat = os.stat(here)  # noqa: PTH116
        if (stat.st_dev, stat.st_ino) in above:
            continue
        yield from _files(here, sieve(below, found.files), below, label, split)
        above |= {(stat.st_dev, stat.st_ino)}
        stack += [(f"{here}/{name}", f"{below}{name}/", above) for name in reversed(found.folders)]


def _ids(folder: str) -> frozenset[tuple[int, int]]:
    """Return what tells a folder and all that it lies in from others."""
    path = Path(folder).absolute()
    real = path.resolve()
    stats = [one.stat() for one in {path, *path.parents, real, *real.parents}]
    return frozenset((stat.st_dev, stat.st_ino) for stat in stats)


def _files(folder: str, names: list[str], prefix: str, label: str | None, split: str | None) -> Iterator[Item]:
    for name in names:
        path = f"{folder}/{name}"
        try:
            stat = os.stat(path)  # noqa: PTH116  # half the time of Path.stat
        except OSError:  # a dangling link: listed, so that reading it gives the reason
            stat = os.lstat(path)
        yield item_of(prefix + name, stat, label, split)
