from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image, write_image

from featcache.cache import FeatureCache
from featcache.errors import ImageError
from featcache.extraction.originals import Originals


def test_an_image_of_too_many_pixels_for_pillow_has_no_size(
    extracting, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's own limit of pixels, which holds in programs of others, ends no audit."""
    import PIL.Image

    cache = extracting(photos, tmp_path / "c")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1)
    assert Originals(cache).size(cache.entries[0]) is None


def test_files_arrays_and_tables(extracting: Callable[..., FeatureCache], photos: Path, tmp_path: Path) -> None:
    """Images of folders, tables and arrays are read again as they were, with their sizes."""
    folder = extracting(photos, tmp_path / "a")
    pixels = np.stack([random_image(i) for i in range(6)])
    np.savez(tmp_path / "set.npz", images=pixels, labels=np.arange(6) % 2)
    array = extracting(tmp_path / "set.npz", tmp_path / "b")
    (photos / "t.csv").write_text("path,label\ndark/d0.png,x\nlight/l0.png,y\n")
    table = extracting(photos / "t.csv", tmp_path / "c")
    assert Originals(table).root == photos
    for cache in (folder, array, table):
        originals = Originals(cache)
        for entry in cache.entries:
            assert originals.size(entry) == (8, 8)
            assert originals.thumbnail(entry, 4).shape == (4, 4, 3)
    np.testing.assert_array_equal(Originals(array).content(array.entries[2]), pixels[2])
    assert Originals(array).file(array.entries[0]) is None


def test_changed_and_gone_images_say_so(extracting: Callable[..., FeatureCache], photos: Path, tmp_path: Path) -> None:
    """An image that is not what was extracted is refused, and one that is gone, without an end of the others."""
    cache = extracting(photos, tmp_path / "c")
    write_image(photos / "dark" / "d0.png", random_image(77))
    (photos / "dark" / "d1.png").unlink()
    originals, entries = Originals(cache), {entry.path: entry for entry in cache.entries}
    with pytest.raises(ImageError, match="changed"):
        originals.content(entries["dark/d0.png"])
    with pytest.raises(ImageError, match="not in the source"):
        originals.content(entries["dark/d1.png"])
    assert originals.size(entries["dark/d1.png"]) is None
    assert originals.content(entries["dark/d2.png"])
    photos.rename(tmp_path / "moved")
    with pytest.raises(ImageError, match="source cannot be opened"):
        Originals(cache).content(entries["dark/d2.png"])
