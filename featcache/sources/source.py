"""What a source is: items in an order of its own, read one at a time; nothing here decodes an image."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
import numpy.typing as npt

from featcache.errors import ImageError, about_image
from featcache.sources.columns import PIECE, Coder, Ints, Texts, Words, encoded

log = logging.getLogger(__name__)

T = TypeVar("T")

SPLITS = ("train", "validation", "test")

PROGRESS_SECONDS = 5.0
"""How often a listing that takes long says how far it is."""


class Item(NamedTuple):
    """One image of a source; a tuple, as there are millions and one is made eight times as fast as a dataclass.

    Attributes
    ----------
    path : str
        Unique in the source; of files relative to it, with ``/``. Bytes that are not UTF-8 appear as
        surrogates (`os.fsdecode`).
    label : str or None
        Class name, None if the image has no label.
    split : str or None
        One of `SPLITS`, None if the source brings no split.
    size, mtime_ns : int
        Bytes, and what is another number when the image has changed: of a file its time stamp in
        nanoseconds since the epoch when it was listed, of what is in memory a part of its digest.
    group : str or None
        Images of one group (shots of one thing) are on one side of every split.
    place : int
        Where the source finds it, if the path does not say.
    changes : int
        Of a file what `files.publishing.change_stamp` returned before it was read; 0: read it again next time.
    """

    path: str
    label: str | None
    split: str | None
    size: int
    mtime_ns: int
    group: str | None = None
    place: int = 0
    changes: int = 0


class Items(Sequence[Item]):
    """The items of a source in columns: a hundred bytes each; an `Item` is made when one is asked for.

    `stamps` are the items' ``mtime_ns``; arrays are int64 of shape (n,).
    """

    def __init__(
        self, paths: Texts, labels: Words, splits: Words, groups: Words, sizes: Ints, stamps: Ints, places: Ints,
        changes: Ints,
    ) -> None:  # fmt: skip
        self.paths, self.labels, self.splits, self.groups = paths, labels, splits, groups
        self.sizes, self.stamps, self.places, self.changes = sizes, stamps, places, changes

    @classmethod
    def of(cls, items: Iterable[Item]) -> Items:
        """Return any items in columns; a few thousand at a time are objects."""
        if isinstance(items, Items):
            return items
        labels, splits, groups = Coder(), Coder(), Coder()
        coded: tuple[list[Ints], list[Ints], list[Ints]] = ([], [], [])
        numbers: list[npt.NDArray[np.int64]] = [np.empty((0, 4), np.int64)]
        waiting = iter(items)

        def pieces() -> Iterator[list[bytes]]:
            while piece := list(itertools.islice(waiting, PIECE)):
                coded[0].append(labels.codes([item.label for item in piece]))
                coded[1].append(splits.codes([item.split for item in piece]))
                coded[2].append(groups.codes([item.group for item in piece]))
                own = [(item.size, item.mtime_ns, item.place, item.changes) for item in piece]
                numbers.append(np.array(own, np.int64))
                yield [encoded(item.path) for item in piece]

        paths = Texts.joined(pieces())
        words = [Words.coded(*pair) for pair in zip(coded, (labels, splits, groups), strict=True)]
        return cls(paths, words[0], words[1], words[2], *np.ascontiguousarray(np.concatenate(numbers).T))

    def take(self, rows: Ints) -> Items:
        """Return some of them."""
        columns = (self.paths.take(rows), self.labels.take(rows), self.splits.take(rows), self.groups.take(rows))
        return Items(*columns, self.sizes[rows], self.stamps[rows], self.places[rows], self.changes[rows])

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Item]:
        numbers = (map(int, column) for column in (self.sizes, self.stamps))
        others = (map(int, column) for column in (self.places, self.changes))
        return map(Item, self.paths, self.labels, self.splits, *numbers, self.groups, *others)

    @overload
    def __getitem__(self, row: int) -> Item: ...
    @overload
    def __getitem__(self, row: slice) -> Items: ...
    def __getitem__(self, row: int | slice) -> Item | Items:
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        columns = (self.sizes, self.stamps, self.places, self.changes)
        size, stamped, place, changes = (int(column[row]) for column in columns)
        words = self.paths[row], self.labels[row], self.splits[row]
        return Item(*words, size, stamped, self.groups[row], place, changes)


@runtime_checkable
class Source(Protocol):
    """What every source offers."""

    @property
    def name(self) -> str:
        """Short name, used for folders."""
        ...

    @property
    def location(self) -> str:
        """Where it lies: an absolute path, or the name of a set that has none."""
        ...

    @property
    def items(self) -> Sequence[Item]:
        """All images, in the source's order."""
        ...

    @property
    def sequential(self) -> bool:
        """Whether it must be read in its own order to be fast."""
        ...

    def read(self, item: Item, /) -> bytes | npt.NDArray[Any]:
        """Return an image's encoded bytes or its pixels; raise `ImageError` with the reason."""
        ...


class Selected:
    """A source with another list of items, read by the one it came from."""

    def __init__(self, source: Source, items: Sequence[Item]) -> None:
        self.name, self.location, self.sequential = source.name, source.location, source.sequential
        self.items, self.origin = items, source

    def read(self, item: Item, /) -> bytes | npt.NDArray[Any]:
        """Return what the source has for it."""
        return self.origin.read(item)


def read_image(source: Source, item: Item) -> bytes | npt.NDArray[Any]:
    """Return what a source has for an item; raise `ImageError`, whatever goes wrong with it."""
    with about_image("read"):
        return source.read(item)


def digest(content: bytes | npt.NDArray[Any]) -> bytes:
    """Return the identity of an image: SHA-256 of its encoded bytes (32 bytes).

    For an array it covers dtype and shape too: the text ``<dtype> <shape>\\n``, such as
    ``|u1 8,8\\n``, followed by the elements in C order.
    """
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    array = np.ascontiguousarray(content)
    header = f"{array.dtype.str} {','.join(map(str, content.shape))}\n"
    return hashlib.sha256(header.encode() + array.tobytes()).digest()


def stamp(content: bytes | npt.NDArray[Any]) -> int:
    """Return what stands for a time stamp where content lies in memory: seven bytes of its digest."""
    return int.from_bytes(digest(content)[:7], "big")


def class_names(items: Iterable[Item]) -> list[str]:
    """Return the class names of a listing in alphanumeric order, as Keras orders them."""
    if isinstance(items, Items):
        return list(items.labels.names)
    return sorted({item.label for item in items if item.label is not None})


def label_name(value: Any) -> str | None:
    """Return the class name that a label stands for: its text; None if there is none."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        return str(value) or None
    if isinstance(value, int | np.integer | np.bool_):
        return str(int(value))
    if value is None:
        return None
    raise ValueError(f"{type(value).__name__} {value!r:.40}")


def sole_content(content: bytes) -> bytes:
    """Return an image's bytes, or raise `ImageError` if there are none."""
    if not content:
        raise ImageError("empty file")
    return content


def counted(things: Iterable[T], what: str) -> Iterator[T]:
    """Pass things on, logging every few seconds how many there are so far."""
    due = time.monotonic() + PROGRESS_SECONDS
    for count, thing in enumerate(things, 1):
        yield thing
        if time.monotonic() > due:
            log.info("listing %s: %s so far", what, f"{count:,}")
            due = time.monotonic() + PROGRESS_SECONDS


class Problems:
    """What is wrong with a listing, collected so that it is reported together."""

    _SHOWN = 3

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, kind: str, example: str) -> None:
        """Note one problem of a kind, such as ``missing files``."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] <= self._SHOWN:
            self._found.setdefault(kind, []).append(example)

    def count(self, kind: str) -> int:
        """Return how many of a kind were noted."""
        return self._counts.get(kind, 0)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        return "; ".join(
            f"{count:,} {_one(kind) if count == 1 else kind} "
            f"({', '.join(self._found[kind])}{', …' if count > self._SHOWN else ''})"
            for kind, count in self._counts.items()
        )


def _one(kind: str) -> str:
    """Return the singular of a kind of problems: ``missing files`` is missing file."""
    text = re.sub(r"\b(file|path|split|row|name|number|line|column)s\b", r"\1", kind, count=1)
    return text.replace(" that are ", " that is ").replace(" of their files", " of its file")


def folder_name(name: str) -> str:
    """Return a name with nothing but letters without accents, digits, ``.``, ``_`` and ``-``, for folders we make."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", letters).strip(".-") or "source"
