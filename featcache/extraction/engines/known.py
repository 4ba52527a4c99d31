"""Rows that a cache had when a run began, as a file that other processes map."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from featcache.cache.shard import Key
from featcache.files.publishing import publish


class KnownRows:
    """A container of keys in a file, 16 bytes each: a digest of the key, in order.

    Parameters
    ----------
    file : Path
        As `write` made it.
    """

    def __init__(self, file: Path) -> None:
        self._marks = np.memmap(file, "S16", "r")

    def __contains__(self, key: object) -> bool:
        assert isinstance(key, Key)
        mark = _mark(key)
        place = int(np.searchsorted(self._marks, np.bytes_(mark)))
        return place < len(self._marks) and self._marks[place] == mark.rstrip(b"\0")

    @staticmethod
    def write(file: Path, keys: Iterable[Key]) -> None:
        """Write keys, of which there must be one at least."""
        marks = np.frombuffer(b"".join(map(_mark, keys)), "S16").copy()
        marks.sort()
        publish(file, marks.tobytes())


def _mark(key: Key) -> bytes:
    text = key.digest + key.view.to_bytes(2, "big") + key.augmentation.encode()
    return hashlib.blake2b(text, digest_size=16).digest()
