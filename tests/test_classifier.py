import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image, write_image

from featcache.classifier import ImageClassifier
from featcache.errors import BaseError, HeadError, OptionError, SourceError, WeightsError
from featcache.heads import Head
from featcache.train import fit_head


@pytest.fixture
def cache(extracting, split_photos: Path, tmp_path: Path):
    return extracting(split_photos, tmp_path / "c", layers=["mix", "positive"])


@pytest.mark.parametrize("clf", ["logreg", "linear-svm", "svm", "dense"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_pixels_give_what_cached_features_gave(extracting, split_photos, tmp_path, clf: str, dtype: str) -> None:
    """On the images of the cache a classifier says what its head says on their rows, within 1e-4."""
    cache = extracting(split_photos, tmp_path / "c", dtype=dtype)
    head = fit_head(cache, clf, params={"epochs": 3} if clf == "dense" else {})
    predictions = ImageClassifier.load(head.path).predict([split_photos / path for path in cache.paths()])
    live = np.array([list(one.probabilities.values()) for one in predictions])
    cached = head.predict_proba(np.asarray(cache.features()))
    assert np.abs(live - cached).max() <= 1e-4
    assert [one.label for one in predictions] == list(head.predict(np.asarray(cache.features())))


def test_head_on_a_shallow_layer(cache, split_photos: Path) -> None:
    """A head takes the layer it was trained on, not the deepest."""
    head = fit_head(cache, layer="mix")
    predictions = ImageClassifier.load(head.path).predict(split_photos / "validation")
    live = np.array([list(one.probabilities.values()) for one in predictions])
    assert np.abs(live - head.predict_proba(np.asarray(cache.features("validation", "mix")))).max() <= 1e-4


def test_order_and_bad_images(cache, split_photos: Path, tmp_path: Path) -> None:
    """Predictions come in the order given; an unreadable image has its reason in its place."""
    (tmp_path / "bad.jpg").write_text("hello")
    good = split_photos / "validation" / "dark" / "d0.png"
    first, bad, last = ImageClassifier.load(fit_head(cache).path).predict(
        [split_photos / "validation" / "light" / "l0.png", tmp_path / "bad.jpg", good]
    )
    assert (first.label, bad.label, last.label) == ("light", None, "dark")
    assert bad.reason == "not an image: its content is text"
    assert sum(last.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert last.probability == max(last.probabilities.values())


def test_evaluate_repeats_the_heads_metrics(cache) -> None:
    """Scored from pixels, every split has the metrics it had on cached features."""
    head = fit_head(cache)
    assert ImageClassifier.load(head.path).evaluate()["metrics"] == head.metrics


def test_evaluate_repeats_a_split_by_content(extracting, photos: Path, tmp_path: Path) -> None:
    """Where the split is ours, evaluation finds the same images in it."""
    cache = extracting(photos, tmp_path / "c", validation_split=0.4, test_from=("validation", 0.5), seed=4)
    head = fit_head(cache)
    assert ImageClassifier.load(head.path).evaluate()["metrics"] == head.metrics


def test_evaluate_another_source(cache, split_photos: Path, tmp_path: Path) -> None:
    """A source without splits is scored as a whole; copies of training images are left out."""
    for i in range(4):
        write_image(tmp_path / "new" / "dark" / f"{i}.png", random_image(900 + i) // 3)
        write_image(tmp_path / "new" / "light" / f"{i}.png", 255 - random_image(950 + i) // 3)
    shutil.copy(split_photos / "train" / "dark" / "d3.png", tmp_path / "new" / "dark" / "seen.png")
    result = ImageClassifier.load(fit_head(cache).path).evaluate(tmp_path / "new")
    assert list(result["metrics"]) == ["all"]
    assert (result["metrics"]["all"]["n"], result["metrics"]["all"]["copies_left_out"]) == (8, 1)
    assert result["metrics"]["all"]["accuracy"] == 1.0


def test_unknown_classes_are_refused(cache, tmp_path: Path) -> None:
    """Images of a class the head does not know cannot be scored."""
    write_image(tmp_path / "new" / "purple" / "1.png", random_image(1))
    with pytest.raises(OptionError, match="purple"):
        ImageClassifier.load(fit_head(cache).path).evaluate(tmp_path / "new")


def test_other_weights_are_refused(extracting, split_photos: Path, oracle: Path, tmp_path: Path) -> None:
    """If the base's file changed since, the classifier does not predict; a right file can be named."""
    import keras

    file = shutil.copy(oracle, tmp_path / "base.keras")
    head = fit_head(extracting(split_photos, tmp_path / "c", base=file))
    model = keras.models.load_model(file)
    model.set_weights([weight + 1 for weight in model.get_weights()])
    model.save(file)
    image = split_photos / "validation" / "dark" / "d0.png"
    with pytest.raises(WeightsError, match=r"weights: .* → "):
        ImageClassifier.load(head.path).predict(image)
    Path(file).unlink()
    with pytest.raises(BaseError, match="does not exist"):
        ImageClassifier.load(head.path).predict(image)
    assert ImageClassifier.load(head.path, base=oracle).predict(image)[0].label == "dark"


def test_base_in_memory_must_be_given_again(split_photos: Path, tmp_path: Path) -> None:
    """A head on features of a model object needs that model to predict, under whatever layer names."""
    import keras

    from featcache.extraction import extract

    def base() -> object:
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 1), keras.layers.ReLU()])
        model.set_weights([np.full((1, 1, 3, 4), 0.5, np.float32), np.zeros(4, np.float32)])
        return model

    head = fit_head(extract(split_photos, base=base(), preprocess="none", cache=tmp_path / "c"))
    with pytest.raises(HeadError, match="Expected base="):
        ImageClassifier.load(head.path)
    classifier = ImageClassifier.load(head.path, base=base())
    assert classifier.evaluate()["metrics"] == head.metrics


def test_head_without_its_base_is_refused(cache) -> None:
    """A head whose card lacks what names its base is one clear error."""
    head = fit_head(cache)
    del head.card["recipe"]
    with pytest.raises(HeadError, match="without recipe"):
        ImageClassifier(head)


def test_missing_image(cache) -> None:
    """A path that does not exist is an error before anything is predicted."""
    with pytest.raises(SourceError, match="nowhere"):
        ImageClassifier.load(fit_head(cache).path).predict("nowhere.png")


def test_saved_head_knows_its_classes(cache) -> None:
    """Class names travel with the head, in the order of its columns."""
    path = fit_head(cache).path
    assert ImageClassifier.load(path).class_names == Head.load(path).class_names == ["dark", "light"]


def test_training_images_never_count(extracting, photos: Path, split_photos: Path, tmp_path: Path) -> None:
    """Evaluation leaves out what the head saw, although cache, split and folders have changed since."""
    cache = extracting(photos, tmp_path / "c", validation_split=0.4)
    head = fit_head(cache, out=tmp_path / "head")
    seen = cache.splits["train"]
    extracting(photos, tmp_path / "c", validation_split=0.5, seed=5)
    shutil.move(tmp_path / "c", tmp_path / "elsewhere")
    metrics = ImageClassifier.load(head.path).evaluate(photos)["metrics"]["all"]
    assert (metrics["n"], metrics["copies_left_out"]) == (12 - seen, seen)


def test_same_image_twice_is_predicted_twice(cache, split_photos: Path) -> None:
    """Predictions line up with what was asked for, repetitions included."""
    dark, light = split_photos / "validation" / "dark" / "d0.png", split_photos / "validation" / "light" / "l0.png"
    predictions = ImageClassifier.load(fit_head(cache).path).predict([dark, light, dark])
    assert [one.label for one in predictions] == ["dark", "light", "dark"]


def test_nothing_to_score_is_an_error(cache, split_photos: Path, tmp_path: Path) -> None:
    """Images that the head was trained on, and nothing else, give no score."""
    shutil.copytree(split_photos / "train", tmp_path / "seen")
    with pytest.raises(OptionError, match="40 copies of its training images"):
        ImageClassifier.load(fit_head(cache).path).evaluate(tmp_path / "seen")
