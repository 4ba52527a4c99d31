"""Columns of listings that may have many millions of rows: texts and words without an object for each."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer[Any]]

PIECE = 1 << 16
"""Rows that are objects at a time while a column is made."""


def encoded(text: str) -> bytes:
    """Return a text's bytes; those of a file's name that are not UTF-8 are kept."""
    return text.encode("utf-8", "surrogateescape")


class Texts(Sequence[str]):
    """Texts that are mostly different, such as paths: all in `content`, each up to its place in `ends`, shape (n,)."""

    def __init__(self, content: bytes, ends: npt.NDArray[np.int64]) -> None:
        self.content, self.ends = content, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Return any texts as such a column."""
        return cls.joined(list(map(encoded, piece)) for piece in in_pieces(texts))

    @classmethod
    def joined(cls, pieces: Iterable[list[bytes]]) -> Texts:
        """Return the column of some lists of encoded texts, one list after the other."""
        contents, lengths = [], [np.empty(0, np.int64)]
        for piece in pieces:
            contents.append(b"".join(piece))
            lengths.append(np.fromiter(map(len, piece), np.int64, len(piece)))
        return cls(b"".join(contents), np.cumsum(np.concatenate(lengths)))

    def raw(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes of some texts, of all by default."""
        ends = self.ends[start:stop]
        begin = int(self.ends[start - 1]) if start else 0
        for first in range(0, len(ends), PIECE):
            for end in ends[first : first + PIECE].tolist():
                yield self.content[begin:end]
                begin = end

    def take(self, rows: Ints) -> Texts:
        """Return some rows."""

        def pieces() -> Iterator[list[bytes]]:
            for first in range(0, len(rows), PIECE):
                some = rows[first : first + PIECE]
                begins, ends = np.where(some > 0, self.ends[some - 1], 0), self.ends[some]
                yield [self.content[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]

        return Texts.joined(pieces())

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        return (text.decode("utf-8", "surrogateescape") for text in self.raw())

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return list(self.take(np.arange(len(self))[row]))
        row = range(len(self))[row]
        begin = int(self.ends[row - 1]) if row else 0
        return self.content[begin : int(self.ends[row])].decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Texts):
            return NotImplemented
        return self.content == other.content and np.array_equal(self.ends, other.ends)

    __hash__ = None  # type: ignore[assignment]


class Words(Sequence[str | None]):
    """Words of which there are few, such as class names; equal columns have equal codes.

    `codes` (n,) are indices into `names`, -1 for none. Names that no row has are dropped, the others sorted. Codes have
    as few bytes as hold them: compare them, look them up in tables, and compute with `numbers`.
    """

    def __init__(self, codes: Ints, names: Sequence[str]) -> None:
        used = np.zeros(len(names) + 1, bool)
        used[codes] = True  # -1 marks the last one, which is no name
        kept = sorted((name, i) for i, name in enumerate(names) if used[i])
        self.names = [name for name, _ in kept]
        kind = next(kind for kind in (np.int8, np.int16, np.int32) if len(kept) <= np.iinfo(kind).max)
        number = np.full(len(names) + 1, -1, kind)
        number[[i for _, i in kept]] = np.arange(len(kept))
        self.codes: npt.NDArray[Any] = number[codes] if kept else np.broadcast_to(np.int8(-1), len(codes))

    @classmethod
    def of(cls, words: Iterable[str | None]) -> Words:
        """Return any words as such a column."""
        coder = Coder()
        for piece in in_pieces(words):
            coder.add(piece)
        return coder.words()

    def take(self, rows: Ints) -> Words:
        """Return some rows."""
        return Words(self.codes[rows], self.names)

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """The codes as integers that sums and products fit into, shape (n,)."""
        return self.codes.astype(np.int64)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """How many rows each name has, shape (len(names),)."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))

    def among(self, names: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return each row's index in other names, shape (n,), -1 where it has no word or theirs is not there."""
        index = {name: i for i, name in enumerate(names)}
        found: npt.NDArray[np.int64] = np.array([*(index.get(name, -1) for name in self.names), -1])[self.codes]
        return found

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[str | None]:
        table = [*self.names, None]
        for first in range(0, len(self), PIECE):
            yield from map(table.__getitem__, self.codes[first : first + PIECE].tolist())

    @overload
    def __getitem__(self, row: int) -> str | None: ...
    @overload
    def __getitem__(self, row: slice) -> list[str | None]: ...
    def __getitem__(self, row: int | slice) -> str | list[str | None] | None:
        table = [*self.names, None]
        if isinstance(row, slice):
            return [table[code] for code in self.codes[row].tolist()]
        return table[int(self.codes[row])]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Words):
            return NotImplemented
        return self.names == other.names and np.array_equal(self.codes, other.codes)

    __hash__ = None  # type: ignore[assignment]


class Coder:
    """Makes a column of words that come piece by piece."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._codes = [np.empty(0, np.int32)]

    def add(self, words: Sequence[str | None]) -> None:
        """Note the next words."""
        known = self._numbers
        codes = (-1 if word is None else known.setdefault(word, len(known)) for word in words)
        self._codes.append(np.fromiter(codes, np.int32, len(words)))

    def words(self) -> Words:
        """Return all of them."""
        return Words(np.concatenate(self._codes), list(self._numbers))


def in_pieces(things: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield any things in lists of `PIECE`."""
    waiting = iter(things)
    while piece := list(itertools.islice(waiting, PIECE)):
        yield piece
