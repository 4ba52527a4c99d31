from pathlib import Path

import numpy as np
import pytest
from conftest import random_image, write_image

from featcache import ImageClassifier, fit_head
from featcache.insight.report import answers as module
from featcache.insight.report.answers import ask
from featcache.insight.report.subject import open_subject


def test_cached_features_give_what_the_head_says(made) -> None:
    """Truth, predictions and probabilities are those of the head on the validation rows, by path."""
    cache = made(apart=0.6)
    head = fit_head(cache, "ridge")
    found = ask(open_subject(head.path))
    assert found is not None
    X, y = cache.load("validation")[0], cache.label_indices("validation")
    shares = head.predict_proba(X)
    rows = {path: i for i, path in enumerate(cache.paths("validation"))}
    order = [rows[path] for path in found.paths]
    assert sorted(order) == list(range(90))
    assert found.truth.tolist() == y[order].tolist()
    assert found.predicted.tolist() == shares.argmax(axis=1)[order].tolist()
    assert np.allclose(found.confidence, shares.max(axis=1)[order])
    assert np.allclose(found.own, shares[order, y[order]])
    assert found.confusion.tolist() == head.metrics["validation"]["confusion"]


def test_mistakes_and_doubts_are_ranked(made) -> None:
    """The surest mistake comes first, and the least certain answer."""
    found = ask(open_subject(fit_head(made(apart=0.4), "ridge").path))
    assert found is not None
    wrong = found.mistakes()
    assert set(wrong) == set(np.flatnonzero(found.truth != found.predicted))
    assert (np.diff(found.confidence[wrong]) <= 0).all()
    assert found.uncertain()[0] == found.confidence.argmin()


def test_a_head_without_its_cache_answers_from_pixels(
    extracting, split_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the cache is gone, the base runs over the validation images, over a sample of them if they are many."""
    cache = extracting(split_photos, tmp_path / "c")
    head = fit_head(cache, out=tmp_path / "head")
    told = ask(open_subject(tmp_path / "head"))
    (tmp_path / "c").rename(tmp_path / "elsewhere")
    subject = open_subject(tmp_path / "head")
    found = ask(subject)
    assert found is not None
    assert told is not None
    assert any("gone" in note for note in subject.notes)
    assert sorted(zip(found.paths, found.predicted, strict=True)) == sorted(
        zip(told.paths, told.predicted, strict=True)
    )
    assert (found.split, len(found), found.sampled_from) == ("validation", 10, None)
    expected = {p.path: p.probability for p in list(ImageClassifier(head).predict_records(split_photos / "validation"))}
    assert sorted(found.confidence) == pytest.approx(sorted(expected.values()), abs=1e-6)
    monkeypatch.setattr(module, "MOST_PIXELS", 30)
    sampled = ask(open_subject(tmp_path / "head"))
    assert sampled is not None
    assert sampled.sampled_from == 50
    assert len(sampled) <= 10


def test_copies_of_training_images_do_not_count(made) -> None:
    """An image that was trained on is no evidence in another split."""
    cache = made()
    copies = [e._replace(split="validation", path=f"copy {e.path}") for e in cache.entries if e.split == "train"][:5]
    head = fit_head(cache, "centroid")
    subject = open_subject(head.path)
    subject.cache = cache.with_listing([*cache.entries, *copies])
    found = ask(subject)
    assert found is not None
    assert (len(found), found.left_out) == (90, 5)


def test_images_that_a_head_was_trained_on_do_not_count_under_another_split(extracting, tmp_path: Path) -> None:
    """Where the table's splits are exchanged after training, no training image is scored as one of validation."""
    for i in range(40):
        write_image(tmp_path / f"{i}.png", random_image(i))
    table = tmp_path / "t.csv"

    def splits(first: str, second: str) -> None:
        rows = [f"{i}.png,{'ab'[i % 2]},{first if i < 20 else second}" for i in range(40)]
        table.write_text("\n".join(["path,label,split", *rows]) + "\n")

    splits("train", "validation")
    cache = extracting(table, tmp_path / "c")
    head = fit_head(cache, "knn", params={"n_neighbors": 1}, out=tmp_path / "head")
    splits("validation", "train")
    extracting(table, tmp_path / "c")
    subject = open_subject(head.path)
    assert ask(subject) is None
    assert any("20 images of validation are ones that the head was trained on" in note for note in subject.notes)
