from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import predicted_mean, random_image, write_image
from PIL import Image

from featcache.cache import FeatureCache
from featcache.errors import ImageError, OptionError
from featcache.insight.neighbors import COLUMNS, TILE, contact_sheet, neighbors


def expected_order(cache: FeatureCache, query: np.ndarray) -> list[tuple[str, float]]:
    """Return paths and cosines as NumPy gives them, the most similar first."""
    X = np.asarray(cache.features(), np.float64)
    cosines = X @ query / np.linalg.norm(X, axis=1) / np.linalg.norm(query)
    return sorted(zip(cache.paths(), cosines.tolist(), strict=True), key=lambda pair: -pair[1])


def test_neighbors_of_an_image_of_the_cache(
    extracting: Callable[..., FeatureCache], split_photos: Path, tmp_path: Path
) -> None:
    """An image of the cache, by its path there, has NumPy's nearest, itself left out, with labels and splits."""
    cache = extracting(split_photos, tmp_path / "c")
    name = "train/dark/d3.png"
    found = neighbors(cache, name, top_k=5)
    query = np.asarray(cache.features())[cache.paths().index(name)]
    wanted = [pair for pair in expected_order(cache, query) if pair[0] != name][:5]
    assert [one.path for one in found.neighbors] == [path for path, _ in wanted]
    np.testing.assert_allclose([one.similarity for one in found.neighbors], [c for _, c in wanted], atol=1e-6)
    assert found.inside
    assert all(f"{one.split}/{one.label}/" in one.path for one in found.neighbors)
    assert len(neighbors(cache, name, top_k=1000).neighbors) == len(cache) - 1


def test_neighbors_of_a_file(
    extracting: Callable[..., FeatureCache], split_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new file goes through the base; one whose content is in the cache does not, and its image comes first."""
    cache = extracting(split_photos, tmp_path / "c")
    file = write_image(tmp_path / "new.png", random_image(4242))
    found = neighbors(cache, file, top_k=3)
    wanted = expected_order(cache, predicted_mean(random_image(4242)))[:3]
    assert [one.path for one in found.neighbors] == [path for path, _ in wanted]
    assert not found.inside
    monkeypatch.setattr("featcache.insight.neighbors.Extractor", None)
    first = neighbors(cache.path, split_photos / "train/dark/d0.png").neighbors[0]
    assert (first.path, round(first.similarity, 6)) == ("train/dark/d0.png", 1.0)


def test_a_name_that_means_two_images_is_said(
    extracting: Callable[..., FeatureCache],
    split_photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where a path of the cache is also that of another file here, it is said which of them is taken."""
    cache = extracting(split_photos, tmp_path / "c")
    monkeypatch.chdir(split_photos)
    neighbors(cache, "train/dark/d0.png")
    assert not caplog.text
    write_image(split_photos / "train/dark/d0.png", random_image(77))
    assert neighbors(cache, "train/dark/d0.png").inside
    assert "also a file here with other content; the cache's image is taken" in caplog.text


def test_what_cannot_be_sought(
    extracting: Callable[..., FeatureCache], made: Callable[..., FeatureCache], split_photos: Path, tmp_path: Path
) -> None:
    """A missing image, text, too few neighbours, and a file for features from elsewhere are refused."""
    cache = extracting(split_photos, tmp_path / "c")
    (tmp_path / "text.png").write_text("hello")
    for image, error, message in (
        ("nowhere.png", OptionError, "by its path there"),
        (tmp_path / "text.png", ImageError, "its content is text"),
    ):
        with pytest.raises(error, match=message):
            neighbors(cache, image)
    with pytest.raises(OptionError, match="1 or more"):
        neighbors(cache, "train/dark/d0.png", top_k=0)
    with pytest.raises(OptionError, match="is not an image of"):
        neighbors(made(), split_photos / "train/dark/d0.png")
    assert len(neighbors(made("other"), "000001").neighbors) == 10


def test_the_contact_sheet(extracting: Callable[..., FeatureCache], split_photos: Path, tmp_path: Path) -> None:
    """The picture has the image first and its neighbours in order; one that is gone is grey."""
    cache = extracting(split_photos, tmp_path / "c")
    found = neighbors(cache, "train/light/l0.png", top_k=6)
    (split_photos / found.neighbors[1].path).unlink()
    contact_sheet(cache, found, tmp_path / "deep" / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "deep" / "sheet.png"))
    assert sheet.shape[1] == COLUMNS * TILE

    def tile(number: int) -> np.ndarray:
        x = number % COLUMNS * TILE
        return sheet[20:60, x + 20 : x + TILE - 20]

    own = np.asarray(Image.open(split_photos / "train/light/l0.png"))
    assert abs(tile(0).mean() - own.mean()) < 15
    assert (tile(2) == 0xCC).all()
    assert not (tile(1) == 0xCC).all()
    with pytest.raises(OptionError, match=r"\.png"):
        contact_sheet(cache, found, tmp_path / "sheet.jpg")
