"""The table ``listing`` of a manifest: columns in pieces of 65,536 images, and what was settled since."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache import checks
from featcache.cache.listing import Listing
from featcache.errors import CacheError
from featcache.files.values import MOST
from featcache.sources import SPLITS, Texts, Words

PIECE = 65_536
"""Images in one row of the table."""

SCHEMA = """
CREATE TABLE listing (name TEXT NOT NULL, first INTEGER NOT NULL, content BLOB NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (name, first));
CREATE TABLE settled (id INTEGER PRIMARY KEY, positions BLOB NOT NULL, splits BLOB NOT NULL, digests BLOB NOT NULL,
    known BLOB NOT NULL, reasons BLOB NOT NULL, crc INTEGER NOT NULL);
"""

_REGIONS = "regions"
"""Which part of a file an image is; empty in every piece, as images are whole files so far."""

_NUMBERS = {"ends": "<u4", "labels": "<i4", "splits": "i1", "groups": "<i4", "known": "u1"}
_NUMBERS |= dict.fromkeys(("sizes", "stamps", "changes"), "<i8")
_SPARSE = ("labels", "splits", "groups")
"""Columns that are empty where no image of a piece has a value."""
_RANGES = {"splits": (-1, len(SPLITS) - 1), "labels": (-1, MOST), "groups": (-1, MOST), "known": (0, 1)}
"""What the numbers of a column may be, where not all make sense."""
_STATE = ("splits", "digests", "known", "reasons")
"""Columns that an extraction settles, image by image."""

Read = Callable[[str, Sequence[Any]], Iterator[tuple[Any, ...]]]
"""Yields the checked rows of a query with its values."""


def load(name: str, images: int, settled: int, read: Read) -> dict[str, Any]:
    """Return a column of a `Listing`, by its name there, with all that must be read at the same moment.

    `images` are listed, and some were settled `settled` times since. Raise `ValueError` if the table is damaged.
    """
    if name in _STATE:
        return _state(images, settled, read)
    if name == "paths":
        return {name: _paths(images, read)}
    if name in ("sizes", "stamps", "changes"):
        return {name: _joined(_numbers(name, images, read), np.int64)}
    number: dict[str, int] = {}
    codes = []
    for piece, text in zip(_numbers(name, images, read), _pieces(f"names of {name}", images, read), strict=True):
        places = [number.setdefault(one, len(number)) for one in checks.names(text, f"names of {name}")]
        if piece.max(initial=-1) >= len(places):
            raise ValueError(f"{name} has {piece.max()}, and there are {len(places)} names")
        codes.append(np.array([*places, -1], np.int32)[piece])
    return {name: Words(_joined(codes, np.int32), list(number))}


def _paths(images: int, read: Read) -> Texts:
    if any(_pieces(_REGIONS, images, read)):
        raise CacheError(
            "This cache has images that are parts of files. Update featcache, which reads whole files only."
        )
    contents = list(_pieces("paths", images, read))
    starts = np.cumsum([0, *map(len, contents)]).tolist()
    pieces = []
    for piece, content in zip(_numbers("ends", images, read), contents, strict=True):
        if piece[-1] != len(content) or (piece[1:] < piece[:-1]).any() or b"\0" in content:
            raise ValueError("its paths do not end where it says")
        pieces.append(piece)
    return Texts(b"".join(contents), ends_in_all(pieces, starts))


def ends_in_all(pieces: Iterable[npt.NDArray[Any]], starts: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return where texts end in all their bytes, from where they end in those of their piece, and where that starts."""
    return _joined([ends.astype(np.int64) + start for ends, start in zip(pieces, starts, strict=False)], np.int64)


def _state(images: int, settled: int, read: Read) -> dict[str, Any]:
    """Return what is known of the images by now."""
    splits = _joined(_numbers("splits", images, read), np.int8)
    known = _joined(_numbers("known", images, read), np.uint8).astype(bool)
    digests = np.zeros((images, 32), np.uint8)
    reasons: dict[int, str] = {}
    for i, content in enumerate(_pieces("digests", images, read)):
        part = slice(i * PIECE, (i + 1) * PIECE)
        if content or known[part].any():
            digests[part] = _digests(content, len(known[part]))
    for i, text in enumerate(_pieces("reasons", images, read)):
        own = checks.reasons(text, min(PIECE, images - i * PIECE))
        reasons.update({i * PIECE + place: reason for place, reason in own.items()})
    query = "SELECT id, positions, splits, digests, known, reasons, crc FROM settled ORDER BY id"
    count = 0
    for _, positions, own_splits, own_digests, own_known, text in read(query, ()):
        count += 1
        n = len(own_splits)
        at = checks.numbers(positions, "<i8", "positions", count=n, low=0, high=images - 1)
        if len(np.unique(at)) != len(at):
            raise ValueError("one image is settled twice at once")
        splits[at] = checks.numbers(own_splits, "i1", "splits", count=n, low=-1, high=len(SPLITS) - 1)
        digests[at] = _digests(own_digests, n)
        known[at] = checks.numbers(own_known, "u1", "known", count=n, low=0, high=1)
        for place in reasons.keys() & set(at.tolist()) if reasons else ():
            del reasons[place]
        reasons.update({int(at[place]): reason for place, reason in checks.reasons(text, n).items()})
    if count != settled:
        raise ValueError(f"it settled images {count} times instead of {settled}")
    return {"splits": Words(splits, SPLITS), "digests": digests, "known": known, "reasons": reasons}


def _numbers(name: str, images: int, read: Read) -> Iterator[npt.NDArray[Any]]:
    """Yield the pieces of a column of numbers, -1 where an image has none."""
    low, high = _RANGES.get(name, (-MOST - 1, MOST))
    for i, content in enumerate(_pieces(name, images, read)):
        count = min(PIECE, images - i * PIECE)
        if not content and name in _SPARSE:
            yield np.full(count, -1)
        else:
            yield checks.numbers(content, _NUMBERS[name], name, count=count, low=low, high=high)


def _digests(content: bytes, count: int) -> npt.NDArray[np.uint8]:
    return checks.numbers(content, "u1", "digests", count=32 * count, low=0, high=255).reshape(-1, 32)


def _pieces(name: str, images: int, read: Read) -> Iterator[bytes]:
    """Yield all pieces of a column."""
    wanted = iter(range(0, images, PIECE))
    query = "SELECT name, first, content, crc FROM listing WHERE name = ? ORDER BY first"
    for _, first, content in read(query, (name,)):
        if first != next(wanted, None):
            raise ValueError(f"images from {first} on are not where they belong in its listing")
        yield content
    if next(wanted, None) is not None:
        raise ValueError("images are missing from its listing")


def _joined(pieces: Iterator[npt.NDArray[Any]] | list[npt.NDArray[Any]], kind: Any) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, kind), *(piece.astype(kind, copy=False) for piece in pieces)])


def rows(listing: Listing) -> Iterator[tuple[str, int, bytes]]:
    """Yield the rows of the table that hold a listing: name, first and content."""
    if not set(listing.splits.names) <= set(SPLITS):
        raise ValueError(f"Expected splits to be of {SPLITS}. Received: {listing.splits.names}.")
    splits = listing.splits.among(SPLITS)
    for first in range(0, len(listing), PIECE):
        part = slice(first, first + PIECE)
        begin = int(listing.paths.ends[first - 1]) if first else 0
        ends = listing.paths.ends[part]
        yield "paths", first, listing.paths.content[begin : int(ends[-1])]
        yield _REGIONS, first, b""
        yield "digests", first, listing.digests[part].tobytes() if listing.known[part].any() else b""
        numbers: dict[str, npt.NDArray[Any]] = {"ends": ends - begin, "splits": splits[part]}
        numbers |= {name: getattr(listing, name)[part] for name in ("sizes", "stamps", "changes", "known")}
        for name, words in (("labels", listing.labels), ("groups", listing.groups)):
            some = Words(words.codes[part], words.names)
            numbers[name] = some.codes
            yield f"names of {name}", first, json.dumps(some.names).encode()
        for name, values in numbers.items():
            empty = name in _SPARSE and (values < 0).all()
            yield name, first, b"" if empty else values.astype(_NUMBERS[name]).tobytes()
        own = {str(i - first): reason for i, reason in listing.reasons.items() if first <= i < first + PIECE}
        yield "reasons", first, json.dumps(own).encode()
