"""What a source is: items in an order of its own, read one at a time; nothing here decodes an image."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from featcache.errors import ImageError

log = logging.getLogger(__name__)

T = TypeVar("T")

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation",
               "test": "test"}  # fmt: skip
"""What folders, columns, keys and files may call a split, in lower case."""

PROGRESS_SECONDS = 5.0
"""How often a listing that takes long says how far it is."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a source.

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
    """

    path: str
    label: str | None
    split: str | None
    size: int
    mtime_ns: int
    group: str | None = None
    place: int = 0


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
    return sorted({item.label for item in items if item.label is not None})


def label_name(value: Any) -> str | None:
    """Return the class name that a label stands for: its text; None if there is none.

    Raises
    ------
    ValueError
        If it is neither text, an integer nor None.
    """
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

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        return "; ".join(
            f"{count:,} {kind} ({', '.join(self._found[kind])}{', …' if count > self._SHOWN else ''})"
            for kind, count in self._counts.items()
        )


def folder_name(name: str) -> str:
    """Return a name with nothing but letters, digits, ``.``, ``_`` and ``-``, for folders we make."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "source"
