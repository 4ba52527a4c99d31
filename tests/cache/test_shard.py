import hashlib
import json
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.cache import shard as shard_module
from featcache.cache.shard import Key, Shard, ShardBuilder, block_checksums, block_rows, inspect
from featcache.errors import CacheDamagedError, CacheError
from featcache.recipe import Recipe

RECIPE = Recipe("a" * 64, "b" * 64, ("x",), "avg", (8, 8), "stretch", "bilinear", "none", "float32")
LAYERS = {"x": (3,), "outer/y": (2, 2)}


def filled(count: int, recipe: Recipe = RECIPE) -> tuple[ShardBuilder, np.ndarray, list[bytes]]:
    builder = ShardBuilder(recipe, LAYERS, augmentation="policy")
    x = np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)
    digests = [hashlib.sha256(bytes([i])).digest() for i in range(count)]
    for i, digest in enumerate(digests):
        builder.append(digest, f"cats/{i}\udcff.png", {"x": x[i], "outer/y": np.full((2, 2), i, np.float32)}, i % 2)
    return builder, x, digests


def test_a_stranger_can_read_a_shard(tmp_path: Path) -> None:
    """h5py alone finds features, digests, views, paths, recipe and checksums."""
    builder, x, digests = filled(5)
    info, keys = builder.publish(tmp_path)
    assert keys == [Key(d, i % 2, "policy" if i % 2 else "") for i, d in enumerate(digests)]
    with h5py.File(tmp_path / info.name) as file:
        assert file.attrs["format"] == 1
        assert file.attrs["fingerprint"] == RECIPE.fingerprint
        assert Recipe.from_dict(json.loads(file.attrs["recipe"])) == RECIPE
        assert np.array_equal(file["features/x"], x)
        assert file["features/outer%2Fy"].shape == (5, 2, 2)
        assert [bytes(row) for row in file["digests"]] == digests
        assert file["views"][()].tolist() == [0, 1, 0, 1, 0]
        assert file.attrs["augmentation"] == "policy"
        assert file["paths"][0] == b"cats/0\xff.png"
        assert file["checksums/x"][()].tolist() == [zlib.crc32(x.tobytes())]
        assert file["features/x"].attrs["block_rows"] == block_rows(12)
        index = zlib.crc32(np.array([0, 1, 0, 1, 0], "<u2").tobytes(), zlib.crc32(b"".join(digests)))
        texts = [file.attrs[name].encode() for name in ("fingerprint", "layers", "augmentation")]
        index = zlib.crc32(b"".join(part + b"\0" for part in [*file["paths"], *texts]), index)
        assert file.attrs["index_crc32"] == index
        assert json.loads(file.attrs["layers"]) == [["x", [3]], ["outer/y", [2, 2]]]
    content = (tmp_path / info.name).read_bytes()
    assert (info.size, info.checksum) == (len(content), zlib.crc32(content[4096:]))
    assert f"CRC-32 is {info.checksum:08x}\n".encode() in content[:4096]
    assert np.array_equal(np.frombuffer(content, np.float32, 15, info.offsets["x"]).reshape(5, 3), x)


def test_features_are_memory_mapped(tmp_path: Path) -> None:
    """Reading a layer maps the file and cannot change it."""
    builder, x, _ = filled(4)
    info, _ = builder.publish(tmp_path)
    features = Shard(tmp_path / info.name).features("x")
    assert isinstance(features, np.memmap)
    assert np.array_equal(features, x)
    with pytest.raises(ValueError, match="read-only"):
        features[0] = 0


def test_nothing_but_the_shard_is_left(tmp_path: Path) -> None:
    """Publishing leaves no temporary file; equal rows are one file, whenever they are written, others another."""
    for count in (3, 3, 4):
        filled(count)[0].publish(tmp_path)
    assert sorted(len(inspect(path).keys) for path in tmp_path.iterdir()) == [3, 4]


def test_write_that_reads_back_wrong_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that gives back other bytes is noticed before the shard gets its name."""
    builder, _, _ = filled(3)
    monkeypatch.setattr(Shard, "features", lambda self, layer: np.zeros((3, 3), np.float32))
    with pytest.raises(CacheDamagedError, match="other bytes"):
        builder.publish(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_capacity_is_bounded_by_bytes_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard holds at most so many rows, fewer if they are large, and at least one."""
    assert ShardBuilder(RECIPE, {"x": (10,)}, 100).capacity == 100
    assert ShardBuilder(RECIPE, {"x": (524_288,)}, 4096).capacity == 32
    monkeypatch.setattr(shard_module, "SHARD_BYTES", 8)
    assert ShardBuilder(RECIPE, {"x": (10,)}).capacity == 1


def test_row_of_another_shape_is_refused() -> None:
    """Features of another shape never enter a shard."""
    with pytest.raises(CacheError, match=r"\(3,\).*\(4,\)"):
        ShardBuilder(RECIPE, {"x": (3,)}).append(bytes(32), "a", {"x": np.zeros(4)})


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 200_000))
def test_checksums_cover_every_byte(rows: int, width: int) -> None:
    """Changing any one byte changes the checksum of its block and of no other."""
    width = min(width, 3_000_000 // rows + 1)
    features = np.zeros((rows, width), np.uint8)
    before = block_checksums(features)
    row, column = rows // 2, width // 2
    features[row, column] = 1
    changed = np.flatnonzero(before != block_checksums(features))
    assert changed.tolist() == [row // block_rows(width)]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_what_is_no_shard(tmp_path: Path, content: bytes) -> None:
    """A file that is no shard is one clear error."""
    (tmp_path / "s.h5").write_bytes(content)
    with pytest.raises(CacheDamagedError, match=r"The shard .* is damaged"):
        Shard(tmp_path / "s.h5")
