"""Charts for notebooks."""

from pathlib import Path

import numpy as np
import pytest

from featcache import FeatureCache, plot_confusion, plot_map
from featcache.errors import HeadError, OptionError
from featcache.training import fit_head

alt = pytest.importorskip("altair")


def test_the_confusion_of_a_head(made) -> None:
    """The chart has the counts of the head's own scores; a split without scores is named."""
    head = fit_head(made(apart=0.6), "ridge")
    (values,) = plot_confusion(head.path).to_dict()["datasets"].values()
    assert sum(one["count"] for one in values) == head.metrics["validation"]["n"]
    with pytest.raises(HeadError, match=r"'no'.*train, validation"):
        plot_confusion(head, split="no")


def test_the_map_of_a_cache(made, tmp_path: Path) -> None:
    """Every image is a point with its path and class, and the chart becomes a picture without a network."""
    cache = made(apart=0.6)
    chart = plot_map(cache, method="pca")
    assert isinstance(chart, alt.Chart)
    (points,) = chart.to_dict()["datasets"].values()
    assert {point["file"] for point in points} == set(cache.paths())
    assert {point["class"] for point in points} == set(cache.class_names)
    assert len({point["x"] for point in points}) > len(points) / 2
    chart.save(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_a_map_of_tiny_features(tmp_path: Path) -> None:
    """Features of a millionth are spread over the map as those of one are."""
    X = np.random.default_rng(0).normal(size=(60, 4)) * 1e-6
    cache = FeatureCache.from_arrays(X, ["a", "b"] * 30, None, {"encoder": "tiny"}, path=tmp_path / "c")
    (points,) = plot_map(cache, method="pca").to_dict()["datasets"].values()
    assert len({point["x"] for point in points}) > 50


def test_too_few_images_for_a_map(made) -> None:
    """Two images make no map, and the message says how many there are."""
    with pytest.raises(OptionError, match=r"needs 3 images.*has 2"):
        plot_map(made(each=(1, 0, 0), classes=2))
