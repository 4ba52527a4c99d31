import os
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image, write_image

from featcache.errors import HeadError
from featcache.training import examples as module
from featcache.training.examples import evaluation_examples, packed, training_examples


def test_rows_are_in_order_of_storage(made) -> None:
    """Labels, groups and features belong together, in the order the shards have them."""
    cache = made()
    X, y = cache.load("train")[0], cache.label_indices("train")
    found = training_examples(cache, "features")
    place = {row.tobytes(): i for i, row in enumerate(X)}
    order = [place[row.tobytes()] for row in np.asarray(found.rows)]
    assert order != sorted(order)
    assert np.array_equal(found.labels, y[order])
    assert np.array_equal(found.groups, cache.groups("train")[order])
    assert found.scored.all()


def test_views_are_trained_on_and_not_scored(extracting, photos: Path, tmp_path: Path) -> None:
    """Of the rows of an image, the one of the image as it is counts."""
    cache = extracting(photos, tmp_path / "c", views=2, augment="flip", validation_split=0.0)
    found = training_examples(cache, "mix")
    assert len(found) == 36
    assert found.scored.sum() == 12
    assert all(found.scored[found.images == image].sum() == 1 for image in range(12))


def test_copies_of_training_images_are_not_scored(extracting, tmp_path: Path) -> None:
    """An image of validation that was trained on does not count."""
    for split, seeds in (("train", (1, 2)), ("validation", (2, 3))):
        for seed in seeds:
            write_image(tmp_path / "p" / split / "a" / f"{seed}.png", random_image(seed))
    found = evaluation_examples(extracting(tmp_path / "p", tmp_path / "c"), "validation", "mix")
    assert sorted(found.scored.tolist()) == [False, True]


def test_pictures_without_classes_are_answered_with_where_to_put_them(extracting, tmp_path: Path) -> None:
    """A folder of nothing but pictures is extracted, but no head can be trained on it."""
    write_image(tmp_path / "p" / "1.png", random_image(1))
    with pytest.raises(HeadError, match=r"1 of 1 images have no class.*one folder per class"):
        training_examples(extracting(tmp_path / "p", tmp_path / "c", validation_split=0.0), "mix")


def test_packed_features_are_a_map_that_is_gone_afterwards(made) -> None:
    """Features are laid out once as float32 in one file, without a name that a kill could leave behind."""
    cache = made()
    examples = training_examples(cache, "features")
    before = sorted(path.name for path in cache.path.iterdir())
    with packed(examples, cache.path) as ready:
        assert np.array_equal(np.asarray(ready.rows), np.asarray(examples.rows))
        assert isinstance(ready.rows._source, np.memmap)
        if os.name == "posix" and Path("/proc/self/fd").is_dir():
            assert sorted(path.name for path in cache.path.iterdir()) == before
    assert sorted(path.name for path in cache.path.iterdir()) == before


def test_a_full_disk_is_said_before_anything_is_written(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the features there is one clear error."""
    cache = made()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with (
        pytest.raises(HeadError, match="Not enough disk space"),
        packed(training_examples(cache, "features"), cache.path),
    ):
        pass


def test_a_proc_of_another_namespace_is_said(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc shows other processes under this one's number, no file of theirs is taken for features."""
    cache = made()
    monkeypatch.setattr(module.os, "getpid", lambda: 1)
    with pytest.raises(HeadError, match="pid namespace"), packed(training_examples(cache, "features"), cache.path):
        pass
