import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_image, write_image

from featcache import ImageClassifier, export_model, fit_head
from featcache.errors import ExportError
from featcache.images.decoding import load
from featcache.models.composition import compose
from featcache.models.export import rescoring
from featcache.sources.files import FileSource
from featcache.training.metrics import wilson_interval


@pytest.fixture
def low(extracting, tmp_path: Path) -> Any:
    """Return a cache computed in bfloat16 of images that are hard to tell apart, so that precision matters."""
    for split, count in (("train", 30), ("validation", 25)):
        for i in range(count):
            for j, name in enumerate(("dark", "light")):
                pixels = random_image(i + 1000 * j + (500 if split == "validation" else 0)) // 2 + 3 * j
                write_image(tmp_path / "p" / split / name / f"{i}.png", pixels.astype(np.uint8))
    write_image(tmp_path / "p" / "validation" / "dark" / "copy.png", random_image(0) // 2)  # of a training image
    (tmp_path / "p" / "validation" / "dark" / "torn.png").write_bytes(b"no image")
    return extracting(tmp_path / "p", tmp_path / "c", precision="bfloat16", pooling="flatten")


def test_it_has_its_own_score(low: Any, tmp_path: Path, at_once: None) -> None:
    """Both are scored on the validation images that nobody trained on, and have what plain Keras and the cache say."""
    head = fit_head(low, params={"C": 1000.0}, calibrate="none", out=tmp_path / "h")
    report = export_model(tmp_path / "h", tmp_path / "m.keras")
    found = report.own_score
    assert found is not None
    extractor = ImageClassifier.load(tmp_path / "h").extractor
    plain = compose(head, extractor.base, low.recipe)
    files = [tmp_path / "p" / "validation" / name / f"{i}.png" for name in ("dark", "light") for i in range(25)]
    said = plain.predict(np.stack([load(file.read_bytes(), extractor.spec) for file in files]), verbose=0)[:, 0]
    right = (said > 0.5) == np.repeat([False, True], 25)
    cached = head.metrics["validation"]
    assert (found["n"], found["accuracy"]) == (50, right.mean())
    assert (cached["n"], cached["accuracy"]) == (50, found["cache_accuracy"])
    assert found["accuracy_ci95"] == list(wilson_interval(int(right.sum()), 50))
    assert found["difference"] == pytest.approx(found["accuracy"] - found["cache_accuracy"])
    assert found["max_difference"] > 5e-3  # by which it was refused before
    known = json.loads(report.metadata.read_text())
    assert known["own_score"] == found
    assert known["comparison"]["max_difference"] <= 1e-4
    assert report.compared_with == known["comparison"]["compared_with"] == "base and head in float32"
    assert "cache in bfloat16, so it is another classifier" in report.notes[0]
    assert f"{found['accuracy']:.4f}" in report.notes[0]


@pytest.mark.parametrize(("wrong", "refused"), [(0, False), (1, False), (2, True), (50, True)])
def test_clearly_lower_is_refused(
    low: Any, tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch, wrong: int, refused: bool
) -> None:
    """One image of fifty less is within the standard error, two are not: nothing is written then."""

    def truth(pixels: np.ndarray) -> np.ndarray:
        return np.eye(2)[pixels[:, 0, 0, 0].astype(int) % 2]

    def said(whole: Any, pixels: np.ndarray) -> np.ndarray:
        number = pixels[:, 0, 0, 0]
        return np.where((number < wrong)[:, None], truth(pixels)[:, ::-1], truth(pixels))

    images = [(i % 2, np.full((8, 8, 3), i, np.float32)) for i in range(50)]
    monkeypatch.setattr(rescoring, "_validation", lambda classifier: iter(images))
    monkeypatch.setattr(rescoring, "_by_head", lambda classifier, pixels: truth(pixels))
    monkeypatch.setattr(rescoring, "answers", said)
    fit_head(low, params={"C": 1e-4}, out=tmp_path / "h")
    if refused:
        with pytest.raises(ExportError, match=r"on n=50 .*lower by more than one standard error.*--precision float32"):
            export_model(tmp_path / "h", tmp_path / "m.keras")
    else:
        found = export_model(tmp_path / "h", tmp_path / "m.keras").own_score
        assert found is not None
        assert found["difference"] == pytest.approx(-wrong / 50)
        assert found["standard_error"] == pytest.approx(wrong / 50)
    assert (tmp_path / "m.keras").exists() != refused


@pytest.mark.parametrize("regularisation", [1e-9, 1000.0])
def test_without_validation_images_it_is_refused(
    low: Any, tmp_path: Path, at_once: None, regularisation: float
) -> None:
    """With its images gone nothing can be scored: nothing is written, however near the probabilities are."""
    fit_head(low, params={"C": regularisation}, calibrate="none", out=tmp_path / "h")
    shutil.copytree(tmp_path / "p" / "validation" / "light", tmp_path / "new")
    shutil.rmtree(tmp_path / "p")
    with pytest.raises(ExportError, match=r"in bfloat16, so the export is .* not available.*put labelled .*float32"):
        export_model(tmp_path / "h", tmp_path / "m.keras", images=str(tmp_path / "new"))
    assert not list(tmp_path.glob("m.keras*"))


@pytest.mark.slow
def test_images_that_cannot_be_validation_are_not_read(
    low: Any, tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the source brings its splits, neither the score nor the comparison reads a training image."""
    fit_head(low, out=tmp_path / "h")
    read: list[str] = []
    monkeypatch.setattr(
        FileSource, "read", lambda self, item, plain=FileSource.read: [read.append(item.path), plain(self, item)][1]
    )
    export_model(tmp_path / "h", tmp_path / "m.keras", compare=100)
    assert len(read) == 2 * 52
    assert {path.split("/")[0] for path in read} == {"validation"}
