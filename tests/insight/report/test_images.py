import numpy as np
import pytest

from featcache import fit_head
from featcache.insight.report import images
from featcache.insight.report.answers import ask
from featcache.insight.report.images import feature_map
from featcache.insight.report.subject import open_subject


def test_all_mistakes_are_on_the_map(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more images than there is room for, those answered wrongly come first, the surest at the start."""
    monkeypatch.setattr(images, "POINTS", 60)
    cache = made(apart=0.4)
    answers = ask(open_subject(fit_head(cache, "ridge").path))
    assert answers is not None
    found = feature_map(cache, "features", answers)
    assert found is not None
    wrong = [answers.paths[i] for i in answers.mistakes()]
    assert 0 < len(wrong) < 60
    assert [cache.usable[i].path for i in found.images[: len(wrong)]] == wrong
    assert len(set(found.images.tolist())) == 60
    assert found.places.shape == (60, 2)


def test_principal_components_are_those_of_the_features(made) -> None:
    """PCA's places are the centred features on their first two singular vectors, up to sign."""
    cache = made(each=(10, 5, 5))
    found = feature_map(cache, "features", None, method="pca")
    assert found is not None
    X = cache.load()[0][found.images].astype(np.float64)
    left, size, _ = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    assert np.allclose(np.abs(found.places), np.abs(left[:, :2] * size[:2]), atol=1e-3)
    assert f"{size[0] ** 2 / (size**2).sum():.0%}" in found.axes[0]


def test_groups_far_apart_stay_apart(made) -> None:
    """t-SNE puts each image nearest to one of its own class, where the classes are far apart; and again the same."""
    cache = made(apart=20)
    found, again = (feature_map(cache, "features", None) for _ in range(2))
    assert found is not None
    assert again is not None
    assert (found.places == again.places).all()
    labels = cache.label_indices()[found.images]
    distance = np.linalg.norm(found.places[:, None] - found.places[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (labels[distance.argmin(axis=1)] == labels).all()


def test_maps_are_averaged_over_their_places(extracting, photos, tmp_path) -> None:
    """Spatial maps count by the mean of each channel."""
    cache = extracting(photos, tmp_path / "c", pooling="none")
    pooled = extracting(photos, tmp_path / "p", pooling="avg")
    one, two = (feature_map(each, "mix", None) for each in (cache, pooled))
    assert one is not None
    assert two is not None
    assert np.allclose(np.abs(one.places), np.abs(two.places), rtol=1e-3, atol=1e-3)


def test_two_images_have_no_map(made) -> None:
    """Fewer than three images make no map."""
    cache = made(each=(1, 0, 0), classes=2)
    assert feature_map(cache, "features", None) is None
