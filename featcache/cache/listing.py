"""The images of a source as a cache lists them, in columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from featcache.sources import Item, Items, Texts, Words
from featcache.sources.columns import PIECE, Ints
from featcache.sources.digests import Bytes

Truths = npt.NDArray[np.bool_]

COLUMNS = ("paths", "labels", "splits", "groups", "sizes", "stamps", "changes", "digests", "known", "reasons")


class Entry(NamedTuple):
    """One image of the source, as the manifest lists it.

    `split` is the settled one and `digest` 32 bytes; both are None until the image was read. `reason`
    says why it has no row. `changes` is that of the source's `Item`, from before the image was read.
    """

    path: str
    label: str | None
    split: str | None
    group: str | None
    size: int
    mtime_ns: int
    digest: bytes | None
    reason: str | None
    changes: int = 0


class Listing(Sequence[Entry]):
    """Images in the source's order; an `Entry` is made when one is asked for.

    `load` returns a column, and others that must be read with it, when it is first used. Digests, shape (n, 32), are
    zeros if an image is not `known`; `reasons` says by position why an image has no row.
    """

    paths: Texts
    labels: Words
    splits: Words
    groups: Words
    sizes: Ints
    stamps: Ints
    changes: Ints
    digests: Bytes
    known: Truths
    reasons: dict[int, str]

    def __init__(self, images: int, load: Callable[[str], Mapping[str, Any]] | None = None, **columns: Any) -> None:
        self._images, self._load = images, load
        vars(self).update(columns)

    def __getattr__(self, name: str) -> Any:
        load = vars(self).get("_load")
        if name not in COLUMNS or load is None:
            raise AttributeError(name)
        for column, values in load(name).items():
            vars(self).setdefault(column, values)
        return vars(self)[name]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Listing:
        """Return any entries in columns; a few thousand at a time are objects."""
        if isinstance(entries, Listing):
            return entries
        digests, known = bytearray(), bytearray()
        reasons: dict[int, str] = {}

        def items() -> Iterator[Item]:
            for i, e in enumerate(entries):
                digests.extend(e.digest or bytes(32))
                known.append(e.digest is not None)
                if e.reason is not None:
                    reasons[i] = e.reason
                yield Item(e.path, e.label, e.split, e.size, e.mtime_ns, e.group, changes=e.changes)

        listed = Items.of(items())
        rows = np.frombuffer(digests, np.uint8).reshape(-1, 32)
        return cls.listed(listed, listed.splits, rows, np.frombuffer(known, bool), reasons)

    @classmethod
    def listed(cls, items: Items, splits: Words, digests: Bytes, known: Truths, reasons: dict[int, str]) -> Listing:
        """Return a source's items as a listing with what is known of them."""
        same = {name: getattr(items, name) for name in ("paths", "labels", "groups", "sizes", "stamps", "changes")}
        return cls(len(items), **same, splits=splits, digests=digests, known=known, reasons=reasons)

    def load(self) -> Listing:
        """Read all columns that were not read yet, and return the same listing."""
        for name in COLUMNS:
            getattr(self, name)
        return self

    @property
    def readable(self) -> Truths:
        """Which images have a digest and no reason against them, shape (n,)."""
        readable = self.known.copy()
        readable[list(self.reasons)] = False
        return readable

    def take(self, rows: npt.NDArray[np.int64]) -> Listing:
        """Return some images; their columns are read when they are used."""
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self

        def load(name: str) -> dict[str, Any]:
            if name == "reasons":
                return {name: {i: self.reasons[row] for i, row in enumerate(rows.tolist()) if row in self.reasons}}
            column = getattr(self, name)
            return {name: column[rows] if isinstance(column, np.ndarray) else column.take(rows)}

        return Listing(len(rows), load)

    def __len__(self) -> int:
        return self._images

    def __iter__(self) -> Iterator[Entry]:
        for start in range(0, len(self), PIECE):
            part = slice(start, start + PIECE)
            rows, known = self.digests[part].tobytes(), self.known[part].tolist()
            digests = (rows[32 * i : 32 * i + 32] if there else None for i, there in enumerate(known))
            reasons = map(self.reasons.get, range(start, start + len(known)))
            paths = (text.decode("utf-8", "surrogateescape") for text in self.paths.raw(start, start + PIECE))
            words = self.labels[part], self.splits[part], self.groups[part]
            sizes, stamps, changes = (column[part].tolist() for column in (self.sizes, self.stamps, self.changes))
            yield from map(Entry, paths, *words, sizes, stamps, digests, reasons, changes)

    @overload
    def __getitem__(self, row: int) -> Entry: ...
    @overload
    def __getitem__(self, row: slice) -> list[Entry]: ...
    def __getitem__(self, row: int | slice) -> Entry | list[Entry]:
        if isinstance(row, slice):
            return list(self.take(np.arange(len(self))[row]))
        row = range(len(self))[row]
        words = self.paths[row], self.labels[row], self.splits[row], self.groups[row]
        size, stamp, changes = (int(column[row]) for column in (self.sizes, self.stamps, self.changes))
        digest = self.digests[row].tobytes() if self.known[row] else None
        return Entry(*words, size, stamp, digest, self.reasons.get(row), changes)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, list):
            return list(self) == other
        if not isinstance(other, Listing):
            return NotImplemented
        return len(self) == len(other) and all(_equal(getattr(self, name), getattr(other, name)) for name in COLUMNS)

    __hash__ = None  # type: ignore[assignment]


def _equal(one: Any, other: Any) -> bool:
    return one is other or (np.array_equal(one, other) if isinstance(one, np.ndarray) else bool(one == other))
