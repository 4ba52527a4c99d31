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

from featcache.cache import pieces
from featcache.cache.listing import Entry, Listing
from featcache.cache.rows import Place, RowTable
from featcache.cache.shard import Key, ShardInfo
from featcache.errors import CacheDamagedError, CacheError
from featcache.recipe import FORMAT_VERSION
from featcache.sources import SPLITS
from featcache.sources.columns import encoded

__all__ = ["Entry", "Manifest", "Place", "has_shards"]

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE shards (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, rows INTEGER NOT NULL,
    size INTEGER NOT NULL, checksum INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE blocks (shard INTEGER NOT NULL, layer TEXT NOT NULL, offset INTEGER NOT NULL,
    checksums BLOB NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (shard, layer)) WITHOUT ROWID;
CREATE TABLE rows (shard INTEGER PRIMARY KEY, augmentation TEXT NOT NULL, digests BLOB NOT NULL,
    views BLOB NOT NULL, crc INTEGER NOT NULL);
"""


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
                " Run `featcache verify --fix`: it makes a new one from the shards."
                if has_shards(path.parent)
                else " Run `featcache extract` first."
            )
            what = f"has no {path.name}" if path.parent.exists() else "does not exist"
            raise CacheError(f"There is no cache in {str(path.parent)!r}: it {what}.{hint}")
        with self._damage():
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
            self._db.execute("PRAGMA synchronous = FULL")
            if create and not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._db.execute("PRAGMA journal_mode = DELETE")
                with self._transaction():
                    for statement in (_SCHEMA + pieces.SCHEMA).split(";"):
                        self._db.execute(statement)
                    self.set_meta({"format": FORMAT_VERSION})
            found = self.meta().get("format")
        if found != FORMAT_VERSION:
            raise CacheError(
                f"The cache {str(path.parent)!r} has format {found}, and this version of featcache reads format "
                f"{FORMAT_VERSION}. Open it with the version of featcache that wrote it, or extract into another "
                "`cache`."
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
                f"The manifest {str(self._path)!r} cannot be used: {error}. Check the disk and the permissions."
            ) from None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter from SQLite's own message
            raise self._damaged(str(error)) from None

    def _damaged(self, what: str) -> CacheDamagedError:
        return CacheDamagedError(
            f"The manifest {str(self._path)!r} is damaged: {what}. Run `featcache verify --fix`: it makes a "
            "new one from the shards."
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
        with self._damage():
            self._db.execute("SAVEPOINT reading")
            try:
                yield
            except ValueError as error:
                raise self._damaged(str(error)) from None
            finally:
                self._db.execute("RELEASE reading")

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
            with self._reading():
                now = self.meta()
                if now.get("version") != version:
                    raise CacheError(
                        f"The cache {str(self._path.parent)!r} was extracted again since it was opened. Open it again."
                    )
                return pieces.load(name, images, now.get("settled", 0), self._checked)

        return Listing(images, load)

    def rows(self) -> RowTable:
        """Return where each row lies; of rows in two shards, the later one's."""
        with self._reading():
            count = self.meta().get("rows", 0)
            digests, views = np.empty((count, 32), np.uint8), np.empty(count, np.uint16)
            shards, positions = np.empty(count, np.int32), np.empty(count, np.int32)
            policies = {"": 0}
            augmentations = np.zeros(count, np.int8)
            query = "SELECT shard, augmentation, digests, views, crc FROM rows ORDER BY shard DESC"
            done = 0
            for shard, augmentation, own, own_views in self._checked(query):
                n = len(own_views) // 2
                if done + n > count:
                    break
                part = slice(done, done + n)
                digests[part], views[part] = (
                    np.frombuffer(own, np.uint8).reshape(n, 32),
                    np.frombuffer(own_views, "<u2"),
                )
                shards[part], positions[part] = shard, np.arange(n)
                if augmentation:
                    if augmentation not in policies:
                        policies[augmentation] = len(policies)
                        augmentations = augmentations.astype(np.min_scalar_type(-len(policies)), copy=False)
                    augmentations[part] = policies[augmentation]
                done += n
            else:
                if done == count:
                    return RowTable(digests, views, augmentations, list(policies), shards, positions)
            raise ValueError(f"it has {done} rows instead of {count}")

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
            self._insert("listing", pieces.rows(listing))
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


def has_shards(folder: Path) -> bool:
    """Whether a cache's folder holds shards."""
    return any((folder / "shards").glob("*.h5"))
