"""Folders of images: of class folders, of splits of those, or of nothing but images."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from featcache.errors import SourceError
from featcache.sources.files import FileSource, item_at, item_of
from featcache.sources.folders.branches import Branch, branches, classes_in
from featcache.sources.folders.classes import check_inside
from featcache.sources.folders.hints import FORMS, is_counter
from featcache.sources.folders.trees import NOTHING, Content, Folders, content
from featcache.sources.messages import number_of, shown
from featcache.sources.names import Exclusion, may_be_image, words_of
from featcache.sources.options import NO_OPTIONS, SourceOptions
from featcache.sources.source import Item

log = logging.getLogger(__name__)

_NUMBER = re.compile(r"\d+")
_MOST_KINDS = 64


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
            sieve.begin(path if name else None)
            what = name or None, branch.split, tree.exclusion, top, sieve, above if name else None
            yield from _walk(f"{tree.where}/{path}", path, *what)
            if not sieve.print.files:
                log.warning("%s/%s has no image%s", tree.where, path.rstrip("/"), ": it is no class" if name else "")
            prints.append(sieve.print)
        few = branch.split is None and 1 < len(branch.classes or ()) < 6  # forms of one image: left, right, depth …
        if few and are_the_same(branch.classes or (), prints):
            log.warning(
                f"{tree.where}: folders have files of the same names: {shown(branch.classes or ())}. If these are "
                "forms of the same images, not classes, name one folder as the source"
            )
    check_inside(tree.where, classes_in(found), sieve.inside, wanted)
    sieve.warn(tree.where)


def files_source(paths: Iterable[str | os.PathLike[str]], *, exclude: Sequence[str] = ()) -> FileSource:
    """Return the unlabelled source of the given files, and of all files below the given folders, in the order given."""
    items: list[Item] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            exclusion, sieve = Exclusion(exclude), Sieve()
            sieve.begin(None)
            found = list(_walk(str(path), "", exclusion=exclusion, sieve=partial(_images_and_tars, sieve)))
            if not found:
                raise no_file(path, "image" if sieve.others else "file")
            items += (item._replace(path=f"{path}/{item.path}") for item in found)
            exclusion.warn(str(path))
            sieve.warn(str(path))
        else:
            try:
                items.append(item_of(str(given), path.stat()))
            except (OSError, ValueError):
                raise SourceError(f"{str(given)!r} does not exist. Name an image or a folder.") from None
    return FileSource(Path(), items)


def _images_and_tars(sieve: Sieve, folder: str, names: list[str]) -> list[str]:
    """Return what may be an image, and tar files, whose images must not be overlooked: each has its reason."""
    images = set(sieve(folder, [name for name in names if not name.lower().endswith(".tar")]))
    return [name for name in names if name in images or name.lower().endswith(".tar")]


def no_file(folder: Path, what: str = "file") -> SourceError:
    """Return the error that says so."""
    return SourceError(f"No images found: the folder {str(folder)!r} has no {what}.")


def _walk(
    folder: str,
    prefix: str,
    label: str | None = None,
    split: str | None = None,
    exclusion: Exclusion = NOTHING,
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
        yield from (item_at(f"{here}/{name}", below + name, label, split) for name in sieve(below, found.files))
        above |= {(stat.st_dev, stat.st_ino)}
        stack += [(f"{here}/{name}", f"{below}{name}/", above) for name in reversed(found.folders)]


def _ids(folder: str) -> frozenset[tuple[int, int]]:
    """Return what tells a folder and all that it lies in from others."""
    path = Path(folder).absolute()
    real = path.resolve()
    stats = [one.stat() for one in {path, *path.parents, real, *real.parents}]
    return frozenset((stat.st_dev, stat.st_ino) for stat in stats)


@dataclass
class Print:
    """What is equal of folders with equal names of files, less their endings.

    `named` are those that are more than a number, as numbers alone are in any folder; `kinds` are these with ``#`` for
    numbers in them, at most `_MOST_KINDS`; `endings` are of all of them.
    """

    files: int = 0
    stems: int = 0
    named: int = 0
    named_stems: int = 0
    kinds: set[str] = field(default_factory=set)
    endings: set[str] = field(default_factory=set)

    def add(self, name: str) -> None:
        """Note the name of a file."""
        stem, _, ending = name.rpartition(".")
        self.files += 1
        self.stems += hash(stem or name)
        self.endings.add(ending)
        if not is_counter(stem or name):
            self.named, self.named_stems = self.named + 1, self.named_stems + hash(stem or name)
            if len(self.kinds) < _MOST_KINDS:
                self.kinds.add(_NUMBER.sub("#", stem or name))


def are_the_same(folders: Sequence[str], prints: Sequence[Print]) -> bool:
    """Whether folders seem to have forms of the same images."""
    first, kinds = prints[0], len(prints[0].kinds)
    telling = kinds > 2 and kinds >= min(_MOST_KINDS, first.named / 4)  # not IMG_#-edited, slide#_x#_y#
    if telling and len({(one.named, one.named_stems) for one in prints}) == 1:
        return True
    if first.files < 3 or len({(one.files, one.stems) for one in prints}) > 1:
        return False
    differ = any(one.endings != first.endings for one in prints)
    return differ or any((FORMS | {"mask", "masks"}).intersection(words_of(name)) for name in folders)


class Sieve:
    """Lets names of files through that may be images, and counts the others.

    `print` is of the folder that is walked; `inside` are the images in each folder that lies in a class folder beside
    images.
    """

    def __init__(self) -> None:
        self.inside: Counter[str] = Counter()
        self.others, self.other = 0, ""

    def begin(self, top: str | None) -> None:
        """Start with a folder; `top` is its path, with a slash at its end, if it is that of a class."""
        self.print, self._top, self._beside = Print(), top, False

    def warn(self, where: str) -> None:
        """Say what was left out."""
        if self.others:
            several = "files are left out, as they are no images by their names"
            said = number_of(self.others, "file is left out, as it is no image by its name", several)
            log.warning("%s: %s, such as %r", where, said, self.other)

    def __call__(self, folder: str, names: list[str]) -> list[str]:
        """Return those of the names in a folder that may be images."""
        images = [name for name in names if may_be_image(name)]
        if len(images) < len(names):
            self.others += len(names) - len(images)
            self.other = self.other or folder + next(name for name in names if not may_be_image(name))
        if folder == self._top:
            self._beside = bool(images)
        elif self._top is not None and self._beside and images:
            self.inside[self._top + folder[len(self._top) :].partition("/")[0]] += len(images)
        for name in images:
            self.print.add(name)
        return images
