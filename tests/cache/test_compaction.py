import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from golden import make

from featcache.cache import CacheWriter, FeatureCache, compaction
from featcache.cache.compaction import gc
from featcache.cache.lock import writer_lock
from featcache.cache.manifest import Manifest
from featcache.cache.shard import Shard, ShardBuilder, ShardContents, inspect
from featcache.cache.verification import verify
from featcache.errors import CacheBusyError, CacheDamagedError, CacheError
from featcache.files.publishing import publish


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Return a copy of the golden cache without its images 1 and 4: one row of each of two shards goes, or more."""
    path = Path(shutil.copytree(make.FOLDER, tmp_path / "c"))
    relist(path, [0, 2, 3, 5, 6])
    return path


def relist(path: Path, images: list[int]) -> None:
    """List other images, as an extraction whose source has changed does."""
    manifest = Manifest(path / "manifest.sqlite").claim("a test")
    manifest.replace_listing([make.entry(i) for i in images], {})
    manifest.close()


def rows(path: Path) -> list[object]:
    cache = FeatureCache(path)
    return [cache.paths(views=True), *(np.asarray(cache.features(layer=x, views=True)).tolist() for x in cache.layers)]


def test_unlisted_rows_go_and_the_rest_stays(cache: Path) -> None:
    """Rows of images that left the source are gone from the disk; all others read as before."""
    before, names = rows(cache), {p.name for p in (cache / "shards").iterdir()}
    size = sum(p.stat().st_size for p in (cache / "shards").iterdir())
    report = gc(cache)
    assert (report.rows_dropped, report.rows_kept, report.shards_rewritten) == (3, 4, 2)
    assert rows(cache) == before
    assert verify(cache).problems == []
    assert {p.name for p in (cache / "shards").iterdir()}.isdisjoint(names)
    assert size - report.bytes_freed == sum(p.stat().st_size for p in (cache / "shards").iterdir())
    again = gc(cache)
    assert (again.rows_dropped, again.files_removed, again.bytes_freed) == (0, [], 0)


def test_a_cache_that_was_opened_before_never_reads_rows_of_other_images(cache: Path) -> None:
    """What was read of the manifest before shards were rewritten is not mixed with what it says afterwards."""
    before = FeatureCache(cache)
    expected, _ = np.asarray(FeatureCache(cache).features("test", layer="block1")), before.places
    gc(cache)
    with contextlib.suppress(CacheError):
        assert np.asarray(before.features("test", layer="block1")).tolist() == expected.tolist()


def test_views_beyond_the_wanted_ones_go(cache: Path) -> None:
    """With fewer views, or another augmentation, the views of before are no longer kept."""
    manifest = Manifest(cache / "manifest.sqlite").claim("a test")
    manifest.set_meta({"views": {"count": 1, "augmentation": "another"}})
    manifest.close()
    assert (gc(cache).rows_dropped, set(FeatureCache(cache).places.values()) != set()) == (4, True)
    assert {key.view for key in FeatureCache(cache).places} == {0}
    assert verify(cache).problems == []


def test_only_shards_that_lose_rows_are_rewritten(cache: Path) -> None:
    """A shard all of whose rows are wanted keeps its file."""
    relist(cache, [0, 3, 4, 5])
    kept = FeatureCache(cache).shards[1].name
    assert gc(cache).shards_rewritten == 1
    assert (cache / "shards" / kept).exists()
    assert verify(cache).problems == []


def test_dry_run_changes_nothing(cache: Path) -> None:
    """--dry-run says what would go and writes nothing, not even a lock."""
    before = {p: p.stat().st_mtime_ns for p in cache.rglob("*")}
    with writer_lock(cache):
        pass
    before[cache] = cache.stat().st_mtime_ns
    report = gc(cache, dry_run=True)
    assert (report.rows_dropped, report.rows_kept, len(report.files_removed)) == (3, 4, 2)
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*")} | {cache: cache.stat().st_mtime_ns} == before


def test_litter_of_killed_runs_goes(cache: Path) -> None:
    """Orphan shards and temporary files go; a young temporary file beside the manifest may be somebody's lock."""
    builder = ShardBuilder(make.RECIPE, make.LAYERS)
    builder.append(bytes(32), "new.png", make.features(b"new", 0))
    info, _ = builder.publish(cache / "shards")
    for name in ("shards/.tmp-1", ".tmp-old", ".tmp-young"):
        (cache / name).write_text("x")
    os.utime(cache / ".tmp-old", (1, 1))
    removed = set(gc(cache).files_removed)
    assert {f"shards/{info.name}", "shards/.tmp-1", ".tmp-old"} <= removed
    assert not any((cache / name).exists() for name in removed)
    assert (cache / ".tmp-young").exists()


@pytest.mark.parametrize("point", range(12))
@pytest.mark.by_default("0", "4", "8", "11")
def test_killed_at_any_step_nothing_is_lost(cache: Path, point: int) -> None:
    """A process killed at its n-th file operation leaves a sound cache with the same rows; the next gc finishes."""
    before = rows(cache)
    code = f"""
import os, sys
from pathlib import Path
left = {point}
def hook(event, args):
    global left
    names = [str(a) for a in args[:2] if isinstance(a, (str, os.PathLike))]
    written = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wxa+")
    if any({str(cache)!r} in n for n in names) and (event in ("os.rename", "os.remove") or written):
        left -= 1
        if left < 0:
            os._exit(9)
from featcache.cache.compaction import gc
import h5py
sys.addaudithook(hook)
gc(Path({str(cache)!r}))
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False).returncode
    assert ended in (0, 9)
    assert rows(cache) == before
    assert verify(cache).problems == []
    gc(cache)
    assert rows(cache) == before
    report = verify(cache)
    assert (report.problems, report.orphans, report.rows) == ([], [], 4)


def test_damage_is_not_copied(cache: Path) -> None:
    """A damaged shard is not rewritten with a new checksum: gc stops and changes nothing."""
    shard = cache / "shards" / FeatureCache(cache).shards[2].name
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    before = {p.name for p in (cache / "shards").iterdir()}
    with pytest.raises(CacheDamagedError, match="verify --fix"):
        gc(cache)
    assert {p.name for p in (cache / "shards").iterdir()} == before
    assert len(FeatureCache(cache).places) == 7


def test_without_a_listing_nothing_is_removed(cache: Path) -> None:
    """After a manifest was rebuilt nobody knows which images are wanted: gc says to extract first."""
    relist(cache, [])
    with pytest.raises(CacheError, match="Run `featcache extract`"):
        gc(cache)
    assert len(FeatureCache(cache).places) == 7


def test_gc_needs_the_lock(cache: Path) -> None:
    """While somebody writes, nothing is removed."""
    with writer_lock(cache), pytest.raises(CacheBusyError):
        gc(cache)


def test_removed_images_of_a_real_extraction(extracting, photos: Path, tmp_path: Path) -> None:
    """Rows stay until gc when images are removed, and are computed again when the images come back after it."""
    extracting(photos, tmp_path / "c", shard_rows=5)
    photo = photos / "dark" / "d0.png"
    aside = photo.rename(tmp_path / "aside.png")
    extracting(photos, tmp_path / "c")
    assert gc(tmp_path / "c").rows_dropped == 1
    assert extracting(photos, tmp_path / "c").report.computed == 0
    aside.rename(photo)
    assert extracting(photos, tmp_path / "c").report.computed == 1
    assert verify(tmp_path / "c").rows == 12


def test_gc_that_lost_its_lock_deletes_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `gc` was about to rewrite or delete stays, if another process has taken over: it may be in use by now."""
    (cache / "shards" / "0123456789abcdef.h5").write_bytes(b"of a killed run")
    real = CacheWriter.remove

    def late(writer: CacheWriter, files: object) -> None:
        (cache / "lock").unlink()
        with CacheWriter.open_for_writing(cache, make.RECIPE, None) as other:
            other.replace_listing([make.entry(i) for i in range(len(make.IMAGES))], {})
        real(writer, files)

    monkeypatch.setattr(CacheWriter, "remove", late)
    with pytest.raises(CacheBusyError, match="has taken over"):
        gc(cache)
    assert len(list((cache / "shards").iterdir())) == 4
    assert verify(cache).problems == []


def test_a_shard_that_the_manifest_names_is_not_deleted(cache: Path) -> None:
    """Another process may publish the same rows, and so a file of the same name, which then is not litter."""
    with CacheWriter.open_for_writing(cache, make.RECIPE, None) as writer:
        writer.remove((cache / "shards").iterdir())
    assert verify(cache).problems == []
    assert len(list((cache / "shards").iterdir())) == 2


def test_a_failed_rewrite_leaves_shards_of_others(cache: Path) -> None:
    """Where the second of two shards cannot be made, the first is removed, but not if the manifest names it."""
    opened = FeatureCache(cache)
    shard = Shard(cache / "shards" / opened.shards[1].name)
    contents = inspect(cache / "shards" / opened.shards[1].name)

    def builders(rows: int) -> Iterator[ShardBuilder]:
        builder = ShardBuilder(make.RECIPE, make.LAYERS)
        for i, key in enumerate(contents.keys[:rows]):
            row = {layer: shard.features(layer)[i] for layer in make.LAYERS}
            builder.append(key.digest, contents.paths[i], row, key.view)
        yield builder
        raise OSError(28, "No space left on device")

    before = {file.name for file in (cache / "shards").iterdir()}
    with CacheWriter.open_for_writing(cache, make.RECIPE, None) as writer:
        for rows in (1, len(contents.keys)):  # the latter are the bytes of a shard that is there
            with pytest.raises(CacheError, match="No space left"):
                writer.replace_shards({}, builders(rows))
    assert {file.name for file in (cache / "shards").iterdir()} == before


def test_a_draft_that_another_process_removed_is_no_damage(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that was stopped while it wrote a shard is told that another one has taken over, and nothing else."""

    def late(file: Path) -> ShardContents:
        (cache / "lock").unlink()
        monkeypatch.undo()
        gc(cache)
        return inspect(file)

    builder = ShardBuilder(make.RECIPE, make.LAYERS)
    builder.append(bytes(32), "new.png", make.features(b"new", 0))
    with CacheWriter.open_for_writing(cache, make.RECIPE, None) as writer:
        monkeypatch.setattr(builder, "publish", lambda folder: publish(folder / "x", b"", check=late))
        with pytest.raises(CacheBusyError, match="has taken over"):
            writer.commit(builder, [])


def test_a_file_that_another_process_removes_has_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between seeing a file and asking for its size it may go."""
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    assert compaction._size(tmp_path / "gone") == 0
