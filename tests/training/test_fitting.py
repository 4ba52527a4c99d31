import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image, write_image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featcache.errors import GateError, HeadError, OptionError
from featcache.heads import HEADS, Head
from featcache.models.classifier import ImageClassifier
from featcache.sources.arrays import ArraySource
from featcache.training import compare, fit_head


@pytest.fixture
def cache(extracting, split_photos: Path, tmp_path: Path):
    return extracting(split_photos, tmp_path / "c", layers=["mix", "positive"])


def test_head_equals_plain_scikit_learn(cache) -> None:
    """With a given penalty the head's probabilities are those of scikit-learn on X and y read from the cache."""
    X, y = cache.load("train", "mix")
    V, _ = cache.load("validation", "mix")
    plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X, y)
    head = fit_head(cache, "logreg", layer="mix", params={"C": 1.0}, calibrate="none")
    assert np.allclose(head.predict_proba(V), plain.predict_proba(V), atol=1e-3)


def test_head_is_saved_in_its_default_place(cache) -> None:
    """Without `out` the head lies in the cache, named by its kind and the deepest layer."""
    head = fit_head(cache)
    assert head.path == cache.path / "heads" / "logreg-positive"
    card = json.loads((head.path / "head.json").read_text())
    assert card["recipe"] == cache.recipe.to_dict()
    assert card["metrics"]["validation"]["n"] == 10
    assert set(card["metrics"]) == {"train", "validation"}
    assert card["versions"]["scikit-learn"]


def test_separable_classes_are_separated(cache) -> None:
    """Dark and light are told apart by every head."""
    for clf in HEADS:
        assert fit_head(cache, clf, layer="mix").metrics["validation"]["accuracy"] == 1.0


def test_gate(cache, tmp_path: Path) -> None:
    """Below the asserted accuracy no head is written."""
    assert fit_head(cache, assert_accuracy=1.0, out=tmp_path / "good").path == tmp_path / "good"
    with pytest.raises(GateError, match="No head was written"):
        fit_head(cache, assert_accuracy=1.01, out=tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_copies_across_the_split_do_not_count(extracting, split_photos: Path, tmp_path: Path) -> None:
    """A training image that is also in validation is left out of its metrics, and counted."""
    shutil.copy(split_photos / "train" / "dark" / "d0.png", split_photos / "validation" / "dark" / "leak.png")
    shutil.copy(split_photos / "train" / "dark" / "d1.png", split_photos / "validation" / "light" / "wrong.png")
    metrics = fit_head(extracting(split_photos, tmp_path / "c")).metrics
    assert (metrics["validation"]["n"], metrics["validation"]["copies_left_out"]) == (10, 2)
    assert (metrics["train"]["n"], metrics["train"]["copies_left_out"]) == (40, 0)


def test_planted_copies_score_chance(extracting, tmp_path: Path) -> None:
    """On random labels with every image twice, a naive split scores high and ours does not."""
    rng = np.random.default_rng(0)
    images = np.stack([random_image(i) for i in range(150)])
    labels = [str(label) for label in rng.integers(0, 2, 150)]
    source = ArraySource("made", np.concatenate([images, images]), labels + labels)
    cache = extracting(source, tmp_path / "c", pooling="flatten", validation_split=0.4)
    metrics = fit_head(cache, "svm", params={"C": 100.0}).metrics
    assert metrics["train"]["accuracy"] > 0.95
    low, high = metrics["validation"]["accuracy_ci95"]
    assert low < 0.6
    assert high < 0.75


def test_unfinished_cache_is_a_warning(extracting, photos: Path, tmp_path: Path, caplog) -> None:
    """Training on part of the images is said, not hidden."""

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extracting(photos, tmp_path / "c", progress=stop, validation_split=0.0)
    fit_head(tmp_path / "c")
    assert "4 of 12 images have no features yet" in caplog.text


def test_no_training_images(extracting, tmp_path: Path) -> None:
    """A cache without train rows is one clear error."""
    write_image(tmp_path / "photos" / "validation" / "a" / "1.png", random_image(0))
    (tmp_path / "photos" / "train" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "train" / "a" / "2.png").write_text("no image")
    cache = extracting(tmp_path / "photos", tmp_path / "c")
    with pytest.raises(HeadError, match="No training images"):
        fit_head(cache)


def test_wrong_names(cache) -> None:
    """A wrong layer or parameter is answered before anything is trained."""
    with pytest.raises(OptionError, match="nearest: mix"):
        fit_head(cache, layer="mixed")
    with pytest.raises(OptionError, match="dense has no parameter"):
        fit_head(cache, "dense", params={"width": 3})


def test_maps_are_flattened(extracting, split_photos: Path, tmp_path: Path) -> None:
    """Unpooled features train and predict too."""
    cache = extracting(split_photos, tmp_path / "c", pooling="none")
    head = Head.load(fit_head(cache).path)
    X = np.asarray(cache.features("validation"))
    assert X.shape == (10, 8, 8, 4)
    assert head.predict_proba(X).shape == (10, 2)


def test_probabilities_are_calibrated_on_training_images(cache) -> None:
    """The temperature is in the card, and log loss and calibration error in the metrics."""
    head = fit_head(cache, "linear-svm")
    assert head.card["calibration"]["method"] == "temperature"
    assert head.card["calibration"]["temperature"] == head.estimator.temperature_ != 1
    assert {"log_loss", "ece"} <= set(head.metrics["validation"])
    assert fit_head(cache, "ridge", calibrate="none").card["calibration"]["temperature"] == 1


@pytest.mark.slow
def test_protocols_are_reported(made) -> None:
    """Tuning, folds and few-shot draws are in the card, and the head has the tuned parameters."""
    cache = made(apart=0.7)
    head = fit_head(cache, "logreg", tune=True, cv=3, fewshot=[1, 2], tries=2, jobs=2)
    assert head.card["params"]["C"] in [row["params"]["C"] for row in head.card["tuning"]]
    assert head.card["all_params"]["C"] == head.card["params"]["C"]
    assert head.card["cross_validation"]["folds"] == 3
    assert [row["shots"] for row in head.card["fewshot"]] == [1, 2]
    assert json.loads((head.path / "head.json").read_text())["fewshot"] == head.card["fewshot"]


def test_few_shot_without_validation(made) -> None:
    """Few-shot heads are scored on validation images or not at all."""
    with pytest.raises(OptionError, match="`fewshot` needs validation images"):
        fit_head(made(each=(10, 0, 4)), fewshot=[1])


def test_heads_that_do_not_fit_into_memory(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that needs more memory than there is says what, and names those that stream."""
    monkeypatch.setattr("featcache.training.single.available", lambda: 5000)
    with pytest.raises(
        HeadError, match=r"180 x 8 features are .* Take a head that reads them in blocks: centroid, dense"
    ):
        fit_head(made(), "svm")
    assert fit_head(made(), "centroid").metrics["validation"]["accuracy"] > 0.5


def test_streaming_heads_read_in_blocks(made, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the cache, too, a head that streams never reads more than a window."""
    from featcache.cache import FeatureRows
    from featcache.heads import rows as module

    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * 4 * 16)
    monkeypatch.setattr(module, "WINDOW_BYTES", 8 * 4 * 32)
    most = []
    plain = FeatureRows.read
    monkeypatch.setattr(
        FeatureRows, "read", lambda self, rows, out, at: (most.append(len(at)), plain(self, rows, out, at))[1]
    )
    for clf in ("logreg", "ridge", "centroid", "dense"):
        params = {"epochs": 2, "batch_size": 16} if clf == "dense" else {}
        fit_head(made(clf), clf, params=params)
    assert 0 < max(most) <= 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "`seed` must be 0 or more"),
        ({"jobs": 0}, "`jobs` must be 1 or more"),
        ({"cv": 1}, "at least 2 folds"),
        ({"fewshot": [0]}, "must be 1 or more"),
        ({"fewshot": [1000]}, "asks for 1000 images of each class"),
        ({"tries": 0}, "`tries` must be 1 or more"),
        ({"clf": "ridge", "params": {"folds": "abc"}}, "folds"),
    ],
)
def test_wrong_options_are_one_error(made, options: dict[str, object], message: str) -> None:
    """A value that cannot be is answered with what can."""
    with pytest.raises(OptionError, match=message):
        fit_head(made(), **options)


def test_a_place_that_cannot_be_written_is_said_before_training(made, tmp_path: Path, monkeypatch) -> None:
    """A folder with other files is refused before anything is trained."""
    (tmp_path / "thesis.txt").write_text("years of work")
    monkeypatch.setattr("featcache.training.fitting._trained", lambda *_, **__: pytest.fail("was trained"))
    with pytest.raises(HeadError, match="holds other files"):
        fit_head(made(), out=tmp_path)


def test_a_class_without_validation_images_is_said(extracting, split_photos: Path, tmp_path: Path, caplog) -> None:
    """Where a split has no image of a class, fitting, comparing and evaluating say so."""
    for path in (split_photos / "validation" / "light").iterdir():
        path.unlink()
    cache = extracting(split_photos, tmp_path / "c")
    line = "validation has no image of 1 of 2 classes ('light'): its scores leave them out"
    for score in (
        lambda: fit_head(cache),
        lambda: compare(cache, ["ridge"], jobs=1),
        lambda: ImageClassifier.load(tmp_path / "c" / "heads" / "logreg-mix").evaluate(),
    ):
        caplog.clear()
        score()
        assert line in caplog.text


@pytest.mark.parametrize("clf", ["ridge", "logreg"])
def test_equal_pictures_of_other_bytes_do_not_lower_the_penalty(tmp_path: Path, clf: str) -> None:
    """Copies that only their features tell are on one side of the folds that choose the penalty."""
    from featcache import FeatureCache

    rng = np.random.default_rng(0)
    X = np.repeat(rng.standard_normal((120, 30)).astype(np.float32), 2, axis=0)
    y = np.repeat(rng.integers(0, 2, 120), 2)
    chosen = []
    for name, groups in (("known", [f"g{i // 2}" for i in range(240)]), ("unknown", None)):
        cache = FeatureCache.from_arrays(
            X,
            y,
            None,
            {"made": name},
            path=tmp_path / name,
            digests=[i.to_bytes(32, "big") for i in range(240)],
            groups=groups,
            class_names=["a", "b"],
        )
        chosen.append(fit_head(cache, clf).estimator.estimator_.chosen_)
    known, unknown = (next(iter(one.values())) for one in chosen)
    assert abs(np.log10(known / unknown)) < 1.1
