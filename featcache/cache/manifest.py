"""The manifest: a SQLite file that says which rows exist, where, and which image is which.

Tables: ``meta`` (key, JSON value), ``shards``, ``blocks`` (checksums), ``rows`` (the digests and views of each shard's
rows), ``listing`` (the source's images in its order: a piece of a column a row) and ``settled`` (what became of some
of them since). Every row ends in ``crc``, CRC-32 of its other columns, a byte 0x1f after each: integers in decimal,
``t`` and the text, ``x`` and a blob. ``meta`` also counts images and rows, so that none can vanish unnoticed.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache.listing import Entry, Listing
from featcache.cache.rows import Place, RowTable
from featcache.cache.shard import Key, ShardInfo
from featcache.errors import CacheDamagedError, CacheError
from featcache.recipe import FORMAT_VERSION
from featcache.sources import SPLITS, Texts, Words
from featcache.sources.columns import encoded

__all__ = ["Entry", "Manifest", "Place", "has_shards"]

PIECE = 65_536
"""Images in one row of the table ``listing``."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE shards (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, rows INTEGER NOT NULL,
    size INTEGER NOT NULL, checksum INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE blocks (shard INTEGER NOT NULL, layer TEXT NOT NULL, offset INTEGER NOT NULL,
    checksums BLOB NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (shard, layer)) WITHOUT ROWID;
CREATE TABLE rows (shard INTEGER PRIMARY KEY, augmentation TEXT NOT NULL, digests BLOB NOT NULL,
    views BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE listing (name TEXT NOT NULL, first INTEGER NOT NULL, content BLOB NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (name, first));
CREATE TABLE settled (id INTEGER PRIMARY KEY, positions BLOB NOT NULL, splits BLOB NOT NULL, digests BLOB NOT NULL,
    known BLOB NOT NULL, reasons BLOB NOT NULL, crc INTEGER NOT NULL);
"""

_NUMBERS = {"ends": "<u4", "labels": "<i4", "splits": "i1", "groups": "<i4", "sizes": "<i8", "stamps": "<i8",
            "known": "u1"}  # fmt: skip
_STATE = ("splits", "digests", "known", "reasons")
"""Columns that an extraction settles, image by image."""


def _crc(*values: Any) -> int:
    crc = 0
    for value in values:
        if isinstance(value, bytes):
            crc = zlib.crc32(value, zlib.crc32(b"x", crc))
        elif value is not None:
            crc = zlib.crc32(b"t" + encoded(value) if isinstance(value, str) else b"%d" % value, crc)
        crc = zlib.crc32(b"\x1f", crc)
    return crc


class Manifest:
    """An open manifest.

    Parameters
    ----------
    path : Path
        The SQLite file.
    create : bool
        Make it if it does not exist.

    Raises
    ------
    CacheError
        If it does not exist, or has another format version.
    CacheDamagedError
        If it is no SQLite file, or a row read from it does not have its checksum.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self._path = path
        if not create and not path.is_file():
            hint = (
                " Run verify --fix: it rebuilds it from the shards."
                if has_shards(path.parent)
                else " Run extract first."
            )
            raise CacheError(f"Expected a cache. Received: {str(path.parent)!r}, which has no {path.name}.{hint}")
        with self._damage():
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
            self._db.execute("PRAGMA synchronous = FULL")
            if create and not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._db.execute("PRAGMA journal_mode = DELETE")
                with self._transaction():
                    for statement in _SCHEMA.split(";"):
                        self._db.execute(statement)
                    self.set_meta({"format": FORMAT_VERSION})
            found = self.meta().get("format")
        if found != FORMAT_VERSION:
            raise CacheError(
                f"Expected a cache of format {FORMAT_VERSION}. Received: {str(path.parent)!r} of format {found}. "
                "Open it with the version of featcache that wrote it, or extract into another --cache."
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # locked, disk full, read-only
            if str(error).startswith("no such"):
                raise self._damaged(str(error)) from None
            raise CacheError(
                f"Expected to use {str(self._path)!r}. Received: {error}. Check the disk and its permissions."
            ) from None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter from SQLite's own message
            raise self._damaged(str(error)) from None

    def _damaged(self, what: str) -> CacheDamagedError:
        return CacheDamagedError(
            f"Expected a sound manifest. Received: {str(self._path)!r}: {what}. "
            "Run verify --fix: it rebuilds it from the shards."
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Let all that is read be of one moment."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def _checked(self, query: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query without their last column, the checksum, which must be right."""
        with self._damage():
            for row in self._db.execute(query, values):
                if row[-1] != _crc(*row[:-1]):
                    raise self._damaged(f"a row of it does not have its checksum ({query.split(' FROM ')[1]})")
                yield row[:-1]

    def _insert(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        """Insert or replace rows, adding their checksums."""
        for row in rows:
            marks = ", ".join("?" * (len(row) + 1))
            self._db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", (*row, _crc(*row)))

    # Reading

    def meta(self) -> dict[str, Any]:
        """Return all of ``meta``."""
        return {key: json.loads(value) for key, value in self._checked("SELECT key, value, crc FROM meta")}

    def listing(self) -> Listing:
        """Return the source's images in its order; columns are read when they are first used."""
        meta = self.meta()
        images, version = int(meta.get("images", 0)), meta.get("version")

        def load(name: str) -> dict[str, Any]:
            with self._damage(), self._reading():
                if self.meta().get("version") != version:
                    raise CacheError(
                        f"Expected the listing that {str(self._path.parent)!r} was opened with. Received: another, "
                        "of an extraction since. Open the cache again."
                    )
                return self._state(images) if name in _STATE else {name: self._column(name, images)}

        return Listing(images, load)

    def _column(self, name: str, images: int) -> Any:
        """Return a column that does not change while images are settled."""
        if name == "paths":
            ends = list(self._numbers("ends", images))
            contents = list(self._pieces("paths", images))
            if any((int(e[-1]) if len(e) else 0) != len(c) or (np.diff(e.astype(np.int64)) < 0).any()
                   for e, c in zip(ends, contents, strict=True)):  # fmt: skip
                raise self._damaged("paths and their ends differ")
            starts = np.cumsum([0, *map(len, contents)])
            return Texts(b"".join(contents), _joined([e + s for e, s in zip(ends, starts, strict=False)], np.int64))
        if name in ("sizes", "stamps"):
            return _joined(list(self._numbers(name, images)), np.int64)
        number: dict[str, int] = {}
        codes = []
        for piece, text in zip(self._numbers(name, images), self._pieces(f"names of {name}", images), strict=True):
            names = self._json(text)
            places = np.array([*(number.setdefault(one, len(number)) for one in names), -1], np.int32)
            if len(piece) and not -1 <= piece.min() <= piece.max() < len(names):
                raise self._damaged(f"{name} without a name")
            codes.append(places[piece])
        return Words(_joined(codes, np.int32), list(number))

    def _state(self, images: int) -> dict[str, Any]:
        """Return what is known of the images by now."""
        splits = _joined(list(self._numbers("splits", images)), np.int8)
        known = _joined(list(self._numbers("known", images)), np.uint8).astype(bool)
        digests = np.zeros((images, 32), np.uint8)
        reasons: dict[int, str] = {}
        for i, content in enumerate(self._pieces("digests", images)):
            part = digests[i * PIECE : (i + 1) * PIECE]
            if content:
                part[:] = self._rows(content, 32, len(part))
        for i, text in enumerate(self._pieces("reasons", images)):
            reasons.update({i * PIECE + int(place): reason for place, reason in self._json(text).items()})
        query = "SELECT id, positions, splits, digests, known, reasons, crc FROM settled ORDER BY id"
        count = 0
        for _, positions, own_splits, own_digests, own_known, text in self._checked(query):
            count += 1
            at = np.frombuffer(positions, "<i8")
            if len(at) and not 0 <= at.min() <= at.max() < images:
                raise self._damaged("it settles an image that it does not list")
            splits[at] = self._rows(own_splits, 1, len(at)).view(np.int8)[:, 0]
            digests[at] = self._rows(own_digests, 32, len(at))
            known[at] = self._rows(own_known, 1, len(at))[:, 0]
            for place in reasons.keys() & set(at.tolist()) if reasons else ():
                del reasons[place]
            reasons.update({int(at[int(place)]): reason for place, reason in self._json(text).items()})
        if count != self.meta().get("settled", 0):
            raise self._damaged(f"it settled images {count} times instead of {self.meta().get('settled', 0)}")
        if images and not -1 <= splits.min() <= splits.max() < len(SPLITS):
            raise self._damaged("it lists an image in a split that is none")
        return {"splits": Words(splits, SPLITS), "digests": digests, "known": known, "reasons": reasons}

    def _numbers(self, name: str, images: int) -> Iterator[npt.NDArray[Any]]:
        """Yield the pieces of a column of numbers; where it is empty, no image has a value."""
        kind = np.dtype(_NUMBERS[name])
        for i, content in enumerate(self._pieces(name, images)):
            count = min(PIECE, images - i * PIECE)
            if not content and kind.kind == "i" and name not in ("sizes", "stamps"):
                yield np.full(count, -1, kind)
            else:
                yield self._rows(content, kind.itemsize, count).view(kind)[:, 0]

    def _rows(self, content: bytes, width: int, count: int) -> npt.NDArray[np.uint8]:
        if len(content) != count * width:
            raise self._damaged(f"a column has {len(content)} bytes instead of {count} times {width}")
        return np.frombuffer(content, np.uint8).reshape(count, width)

    def _pieces(self, name: str, images: int) -> Iterator[bytes]:
        """Yield all pieces of a column of the listing."""
        wanted = iter(range(0, images, PIECE))
        for _, first, content in self._checked(
            "SELECT name, first, content, crc FROM listing WHERE name = ? ORDER BY first", (name,)
        ):
            if first != next(wanted, None):
                raise self._damaged(f"images from {first} on are not where they belong in its listing")
            yield content
        if next(wanted, None) is not None:
            raise self._damaged("images are missing from its listing")

    def _json(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError as error:
            raise self._damaged(str(error)) from None

    def rows(self) -> RowTable:
        """Return where each row lies; of rows in two shards, the later one's."""
        with self._damage(), self._reading():
            count = self.meta().get("rows", 0)
            digests, views = np.empty((count, 32), np.uint8), np.empty(count, np.uint16)
            shards, positions = np.empty(count, np.int32), np.empty(count, np.int32)
            policies = [""]
            augmentations = np.zeros(count, np.int8)
            query = "SELECT shard, augmentation, digests, views, crc FROM rows ORDER BY shard DESC"
            done = 0
            for shard, augmentation, own, own_views in self._checked(query):
                n = len(own_views) // 2
                if done + n > count:
                    break
                part = slice(done, done + n)
                digests[part], views[part] = self._rows(own, 32, n), self._rows(own_views, 2, n).view("<u2")[:, 0]
                shards[part], positions[part] = shard, np.arange(n)
                if augmentation:
                    if augmentation not in policies:
                        policies.append(augmentation)
                        augmentations = augmentations.astype(np.min_scalar_type(-len(policies)))
                    augmentations[part] = policies.index(augmentation)
                done += n
            else:
                if done == count:
                    return RowTable(digests, views, augmentations, policies, shards, positions)
            raise self._damaged(f"it has {done} rows instead of {count}")

    def shards(self) -> dict[int, ShardInfo]:
        """Return every shard by its number."""
        checksums: dict[int, dict[str, Any]] = {}
        offsets: dict[int, dict[str, int]] = {}
        for shard, layer, offset, content in self._checked("SELECT shard, layer, offset, checksums, crc FROM blocks"):
            checksums.setdefault(shard, {})[layer] = np.frombuffer(content, "<u4")
            offsets.setdefault(shard, {})[layer] = offset
        return {
            number: ShardInfo(name, rows, size, checksum, checksums.get(number, {}), offsets.get(number, {}))
            for number, name, rows, size, checksum in self._checked(
                "SELECT id, name, rows, size, checksum, crc FROM shards"
            )
        }

    def integrity(self) -> list[str]:
        """Return what SQLite finds wrong with its file."""
        with self._damage():
            return [text for (text,) in self._db.execute("PRAGMA integrity_check") if text != "ok"]

    # Writing

    def set_meta(self, values: Mapping[str, Any]) -> None:
        """Set values of ``meta``, as part of whatever transaction is open."""
        self._insert("meta", [(key, json.dumps(value)) for key, value in values.items()])

    def replace_listing(self, entries: Iterable[Entry], meta: Mapping[str, Any]) -> None:
        """Make this the source's listing, in one transaction."""
        listing = Listing.of(entries).load()
        with self._damage(), self._transaction():
            self._db.execute("DELETE FROM listing")
            self._db.execute("DELETE FROM settled")
            splits = listing.splits.among(SPLITS)
            if (splits < 0).sum() != (listing.splits.codes < 0).sum():
                raise ValueError(f"Expected splits to be of {SPLITS}. Received: {listing.splits.names}.")
            for first in range(0, len(listing), PIECE):
                self._insert("listing", _piece(listing, splits, first))
            self.set_meta({**meta, "images": len(listing), "settled": 0, "version": uuid.uuid4().hex})

    def commit(self, shard: ShardInfo | None, keys: Sequence[Key], entries: Iterable[tuple[int, Entry]]) -> None:
        """Add a published shard's rows and settle listed images, in one transaction.

        Parameters
        ----------
        shard : ShardInfo or None
            None if images were only settled.
        keys : sequence of Key
            Of the shard's rows, in their order; all augmented views are of one augmentation.
        entries : iterable of (position, Entry)
            Images whose split, digest or reason has changed.
        """
        with self._damage(), self._transaction():
            if shard is not None:
                self._add(shard, keys)
            places, settled = list(zip(*entries, strict=True)) or ((), ())
            if places:
                state = Listing.of(settled)
                reasons = json.dumps({str(i): reason for i, reason in state.reasons.items()}).encode()
                splits = state.splits.among(SPLITS).astype(np.int8).tobytes()
                count = self.meta().get("settled", 0)
                row = (count, np.array(places, "<i8").tobytes(), splits, state.digests.tobytes(),
                       state.known.tobytes(), reasons)  # fmt: skip
                self._insert("settled", [row])
                self.set_meta({"settled": count + 1})

    def replace_shards(self, old: Iterable[int], new: Iterable[tuple[ShardInfo, Sequence[Key]]]) -> None:
        """Drop shards with all their rows and add published ones with theirs, in one transaction."""
        with self._damage(), self._transaction():
            for number in old:
                (views,) = self._db.execute("SELECT views FROM rows WHERE shard = ?", (number,)).fetchone()
                self._count(-len(views) // 2)
                self._db.execute("DELETE FROM rows WHERE shard = ?", (number,))
                self._db.execute("DELETE FROM blocks WHERE shard = ?", (number,))
                self._db.execute("DELETE FROM shards WHERE id = ?", (number,))
            for shard, keys in new:
                self._add(shard, keys)

    def _add(self, shard: ShardInfo, keys: Sequence[Key]) -> None:
        number = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM shards").fetchone()[0]
        self._insert("shards", [(number, shard.name, shard.rows, shard.size, shard.checksum)])
        sums = {layer: found.astype("<u4").tobytes() for layer, found in shard.checksums.items()}
        self._insert("blocks", [(number, layer, shard.offsets[layer], found) for layer, found in sums.items()])
        augmentation = max((key.augmentation for key in keys), default="")
        digests, views = b"".join(key.digest for key in keys), np.array([key.view for key in keys], "<u2").tobytes()
        self._insert("rows", [(number, augmentation, digests, views)])
        self._count(len(keys))

    def _count(self, more: int) -> None:
        self.set_meta({"rows": self.meta().get("rows", 0) + more})


def _joined(pieces: Sequence[npt.NDArray[Any]], kind: Any) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, kind), *pieces]).astype(kind, copy=False)


def _piece(listing: Listing, splits: npt.NDArray[np.int64], first: int) -> Iterator[tuple[str, int, bytes]]:
    """Yield the rows of the table ``listing`` for the images from one on."""
    part = slice(first, first + PIECE)
    begin = int(listing.paths.ends[first - 1]) if first else 0
    ends = listing.paths.ends[part]
    numbers: dict[str, npt.NDArray[Any]] = {"ends": ends - begin, "splits": splits[part], "sizes": listing.sizes[part],
               "stamps": listing.stamps[part], "known": listing.known[part]}  # fmt: skip
    texts: dict[str, Any] = {}
    for name, words in (("labels", listing.labels), ("groups", listing.groups)):
        some = Words(words.codes[part], words.names)
        numbers[name], texts[f"names of {name}"] = some.codes, some.names
    stop = first + len(ends)
    texts["reasons"] = {str(i - first): reason for i, reason in listing.reasons.items() if first <= i < stop}
    yield "paths", first, listing.paths.content[begin : int(ends[-1])]
    yield "digests", first, listing.digests[part].tobytes() if listing.known[part].any() else b""
    for name, values in numbers.items():
        signed = _NUMBERS[name] in ("i1", "<i4")
        yield name, first, b"" if signed and (values < 0).all() else values.astype(_NUMBERS[name]).tobytes()
    for name, value in texts.items():
        yield name, first, json.dumps(value).encode()


def has_shards(folder: Path) -> bool:
    """Whether a cache's folder holds shards."""
    return any((folder / "shards").glob("*.h5"))
