import builtins
import hashlib
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import random_image

from featcache.cache import FeatureCache, features
from featcache.cache import shard as shard_module
from featcache.cache.compaction import gc
from featcache.cache.export import export_cache
from featcache.cache.manifest import Manifest
from featcache.cache.shard import Shard, ShardBuilder
from featcache.cache.verification import verify
from featcache.errors import CacheDamagedError, CacheError, OptionError
from featcache.recipe import Recipe
from featcache.sources.arrays import ArraySource

KINDS = ["zstd", "lz4"]


def source(count: int) -> ArraySource:
    return ArraySource("made", np.stack([random_image(i) for i in range(count)]), ["a", "b"] * (count // 2))


def without_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "hdf5plugin":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)


def same_rows(one: FeatureCache, other: FeatureCache) -> bool:
    return one.paths() == other.paths() and all(
        np.asarray(one.features(layer=layer)).tobytes() == np.asarray(other.features(layer=layer)).tobytes()
        for layer in one.layers
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("compression", KINDS)
def test_compressed_equals_uncompressed(
    extracting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str, dtype: str
) -> None:
    """Every feature is the same bit for bit, in any order of rows, and the recipe is the same."""
    monkeypatch.setattr(shard_module, "BLOCK_BYTES", 48)
    options = {"layers": ["mix", "positive"], "shard_rows": 9, "dtype": dtype, "pooling": "none"}
    plain = extracting(source(30), tmp_path / "plain", **options)
    packed = extracting(source(30), tmp_path / "packed", compression=compression, **options)
    assert packed.recipe == plain.recipe
    assert same_rows(plain, packed)
    assert {offset for info in packed.shards.values() for offset in info.offsets.values()} == {0}
    rows = np.random.default_rng(0).integers(-30, 30, 100)
    for kept in (2**20, 1000, 0):
        monkeypatch.setattr(features, "RECENT_BYTES", kept)
        again = FeatureCache(packed.path)
        for layer in plain.layers:
            expected = np.asarray(plain.features(layer=layer))
            assert np.array_equal(again.features(layer=layer)[rows], expected[rows])
            assert all(np.array_equal(again.features(layer=layer)[int(i)], expected[i]) for i in rows[:20])
    assert verify(packed.path).problems == []


@pytest.mark.parametrize("compression", KINDS)
def test_a_compressed_shard_is_plain_hdf5(tmp_path: Path, compression: str) -> None:
    """h5py with hdf5plugin reads it; its chunks are the blocks of the checksums; compressible rows are smaller."""
    recipe = Recipe("a" * 64, "b" * 64, ("x",), "avg", (8, 8), "stretch", "bilinear", "none", "float32")
    sizes = {}
    x = np.maximum(np.random.default_rng(0).normal(size=(300, 2048)), 1).astype(np.float32)
    for kind in ("none", compression):
        builder = ShardBuilder(recipe, {"x": (2048,)}, compression=kind)
        for i, row in enumerate(x):
            builder.append(hashlib.sha256(bytes([i % 256, i // 256])).digest(), f"{i}", {"x": row})
        info, _ = builder.publish(tmp_path)
        sizes[kind] = info.size
    with h5py.File(tmp_path / info.name) as file:
        assert np.array_equal(file["features/x"], x)
        assert file["features/x"].chunks == (128, 2048)
        assert file["features/x"].attrs["block_rows"] == 128
    assert sizes[compression] < sizes["none"] / 2
    assert Shard(tmp_path / info.name).compression == compression
    with pytest.raises(ValueError, match="read-only"):
        Shard(tmp_path / info.name).features("x")[0] = 0


def test_a_cache_may_mix(extracting, tmp_path: Path) -> None:
    """Shards of three kinds in one cache read as one, survive a lost manifest, gc and export."""
    plain = extracting(source(24), tmp_path / "plain", shard_rows=8)
    path = tmp_path / "mixed"
    for count, compression in ((8, "none"), (16, "zstd"), (24, "lz4")):
        mixed = extracting(source(count), path, shard_rows=8, compression=compression, replace_source=True)
    assert len(mixed.shards) == 3
    assert same_rows(plain, mixed)
    again = extracting(source(24), path, compression="zstd")
    assert again.report.computed == 0

    export_cache(path, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as exported:
        assert np.array_equal(exported["X_train"], np.asarray(plain.features("train")))

    lost = Path(shutil.copytree(path, tmp_path / "lost"))
    (lost / "manifest.sqlite").unlink()
    assert verify(lost, fix=True).problems == []
    assert same_rows(plain, extracting(source(24), lost))
    assert FeatureCache(lost).places.keys() == mixed.places.keys()

    manifest = Manifest(path / "manifest.sqlite").claim("a test")
    manifest.replace_listing([e for i, e in enumerate(mixed.entries) if i % 8], {})
    manifest.close()
    expected = [row for i, row in enumerate(np.asarray(plain.features())) if i % 8]
    assert (gc(path).rows_dropped, verify(path).problems) == (3, [])
    after = FeatureCache(path)
    assert np.array_equal(np.asarray(after.features()), expected)
    kinds = {Shard(path / "shards" / info.name).compression for info in after.shards.values()}
    assert kinds == {"none", "zstd", "lz4"}


@pytest.mark.parametrize("compression", KINDS)
def test_every_flipped_bit_of_a_compressed_shard_is_found(extracting, tmp_path: Path, compression: str) -> None:
    """A changed bit anywhere, metadata or data, is an error of reading and of verify, before HDF5 sees the file."""
    cache = extracting(source(20), tmp_path / "c", compression=compression)
    (info,) = cache.shards.values()
    shard = tmp_path / "c" / "shards" / info.name
    content = shard.read_bytes()
    random = np.random.default_rng(1)
    for place in random.integers(0, len(content), 40).tolist():
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(random.integers(8))
        shard.write_bytes(damaged)
        with pytest.raises(CacheDamagedError, match=f"{info.name}.*verify --fix"):
            np.asarray(FeatureCache(tmp_path / "c").features())
        assert [problem.where for problem in verify(tmp_path / "c").problems] == [f"shards/{info.name}"]


def test_blocks_are_checked_against_the_manifest(extracting, tmp_path: Path) -> None:
    """A shard that is sound by itself, but has another block than the manifest says, gives no row."""
    cache = extracting(source(20), tmp_path / "c", compression="zstd")
    cache = FeatureCache(cache.path)
    (info,) = cache.shards.values()
    info.checksums["mix"] = info.checksums["mix"] ^ 1
    with pytest.raises(CacheDamagedError, match="block 0 of mix"):
        cache.features()[0]


def test_the_file_is_checked_once(extracting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading many rows of many layers reads a whole file once for its checksum."""
    cache = extracting(source(20), tmp_path / "c", compression="lz4", layers=["mix", "positive"])
    checked = []
    real = features.file_checksum
    monkeypatch.setattr(features, "file_checksum", lambda path, size: checked.append(path.name) or real(path, size))
    cache = FeatureCache(cache.path)
    for layer in cache.layers:
        for i in range(20):
            cache.features(layer=layer)[i]
    assert checked == [info.name for info in cache.shards.values()]


def test_missing_plugin_is_one_line(extracting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without hdf5plugin, writing and reading compressed shards say what to install, and nothing counts as damage."""
    cache = extracting(source(8), tmp_path / "c", compression="zstd")
    without_plugin(monkeypatch)
    for attempt in (
        lambda: extracting(source(8), tmp_path / "new", compression="lz4"),
        lambda: np.asarray(FeatureCache(cache.path).features()),
        lambda: verify(cache.path, fix=True),
    ):
        with pytest.raises(CacheError, match=r"need hdf5plugin.*pip install 'featcache\[compression\]'$") as raised:
            attempt()
        assert not isinstance(raised.value, CacheDamagedError)
    assert not (tmp_path / "new").exists()
    assert extracting(source(8), tmp_path / "plain").report.computed == 8


def test_unknown_compression(extracting, tmp_path: Path) -> None:
    """Another name is answered with the possible ones."""
    with pytest.raises(OptionError, match=r"none, zstd, lz4.*'gzip'"):
        extracting(source(8), tmp_path / "c", compression="gzip")
