import zlib
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from golden import make

from featcache.cache import FeatureCache, export
from featcache.cache.export import export_cache
from featcache.errors import CacheDamagedError, CacheError, OptionError

PATHS = {
    s: [i[0].encode("utf-8", "surrogateescape") for i in make.IMAGES if i[2] == s]
    for s in ("train", "validation", "test")
}


def wanted(layer: str, split: str) -> list[object]:
    return [make.features(one[4], 0)[layer].tolist() for one in make.IMAGES if one[2] == split]


@pytest.mark.parametrize("piece", [1, 2**24])
def test_hdf5_has_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """h5py alone finds X by layer and split, y, paths and class names, whatever the size of a piece."""
    monkeypatch.setattr(export, "_PIECE", piece)
    report = export_cache(make.FOLDER, tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert [name.decode() for name in file["class_names"][()]] == ["cats", "dogs"]
        for split, paths in PATHS.items():
            assert list(file[f"paths_{split}"][()]) == paths
            assert file[f"y_{split}"][()].tolist() == [int(p.startswith(b"dogs")) for p in paths]
            for layer in make.LAYERS:
                assert file[f"{layer}/X_{split}"][()].tolist() == wanted(layer, split)
                assert report.arrays[f"{layer}/X_{split}"] == file[f"{layer}/X_{split}"].shape
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]
    assert report.bytes == (tmp_path / "out.h5").stat().st_size


@pytest.mark.parametrize("piece", [1, 2**24])
def test_npz_has_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """`numpy.load` reads it without pickle; one layer has no group."""
    monkeypatch.setattr(export, "_PIECE", piece)
    export_cache(FeatureCache(make.FOLDER), tmp_path / "out.npz", layers=["outer/block2"])
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert file["class_names"].tolist() == ["cats", "dogs"]
        for split, paths in PATHS.items():
            assert [p.encode("utf-8", "surrogateescape") for p in file[f"paths_{split}"].tolist()] == paths
            assert file[f"X_{split}"].tolist() == wanted("outer/block2", split)
            assert file[f"y_{split}"].tolist() == [int(p.startswith(b"dogs")) for p in paths]


@pytest.mark.parametrize("name", ["out.h5", "out.npz"])
def test_a_disk_that_lies_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A file that does not read back as it was written is not published; the old one stays."""
    (tmp_path / name).write_text("old")
    calls = iter(range(10**6))
    monkeypatch.setattr(export, "zlib", SimpleNamespace(crc32=lambda *a: zlib.crc32(*a) ^ (next(calls) == 0)))
    with pytest.raises(CacheDamagedError, match="other bytes"):
        export_cache(make.FOLDER, tmp_path / name)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "old")]


def test_what_cannot_be_exported(tmp_path: Path, extracting, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another ending, layer or folder, and a full disk, are one clear error each; nothing is left."""
    with pytest.raises(OptionError, match=r"\.h5 or \.npz"):
        export_cache(make.FOLDER, tmp_path / "out.csv")
    with pytest.raises(OptionError, match="nearest: block1"):
        export_cache(make.FOLDER, tmp_path / "out.h5", layers=["block"])
    with pytest.raises(CacheError, match="cannot be written"):
        export_cache(make.FOLDER, tmp_path / "nowhere" / "out.h5")
    monkeypatch.setattr(export.shutil, "disk_usage", lambda path: export.shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(CacheError, match="Not enough disk space"):
        export_cache(make.FOLDER, tmp_path / "out.h5")
    assert not list(tmp_path.glob("*out*"))
    assert not list(tmp_path.glob(".tmp-*"))
