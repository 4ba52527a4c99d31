from pathlib import Path

import numpy as np
import pytest
from conftest import crossed

from featcache import ImageClassifier, fit_head
from featcache.errors import HeadError
from featcache.images.decoding import load
from featcache.models.composition import compose

LINEAR = ["logreg", "linear-svm", "ridge", "centroid", "dense"]


def both(cache, out: Path, clf: str, **options: object) -> tuple[np.ndarray, np.ndarray, object]:
    """Return a head's probabilities on cached features, and the composed model's output on pixels."""
    head = fit_head(cache, clf, out=out, **options)
    classifier = ImageClassifier.load(out)
    model = compose(head, classifier.extractor.base, cache.recipe)
    root = Path(cache.source["location"])
    spec = classifier.extractor.spec
    pixels = np.stack([load((root / path).read_bytes(), spec) for path in cache.paths("validation")])
    features = np.asarray(cache.features("validation", head.layer))
    return head.predict_proba(features), model.predict(pixels, verbose=0), model


@pytest.mark.parametrize(("clf", "calibrate"), crossed(LINEAR, ["temperature", "sigmoid", "none"]))
@pytest.mark.by_default("logreg-sigmoid", "ridge-temperature", "linear-svm-temperature", "centroid-temperature")
def test_a_composed_model_is_its_head(extracting, split_photos: Path, tmp_path: Path, clf: str, calibrate: str) -> None:
    """From pixels it gives the probabilities that the head gives on cached features."""
    cache = extracting(split_photos, tmp_path / "c", pooling="flatten" if clf == "linear-svm" else "avg")
    expected, found, _ = both(cache, tmp_path / "h", clf, calibrate=calibrate)
    assert found.shape == (10, 1)
    assert np.allclose(expected[:, 1], found[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"layers": ["mix", "positive"]},
        {"pooling": "none"},
        {"pooling": "max"},
        {"dtype": "float16"},
        {"preprocess": "caffe"},
        {"preprocess": "torch"},
        {"preprocess": "tf"},
        {"preprocess": "rescale"},
    ],
)
@pytest.mark.by_default("options0", "options1", "options3", "options4")
def test_everything_between_is_in_the_model(extracting, split_photos, tmp_path, options: dict[str, object]) -> None:
    """Preprocessing, the cut, pooling and the type of storage are those of the cache, and Keras alone loads it."""
    import keras

    cache = extracting(split_photos, tmp_path / "c", **options)
    expected, found, model = both(cache, tmp_path / "h", "logreg", layer="mix", params={"C": 0.01})
    assert np.allclose(expected[:, 1], found[:, 0], atol=1e-4)
    model.save(tmp_path / "m.keras")
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
    again = keras.models.load_model(tmp_path / "m.keras")
    assert np.array_equal(again.predict(pixels, verbose=0), model.predict(pixels, verbose=0))


@pytest.mark.parametrize(("clf", "calibrate"), crossed(LINEAR, ["temperature", "sigmoid"]))
def test_several_classes(extracting, tmp_path: Path, clf: str, calibrate: str) -> None:
    """With three classes there are three columns, also of sigmoids that are made to add up to 1."""
    from conftest import random_image, write_image

    for i in range(60):
        shade = (random_image(i) // 4 + 60 * (i % 3)).astype(np.uint8)
        write_image(tmp_path / "p" / ("train" if i < 48 else "validation") / "abc"[i % 3] / f"{i}.png", shade)
    cache = extracting(tmp_path / "p", tmp_path / "c")
    expected, found, _ = both(cache, tmp_path / "h", clf, calibrate=calibrate)
    assert np.allclose(expected, found, atol=1e-5)


@pytest.mark.parametrize(("clf", "calibrate"), [("svm", "temperature"), ("knn", "none"), ("ridge", "isotonic")])
def test_heads_that_no_network_expresses(extracting, split_photos, tmp_path: Path, clf: str, calibrate: str) -> None:
    """They are named, with what can be done."""
    with pytest.raises(HeadError, match=r"No network can express .*`distill` ridge"):
        both(extracting(split_photos, tmp_path / "c"), tmp_path / "h", clf, calibrate=calibrate)


def test_composing_changes_neither_base_nor_head(extracting, split_photos: Path, tmp_path: Path) -> None:
    """Training the composed model leaves the base and the dense head as they are."""
    cache = extracting(split_photos, tmp_path / "c")
    head = fit_head(cache, "dense", out=tmp_path / "h")
    base = ImageClassifier.load(tmp_path / "h").extractor.base
    before = [*base.model.get_weights(), *head.estimator.estimator_.model_.get_weights()]
    model = compose(head, base, cache.recipe)
    model.trainable = True
    model.compile("sgd", "binary_crossentropy")
    model.fit(np.ones((4, 8, 8, 3), np.float32), np.ones(4), verbose=0)
    after = [*base.model.get_weights(), *head.estimator.estimator_.model_.get_weights()]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_features_are_rounded_as_the_cache_keeps_them(extracting, split_photos: Path, tmp_path: Path) -> None:
    """Of a float16 cache the composed model's scores are those of features in float16, to float32's precision."""
    import keras

    cache = extracting(split_photos, tmp_path / "c", dtype="float16")
    _, _, model = both(cache, tmp_path / "h", "logreg", params={"C": 1000.0})
    paths = [Path(cache.source["location"]) / path for path in cache.paths("validation")]
    spec = ImageClassifier.load(tmp_path / "h").extractor.spec
    pixels = np.stack([load(path.read_bytes(), spec) for path in paths])
    scores = keras.Model(model.input, model.get_layer("scores").output).predict(pixels, verbose=0)[:, 0]
    estimator = ImageClassifier.load(tmp_path / "h").head.estimator.estimator_
    expected = estimator.decision_function(np.asarray(cache.features("validation")).astype(np.float32))
    assert np.allclose(scores, expected, rtol=1e-5, atol=1e-5)
