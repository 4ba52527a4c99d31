"""Folders of images: of class folders, of splits of those, or of nothing but images."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from featcache.errors import SourceError
from featcache.sources.files import FileSource
from featcache.sources.layouts import ignored
from featcache.sources.options import NO_OPTIONS, SourceOptions
from featcache.sources.source import SPLIT_NAMES, SPLITS, Item

log = logging.getLogger(__name__)


class Content(NamedTuple):
    """What a folder holds, each in alphanumeric order."""

    folders: list[str]
    files: list[str]


def content(folder: str | os.PathLike[str]) -> Content:
    """Return the names in a folder without those that systems leave behind.

    Raises
    ------
    SourceError
        If it cannot be read.
    """
    found = Content([], [])
    try:
        with os.scandir(folder) as entries:
            for entry in entries:  # names alone are kept: an entry is ten times as large
                if not ignored(entry.name):
                    (found.folders if _is_folder(entry) else found.files).append(entry.name)
    except OSError as error:
        raise SourceError(
            f"Expected a readable folder. Received: {os.fspath(folder)!r}: {error.strerror}. Mend its permissions."
        ) from None
    found.folders.sort()
    found.files.sort()
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: listed, so that reading it gives the reason
        return False


def folder_source(root: Path, top: Content, options: SourceOptions = NO_OPTIONS) -> FileSource:
    """Return the source of a folder of images.

    Parameters
    ----------
    root : Path
        A folder of class folders; or one with ``train``, ``validation`` (``val``, ``valid``) and ``test``
        folders; or one of images without labels.
    top : Content
        What it holds.
    options : SourceOptions
        Of which a folder has `exclude` and `splits`.

    Raises
    ------
    SourceError
        If it holds no file, or files beside folders, or folders that are no splits beside splits.
    """
    splits = {name: SPLIT_NAMES[name.lower()] for name in top.folders if name.lower() in SPLIT_NAMES}
    if len(splits) == len(top.folders) > 1 and "train" not in splits.values():
        raise SourceError(
            f"Expected a train folder beside {', '.join(top.folders)} in {str(root)!r}. Received: none. Add it, or "
            "name one of these as the source."
        )
    if "train" in splits.values() and (len(splits) == len(top.folders) or len(set(splits.values())) > 1):
        if len(splits) != len(top.folders) or len(set(splits.values())) != len(splits):
            raise SourceError(
                "Expected one folder each of train, validation (or val, valid) and test. Received: "
                f"{', '.join(top.folders)} in {str(root)!r}. Move or rename what does not belong."
            )
        parts = [(root / name, name, split) for name, split in splits.items()]
        parts.sort(key=lambda part: SPLITS.index(part[2]))
        items: Iterable[Item] = (
            item for path, name, split in parts for item in _classes(path, content(path), f"{name}/", split)
        )
    else:
        items = _classes(root, top, "", None)
    source = FileSource(root, items, options=options)
    if not source.items:
        raise no_file(root)
    return source


def files_source(paths: Iterable[str | os.PathLike[str]]) -> FileSource:
    """Return the unlabelled source of the given files, and of all files below the given folders.

    Parameters
    ----------
    paths : iterable of paths
        In the order wanted, each as often as it is named; folders are walked in alphanumeric order.

    Raises
    ------
    SourceError
        If one does not exist, or a folder holds no file.
    """
    items: list[Item] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            found = list(_walk(str(path), f"{path}/"))
            if not found:
                raise no_file(path)
            items += found
        else:
            try:
                stat = path.stat()
            except (OSError, ValueError):
                raise SourceError(
                    f"Expected an image or a folder. Received: {str(given)!r}, which does not exist."
                ) from None
            items.append(Item(str(given), None, None, stat.st_size, stat.st_mtime_ns))
    return FileSource(Path(), items)


def no_file(folder: Path) -> SourceError:
    """Return the error that says so."""
    return SourceError(f"Expected a folder with images. Received: {str(folder)!r}, which has no file.")


def _check_no_files(folder: Path, found: Content) -> None:
    if found.folders and found.files:
        raise SourceError(
            f"Expected a folder for each class in {str(folder)!r}. Received: files beside them, such as "
            f"{found.files[0]!r}. Move images into the folder of their class, and other files out of this one."
        )


def _classes(folder: Path, found: Content, prefix: str, split: str | None) -> Iterator[Item]:
    """Yield the images of class folders, or of a folder that holds nothing but images."""
    _check_no_files(folder, found)
    for name in found.folders:
        empty = True
        for item in _walk(str(folder / name), f"{prefix}{name}/", name, split):
            empty = False
            yield item
        if empty:
            log.warning("%s has no file: it is no class", folder / name)
    yield from _files(str(folder), found.files, prefix, None, split)


def _walk(folder: str, prefix: str, label: str | None = None, split: str | None = None) -> Iterator[Item]:
    """Yield every file below a folder in alphanumeric order, a folder's own first, following links but no loop."""
    stack: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(folder, prefix, frozenset())]
    while stack:
        here, below, above = stack.pop()
        found = content(here)
        stat = os.stat(here)  # noqa: PTH116
        if (stat.st_dev, stat.st_ino) in above:
            continue
        yield from _files(here, found.files, below, label, split)
        above |= {(stat.st_dev, stat.st_ino)}
        stack += [(f"{here}/{name}", f"{below}{name}/", above) for name in reversed(found.folders)]


def _files(folder: str, names: list[str], prefix: str, label: str | None, split: str | None) -> Iterator[Item]:
    for name in names:
        path = f"{folder}/{name}"
        try:
            stat = os.stat(path)  # noqa: PTH116  # half the time of Path.stat
        except OSError:  # a dangling link: listed, so that reading it gives the reason
            stat = os.lstat(path)
        yield Item(prefix + name, label, split, stat.st_size, stat.st_mtime_ns)
