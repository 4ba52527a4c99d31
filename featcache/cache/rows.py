"""Where each row of a cache lies, found by its image's digest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.cache.shard import Key
from featcache.sources import Digests
from featcache.sources.columns import Ints


class Place(NamedTuple):
    """Where a row lies."""

    shard: int
    position: int


class RowTable(Mapping[Key, Place]):
    """The rows of all shards in columns, those of a shard in one piece; of equal keys the first counts.

    `digests` have shape (m, 32), the others (m,); `augmentations` are indices into `policies`, which are fingerprints.
    """

    def __init__(
        self,
        digests: npt.NDArray[np.uint8],
        views: npt.NDArray[np.uint16],
        augmentations: Ints,
        policies: Sequence[str],
        shards: Ints,
        positions: Ints,
    ) -> None:
        self.digests, self.views, self.shards, self.positions = digests, views, shards, positions
        self._augmentations, self._policies = augmentations, list(policies)
        self._found: dict[tuple[int, str], tuple[Digests, npt.NDArray[np.int64] | None]] = {}

    def find(self, digests: npt.NDArray[np.uint8], view: int = 0, augmentation: str = "") -> npt.NDArray[np.int64]:
        """Return the row of a view of each of some images (k, 32), shape (k,); -1 where there is none."""
        known, rows = self._of(view, augmentation)
        found = known.find(digests)
        return found if rows is None else np.where(found < 0, -1, np.append(rows, -1)[found])

    def _of(self, view: int, augmentation: str) -> tuple[Digests, npt.NDArray[np.int64] | None]:
        """Return the digests of all rows of a view, and which rows they are (None: all)."""
        if (view, augmentation) not in self._found:
            chosen = self.views == view
            if view:
                policy = self._policies.index(augmentation) if augmentation in self._policies else -1
                chosen &= self._augmentations == policy
            rows = None if chosen.all() else np.flatnonzero(chosen)
            self._found[view, augmentation] = Digests(self.digests if rows is None else self.digests[rows]), rows
        return self._found[view, augmentation]

    @cached_property
    def _pieces(self) -> dict[int, slice]:
        numbers, starts, counts = np.unique(self.shards, return_index=True, return_counts=True)
        return {int(n): slice(int(a), int(a + k)) for n, a, k in zip(numbers, starts, counts, strict=True)}

    @property
    def numbers(self) -> set[int]:
        """Numbers of the shards that have rows."""
        return set(self._pieces)

    def of_shard(self, number: int) -> slice:
        """Return which rows a shard has."""
        return self._pieces.get(number, slice(0, 0))

    def policies_of(self, number: int) -> set[str]:
        """Return the augmentations of a shard's rows, without that of images as they are."""
        rows = self.of_shard(number)
        codes = np.unique(self._augmentations[rows][self.views[rows] > 0])
        return {self._policies[code] for code in codes.tolist()}

    def effective(self) -> npt.NDArray[np.bool_]:
        """Return which rows count: the first of each key, shape (m,)."""
        counts = np.zeros(len(self.views), bool)
        for view in np.unique(self.views).tolist():
            for policy in self._policies if view else [""]:
                known, rows = self._of(view, policy)
                first = known.find(known.rows) == np.arange(len(known))
                counts[first if rows is None else rows[first]] = True
        return counts

    def key(self, row: int) -> Key:
        """Return a row's key."""
        view = int(self.views[row])
        return Key(self.digests[row].tobytes(), view, self._policies[self._augmentations[row]] if view else "")

    def place(self, row: int) -> Place:
        """Return where a row lies."""
        return Place(int(self.shards[row]), int(self.positions[row]))

    def __getitem__(self, key: Key) -> Place:
        known, rows = self._of(key.view, key.augmentation)
        found = known.row(key.digest)
        if found < 0:
            raise KeyError(key)
        return self.place(found if rows is None else int(rows[found]))

    def __iter__(self) -> Iterator[Key]:
        return (self.key(int(row)) for row in np.flatnonzero(self.effective()))

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        return int(self.effective().sum())

    def __bool__(self) -> bool:
        return len(self.views) > 0


@dataclass(frozen=True)
class ChosenRows:
    """Some rows, each column of shape (n,); `images` are indices into the images that have features."""

    images: npt.NDArray[np.int64]
    views: Ints
    shards: Ints
    positions: Ints

    def take(self, rows: npt.NDArray[np.int64]) -> ChosenRows:
        """Return some of them."""
        return ChosenRows(self.images[rows], self.views[rows], self.shards[rows], self.positions[rows])

    def as_stored(self) -> ChosenRows:
        """Return them in the order in which they lie in the shards."""
        return self.take(by_place(self.shards, self.positions))


def by_place(shards: Ints, positions: Ints) -> npt.NDArray[np.int64]:
    """Return the order in which rows are stored."""
    return np.argsort(shards.astype(np.int64) << 32 | positions, kind="stable")


def taken(column: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return some rows of a column; the column itself, uncopied, if they are all in order."""
    everything = len(rows) == len(column) and bool((rows == np.arange(len(rows))).all())
    return column if everything else column[rows]
