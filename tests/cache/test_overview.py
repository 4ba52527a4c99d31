"""The caches in a folder."""

from pathlib import Path

import pytest

from featcache.cache.overview import differing, list_caches
from featcache.errors import CacheError


def test_caches_of_a_folder(extracting, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All caches in it are found, or the one that it is; what cannot be read is said and left out."""
    for name, options in {"b": {}, "a": {"pooling": "max"}}.items():
        extracting(photos, tmp_path / "caches" / name, **options)
    (tmp_path / "caches" / "c").mkdir()
    (tmp_path / "caches" / "c" / "recipe.json").write_text("{")
    found = list_caches(tmp_path / "caches")
    assert [cache.path.name for cache in found] == ["a", "b"]
    assert "no manifest.sqlite" in caplog.text
    assert [cache.path.name for cache in list_caches(tmp_path / "caches" / "b")] == ["b"]


def test_what_differs_is_in_words(extracting, photos: Path, made, tmp_path: Path) -> None:
    """Each cache has its base and those fields that are not alike in all; no digest is among them."""
    one, two = (extracting(photos, tmp_path / p, pooling=p) for p in ("avg", "max"))
    assert differing([one]) == [{"base": "oracle.keras"}]
    assert differing([one, two]) == [
        {"base": "oracle.keras", "pooling": "avg"},
        {"base": "oracle.keras", "pooling": "max"},
    ]
    assert differing([made()])[0]["base"].startswith("features from elsewhere")


def test_a_folder_without_caches(tmp_path: Path) -> None:
    """It is named, with what to do."""
    for folder, text in ((tmp_path, "no cache in"), (tmp_path / "none", "no folder")):
        with pytest.raises(CacheError, match=text):
            list_caches(folder)
