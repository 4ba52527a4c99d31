"""The manifest: a SQLite file that says which rows exist, where, and which image is which; see docs/format.md.

``meta`` counts images and rows, so that none can vanish unnoticed, and names the writer whose changes count.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache import checks, pieces
from featcache.cache.listing import Entry, Listing
from featcache.cache.lock import taken_over
from featcache.cache.rows import Place, RowTable
from featcache.cache.shard import Key, ShardInfo
from featcache.errors import CacheBusyError, CacheDamagedError, CacheError, mending
from featcache.files.reading import odd_file, parsed
from featcache.recipe import FORMAT_VERSION, other_format
from featcache.sources import SPLITS, Texts
from featcache.sources.columns import encoded

__all__ = ["Entry", "Manifest", "Place", "has_shards"]

TARGET = "class"
"""What is predicted of an image: one class. There is no other kind yet."""

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
    """An open manifest; `create` makes one if there is none. What is read has its checksum, or is damaged."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self._path = path
        self._token: str | None = None
        self._claimed: dict[str, Any] = {}
        self._version: str | None = None
        self._listed: Texts | None = None
        self._file: os.stat_result | None = None
        if not create and not path.is_file():
            hint = (
                f" Run {mending(path.parent)}: it makes a new one from the shards."
                if has_shards(path.parent)
                else " Run `featcache extract` first."
            )
            what = f"has no {path.name}" if path.parent.exists() else "does not exist"
            raise CacheError(f"There is no cache in {str(path.parent)!r}: it {what}.{hint}")
        self._check_files()
        with self._damage():
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
            self._db.execute("PRAGMA synchronous = FULL")
            odd = self._db.execute("SELECT name FROM sqlite_master WHERE type NOT IN ('table', 'index')").fetchone()
            if odd:  # a view or a trigger would run when a table is read or written
                raise self._damaged(f"it has {odd[0]!r}, which is no table")
            if create and not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._db.execute("PRAGMA journal_mode = DELETE")
                with self._transaction():
                    if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                        for statement in (_SCHEMA + pieces.SCHEMA).split(";"):
                            self._db.execute(statement)
                        self._set_meta({"format": FORMAT_VERSION, "target": TARGET})
            meta = self.meta()
        if meta.get("format") != FORMAT_VERSION:
            raise CacheError(other_format(f"The cache {str(path.parent)!r}", meta.get("format")))
        if "target" not in meta:
            raise self._damaged("it does not say the kind of target")
        if meta["target"] != TARGET:
            raise CacheError(
                f"The cache {str(path.parent)!r} has targets of the kind {meta['target']!r}, this version of featcache "
                f"reads {TARGET!r}. Update featcache, or choose another `cache`."
            )

    def _check_files(self) -> None:
        """Raise if SQLite would wait for, or read without end from, what is no regular file."""
        for file in (self._path, self._path.with_name(f"{self._path.name}-journal")):
            if (kind := odd_file(file)) is not None:
                raise self._damaged(f"{file.name} is {kind}, not a file")

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
            if "locked" in str(error):
                raise CacheBusyError(
                    f"Another process is in the middle of changing {str(self._path)!r}. Wait for it, or end it if it "
                    "is stopped, then run this again."
                ) from None
            raise CacheError(
                f"The manifest {str(self._path)!r} cannot be used: {error}. Check the disk and the permissions."
            ) from None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter from SQLite's own message
            raise self._damaged(str(error)) from None

    def _damaged(self, what: str) -> CacheDamagedError:
        return CacheDamagedError(
            f"The manifest {str(self._path)!r} is damaged: {what}. Run {mending(self._path.parent)}: it makes a "
            "new one from the shards."
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Make all changes within one transaction, which only the writer of the moment may begin.

        Raise `CacheBusyError` if another process has changed or replaced the manifest since it was claimed.
        """
        if self._db.in_transaction:  # within another one
            yield
            return
        with self.holding():
            self._set_meta({"writer": self._token, "commits": self.meta().get("commits", 0) + 1})
            yield

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Keep all other processes from changing the manifest for a moment; raise `CacheBusyError` as `changing`."""
        with self._damage(), self._transaction():
            try:
                moved = self._file is None or not os.path.samestat(self._file, self._path.stat())
            except FileNotFoundError:
                moved = True
            now = {} if moved else self._writing()
            ours = now.get("writer") == self._token or now == self._claimed
            if moved or not ours or now["version"] != self._version:
                raise taken_over(self._path.parent)
            yield

    def _writing(self) -> dict[str, Any]:
        """Return what tells whether another process has changed the manifest."""
        meta = self.meta()
        return {name: meta.get(name) for name in ("writer", "version", "commits")}

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Let all that is read be of one moment."""
        with self._damage():
            try:
                self._db.execute("SAVEPOINT reading")
                yield
            except ValueError as error:
                raise self._damaged(str(error)) from None
            finally:
                with contextlib.suppress(sqlite3.Error):  # it was not made, or a full disk has rolled all back
                    self._db.execute("RELEASE reading")

    def _checked(self, query: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query without their last column, the checksum, which must be right."""
        with self._damage():
            cursor = self._db.execute(query, values)
            kinds = [checks.COLUMNS.get(column[0], object) for column in cursor.description]
            for row in cursor:
                if not all(map(isinstance, row, kinds)):
                    raise self._damaged(f"a row of it has values of other types ({query.split(' FROM ')[1]})")
                if row[-1] != _crc(*row[:-1]):
                    raise self._damaged(f"a row of it does not have its checksum ({query.split(' FROM ')[1]})")
                yield row[:-1]

    def _insert(self, table: str, rows: Iterable[Sequence[Any]], verb: str = "INSERT") -> None:
        """Insert rows, adding their checksums."""
        for row in rows:
            marks = ", ".join("?" * (len(row) + 1))
            self._db.execute(f"{verb} INTO {table} VALUES ({marks})", (*row, _crc(*row)))

    # Reading

    def meta(self) -> dict[str, Any]:
        """Return all of ``meta``."""
        with self._reading():
            found = {key: parsed(value) for key, value in self._checked("SELECT key, value, crc FROM meta")}
            checks.META(found, "")
            return found

    def listing(self) -> Listing:
        """Return the source's images in its order; columns are read when they are first used."""
        meta = self.meta()
        images, version = meta.get("images", 0), meta.get("version")

        def load(name: str) -> dict[str, Any]:
            with self._reading():
                now = self.meta()
                if now.get("version") != version:
                    raise CacheError(
                        f"The cache {str(self._path.parent)!r} was extracted again since it was opened. Open it again."
                    )
                columns = pieces.load(name, images, now.get("settled", 0), self._checked)
            if version == self._version:
                self._listed = columns.get("paths", self._listed)
            return columns

        return Listing(images, load)

    def rows(self) -> RowTable:
        """Return where each row lies; of rows in two shards, the later one's."""
        with self._reading():
            count = self.meta().get("rows", 0)
            (there,) = self._db.execute("SELECT coalesce(sum(length(digests)), 0) FROM rows").fetchone()
            if there != 32 * count:  # before memory is taken for so many
                raise ValueError(f"it has {there // 32} rows instead of {count}")
            known = dict(self._db.execute("SELECT id, rows FROM shards").fetchall())
            digests, views = np.empty((count, 32), np.uint8), np.empty(count, np.uint16)
            shards, positions = np.empty(count, np.int32), np.empty(count, np.int32)
            policies = {"": 0}
            augmentations = np.zeros(count, np.int8)
            query = "SELECT shard, augmentation, digests, views, crc FROM rows ORDER BY shard DESC"
            done = 0
            for shard, augmentation, own, own_views in self._checked(query):
                n = len(own_views) // 2
                if known.get(shard) != n or len(own) != 32 * n:
                    raise ValueError(f"it has {n} rows of shard {shard} instead of {known.get(shard)}")
                if done + n > count:
                    break
                part = slice(done, done + n)
                digests[part] = np.frombuffer(own, np.uint8).reshape(n, 32)
                views[part] = np.frombuffer(own_views, "<u2")
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

    def stored(self) -> tuple[RowTable, dict[int, ShardInfo]]:
        """Return where each row lies, and the shards of the same moment: their numbers are given again later."""
        with self._reading():
            return self.rows(), self.shards()

    def shards(self) -> dict[int, ShardInfo]:
        """Return every shard by its number."""
        checksums: dict[int, dict[str, Any]] = {}
        offsets: dict[int, dict[str, int]] = {}
        with self._reading():
            query = "SELECT shard, layer, offset, checksums, crc FROM blocks"
            for shard, layer, offset, content in self._checked(query):
                checksums.setdefault(shard, {})[layer] = np.frombuffer(content, "<u4")
                offsets.setdefault(shard, {})[layer] = offset
            found = {
                number: ShardInfo(name, rows, size, checksum, checksums.pop(number, {}), offsets.get(number, {}))
                for number, name, rows, size, checksum in self._checked(
                    "SELECT id, name, rows, size, checksum, crc FROM shards"
                )
            }
            for number, info in found.items():
                checks.shard(number, info)
            if checksums or len({info.name for info in found.values()}) < len(found):
                raise ValueError("shards and their blocks do not agree")
        return found

    def shard_names(self) -> set[str]:
        """Return the file names of all shards."""
        return {name for (_, name, *_) in self._checked("SELECT id, name, rows, size, checksum, crc FROM shards")}

    def integrity(self) -> list[str]:
        """Return what SQLite finds wrong with its file."""
        with self._damage():
            return [text for (text,) in self._db.execute("PRAGMA integrity_check") if text != "ok"]

    # Writing

    def claim(self, token: str) -> Manifest:
        """Prepare to change the manifest, as it is now, with a token that no other writer has, and return it.

        The first change writes the token, so that an opening which changes nothing leaves the file as it is. Of two
        writers the first to change it goes on; the other one fails, as does whoever wrote before.
        """
        self._token, self._file, self._claimed = token, self._path.stat(), self._writing()
        self._version = self._claimed["version"]
        return self

    def set_meta(self, values: Mapping[str, Any]) -> None:
        """Set values of ``meta``."""
        with self.changing():
            self._set_meta(values)

    def _set_meta(self, values: Mapping[str, Any]) -> None:
        self._insert("meta", [(key, json.dumps(value)) for key, value in values.items()], "INSERT OR REPLACE")

    def replace_listing(self, entries: Iterable[Entry], meta: Mapping[str, Any]) -> None:
        """Make this the source's listing, in one transaction."""
        listing, version = Listing.of(entries).load(), uuid.uuid4().hex
        with self.changing():
            self._db.execute("DELETE FROM listing")
            self._db.execute("DELETE FROM settled")
            self._insert("listing", pieces.rows(listing))
            own = {"images": len(listing), "settled": 0, **self._writing(), "version": version}
            self._set_meta({**meta, **own})
        self._version, self._listed = version, listing.paths

    def commit(self, shard: ShardInfo | None, keys: Sequence[Key], entries: Iterable[tuple[int, Entry]]) -> None:
        """Add a published shard's rows, if there is one, and settle listed images by position, in one transaction.

        To commit the same again changes nothing, so whoever was interrupted here may do it once more. Raise
        `CacheBusyError` if an image is not at its position.
        """
        with self.changing():
            if shard is not None:
                self._add(shard, keys)
            places, settled = list(zip(*entries, strict=True)) or ((), ())
            if places:
                self._check_places(places, settled)
                state = Listing.of(settled)
                reasons = json.dumps({str(i): reason for i, reason in state.reasons.items()}).encode()
                splits = state.splits.among(SPLITS).astype(np.int8).tobytes()
                count = self.meta().get("settled", 0)
                positions, known = np.array(places, "<i8").tobytes(), state.known.tobytes()
                self._insert("settled", [(count, positions, splits, state.digests.tobytes(), known, reasons)])
                self._set_meta({"settled": count + 1})

    def _check_places(self, places: Sequence[int], settled: Sequence[Entry]) -> None:
        """Raise `CacheBusyError` unless each image is where the listing has it: a position alone settles nothing."""
        if self._listed is None:
            self._listed = self.listing().paths
        paths = self._listed
        if not all(0 <= at < len(paths) and paths[at] == entry.path for at, entry in zip(places, settled, strict=True)):
            raise taken_over(self._path.parent)

    def replace_shards(self, old: Iterable[int], new: Iterable[tuple[ShardInfo, Sequence[Key]]]) -> None:
        """Drop shards with all their rows and add published ones with theirs, in one transaction."""
        with self.changing():
            for number in old:
                (views,) = self._db.execute("SELECT views FROM rows WHERE shard = ?", (number,)).fetchone()
                self._count(-len(views) // 2)
                self._db.execute("DELETE FROM rows WHERE shard = ?", (number,))
                self._db.execute("DELETE FROM blocks WHERE shard = ?", (number,))
                self._db.execute("DELETE FROM shards WHERE id = ?", (number,))
            for shard, keys in new:
                self._add(shard, keys)

    def _add(self, shard: ShardInfo, keys: Sequence[Key]) -> None:
        """Add a shard and its rows, unless it is there: an interrupted commit may have been complete."""
        if self._db.execute("SELECT 1 FROM shards WHERE name = ?", (shard.name,)).fetchone():
            return  # its name is a digest of all that is in it
        number = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM shards").fetchone()[0]
        self._insert("shards", [(number, shard.name, shard.rows, shard.size, shard.checksum)])
        sums = {layer: found.astype("<u4").tobytes() for layer, found in shard.checksums.items()}
        self._insert("blocks", [(number, layer, shard.offsets[layer], found) for layer, found in sums.items()])
        augmentation = max((key.augmentation for key in keys), default="")
        digests, views = b"".join(key.digest for key in keys), np.array([key.view for key in keys], "<u2").tobytes()
        self._insert("rows", [(number, augmentation, digests, views)])
        self._count(len(keys))

    def _count(self, more: int) -> None:
        self._set_meta({"rows": self.meta().get("rows", 0) + more})


def has_shards(folder: Path) -> bool:
    """Whether a cache's folder holds shards."""
    return any((folder / "shards").glob("*.h5"))
