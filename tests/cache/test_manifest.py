import hashlib
import json
import shutil
import sqlite3
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording import record

from featcache.cache.manifest import Entry, Manifest, Place
from featcache.cache.shard import Key, ShardInfo
from featcache.errors import CacheBusyError, CacheDamagedError, CacheError

D = [hashlib.sha256(bytes([i])).digest() for i in range(4)]
ENTRIES = [
    Entry("a/1.png", "a", "train", "g\n1", 10, 5, D[0], None),
    Entry('b/"2\n\udcff.png', "b", None, None, 11, 6, None, None),
    Entry("b/3.png", "b", None, None, 0, 7, None, "empty file"),
]
KEYS = [Key(D[0], 0, ""), Key(D[1], 2, "abc")]
SOURCE = {"name": "n", "location": "l"}
SHARD = ShardInfo(f"{7:016x}.h5", 2, 10_000, 77, {"x": np.array([1, 2], np.uint32)}, {"x": 4096})
OTHER = replace(SHARD, name=f"{8:016x}.h5")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    manifest = Manifest(tmp_path / "manifest.sqlite", create=True).claim("a test")
    manifest.replace_listing(ENTRIES, {"source": SOURCE})
    manifest.commit(SHARD, KEYS, [(1, ENTRIES[1]._replace(digest=D[1], split="train"))])
    manifest.close()
    return tmp_path / "manifest.sqlite"


def test_everything_comes_back(path: Path) -> None:
    """Listing, rows, shards and values are read as they were written, odd names included."""
    manifest = Manifest(path)
    assert manifest.listing() == [ENTRIES[0], ENTRIES[1]._replace(digest=D[1], split="train"), ENTRIES[2]]
    assert manifest.rows() == {KEYS[0]: Place(1, 0), KEYS[1]: Place(1, 1)}
    (number, info), *more = manifest.shards().items()
    assert (number, info.name, info.rows, info.size, info.checksum, more) == (1, SHARD.name, 2, 10_000, 77, [])
    assert info.offsets == {"x": 4096}
    assert info.checksums["x"].tolist() == [1, 2]
    meta = manifest.meta()
    assert len(meta.pop("version")) == 32
    assert meta == {
        "format": 2,
        "target": "class",
        "source": SOURCE,
        "images": 3,
        "rows": 2,
        "settled": 1,
        "writer": "a test",
        "commits": 2,
    }


def test_a_stranger_can_read_it(path: Path) -> None:
    """sqlite3 alone reads it, in rollback-journal mode, and can recompute a row's checksum."""
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    *values, crc = db.execute("SELECT * FROM listing WHERE name = 'paths'").fetchone()
    kinds = {bytes: lambda v: b"x" + v, str: lambda v: b"t" + v.encode(), int: lambda v: b"%d" % v}
    assert zlib.crc32(b"".join(kinds[type(v)](v) + b"\x1f" for v in values)) == crc
    (ends,) = db.execute("SELECT content FROM listing WHERE name = 'ends'").fetchone()
    assert values[2][np.frombuffer(ends, "<u4")[1] :] == b"b/3.png"


@pytest.mark.parametrize(
    ("statement", "read"),
    [
        ("UPDATE listing SET content = zeroblob(12) WHERE name = 'labels'", "listing"),
        ("UPDATE listing SET content = zeroblob(96) WHERE name = 'digests'", "listing"),
        ("UPDATE listing SET name = 'sizes' WHERE name = 'stamps'", "listing"),
        ("UPDATE listing SET first = 1 WHERE name = 'paths'", "listing"),
        ("DELETE FROM listing WHERE name = 'reasons'", "listing"),
        ("DELETE FROM listing WHERE name = 'regions'", "listing"),
        ("DELETE FROM listing", "listing"),
        ("DELETE FROM meta WHERE key = 'target'", "meta"),
        ("UPDATE settled SET positions = zeroblob(8)", "listing"),
        ("DELETE FROM settled", "listing"),
        ("UPDATE rows SET digests = zeroblob(64)", "rows"),
        ("UPDATE rows SET augmentation = x''", "rows"),
        ("DELETE FROM rows", "rows"),
        ("UPDATE shards SET name = 'ffffffffffffffff.h5'", "shards"),
        ("UPDATE blocks SET checksums = zeroblob(8)", "shards"),
        ("""UPDATE meta SET value = '{"name":"m"}' WHERE key = 'source'""", "meta"),
    ],
)
def test_changed_rows_are_found(path: Path, statement: str, read: str) -> None:
    """A value that changed since it was written is never served."""
    db = sqlite3.connect(path)
    db.execute(statement.replace("UPDATE listing SET name", "UPDATE OR REPLACE listing SET name"))
    db.commit()
    with pytest.raises(CacheDamagedError):
        found = getattr(Manifest(path), read)()
        found.load()


def test_failed_transaction_changes_nothing(path: Path) -> None:
    """A listing that cannot be written whole is not written at all."""
    manifest = Manifest(path).claim("another")
    before = manifest.listing()

    def broken() -> object:
        yield ENTRIES[0]
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        manifest.replace_listing(broken(), {"source": {}})
    assert manifest.listing() == before
    assert manifest.meta()["source"] == SOURCE


def interrupted(step: int, work: Callable[[], object]) -> bool:
    """Do work with Ctrl-C coming at one of its steps within the manifest; return whether it came."""
    left = step

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        code = frame.f_code
        if code.co_filename != sys.modules[Manifest.__module__].__file__ or code.co_name == "_crc":
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.slow
def test_a_commit_is_done_once_wherever_it_is_interrupted(tmp_path: Path) -> None:
    """Ctrl-C at any step of a commit leaves it undone or done, and to do it again does it once."""
    first = [(1, ENTRIES[1]._replace(digest=D[1], split="train"))]
    blank, path = tmp_path / "blank.sqlite", tmp_path / "manifest.sqlite"
    manifest = Manifest(blank, create=True).claim("before")
    manifest.replace_listing(ENTRIES, {"source": SOURCE})
    manifest.close()
    came, step = True, 0
    while came:
        step += 1
        shutil.copy(blank, path)
        manifest = Manifest(path).claim("a test")
        came = interrupted(step, lambda of=manifest: of.commit(SHARD, KEYS, first))
        assert len(Manifest(path).rows()) in (0, 2)
        manifest.commit(SHARD, KEYS, first)
        manifest.close()
        manifest = Manifest(path)
        assert manifest.rows() == {KEYS[0]: Place(1, 0), KEYS[1]: Place(1, 1)}
        assert [info.name for info in manifest.shards().values()] == [SHARD.name]
        assert manifest.listing() == [ENTRIES[0], first[0][1], ENTRIES[2]]
        manifest.close()
    assert step > 50
    record("Ctrl-C at every step of a commit, and the commit once more", tries=step - 1, different=0)


def test_a_listing_that_was_replaced_since_is_not_mixed_with_the_new_one(path: Path) -> None:
    """Columns that were not read before another listing took their place are refused, never taken from that one."""
    old, writer = Manifest(path).listing(), Manifest(path).claim("another")
    assert list(old.paths) == [entry.path for entry in ENTRIES]
    writer.commit(None, [], [(2, ENTRIES[2]._replace(digest=D[3], reason="not an image"))])
    assert (old.reasons, old[2].digest) == ({2: "not an image"}, D[3])
    other = Manifest(path).listing()
    writer.replace_listing(ENTRIES[::-1], {})
    assert old.load()[0].path == ENTRIES[0].path
    with pytest.raises(CacheError, match="Open it again"):
        other.load()


def test_what_is_settled_last_counts(path: Path) -> None:
    """An image that is settled again has its newest digest and reason, and no older one."""
    manifest = Manifest(path).claim("another")
    failed, read = ENTRIES[1]._replace(reason="broken"), ENTRIES[1]._replace(digest=D[2], split="test")
    manifest.commit(None, [], [(0, ENTRIES[0]), (1, failed)])
    assert list(manifest.listing()) == [ENTRIES[0], failed, ENTRIES[2]]
    manifest.commit(None, [], [(1, read)])
    assert list(manifest.listing()) == [ENTRIES[0], read, ENTRIES[2]]
    manifest.replace_listing(manifest.listing(), {})
    assert list(manifest.listing()) == [ENTRIES[0], read, ENTRIES[2]]
    assert manifest._db.execute("SELECT count(*) FROM settled").fetchone() == (0,)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.integers(1, 4), st.randoms(use_true_random=False))
def test_listings_of_several_pieces(tmp_path_factory: pytest.TempPathFactory, n: int, size: int, random: Any) -> None:
    """Wherever a listing is divided, it reads back whole, and a missing piece is found."""
    listing = [
        random.choice(ENTRIES)._replace(path=f"{i}", label=random.choice("xyz"), split=random.choice([None, "test"]))
        for i in range(n)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featcache.cache.pieces.PIECE", size)
        manifest = Manifest(tmp_path_factory.mktemp("m") / "manifest.sqlite", create=True).claim("a test")
        manifest.replace_listing(listing, {})
        assert list(manifest.listing()) == listing
        assert list(manifest.listing().paths) == [entry.path for entry in listing]
        for name in ("paths", "digests", "reasons", "names of labels") if n else ():
            manifest._db.execute("BEGIN")
            manifest._db.execute("DELETE FROM listing WHERE name = ? AND first = ?", (name, (n - 1) // size * size))
            with pytest.raises(CacheDamagedError, match=r"missing|where they belong"):
                manifest.listing().load()
            manifest._db.execute("ROLLBACK")
        manifest.close()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 1}, r"earlier version .*format 1, .*format 2.* Run `featcache extract` with another `cache`"),
        ({"format": 3}, r"has format 3, .* reads format 2\. Update featcache"),
        ({"format": "2"}, "is damaged: format is '2', not a whole number"),
        ({"format": None}, "is damaged: format is None, not a whole number"),
        ({"target": "numbers"}, r"targets of the kind 'numbers', .* reads 'class'\. Update featcache"),
    ],
)
def test_other_formats_are_refused(path: Path, values: dict[str, object], message: str) -> None:
    """A manifest of another format, or with another kind of target, is one line that says what to do."""
    manifest = Manifest(path).claim("a test")
    manifest.set_meta(values)
    with pytest.raises(CacheError, match=message) as caught:
        Manifest(path)
    assert "\n" not in str(caught.value)


def test_images_that_are_parts_of_files_are_refused(path: Path) -> None:
    """A listing with regions, which no version writes yet, is never read as one of whole files."""
    manifest = Manifest(path)
    manifest._insert("listing", [("regions", 0, b"[1, 2, 3]")], "INSERT OR REPLACE")
    with pytest.raises(CacheError, match=r"parts of files\. Update featcache"):
        _ = manifest.listing().paths


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    """No manifest, or a file that is no SQLite database, is one clear error."""
    with pytest.raises(CacheError, match="has no"):
        Manifest(tmp_path / "manifest.sqlite")
    (tmp_path / "manifest.sqlite").write_bytes(b"nonsense" * 100)
    with pytest.raises(CacheDamagedError, match="not a database"):
        Manifest(tmp_path / "manifest.sqlite")


text = st.text(st.characters(exclude_categories=["Cs"])) | st.binary().map(
    lambda b: b.decode("utf-8", "surrogateescape")
)
entries = st.builds(
    Entry,
    text.filter(lambda t: "\0" not in t),
    st.none() | text.filter(lambda t: "\0" not in t),
    st.sampled_from([None, "train", "test"]),
    st.none() | text.filter(lambda t: "\0" not in t),
    st.integers(0, 2**62),
    st.integers(-(2**62), 2**62),
    st.none() | st.binary(min_size=32, max_size=32),
    st.none() | st.just("bad"),
    st.integers(-(2**63), 2**63 - 1),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(entries, max_size=8))
def test_any_listing_survives(tmp_path_factory: pytest.TempPathFactory, listing: list[Entry]) -> None:
    """Whatever names, sizes and times a source has, the listing reads back equal."""
    manifest = Manifest(tmp_path_factory.mktemp("m") / "manifest.sqlite", create=True).claim("a test")
    manifest.replace_listing(listing, {})
    assert manifest.listing() == listing
    manifest.close()


def test_commits_are_synced(path: Path) -> None:
    """A commit waits for the disk (synchronous=FULL)."""
    assert Manifest(path)._db.execute("PRAGMA synchronous").fetchone() == (2,)


CHANGES = {
    "commit": lambda manifest: manifest.commit(None, [], [(1, ENTRIES[1]._replace(digest=D[2]))]),
    "add a shard": lambda manifest: manifest.commit(OTHER, KEYS, []),
    "listing": lambda manifest: manifest.replace_listing(ENTRIES[::-1], {}),
    "shards": lambda manifest: manifest.replace_shards([1], []),
    "meta": lambda manifest: manifest.set_meta({"listing": {"seed": 3}}),
}


def refused(manifest: Manifest, change: str) -> None:
    """Make sure that a change is refused with one line, and changes nothing."""
    path = manifest._path
    before = path.read_bytes()
    with pytest.raises(CacheBusyError, match="has taken over writing") as caught:
        CHANGES[change](manifest)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert not path.with_name(path.name + "-journal").exists()


@pytest.mark.parametrize("change", CHANGES)
def test_whoever_lost_the_manifest_changes_nothing(path: Path, change: str) -> None:
    """Once another writer has changed it, every kind of change of the one before is refused."""
    first = Manifest(path).claim("first")
    first.set_meta({"listing": {"seed": 1}})
    before = path.read_bytes()
    second = Manifest(path).claim("second")
    assert path.read_bytes() == before
    second.set_meta({"listing": {"seed": 2}})
    refused(first, change)
    CHANGES[change](second)


@pytest.mark.parametrize("change", CHANGES)
def test_whoever_opened_it_before_a_change_changes_nothing(path: Path, change: str) -> None:
    """A writer whose predecessor wakes up and writes first knows too little of what there is now."""
    first = Manifest(path).claim("first")
    first.set_meta({"listing": {"seed": 1}})
    second = Manifest(path).claim("second")
    first.commit(None, [], [(0, ENTRIES[0])])
    refused(second, change)
    first.set_meta({"listing": {"seed": 1}})


@pytest.mark.parametrize("change", CHANGES)
def test_another_listing_is_found_whoever_wrote_it(path: Path, change: str) -> None:
    """Where the token is the same, as in a fork of the writer, another listing still is another one."""
    first, second = Manifest(path).claim("the same"), Manifest(path).claim("the same")
    second.replace_listing(ENTRIES[::-1], {})
    refused(first, change)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("there", [False, True])
def test_a_manifest_that_was_replaced_is_not_written(path: Path, change: str, there: bool) -> None:
    """Whoever has a file open that `verify --fix` replaced, or that was deleted, does not write into nowhere."""
    manifest = Manifest(path).claim("first")
    manifest.set_meta({"listing": {"seed": 1}})
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)
    if there:
        return refused(manifest, change)
    path.unlink()
    with pytest.raises(CacheBusyError):
        CHANGES[change](manifest)
    assert list(path.parent.iterdir()) == []
    return None


def test_a_reader_changes_nothing(path: Path) -> None:
    """A manifest that was not claimed cannot be changed."""
    for change in CHANGES:
        refused(Manifest(path), change)


@pytest.mark.parametrize("position", [0, 2, 3, -2])
def test_images_are_settled_by_their_path(path: Path, position: int) -> None:
    """A digest for an image that is not at its position is refused, and so is all of the transaction."""
    manifest = Manifest(path).claim("first")
    before = (manifest.listing().load(), manifest.shards())
    settled = [(position, ENTRIES[1]._replace(digest=D[2]))]
    with pytest.raises(CacheBusyError):
        manifest.commit(OTHER, KEYS, settled)
    assert (manifest.listing(), manifest.shards().keys()) == (before[0], before[1].keys())


def test_a_change_that_is_under_way_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process is in the middle of a change, perhaps stopped, that is what one line says."""
    first, second = Manifest(path).claim("first"), Manifest(path).claim("second")
    second._db.execute("PRAGMA busy_timeout = 50")
    with first.changing(), pytest.raises(CacheBusyError, match="in the middle of changing"):
        second.set_meta({"listing": {"seed": 2}})


@pytest.mark.parametrize("values", [{"commits": "x"}, {"commits": None}, {"commits": [1]}, {"writer": 3}])
def test_a_writer_that_is_none_is_damage(path: Path, values: dict[str, object]) -> None:
    """What the fence compares is of the kind that it writes."""
    manifest = Manifest(path).claim("a test")
    manifest._insert("meta", [(key, json.dumps(value)) for key, value in values.items()], "INSERT OR REPLACE")
    with pytest.raises(CacheDamagedError, match=next(iter(values))):
        Manifest(path)


def test_an_image_that_is_settled_twice_at_once_is_damage(path: Path) -> None:
    """One piece of what became of images names each once."""
    manifest = Manifest(path).claim("a test")
    twice = np.array([1, 1], "<i8").tobytes()
    manifest._insert("settled", [(0, twice, bytes(2), bytes(64), bytes(2), b"{}")], "INSERT OR REPLACE")
    with pytest.raises(CacheDamagedError, match="settled twice"):
        Manifest(path).listing().load()
