from pathlib import Path

import pytest

import featcache
from featcache import FeatureCache, Head, fit_head, load
from featcache.errors import HeadError


def test_whatever_a_folder_holds_is_opened(extracting, split_photos: Path, tmp_path: Path) -> None:
    """A cache, a head and a fine-tuned model come from one function; any other folder is refused with what it lacks."""
    cache = extracting(split_photos, tmp_path / "c")
    head = fit_head(cache, "ridge")
    assert load(tmp_path / "c").paths() == cache.paths()
    assert isinstance(load(str(tmp_path / "c")), FeatureCache)
    found = load(head.path)
    assert isinstance(found, Head)
    assert found.digest == head.digest
    for folder, lack in ((tmp_path, "has none of"), (tmp_path / "nowhere", "is no folder")):
        with pytest.raises(HeadError, match=lack):
            load(folder)


def test_what_the_commands_do_is_there_from_python(extracting, oracle: Path, photos: Path, tmp_path: Path) -> None:
    """Verifying, collecting and exporting take an open cache or its folder."""
    cache = extracting(photos, tmp_path / "c")
    (photos / "dark" / "d0.png").unlink()
    cache = extracting(photos, tmp_path / "c")
    assert featcache.gc(cache, dry_run=True).rows_dropped == 1
    assert featcache.gc(cache.path).rows_dropped == 1
    assert featcache.verify(tmp_path / "c").problems == []
    assert featcache.verify(FeatureCache(tmp_path / "c"), recompute=3).recomputed.differing == []
    assert featcache.export_cache(FeatureCache(tmp_path / "c"), tmp_path / "x.npz").path.is_file()
    assert "mix" in [layer.address for layer in featcache.list_layers(str(oracle))]
    assert {"VGG19", "MobileNetV2"} <= {base.name for base in featcache.list_bases()}
