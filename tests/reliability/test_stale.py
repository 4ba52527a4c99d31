"""What changed behind an equal size and time stamp: none of it may be taken for unchanged."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import MIX, SHIFT, predicted_mean, random_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from recording import record

from featcache.cache import FeatureCache
from featcache.extraction import extracting as extraction
from featcache.extraction import extractor
from featcache.files import publishing as files
from featcache.sources.arrays import ArraySource
from featcache.sources.opening import open_images, open_source

Extract = Callable[..., Any]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of image files as they are read."""
    names: list[str] = []
    real = Path.read_bytes

    def counted(self: Path) -> bytes:
        names.append(self.name)
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    return names


def write_bmp(file: Path, seed: int) -> Path:
    """Write pixels as BMP: files of one size, whatever is in them, and of one time stamp."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_image(seed)).save(file)
    os.utime(file, ns=(10**18, 10**18))
    return file


def swap(one: Path, other: Path) -> None:
    """Exchange two files as `mv` does."""
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def unseen(file: Path, change: Callable[[], object]) -> None:
    """Change a file and put its time stamp back; its size stays."""
    before = file.stat()
    change()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def rows_are_right(cache: FeatureCache, root: Path) -> bool:
    """Whether every row is of the pixels that its path has now."""
    expected = [predicted_mean(np.array(Image.open(root / path))) for path in cache.paths()]
    return np.allclose(np.asarray(cache.features(layer="mix")), expected, rtol=1e-5)


def oracle_with(shift: np.ndarray) -> Any:
    """Return the oracle with another bias."""
    import keras

    model = keras.Sequential(
        [keras.Input((8, 8, 3), name="pixels"), keras.layers.Conv2D(4, 1, name="mix")], name="oracle"
    )
    model.get_layer("mix").set_weights([MIX[None, None], shift])
    return model


def shifted(cache: FeatureCache, root: Path, by: float) -> bool:
    """Whether every row is what the oracle gives whose bias is higher by so much."""
    expected = [predicted_mean(np.array(Image.open(root / path))) + by for path in cache.paths()]
    return np.allclose(np.asarray(cache.features(layer="mix")), expected, rtol=1e-5)


def swapped_files(extracting: Extract, folder: Path) -> bool:
    one, other = write_bmp(folder / "in" / "a" / "0.bmp", 1), write_bmp(folder / "in" / "b" / "0.bmp", 2)
    extracting(folder / "in", folder / "c")
    swap(one, other)
    return rows_are_right(extracting(folder / "in", folder / "c"), folder / "in")


def touched_back(extracting: Extract, folder: Path) -> bool:
    file = write_bmp(folder / "in" / "a" / "0.bmp", 1)
    write_bmp(folder / "in" / "b" / "1.bmp", 2)
    extracting(folder / "in", folder / "c")
    unseen(file, lambda: write_bmp(file, 3))
    return rows_are_right(extracting(folder / "in", folder / "c"), folder / "in")


def rewritten_npz(extracting: Extract, folder: Path) -> bool:
    folder.mkdir()
    pixels = np.stack([random_image(i) for i in range(4)])
    file, labels = folder / "set.npz", np.array([0, 1, 0, 1])
    np.savez(file, X=pixels, y=labels)
    extracting(file, folder / "c")
    unseen(file, lambda: np.savez(file, X=pixels[::-1], y=labels))
    expected = [predicted_mean(image) for image in pixels[::-1]]
    return np.allclose(extracting(file, folder / "c").features(), expected, rtol=1e-5)


def retrained_model(extracting: Extract, folder: Path) -> bool:
    write_bmp(folder / "in" / "a" / "0.bmp", 1)
    file = folder / "m.keras"
    oracle_with(SHIFT).save(file)
    extracting(folder / "in", None, base=file, cache_root=folder / "root")
    unseen(file, lambda: oracle_with(SHIFT + 5).save(file))
    return shifted(extracting(folder / "in", None, base=file, cache_root=folder / "root"), folder / "in", 5)


def changed_weights(extracting: Extract, folder: Path) -> bool:
    write_bmp(folder / "in" / "a" / "0.bmp", 1)
    base, file = folder / "m.keras", folder / "w.weights.h5"
    model = oracle_with(SHIFT)
    model.save(base)
    model.save_weights(file)
    options = {"base": base, "weights": file, "cache_root": folder / "root"}
    extracting(folder / "in", None, **options)
    unseen(file, lambda: add_to_bias(file, 5))
    return shifted(extracting(folder / "in", None, **options), folder / "in", 5)


def add_to_bias(file: Path, by: float) -> None:
    """Change the bias in a weights file, in place."""
    with h5py.File(file, "r+") as content:
        found: list[h5py.Dataset] = []
        content.visititems(lambda _, node: found.append(node) if getattr(node, "shape", None) == (4,) else None)
        (bias,) = found
        bias[...] = bias[...] + by


def replaced_conversion(extracting: Extract, folder: Path) -> bool:
    write_bmp(folder / "in" / "a" / "0.bmp", 1)
    options = {"runtime": "openvino", "cache_root": folder / "root"}
    for number in (0, 5):
        (folder / f"{number}").mkdir()
        oracle_with(SHIFT + number).save(folder / f"{number}" / "m.keras")
        extracting(folder / "in", None, base=folder / f"{number}" / "m.keras", **options)
    (mine,), (theirs,) = ((folder / name).glob("*.openvino") for name in "05")
    shutil.copy(theirs, mine)
    write_bmp(folder / "in" / "b" / "1.bmp", 2)
    return shifted(extracting(folder / "in", None, base=folder / "0" / "m.keras", **options), folder / "in", 0)


KINDS = (swapped_files, touched_back, rewritten_npz, retrained_model, changed_weights, replaced_conversion)


def test_stale_files_of_six_kinds_are_found(extracting, tmp_path: Path, nothing_racy) -> None:
    """Whatever changes behind an equal size and time stamp: features and labels are those of what is there now."""
    pytest.importorskip("openvino")
    missed = [kind.__name__ for kind in KINDS if not kind(extracting, tmp_path / kind.__name__)]
    record("stale files of six kinds", tries=len(KINDS), found=len(KINDS) - len(missed))
    assert missed == []


def test_only_what_changed_is_read_again(extracting, photos: Path, tmp_path: Path, nothing_racy, read) -> None:
    """Of twelve files, two that were exchanged are read, and neither of them, nor the base, is computed."""
    for file in photos.rglob("*.png"):
        os.utime(file, ns=(10**18, 10**18))
    extracting(photos, tmp_path / "c")
    swap(photos / "dark" / "d0.png", photos / "light" / "l0.png")
    read.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractor, "Extractor", None)
        cache = extracting(photos, tmp_path / "c")
    assert sorted(read) == ["d0.png", "l0.png"]
    assert rows_are_right(cache, photos)
    assert cache.report.computed == 0
    read.clear()
    extracting(photos, tmp_path / "c")
    assert read == []


def test_a_copy_elsewhere_is_read_once_and_computes_nothing(
    extracting, photos: Path, tmp_path: Path, nothing_racy, read
) -> None:
    """Copied by `cp -a`, files have other inodes and ctimes: they are read, once each, and have their rows."""
    first = extracting(photos, tmp_path / "c")
    subprocess.run(["cp", "-a", photos, tmp_path / "copy"], check=True)
    read.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractor, "Extractor", None)
        cache = extracting(tmp_path / "copy", tmp_path / "c")
        assert sorted(read) == sorted(file.name for file in photos.rglob("*.png"))
        assert (cache.report.computed, cache.recipe.fingerprint) == (0, first.recipe.fingerprint)
        read.clear()
        shutil.rmtree(photos)
        (tmp_path / "copy").rename(photos)
        for _ in range(2):
            extracting(photos, tmp_path / "c")
    assert sorted(read) == sorted(file.name for file in photos.rglob("*.png"))


def test_a_restored_file_is_read_and_not_computed(extracting, photos: Path, tmp_path: Path, nothing_racy, read) -> None:
    """A backup put back in the old place has another inode: its digest decides."""
    extracting(photos, tmp_path / "c")
    shutil.copy2(photos / "dark" / "d3.png", tmp_path / "backup")
    (tmp_path / "backup").replace(photos / "dark" / "d3.png")
    read.clear()
    assert extracting(photos, tmp_path / "c").report.computed == 0
    assert read == ["d3.png"]


def test_files_that_had_just_changed_are_read_again(
    extracting, photos: Path, tmp_path: Path, monkeypatch, read
) -> None:
    """A file changed within two seconds before it was listed could change again unseen: it is read in the next run,
    until it has been listed as old."""
    changed, seconds = max(file.stat().st_ctime_ns for file in photos.rglob("*.png")), 1.9
    monkeypatch.setattr(files.time, "time_ns", lambda: changed + int(seconds * 1e9))
    extracting(photos, tmp_path / "c")
    assert (FeatureCache(tmp_path / "c").entries.changes == 0).any()
    read.clear()
    seconds = 2.1 + 1
    assert extracting(photos, tmp_path / "c").report.computed == 0
    assert "d0.png" in read
    assert (FeatureCache(tmp_path / "c").entries.changes != 0).all()
    read.clear()
    extracting(photos, tmp_path / "c")
    assert read == []


def test_every_kind_of_source_notes_changes(photos: Path, tmp_path: Path) -> None:
    """Folders, lists, tables, tar files and arrays have their file's stamp, images in memory a part of their digest."""
    (tmp_path / "t.csv").write_text("path,label\nphotos/dark/d0.png,a\nphotos/light/l0.png,b\n")
    (tmp_path / "listed").mkdir()
    shutil.copy(photos / "dark" / "d0.png", tmp_path / "listed")
    (tmp_path / "listed" / "metadata.csv").write_text("file_name,label\nd0.png,a\n")
    np.savez(tmp_path / "a.npz", X=np.zeros((2, 8, 8, 3), np.uint8), y=np.arange(2))
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "X.npy", np.zeros((2, 8, 8, 3), np.uint8))
    np.save(tmp_path / "arrays" / "y.npy", np.arange(2))
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        tar.add(photos, "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "RACY_NS", -(10**15))
        expected = {
            photos: lambda path: photos / path,
            tmp_path / "t.csv": lambda path: tmp_path / path,
            tmp_path / "listed": lambda path: tmp_path / "listed" / path,
            tmp_path / "a.npz": lambda _: tmp_path / "a.npz",
            tmp_path / "p.tar": lambda _: tmp_path / "p.tar",
            tmp_path / "arrays": lambda _: tmp_path / "arrays" / "X.npy",
        }
        for location, file in expected.items():
            items = open_source(location).items
            assert [item.changes for item in items] == [files.change_stamp(file(i.path).stat()) for i in items]
            assert 0 not in {item.changes for item in items}
        assert {item.changes for item in open_images([photos / "dark" / "d0.png"]).items} == {
            files.change_stamp((photos / "dark" / "d0.png").stat())
        }
    for source in (open_source([(b"x", "a"), (b"y", "a")]), ArraySource("m", np.zeros((1, 8, 8), np.uint8), ["a"])):
        assert all(item.changes == item.mtime_ns != 0 for item in source.items)


@given(*[st.integers(0, 2**60)] * 4, st.integers(0, 9))
def test_other_inodes_and_ctimes_are_other_stamps(c1: int, i1: int, c2: int, i2: int, device: int) -> None:
    """A stamp is 64 bits of inode and ctime alone, whatever the device; files that differ in either have another."""

    def stamp(ctime: int, inode: int, device: int = 0) -> int:
        return files.change_stamp(
            SimpleNamespace(st_ctime_ns=ctime, st_mtime_ns=0, st_ino=inode, st_dev=device, st_size=1)  # type: ignore
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.time, "time_ns", lambda: 2**63)
        assert (stamp(c1, i1) == stamp(c2, i2)) == ((c1, i1) == (c2, i2))
        assert stamp(c1, i1, device) == stamp(c1, i1)
        assert -(2**63) <= stamp(c1, i1) < 2**63
        patch.setattr(files.time, "time_ns", lambda: c1 + 2 * 10**9 - 1)
        assert stamp(c1, i1) == 0


def test_nothing_but_reading_depends_on_them(
    extracting, oracle: Path, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    """Another node of a cluster, which sees other inodes, has the same recipe, names of tasks, shards and parts."""
    names, shards = [], []
    for node in (1, 2):
        for module in ("recipe", "sources.files"):
            monkeypatch.setattr(f"featcache.{module}.change_stamp", lambda status, node=node: node)
        run = extraction.Extraction(
            photos, base=oracle, layers=["mix"], preprocess="none", cache=tmp_path / f"{node}", batch_size=4
        )
        run.run_part(1, 1)
        names.append(sorted(file.name for file in (tmp_path / f"{node}" / "parts").iterdir()))
        cache = run.run()
        shards.append([info.name for info in cache.shards.values()])
        assert cache.report.computed == 0
        assert set(open_source(photos).items.changes) == {node}
    assert names[0] == names[1]
    assert shards[0] == shards[1]


def test_a_part_of_a_former_run_is_not_believed_for_good(
    extracting, oracle: Path, tmp_path: Path, nothing_racy
) -> None:
    """What changed unseen between a job of an array and the extract that commits it is found by the next one."""
    one, other = write_bmp(tmp_path / "in" / "a" / "0.bmp", 1), write_bmp(tmp_path / "in" / "b" / "0.bmp", 2)
    options = {"base": oracle, "layers": ["mix"], "preprocess": "none", "cache": tmp_path / "c", "batch_size": 4}
    extraction.Extraction(tmp_path / "in", **options).run_part(1, 1)
    swap(one, other)
    extracting(tmp_path / "in", tmp_path / "c")
    assert rows_are_right(extracting(tmp_path / "in", tmp_path / "c"), tmp_path / "in")


def test_rehash_reads_weights_and_models(extracting, photos: Path, tmp_path: Path, monkeypatch) -> None:
    """Where a file system shows nothing of a change, `rehash` finds other weights and another model all the same."""
    monkeypatch.setattr("featcache.recipe.change_stamp", lambda status: 1)
    base, weights = tmp_path / "m.keras", tmp_path / "w.weights.h5"
    model = oracle_with(SHIFT)
    model.save(base)
    model.save_weights(weights)
    for options, change in (
        ({"base": base, "weights": weights}, lambda: unseen(weights, lambda: add_to_bias(weights, 5))),
        ({"base": base}, lambda: unseen(base, lambda: oracle_with(SHIFT + 5).save(base))),
    ):
        extracting(photos, None, cache_root=tmp_path / "root", **options)
        change()
        assert shifted(extracting(photos, None, cache_root=tmp_path / "root", **options), photos, 0)
        again = extracting(photos, None, cache_root=tmp_path / "root", rehash=True, **options)
        assert shifted(again, photos, 5)


def test_weights_that_had_just_changed_are_read_again(extracting, photos: Path, tmp_path: Path, monkeypatch) -> None:
    """Weights written within two seconds before they were read are read in the next run, then no more."""
    base = tmp_path / "m.keras"
    oracle_with(SHIFT).save(base)
    loaded = []
    real = extractor.Extractor
    monkeypatch.setattr(extractor, "Extractor", lambda request, **_: loaded.append(1) or real(request))
    for old in (0, 0, 10**15, 10**15):
        monkeypatch.setattr(files, "RACY_NS", 2 * 10**9 - old)
        extracting(photos, tmp_path / "c", base=base)
    assert len(loaded) == 3
