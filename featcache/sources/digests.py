"""Many digests as one array, found by their content."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Set
from functools import cached_property

import numpy as np
import numpy.typing as npt

from featcache.sources.columns import PIECE, Texts

Bytes = npt.NDArray[np.uint8]

_PIECE = 1 << 18
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
_MOST = (1 << 64) - 1


class Digests:
    """Rows of bytes, such as digests: uint8, shape (n, w), w being a multiple of 8; rows may be equal.

    They are sorted by 64 bits mixed from all of theirs; what has the same 64 bits is compared whole. So it is right for
    any bytes, and fast for all that nobody has built to be slow.
    """

    def __init__(self, rows: Bytes) -> None:
        self.rows = np.ascontiguousarray(rows)

    @classmethod
    def of(cls, digests: Iterable[bytes], width: int = 32) -> Digests:
        """Return an iterable of bytes of one length as such rows."""
        return cls(np.frombuffer(b"".join(digests), np.uint8).reshape(-1, width))

    @classmethod
    def of_texts(cls, texts: Texts) -> Digests:
        """Return 16 bytes of the SHA-256 of each text."""
        sha256, raw = hashlib.sha256, texts.raw()
        pieces = iter(lambda: b"".join(sha256(text).digest()[:16] for text in itertools.islice(raw, PIECE)), b"")
        return cls.of(pieces, 16)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, digest: object) -> bool:
        return isinstance(digest, bytes) and self.row(digest) >= 0

    def row(self, digest: bytes) -> int:
        """Return what `find` does for one: the first row that is equal, -1 where none is."""
        if not len(self.rows) or len(digest) != self.rows.shape[1]:
            return -1
        hashes, order = self._sorted
        mixed = np.uint64(_mixed_one(digest))
        for at in range(int(hashes.searchsorted(mixed)), len(hashes)):
            if hashes[at] != mixed:
                break
            if self.rows[order[at]].tobytes() == digest:
                return int(order[at])
        return -1

    def find(self, wanted: Bytes) -> npt.NDArray[np.int64]:
        """Return the first row that is equal to each of some others (k, w), shape (k,); -1 where none is."""
        hashes, order = self._sorted
        found = np.full(len(wanted), -1, np.int64)
        for start in range(0, len(wanted), _PIECE):
            part = np.ascontiguousarray(wanted[start : start + _PIECE])
            mixed = _mixed(part)
            left = np.argsort(mixed)  # in order, as memory likes it
            at = np.searchsorted(hashes, mixed[left])
            while len(left):
                inside = at < len(hashes)
                inside[inside] = hashes[at[inside]] == mixed[left[inside]]
                left, at = left[inside], at[inside]
                candidates = order[at]
                same = np.ones(len(left), bool)
                theirs = np.take(_words(self.rows), candidates, axis=0)
                ours = np.take(_words(part), left, axis=0)
                for one, other in zip(theirs.T, ours.T, strict=True):
                    same &= one == other
                found[start + left[same]] = candidates[same]
                left, at = left[~same], at[~same] + 1
        return found

    @cached_property
    def _sorted(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
        starts = range(0, len(self), _PIECE)
        mixed = np.concatenate([np.empty(0, np.uint64), *(_mixed(self.rows[a : a + _PIECE]) for a in starts)])
        order = np.argsort(mixed)
        order = order.astype(np.int32) if len(order) < 2**31 else order
        mixed = mixed[order]
        again = np.append(False, mixed[1:] == mixed[:-1])
        alike = np.flatnonzero(again | np.append(again[1:], False))
        order[alike] = order[alike][np.lexsort((order[alike], mixed[alike]))]
        return mixed, order


class DigestSet(Set[bytes]):
    """A set of SHA-256 digests, shape (n, 32), that takes 32 bytes for each, and as many once one is looked for."""

    def __init__(self, rows: Bytes) -> None:
        self._digests = Digests(np.unique(np.ascontiguousarray(rows).view("S32")).view(np.uint8).reshape(-1, 32))

    @classmethod
    def of(cls, digests: Iterable[bytes]) -> DigestSet:
        """Return any digests as such a set."""
        return digests if isinstance(digests, DigestSet) else cls(Digests.of(digests).rows)

    _from_iterable = of  # type: ignore[assignment]  # what the operators of sets call

    def tobytes(self) -> bytes:
        """Return all of them, sorted, one after the other."""
        return self._digests.rows.tobytes()

    def __contains__(self, digest: object) -> bool:
        return digest in self._digests

    def __iter__(self) -> Iterator[bytes]:
        return map(bytes, self._digests.rows)

    def __len__(self) -> int:
        return len(self._digests)


def _words(rows: Bytes) -> npt.NDArray[np.uint64]:
    return rows.view(np.uint64)


def _mixed(rows: Bytes) -> npt.NDArray[np.uint64]:
    """Return 64 bits of each row, shape (n,)."""
    mixed = np.zeros(len(rows), np.uint64)
    for word in _words(rows).T:
        mixed ^= word
        mixed *= np.uint64(_FACTORS[0])
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(_FACTORS[1])
        mixed ^= mixed >> np.uint64(32)
    return mixed


def _mixed_one(digest: bytes) -> int:
    """Return what `_mixed` does for one, ten times as fast."""
    mixed = 0
    for start in range(0, len(digest), 8):
        mixed ^= int.from_bytes(digest[start : start + 8], sys.byteorder)
        mixed = mixed * _FACTORS[0] & _MOST
        mixed ^= mixed >> 29
        mixed = mixed * _FACTORS[1] & _MOST
        mixed ^= mixed >> 32
    return mixed
