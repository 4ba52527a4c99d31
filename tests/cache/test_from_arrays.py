import hashlib
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image, write_image

from featcache import ImageClassifier, fit_head
from featcache.cache import FeatureCache
from featcache.cache.verification import verify
from featcache.errors import CacheError, HeadError, OptionError
from featcache.sources import SplitPolicy

SPEC = {"encoder": "clip", "layers": [1, 2]}
X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
X[30:] += 5
Y = ["a"] * 30 + ["b"] * 30


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    """X, y and paths are what was given, whatever order shards have."""
    cache = FeatureCache.from_arrays(X, Y, [f"{i}.png" for i in range(60)], SPEC, path=tmp_path / "c")
    assert np.array_equal(np.asarray(cache.features()), X)
    assert cache.label_indices().tolist() == [0] * 30 + [1] * 30
    assert cache.paths() == [f"{i}.png" for i in range(60)]
    assert (cache.missing, cache.layers, cache.recipe.spec) == (0, {"features": (5,)}, SPEC)
    assert verify(cache.path).problems == []


def test_splits_follow_the_policy_or_are_given(tmp_path: Path) -> None:
    """Without splits a fifth is validation, by digest and group as in extract; given ones are kept."""
    groups = [i // 2 for i in range(60)]
    cache = FeatureCache.from_arrays(X, Y, None, SPEC, path=tmp_path / "a", groups=groups)
    by_group: dict[str, set[str]] = {}
    policy = SplitPolicy(0.2)
    for entry in cache.entries:
        by_group.setdefault(entry.group, set()).add(entry.split)
    assert all(len(splits) == 1 for splits in by_group.values())
    for label in range(2):  # of 15 groups of a class the three with the smallest draws
        names = {entry.group for entry in cache.entries if entry.label == str(label)}
        first = sorted(names, key=lambda name: policy._draw(b"validation", hashlib.sha256(name.encode()).digest()))
        assert {name for name in names if by_group[name] == {"validation"}} == set(first[:3])
    given = (["train"] * 20 + ["test"] * 10) * 2
    cache = FeatureCache.from_arrays(X, Y, None, SPEC, path=tmp_path / "b", splits=given)
    assert cache.splits == {"train": 40, "test": 20}
    assert [entry.split for entry in cache.entries] == given


def test_layers_memory_maps_indices_and_halves(tmp_path: Path) -> None:
    """Several layers, memory-mapped input, index labels with names and float16 all work."""
    np.save(tmp_path / "x.npy", X.astype(np.float16))
    layers = {"early": X[:, :4].reshape(60, 2, 2).astype(np.float16), "late": np.load(tmp_path / "x.npy", "r")}
    cache = FeatureCache.from_arrays(
        layers, [-1] + [1, 0] * 29 + [1], None, SPEC, path=tmp_path / "c", class_names=["zebra", "ant"]
    )
    assert list(cache.layers) == ["early", "late"]
    assert np.array_equal(np.asarray(cache.features(layer="early")), layers["early"])
    assert np.asarray(cache.features()).dtype == np.float16
    assert cache.class_names == ["ant", "zebra"]
    assert cache.label_indices().tolist() == [-1] + [0, 1] * 29 + [0]
    assert cache.labels().tolist() == [None] + ["ant", "zebra"] * 29 + ["ant"]
    assert cache.load("train")[1].tolist() == cache.labels("train").tolist()


def test_digests_are_the_files(tmp_path: Path) -> None:
    """Where paths are files their bytes are the identity, and copies share a row; some only is an error."""
    paths = [write_image(tmp_path / f"{i}.png", random_image(i % 2)) for i in range(3)]
    cache = FeatureCache.from_arrays(X[:3], Y[:3], paths, SPEC, path=tmp_path / "c")
    assert cache.digests() == [hashlib.sha256(path.read_bytes()).digest() for path in paths]
    assert len(cache.places) == 2
    with pytest.raises(OptionError, match="Some of `paths` are files"):
        FeatureCache.from_arrays(X[:2], None, [paths[0], "gone.png"], SPEC, path=tmp_path / "d")


def test_more_rows_later_and_another_spec(tmp_path: Path) -> None:
    """The same spec adds rows to the cache; another one is refused, naming it."""
    first = FeatureCache.from_arrays(X[:50], Y[:50], None, SPEC, path=tmp_path / "c")
    names = {info.name for info in first.shards.values()}
    cache = FeatureCache.from_arrays(X, Y, None, SPEC, path=tmp_path / "c")
    assert len(cache) == 60
    assert np.array_equal(np.asarray(cache.features()), X)
    assert names < {info.name for info in cache.shards.values()}
    assert sum(info.rows for info in cache.shards.values()) == 60
    with pytest.raises(CacheError, match=r"spec: .*clip.*siglip"):
        FeatureCache.from_arrays(X, Y, None, {"encoder": "siglip"}, path=tmp_path / "c")


def test_heads_work_and_classifiers_refuse(tmp_path: Path) -> None:
    """A head is trained as on any cache; there is no base to classify pixels with, and one line says so."""
    FeatureCache.from_arrays(X, Y, None, SPEC, path=tmp_path / "c")
    head = fit_head(tmp_path / "c", "logreg")
    assert head.metrics["validation"]["accuracy"] == 1.0
    with pytest.raises(HeadError, match="came from elsewhere"):
        ImageClassifier.load(head.path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"y": ["a"]}, "'y': 1"),
        ({"paths": ["x"] * 60}, "Every path must be there once"),
        ({"splits": ["dev"] * 60}, "splits"),
        ({"spec": {"x": object()}}, "JSON"),
        ({"digests": [b"short"] * 60}, "32 bytes"),
        ({"class_names": ["a"], "y": [1] * 60}, "indices"),
        ({"X": [[1.0]]}, "array"),
        ({"X": np.full((60, 2), np.inf)}, "inf or NaN"),
    ],
)
def test_wrong_input(tmp_path: Path, change: dict[str, object], what: str) -> None:
    """What does not fit together is one clear error."""
    arguments = {"X": X, "y": Y, "paths": None, "spec": SPEC, "path": tmp_path / "c", **change}
    with pytest.raises(OptionError, match=what):
        FeatureCache.from_arrays(**arguments)
