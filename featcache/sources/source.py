"""What a source is: items in an order of its own, read one at a time; nothing here decodes an image."""

from __future__ import annotations

import hashlib
import logging
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
import numpy.typing as npt

from featcache.errors import ImageError, about_image
from featcache.sources.columns import Coder, Ints, Texts, Words, encoded, in_pieces

log = logging.getLogger(__name__)

T = TypeVar("T")
SPLITS = ("train", "validation", "test")
PROGRESS_SECONDS = 5.0
"""How often a listing that takes long says how far it is."""


class Item(NamedTuple):
    """One image of a source; a tuple, as there are millions and one is made eight times as fast as a dataclass.

    `path` is unique in the source; of files relative to it, with ``/`` (bytes that are not UTF-8 are surrogates).
    `split` is one of `SPLITS`, None if the source brings none; images of one `group` are on one side of every split.
    `mtime_ns` is another number when the image has changed: of a file its time stamp in nanoseconds, of what is in
    memory a part of its digest. `place` is where the source finds it, if the path does not say. `changes` is of a file
    what `files.publishing.change_stamp` returned before it was read; 0: read it again next time.
    """

    path: str
    label: str | None
    split: str | None
    size: int
    mtime_ns: int
    group: str | None = None
    place: int = 0
    changes: int = 0


@dataclass(eq=False, repr=False)
class Items(Sequence[Item]):
    """The items of a source in columns: a hundred bytes each; an `Item` is made when one is asked for.

    `stamps` are the items' ``mtime_ns``; arrays are int64 of shape (n,).
    """

    paths: Texts
    labels: Words
    splits: Words
    groups: Words
    sizes: Ints
    stamps: Ints
    places: Ints
    changes: Ints

    @classmethod
    def of(cls, items: Iterable[Item]) -> Items:
        """Return any items in columns; a few thousand at a time are objects."""
        if isinstance(items, Items):
            return items
        labels, splits, groups = Coder(), Coder(), Coder()
        numbers = [np.empty((0, 4), np.int64)]

        def pieces() -> Iterator[list[bytes]]:
            for piece in in_pieces(items):
                labels.add([item.label for item in piece])
                splits.add([item.split for item in piece])
                groups.add([item.group for item in piece])
                own = [(item.size, item.mtime_ns, item.place, item.changes) for item in piece]
                numbers.append(np.array(own, np.int64))
                yield [encoded(item.path) for item in piece]

        paths = Texts.joined(pieces())
        columns = np.ascontiguousarray(np.concatenate(numbers).T)
        return cls(paths, labels.words(), splits.words(), groups.words(), *columns)

    def take(self, rows: Ints) -> Items:
        """Return some of them."""
        words = self.labels.take(rows), self.splits.take(rows), self.groups.take(rows)
        numbers = self.sizes[rows], self.stamps[rows], self.places[rows], self.changes[rows]
        return Items(self.paths.take(rows), *words, *numbers)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Item]:
        numbers = map(int, self.sizes), map(int, self.stamps)
        others = map(int, self.places), map(int, self.changes)
        return map(Item, self.paths, self.labels, self.splits, *numbers, self.groups, *others)

    @overload
    def __getitem__(self, row: int) -> Item: ...
    @overload
    def __getitem__(self, row: slice) -> Items: ...
    def __getitem__(self, row: int | slice) -> Item | Items:
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        size, stamped, place, changes = int(self.sizes[row]), int(self.stamps[row]), self.places[row], self.changes[row]
        words = self.paths[row], self.labels[row], self.splits[row]
        return Item(*words, size, stamped, self.groups[row], int(place), int(changes))


@runtime_checkable
class Source(Protocol):
    """What every source offers.

    `name` is short, used for folders; `location` is an absolute path, or the name of a set that has none; `items` are
    all images in the source's order; `sequential` says whether it must be read in this order to be fast.
    """

    name: str
    location: str
    sequential: bool

    @property
    def items(self) -> Sequence[Item]:
        """All images, in the source's order."""

    def read(self, item: Item, /) -> bytes | npt.NDArray[Any]:
        """Return an image's encoded bytes or its pixels; raise `ImageError` with the reason."""


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


def split_order(part: Any) -> int:
    """Return the place of a thing's split in `SPLITS`, to sort by."""
    return SPLITS.index(part.split or "train")


def label_name(value: Any) -> str | None:
    """Return the class name that a label stands for: its text; None if there is none. Other types: `ValueError`."""
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


def folder_name(name: str) -> str:
    """Return a name with nothing but letters without accents, digits, ``.``, ``_`` and ``-``, for folders we make."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", letters).strip(".-") or "source"
