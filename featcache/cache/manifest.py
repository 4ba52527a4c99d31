"""The manifest: a SQLite file that says which rows exist, where, and which image is which.

Tables: ``meta`` (key, JSON value), ``shards``, ``blocks`` (checksums), ``rows`` (digest, view and
augmentation → shard and position) and ``listing`` (the source's images in its order). Every row ends in ``crc``,
CRC-32 of its other columns joined by the byte 0x1f: integers in decimal, ``t`` and the text, ``x`` and a blob in
hexadecimal, NULL as nothing. ``meta`` also counts rows and images, so that none can vanish unnoticed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from featcache.cache.shard import Key, ShardInfo
from featcache.errors import CacheDamagedError, CacheError
from featcache.recipe import FORMAT_VERSION

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE shards (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, rows INTEGER NOT NULL,
    size INTEGER NOT NULL, checksum INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE blocks (shard INTEGER NOT NULL, layer TEXT NOT NULL, offset INTEGER NOT NULL,
    checksums BLOB NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (shard, layer)) WITHOUT ROWID;
CREATE TABLE rows (digest BLOB NOT NULL, view INTEGER NOT NULL, augmentation TEXT NOT NULL,
    shard INTEGER NOT NULL, position INTEGER NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (digest, view, augmentation)) WITHOUT ROWID;
CREATE TABLE listing (position INTEGER PRIMARY KEY, path TEXT NOT NULL, label TEXT, split TEXT, "group" TEXT,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest BLOB, reason TEXT, crc INTEGER NOT NULL);
"""


class Entry(NamedTuple):
    """One image of the source, as the manifest lists it.

    `split` is the settled one and `digest` 32 bytes; both are None until the image was read. `reason`
    says why it has no row.
    """

    path: str
    label: str | None
    split: str | None
    group: str | None
    size: int
    mtime_ns: int
    digest: bytes | None
    reason: str | None


class Place(NamedTuple):
    """Where a row lies."""

    shard: int
    position: int


def _crc(*values: Any) -> int:
    parts = [f"t{v}" if isinstance(v, str) else f"{v:d}" if isinstance(v, int) else
             "" if v is None else f"x{v.hex()}" for v in values]  # fmt: skip
    return zlib.crc32(_encoded("\x1f".join(parts)))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


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
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
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

    def _checked(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query without their last column, the checksum, which must be right."""
        with self._damage(), _uncollected():
            for row in self._db.execute(query):
                values = row[:-1]
                if row[-1] != _crc(*values):
                    raise self._damaged(f"a row of it does not have its checksum ({query.split(' FROM ')[1]})")
                yield values

    def _insert(self, table: str, rows: Iterable[Sequence[Any]], *, text: Sequence[int] = ()) -> None:
        """Insert or replace rows, adding their checksums; columns `text` may hold bytes that are not UTF-8."""
        marks: list[str] = []

        def prepared() -> Iterator[tuple[Any, ...]]:
            for row in rows:
                encoded = [_encoded(v) if i in text and v is not None else v for i, v in enumerate(row)]
                yield (*encoded, _crc(*row))

        stream = prepared()
        for first in stream:
            marks = ["CAST(? AS TEXT)" if i in text else "?" for i in range(len(first))]
            statement = f"INSERT OR REPLACE INTO {table} VALUES ({', '.join(marks)})"
            self._db.execute(statement, first)
            self._db.executemany(statement, stream)

    # Reading

    def meta(self) -> dict[str, Any]:
        """Return all of ``meta``."""
        return {key: json.loads(value) for key, value in self._checked("SELECT key, value, crc FROM meta")}

    def listing(self) -> list[Entry]:
        """Return the source's images in its order."""
        query = (
            'SELECT position, path, label, split, "group", size, mtime_ns, digest, reason, crc FROM listing '
            "ORDER BY position"
        )
        entries: list[Entry] = []
        names: dict[str | None, str | None] = {}  # a label is one string, however many images have it
        for position, values in enumerate(self._checked(query)):
            if values[0] != position:
                raise self._damaged(f"image {position} is missing from its listing")
            path, *words, size, stamp, digest, reason = values[1:]
            label, split, group = (names.setdefault(word, word) for word in words)
            entries.append(Entry(path, label, split, group, size, stamp, digest, reason))
        if len(entries) != self.meta().get("images", 0):
            raise self._damaged(f"it lists {len(entries)} images instead of {self.meta().get('images', 0)}")
        return entries

    def rows(self) -> dict[Key, Place]:
        """Return where each row lies."""
        query = "SELECT digest, view, augmentation, shard, position, crc FROM rows"
        rows = {Key._make(values[:3]): Place._make(values[3:]) for values in self._checked(query)}
        if len(rows) != self.meta().get("rows", 0):
            raise self._damaged(f"it has {len(rows)} rows instead of {self.meta().get('rows', 0)}")
        return rows

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
        with self._damage(), self._transaction():
            self._db.execute("DELETE FROM listing")
            numbered = ((position, *entry) for position, entry in enumerate(entries))
            self._insert("listing", numbered, text=(1, 2, 4, 8))
            (images,) = self._db.execute("SELECT count(*) FROM listing").fetchone()
            self.set_meta({**meta, "images": images})

    def commit(self, shard: ShardInfo | None, keys: Sequence[Key], entries: Iterable[tuple[int, Entry]]) -> None:
        """Add a published shard's rows and settle listed images, in one transaction.

        Parameters
        ----------
        shard : ShardInfo or None
            None if images were only settled.
        keys : sequence of Key
            Of the shard's rows, in their order.
        entries : iterable of (position, Entry)
            Images whose entry has changed.
        """
        with self._damage(), self._transaction():
            if shard is not None:
                self._add(shard, keys)
            self._insert("listing", ((position, *entry) for position, entry in entries), text=(1, 2, 4, 8))

    def replace_shards(self, old: Iterable[int], new: Iterable[tuple[ShardInfo, Sequence[Key]]]) -> None:
        """Drop shards with all their rows and add published ones with theirs, in one transaction."""
        with self._damage(), self._transaction():
            for number in old:
                self._count(-self._db.execute("DELETE FROM rows WHERE shard = ?", (number,)).rowcount)
                self._db.execute("DELETE FROM blocks WHERE shard = ?", (number,))
                self._db.execute("DELETE FROM shards WHERE id = ?", (number,))
            for shard, keys in new:
                self._add(shard, keys)

    def _add(self, shard: ShardInfo, keys: Sequence[Key]) -> None:
        number = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM shards").fetchone()[0]
        self._insert("shards", [(number, shard.name, shard.rows, shard.size, shard.checksum)])
        sums = {layer: found.astype("<u4").tobytes() for layer, found in shard.checksums.items()}
        self._insert("blocks", [(number, layer, shard.offsets[layer], found) for layer, found in sums.items()])
        there = "SELECT 1 FROM rows WHERE digest = ? AND view = ? AND augmentation = ?"
        self._count(sum(self._db.execute(there, key).fetchone() is None for key in set(keys)))
        self._insert("rows", ((*key, number, i) for i, key in enumerate(keys)))

    def _count(self, more: int) -> None:
        self.set_meta({"rows": self.meta().get("rows", 0) + more})


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Hold the garbage collector back: it would look through a growing million of tuples again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def has_shards(folder: Path) -> bool:
    """Whether a cache's folder holds shards."""
    return any((folder / "shards").glob("*.h5"))
