from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featcache import ImageClassifier, fit_head, load
from featcache.errors import HeadError, OptionError
from featcache.models.composition import compose
from featcache.models.folder import PixelModel, is_model


@pytest.fixture
def made_model(extracting, split_photos: Path, tmp_path: Path) -> PixelModel:
    """Return a whole model of a cache's head, saved, beside the head it was made of."""
    cache = extracting(split_photos, tmp_path / "c")
    head = fit_head(cache, out=tmp_path / "head")
    classifier = ImageClassifier.load(tmp_path / "head")
    model = compose(head, classifier.extractor.base, cache.recipe)
    card = {key: head.card[key] for key in ("source", "listing", "metrics")}
    whole = PixelModel(model, head.class_names, [0, 1], classifier.extractor.spec, card, head.trained_on)
    whole.save(tmp_path / "model")
    return whole


def test_a_model_folder_predicts_and_evaluates_like_its_head(made_model: PixelModel, tmp_path: Path) -> None:
    """What takes a head takes a whole model, and gives the same answers."""
    head, model = (ImageClassifier.load(tmp_path / name) for name in ("head", "model"))
    photos = tmp_path / "split" / "validation"
    one, two = ([list(p.probabilities.values()) for p in each.predict_records(photos)] for each in (head, model))
    assert np.allclose(one, two, atol=1e-6)
    assert model.evaluate()["metrics"]["validation"]["accuracy"] == head.evaluate()["metrics"]["validation"]["accuracy"]
    assert (is_model(tmp_path / "model"), is_model(tmp_path / "head")) == (True, False)
    assert isinstance(load(tmp_path / "model"), ImageClassifier)
    with pytest.raises(OptionError, match="contains its base"):
        ImageClassifier.load(tmp_path / "model", base="vgg19")


def test_a_model_is_asked_about_the_pixels_that_it_was_trained_on(made_model: PixelModel, tmp_path: Path) -> None:
    """How images become pixels is kept whole: the fraction of `crop`, too."""
    made_model.spec = replace(made_model.spec, resize="crop", crop=0.7, decode="reduced")
    made_model.save(tmp_path / "model")
    assert ImageClassifier.load(tmp_path / "model").extractor.spec == made_model.spec


def test_classes_without_training_images_have_probability_zero(made_model: PixelModel) -> None:
    """A class that was not trained on keeps its column."""
    made_model.class_names, made_model.trained_classes = ["a", "dark", "light"], [1, 2]
    assert made_model.predict_proba(np.array([[0.25]], np.float32)).tolist() == [[0, 0.75, 0.25]]


@pytest.mark.parametrize("name", ["model.keras", "model.json"])
def test_a_changed_folder_is_refused(made_model: PixelModel, tmp_path: Path, name: str) -> None:
    """A model or a card that is not as it was written is not used."""
    file = tmp_path / "model" / name
    file.write_bytes(file.read_bytes().replace(b"dark", b"dank") + b" ")
    with pytest.raises(HeadError, match=r"was changed after|damaged"):
        PixelModel.load(tmp_path / "model")


@pytest.mark.parametrize("content", ["", "5", "null", "{}", "[]", '{"format": 9}', "[" * 100_000])
def test_damaged_cards(made_model: PixelModel, tmp_path: Path, content: str) -> None:
    """Whatever the card holds, it ends in one error."""
    (tmp_path / "model" / "model.json").write_text(content)
    with pytest.raises(HeadError, match=r"is not the folder of a model|is damaged|has format|was changed"):
        PixelModel.load(tmp_path / "model")


def test_a_model_of_other_jpeg_pixels_is_refused(made_model: PixelModel, tmp_path: Path) -> None:
    """A folder from before JPEGs were decoded accurately says to fine-tune again."""
    made_model.spec = replace(made_model.spec, decode=False)
    made_model.save(tmp_path / "model")
    with pytest.raises(HeadError, match="Fine-tune it again"):
        PixelModel.load(tmp_path / "model")


def test_other_folders_are_not_overwritten(made_model: PixelModel, tmp_path: Path) -> None:
    """A folder that holds something else is left alone; a model is replaced."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years of work")
    with pytest.raises(HeadError, match="holds other files"):
        made_model.save(tmp_path / "thesis")
    assert made_model.save(tmp_path / "model") == tmp_path / "model"
