import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import make
from recording import record

from featcache.cache import CacheWriter, FeatureCache
from featcache.cache.lock import writer_lock
from featcache.cache.manifest import Manifest
from featcache.cache.shard import ShardBuilder, inspect
from featcache.cache.verification import VerifyReport, verify
from featcache.errors import CacheBusyError, CacheDamagedError, CacheError, FeatcacheError

FLIPS = [40, pytest.param(400, marks=pytest.mark.slow)]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a copy of the golden cache: two shards, seven rows."""
    return Path(shutil.copytree(make.FOLDER, tmp_path / "c"))


def everything(path: Path) -> list[object]:
    """Return all that reading a cache returns, as plain values."""
    cache = FeatureCache(path)
    shards = {n: (i.name, i.rows, i.size, i.checksum, i.offsets) for n, i in cache.shards.items()}
    sums = [s.tolist() for info in cache.shards.values() for s in info.checksums.values()]
    rows = [np.asarray(cache.features(layer=layer, views=True)).tolist() for layer in cache.layers]
    return [
        cache._manifest.meta(),
        cache.entries,
        cache.places,
        shards,
        sums,
        rows,
        cache.label_indices().tolist(),
        cache.groups().tolist(),
    ]


def flips(file: Path, count: int, seed: int) -> Iterator[None]:
    """Flip one bit after another, putting it back each time; half of them in bytes that are in use."""
    original, rng = file.read_bytes(), random.Random(seed)
    used = [i for i, byte in enumerate(original) if byte]
    for number in range(count):
        place = rng.choice(used) if number % 2 else rng.randrange(len(original))
        changed = bytearray(original)
        changed[place] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        yield
        file.write_bytes(original)


def wheres(report: VerifyReport) -> set[str]:
    return {problem.where for problem in report.problems}


def test_sound_cache(cache: Path) -> None:
    """A sound cache has no problem, and what was read is counted; nothing is written."""
    before = {p: p.stat().st_mtime_ns for p in cache.rglob("*")}
    report = verify(cache)
    assert (report.problems, report.orphans, report.shards, report.rows, report.blocks) == ([], [], 2, 7, 4)
    assert report.bytes == sum(p.stat().st_size for p in (cache / "shards").iterdir())
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*")} == before


@pytest.mark.parametrize("count", FLIPS)
def test_every_flipped_bit_of_a_shard_is_found(cache: Path, count: int) -> None:
    """One changed bit anywhere in a shard is found, with and without a manifest, and never served."""
    wanted, found, alone, served, stopped = everything(cache), 0, 0, 0, 0
    for shard in sorted((cache / "shards").iterdir()):
        for _ in flips(shard, count // 2, count):
            found += f"shards/{shard.name}" in wheres(verify(cache))
            try:
                inspect(shard)
            except CacheDamagedError:
                alone += 1
            try:
                served += everything(cache) != wanted
            except CacheDamagedError:
                stopped += 1
    record(
        "bit flips in shards",
        tries=count,
        missed=count - found,
        missed_without_manifest=count - alone,
        reads_that_stopped=stopped,
        wrong_reads=served,
    )
    assert (found, alone, served) == (count, count, 0)


@pytest.mark.parametrize("count", FLIPS)
def test_flipped_bit_of_the_manifest_is_found_or_harmless(cache: Path, count: int) -> None:
    """One changed bit of the manifest is found by reading or by verify, or nothing that is read changes."""
    wanted, found, harmless, wrong, unnoticed = everything(cache), 0, 0, 0, 0
    for _ in flips(cache / "manifest.sqlite", count, count):
        try:
            same = everything(cache) == wanted
            wrong += not same
        except FeatcacheError:
            same = False
        try:
            problems = bool(verify(cache).problems)
        except FeatcacheError:
            problems = True
        found += problems
        harmless += same and not problems
        unnoticed += not same and not problems
        for extra in cache.glob("manifest.sqlite-*"):
            extra.unlink()
    record(
        "bit flips in the manifest", tries=count, found=found, harmless=harmless, missed=unnoticed, wrong_reads=wrong
    )
    assert (unnoticed, wrong) == (0, 0)
    assert found + harmless == count
    assert found > count // 10


def test_fix_drops_a_damaged_shard_and_extract_computes_it_again(extracting, photos: Path, tmp_path: Path) -> None:
    """What was in a damaged shard is computed again, nothing else, and the numbers are the same."""
    first = extracting(photos, tmp_path / "c", shard_rows=5)
    before = np.asarray(first.features())
    info = first.shards[1]
    shard = tmp_path / "c" / "shards" / info.name
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert wheres(verify(tmp_path / "c")) == {f"shards/{info.name}"}
    report = verify(tmp_path / "c", fix=True)
    assert (report.problems, [one.where for one in report.fixed]) == ([], [f"shards/{info.name}"])
    assert (tmp_path / "c" / "damaged" / info.name).read_bytes() == content
    assert FeatureCache(tmp_path / "c").missing == info.rows
    again = extracting(photos, tmp_path / "c")
    assert (again.report.computed, again.report.reused) == (info.rows, 12 - info.rows)
    assert np.array_equal(np.asarray(again.features()), before)
    assert verify(tmp_path / "c").problems == []


def test_deleted_shard(extracting, photos: Path, tmp_path: Path) -> None:
    """A deleted shard is named; after --fix the next extraction computes its rows alone."""
    info = extracting(photos, tmp_path / "c", shard_rows=5).shards[2]
    path = tmp_path / "c" / "shards" / info.name
    path.unlink()
    problems = verify(tmp_path / "c").problems
    assert [(one.where, one.what) for one in problems] == [(f"shards/{info.name}", "it is missing")]
    assert verify(tmp_path / "c", fix=True).problems == []
    assert extracting(photos, tmp_path / "c").report.computed == info.rows


@pytest.mark.parametrize("how", ["missing", "empty", "nonsense", "table dropped", "row changed"])
def test_lost_manifest_is_rebuilt(extracting, photos: Path, tmp_path: Path, how: str) -> None:
    """Without a sound manifest extract refuses; verify --fix rebuilds it; extract then computes nothing."""
    (photos / "dark" / "text.jpg").write_text("hello")
    first = extracting(photos, tmp_path / "c", shard_rows=5)
    wanted = [np.asarray(first.features()).tolist(), first.paths(), first.label_indices().tolist(), first.skipped]
    manifest = tmp_path / "c" / "manifest.sqlite"
    if how == "missing":
        manifest.unlink()
    elif how in ("empty", "nonsense"):
        manifest.write_bytes(b"" if how == "empty" else b"nonsense" * 1000)
    else:
        db = sqlite3.connect(manifest)
        db.execute("DROP TABLE rows" if how == "table dropped" else "UPDATE listing SET content = x'00'")
        db.commit()
        db.close()
    with pytest.raises(CacheError, match="verify --fix"):
        extracting(photos, tmp_path / "c")
    with pytest.raises(CacheError, match="verify --fix"):
        np.asarray(FeatureCache(tmp_path / "c").features())
    assert wheres(verify(tmp_path / "c")) == {"manifest.sqlite"}
    assert verify(tmp_path / "c", fix=True).problems == []
    assert len(FeatureCache(tmp_path / "c").places) == 12
    again = extracting(photos, tmp_path / "c")
    assert (again.report.computed, again.report.rows) == (0, 12)
    assert [
        np.asarray(again.features()).tolist(),
        again.paths(),
        again.label_indices().tolist(),
        again.skipped,
    ] == wanted
    assert verify(tmp_path / "c").problems == []


def test_rebuilding_trusts_no_damaged_shard(cache: Path) -> None:
    """A shard that does not have its own checksum does not come back with a rebuilt manifest."""
    (cache / "manifest.sqlite").unlink()
    one, two = sorted((cache / "shards").iterdir())
    content = bytearray(one.read_bytes())
    content[8200] ^= 1
    one.write_bytes(content)
    assert verify(cache, fix=True).problems == []
    assert len(FeatureCache(cache).places) == inspect(two).info.rows
    assert (cache / "damaged" / one.name).exists()


def test_stale_journal_is_not_applied_to_a_rebuilt_manifest(cache: Path) -> None:
    """The journal of a lost manifest is set aside with it."""
    (cache / "manifest.sqlite").unlink()
    (cache / "manifest.sqlite-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(2000))
    assert verify(cache, fix=True).problems == []
    assert not (cache / "manifest.sqlite-journal").exists()


@pytest.mark.parametrize("content", [None, "", "{}", '{"recipe": {"architecture": "x"}}', "changed"])
def test_lost_recipe_is_restored_from_the_shards(cache: Path, content: str | None) -> None:
    """A recipe.json that is gone or damaged comes back as the shards have it; no row is lost."""
    recipe, described = FeatureCache(cache).recipe, json.loads((cache / "recipe.json").read_text())
    if content is None:
        (cache / "recipe.json").unlink()
    elif content == "changed":
        described["recipe"]["pooling"] = "max"
        (cache / "recipe.json").write_text(json.dumps(described))
    else:
        (cache / "recipe.json").write_text(content)
    assert wheres(verify(cache)) == {"recipe.json"}
    assert verify(cache, fix=True).problems == []
    assert FeatureCache(cache).recipe == recipe
    assert len(FeatureCache(cache).places) == 7


def test_everything_but_the_shards_can_be_lost(cache: Path) -> None:
    """Shards alone bring back recipe, layers in their order, and rows."""
    before = FeatureCache(cache)
    recipe, layers, keys = before.recipe, before.layers, set(before.places)
    (cache / "manifest.sqlite").unlink()
    (cache / "recipe.json").unlink()
    assert verify(cache, fix=True).problems == []
    after = FeatureCache(cache)
    assert (after.recipe, after.layers, set(after.places)) == (recipe, layers, keys)


@pytest.mark.parametrize("version", [1, 3])
def test_other_formats_are_left_alone(cache: Path, version: int) -> None:
    """A manifest of another format is an error that says so; nothing is mended, moved or lost."""
    manifest = Manifest(cache / "manifest.sqlite").claim("a test")
    manifest.set_meta({"format": version})
    manifest.close()
    before = {p: p.read_bytes() for p in cache.rglob("*") if p.is_file()}
    for use in (FeatureCache, verify, lambda path: verify(path, fix=True)):
        with pytest.raises(CacheError, match=f"format {version}"):
            use(cache)
    assert {p: p.read_bytes() for p in cache.rglob("*") if p.is_file()} == before


def test_rows_astray_are_found(cache: Path) -> None:
    """A row that points at another image's features is found, although every checksum is right."""
    rows = everything(cache)[5]
    manifest = Manifest(cache / "manifest.sqlite")
    number, policy, digests, views = manifest._db.execute(
        "SELECT shard, augmentation, digests, views FROM rows"
    ).fetchone()
    manifest._insert(
        "rows", [(number, policy, digests[32:64] + digests[:32] + digests[64:], views)], "INSERT OR REPLACE"
    )
    manifest.close()
    (problem,) = verify(cache).problems
    assert problem.what == "2 rows are not where the manifest says"
    verify(cache, fix=True)
    assert everything(cache)[5] == rows


def test_rows_that_vanished_from_the_manifest_are_found(cache: Path) -> None:
    """A row that is in a shard and not in the manifest is found, and comes back."""
    db = sqlite3.connect(cache / "manifest.sqlite")
    db.execute("DELETE FROM rows WHERE shard = 1")
    db.commit()
    with pytest.raises(CacheDamagedError, match="4 rows instead of 7"):
        FeatureCache(cache).load("train")
    assert wheres(verify(cache)) == {"manifest.sqlite"}
    assert verify(cache, fix=True).problems == []
    assert len(FeatureCache(cache).places) == 7


def test_orphans_are_no_damage(cache: Path) -> None:
    """A shard of a run that was killed before it committed is counted, and nothing else happens."""
    builder = ShardBuilder(make.RECIPE, make.LAYERS)
    builder.append(bytes(32), "new.png", make.features(b"new", 0))
    info, _ = builder.publish(cache / "shards")
    for report in (verify(cache), verify(cache, fix=True)):
        assert (report.problems, report.orphans, report.rows) == ([], [info.name], 7)


def test_fix_needs_the_lock_and_verify_does_not(cache: Path) -> None:
    """While somebody writes, a cache can be verified and not mended."""
    (cache / "recipe.json").unlink()
    with writer_lock(cache):
        assert verify(cache).problems
        with pytest.raises(CacheBusyError):
            verify(cache, fix=True)


def test_what_is_no_cache(tmp_path: Path) -> None:
    """A folder without a cache, and one with nothing to mend from, are clear errors."""
    with pytest.raises(CacheError, match="no cache in"):
        verify(tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.h5").write_bytes(b"nonsense")
    with pytest.raises(CacheError, match="Nothing can be mended"):
        verify(tmp_path, fix=True)
    assert (tmp_path / "shards" / "a.h5").exists()


@pytest.mark.parametrize("manifest_is_lost", [False, True])
def test_fix_that_lost_its_lock_changes_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, manifest_is_lost: bool
) -> None:
    """What another process has committed since `verify --fix` looked is not replaced by what there was before."""
    sound = (cache / "manifest.sqlite").read_bytes()
    (cache / "recipe.json").write_text("{}")
    if manifest_is_lost:
        (cache / "manifest.sqlite").unlink()
    real = Manifest.replace_listing

    def late(manifest: Manifest, *arguments: Any) -> None:
        if manifest_is_lost:
            (cache / "manifest.sqlite").write_bytes(sound)
        monkeypatch.setattr(Manifest, "replace_listing", real)
        Manifest(cache / "manifest.sqlite").claim("another").set_meta({"since": 1})
        manifest.replace_listing(*arguments)

    monkeypatch.setattr(Manifest, "replace_listing", late)
    with pytest.raises(CacheBusyError, match="has taken over"):
        verify(cache, fix=True)
    assert Manifest(cache / "manifest.sqlite").meta()["since"] == 1
    assert (cache / "recipe.json").read_text() == "{}"
    assert not (cache / "damaged").exists()
    assert list(cache.glob(".tmp-*")) == []


def test_a_writer_finds_that_fix_replaced_its_manifest(cache: Path) -> None:
    """A writer that was stopped while `verify --fix` made another manifest commits nothing to the old file."""
    recipe = FeatureCache(cache).recipe
    with CacheWriter.open_for_writing(cache, recipe, None) as writer:
        (cache / "lock").unlink()
        (cache / "recipe.json").unlink()
        assert verify(cache, fix=True).problems == []
        builder = ShardBuilder(make.RECIPE, make.LAYERS)
        builder.append(bytes(32), "new.png", make.features(b"new", 0))
        with pytest.raises(CacheBusyError, match="has taken over"):
            writer.commit(builder, [])
    assert verify(cache).problems == []


def test_a_commit_while_a_cache_is_verified_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read before and after another process's commit does not agree: it is read again."""
    X, y = np.arange(160, dtype=np.float32).reshape(40, 4), ["a", "b"] * 20
    path = FeatureCache.from_arrays(X[:20], y[:20], None, {"e": 1}, path=tmp_path / "c").path
    plain, more = Manifest.rows, [True]

    def rows(self: Manifest) -> object:
        if more and more.pop():
            FeatureCache.from_arrays(X, y, None, {"e": 1}, path=path)
        return plain(self)

    monkeypatch.setattr(Manifest, "rows", rows)
    assert verify(path).problems == []
