"""Images with labels and splits: where they lie, in which order, and who is in which split.

A source lists `Item` s in its own order and reads one at a time; nothing here decodes an image.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from featcache.errors import ImageError, OptionError, SourceError, nearest

if TYPE_CHECKING:
    import numpy.typing as npt

SPLITS = ("train", "validation", "test")
_SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation",
                  "test": "test"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source.

    Attributes
    ----------
    path : str
        Relative to the source, with ``/``; unique in it. Bytes that are not UTF-8 appear as
        surrogates (`os.fsdecode`).
    label : str or None
        Class name, None if the source has no labels.
    split : str or None
        One of `SPLITS`, None if the source brings no split.
    size, mtime_ns : int
        Bytes, and nanoseconds since the epoch: what `stat` said when it was listed.
    group : str or None
        Images of one group (shots of one thing) are on one side of every split.
    """

    path: str
    label: str | None
    split: str | None
    size: int
    mtime_ns: int
    group: str | None = None


@runtime_checkable
class Source(Protocol):
    """What every source offers."""

    @property
    def name(self) -> str:
        """Short name, used for folders."""
        ...

    @property
    def location(self) -> str:
        """Where it lies: an absolute path, or the name of an embedded set."""
        ...

    @property
    def items(self) -> Sequence[Item]:
        """All images, in the source's order."""
        ...

    def read(self, item: Item) -> bytes | npt.NDArray[Any]:
        """Return an image's encoded bytes or its pixels; raise `ImageError` with the reason."""
        ...


def digest(content: bytes | npt.NDArray[Any]) -> bytes:
    """Return the identity of an image: SHA-256 of its encoded bytes (32 bytes).

    For an array it covers dtype and shape too: the text ``<dtype> <shape>\\n``, such as
    ``|u1 8,8\\n``, followed by the elements in C order.
    """
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    import numpy as np

    array = np.ascontiguousarray(content)
    header = f"{array.dtype.str} {','.join(map(str, content.shape))}\n"
    return hashlib.sha256(header.encode() + array.tobytes()).digest()


class FileSource:
    """Files below a root, read as they are.

    Parameters
    ----------
    root : Path
        What item paths are relative to.
    items : sequence of Item
        The images.
    """

    def __init__(self, root: Path, items: Sequence[Item]) -> None:
        self.root = root.absolute()
        self.items = items

    @property
    def name(self) -> str:
        """The root folder's name."""
        return self.root.name or "root"

    @property
    def location(self) -> str:
        """The root folder's absolute path."""
        return str(self.root)

    def read(self, item: Item) -> bytes:
        """Return a file's bytes.

        Raises
        ------
        ImageError
            If it cannot be read, or is empty.
        """
        try:
            content = (self.root / item.path).read_bytes()
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror or error}") from None
        if not content:
            raise ImageError("empty file")
        return content


class ArraySource:
    """Images that are already pixels.

    Parameters
    ----------
    name : str
        The set's name.
    images : array, shape (n, height, width) or (n, height, width, channels)
        ``uint8``, or floats in 0…1.
    labels : sequence of str, length n
        Class names.
    """

    def __init__(self, name: str, images: npt.NDArray[Any], labels: Sequence[str]) -> None:
        self.name = self.location = name
        self._images = images
        size = int(images[0].nbytes) if len(images) else 0
        width = len(str(max(len(images) - 1, 0)))
        self.items: Sequence[Item] = [
            Item(f"{index:0{width}d}", label, None, size, 0) for index, label in enumerate(labels)
        ]

    def read(self, item: Item) -> npt.NDArray[Any]:
        """Return one image's pixels."""
        image: npt.NDArray[Any] = self._images[int(item.path)]
        return image


class _Selected:
    """A source with another list of items, read by the one it came from."""

    def __init__(self, source: Source, items: Sequence[Item]) -> None:
        self.name, self.location, self.items, self._source = source.name, source.location, items, source

    def read(self, item: Item) -> bytes | npt.NDArray[Any]:
        return self._source.read(item)


def open_source(
    source: str | os.PathLike[str] | Source, *, classes: Iterable[str] | None = None, labelled: bool = True
) -> Source:
    """Return the source that a name or path means.

    Parameters
    ----------
    source : str, path or Source
        ``digits`` (embedded in scikit-learn), a folder of class folders, or a folder with ``train``,
        ``validation`` (``val``, ``valid``) and ``test`` folders of class folders.
    classes : iterable of str, optional
        Keep these classes only.
    labelled : bool
        If False, a folder without class folders is taken too, its images having no label.

    Returns
    -------
    Source
        In order: splits as `SPLITS` has them, classes alphanumerically as Keras has them, then paths.

    Raises
    ------
    SourceError
        If it does not exist, is empty, or its layout is not one of these.
    OptionError
        If a class is not in the source.
    """
    opened: Source
    if isinstance(source, str | os.PathLike):
        opened = _digits() if os.fspath(source) == "digits" else _folder(Path(source), labelled=labelled)
    else:
        opened = source
    if classes is None:
        return opened
    wanted = list(dict.fromkeys(classes))
    known = class_names(opened.items)
    for name in wanted:
        if name not in known:
            raise OptionError(f"Expected classes of {opened.location}. Received: {name!r} ({nearest(name, known)}).")
    keep = set(wanted)
    return _Selected(opened, [item for item in opened.items if item.label in keep])


def files_source(paths: Sequence[str | os.PathLike[str]]) -> FileSource:
    """Return the unlabelled source of the given files, and of all files below the given folders.

    Parameters
    ----------
    paths : sequence of paths
        In the order wanted; folders are walked in alphanumeric order.

    Raises
    ------
    SourceError
        If one does not exist, or a folder holds no file.
    """
    items: list[Item] = []
    for given in paths:
        path = Path(given)
        if path.is_dir():
            found = list(_walk(path, str(path)))
            if not found:
                raise SourceError(f"Expected a folder with images. Received: {str(path)!r}, which has no file.")
            items.extend(Item(name, None, None, stat.st_size, stat.st_mtime_ns) for name, stat in found)
        else:
            try:
                stat = path.stat()
            except (OSError, ValueError):
                raise SourceError(
                    f"Expected an image or a folder. Received: {str(given)!r}, which does not exist."
                ) from None
            items.append(Item(str(given), None, None, stat.st_size, stat.st_mtime_ns))
    return FileSource(Path(), list({item.path: item for item in items}.values()))


def class_names(items: Iterable[Item]) -> list[str]:
    """Return the class names of a listing in alphanumeric order, as Keras orders them."""
    return sorted({item.label for item in items if item.label is not None})


def _digits() -> Source:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images * (255 / 16)).round().astype("uint8")
    return ArraySource("digits", images, [str(label) for label in bunch.target])


def _folder(root: Path, *, labelled: bool) -> Source:
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise SourceError(
            "Expected a source: 'digits', a folder of class folders, or a folder with train/ and "
            f"validation/ of those. Received: {str(root)!r}, which {what}."
        )
    top = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not _ignored(entry.name))
    splits = {name: _SPLIT_FOLDERS[name.lower()] for name in top if name.lower() in _SPLIT_FOLDERS}
    items: list[Item] = []
    if "train" in splits.values() and (len(splits) == len(top) or len(set(splits.values())) > 1):
        odd = sorted(set(top) - set(splits))
        if odd or len(set(splits.values())) != len(splits):
            raise SourceError(
                "Expected one folder each of train, validation (or val, valid) and test. Received: "
                f"{', '.join(top)} in {str(root)!r}. Move or rename what does not belong."
            )
        for name in sorted(splits, key=lambda name: SPLITS.index(splits[name])):
            items += _class_folders(root, name + "/", splits[name], labelled=labelled)
    else:
        items = _class_folders(root, "", None, labelled=labelled)
    if not items:
        raise SourceError(f"Expected a folder with images. Received: {str(root)!r}, which has no file.")
    return FileSource(root, items)


def _class_folders(root: Path, prefix: str, split: str | None, *, labelled: bool) -> list[Item]:
    folder = root / prefix
    names: list[str] = []
    loose: list[str] = []
    for entry in os.scandir(folder):
        if not _ignored(entry.name):
            (names if entry.is_dir() else loose).append(entry.name)
    if loose and (labelled or names):
        raise SourceError(
            f"Expected a folder for each class in {str(folder)!r}. Received: files beside them, such as "
            f"{sorted(loose)[0]!r}. Move them into the folder of their class."
        )
    items = [
        Item(path, name, split, stat.st_size, stat.st_mtime_ns)
        for name in sorted(names)
        for path, stat in _walk(folder / name, prefix + name)
    ]
    if loose:
        items += [
            Item(path, None, split, stat.st_size, stat.st_mtime_ns) for path, stat in _walk(folder, prefix.rstrip("/"))
        ]
    return items


def _ignored(name: str) -> bool:
    """Whether a name is what systems leave behind: hidden files, and Windows' thumbnail store."""
    return name.startswith(".") or name.lower() in {"thumbs.db", "desktop.ini"}


def _walk(folder: Path, prefix: str) -> Iterable[tuple[str, os.stat_result]]:
    """Yield (path, stat) of every file below a folder in alphanumeric order, following links but no loop."""
    stack: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(str(folder), prefix, frozenset())]
    while stack:
        here, below, seen = stack.pop()
        try:
            stat = Path(here).stat()
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise SourceError(
                f"Expected a readable folder. Received: {here!r}: {error.strerror}. Mend its permissions."
            ) from None
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen |= {(stat.st_dev, stat.st_ino)}
        folders = []
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            if _ignored(entry.name):
                continue
            if entry.is_dir():
                folders.append((entry.path, path, seen))
                continue
            try:
                yield path, entry.stat()
            except OSError:  # a dangling link: listed, so that reading it gives the reason
                yield path, entry.stat(follow_symlinks=False)
        stack.extend(reversed(folders))


# Who is in which split


@dataclass(frozen=True)
class SplitPolicy:
    """How images get a split where the source brings none.

    Parameters
    ----------
    validation_split : float, optional
        Part of the images that becomes validation, 0 ≤ x < 1. Default: 0.2 if the source brings no
        split, else 0.
    test_from : tuple of (str, float), optional
        ``("validation", 0.2)`` makes a fifth of validation the test set.
    seed : int
        Another seed is another draw.

    Notes
    -----
    An image's side is decided by SHA-256 of the seed and its digest alone: adding images never moves
    an old one, and copies of an image are on one side.
    """

    validation_split: float | None = None
    test_from: tuple[str, float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        fraction = self.validation_split
        if fraction is not None and not 0 <= fraction < 1:
            raise OptionError(f"Expected 0 <= validation_split < 1. Received: {fraction!r}.")
        if self.test_from is not None and not (
            self.test_from[0] in ("train", "validation") and 0 < self.test_from[1] < 1
        ):
            raise OptionError(
                "Expected test_from to be train or validation with a part between 0 and 1, such as "
                f"validation=0.2. Received: {self.test_from!r}."
            )

    def settled(self, source: Source) -> SplitPolicy:
        """Return the policy with its defaults filled in for a source.

        Raises
        ------
        OptionError
            If it asks for a split that the source already brings.
        """
        brought = {item.split for item in source.items} - {None}
        if brought and self.validation_split and "validation" in brought:
            raise OptionError(
                f"Expected no validation_split, as {source.location} has a validation folder. Received: "
                f"{self.validation_split}. Leave it out."
            )
        if self.test_from is not None and "test" in brought:
            raise OptionError(
                f"Expected no test_from, as {source.location} has a test folder. "
                f"Received: {self.test_from[0]}={self.test_from[1]}. Leave it out."
            )
        default = 0.0 if brought else 0.2
        return replace(self, validation_split=default if self.validation_split is None else self.validation_split)

    def split_of(self, item: Item, identity: bytes) -> str:
        """Return the split of an image, given its digest (32 bytes); a group's images are drawn together."""
        split = item.split or "train"
        if item.group is not None:
            identity = hashlib.sha256(item.group.encode("utf-8", "surrogateescape")).digest()
        if split == "train" and self._draw(b"validation", identity) < (self.validation_split or 0):
            split = "validation"
        if self.test_from and split == self.test_from[0] and self._draw(b"test", identity) < self.test_from[1]:
            split = "test"
        return split

    def _draw(self, purpose: bytes, identity: bytes) -> float:
        drawn = hashlib.sha256(b"featcache %s %d " % (purpose, self.seed) + identity).digest()
        return int.from_bytes(drawn[:8], "big") / 2**64


def folder_name(name: str) -> str:
    """Return a name with nothing but letters, digits, ``.``, ``_`` and ``-``, for folders we make."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "source"
