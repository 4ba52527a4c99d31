import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import skops.io
from conftest import crossed
from sklearn.datasets import make_classification

from featcache.errors import HeadError
from featcache.heads import HEADS, Head, build, fit

X, Y = make_classification(120, 10, n_informative=6, n_classes=3, random_state=0)
X = X.astype(np.float32)
GROUPS = np.arange(120)


def made(clf: str, calibrate: str = "temperature", **params: object) -> Head:
    estimator = fit(build(clf, params, calibrate=calibrate), X, Y, GROUPS)
    return Head(clf, estimator, ["a", "b", "c"], "mix")


@pytest.mark.parametrize(("clf", "calibrate"), crossed(list(HEADS), ["temperature", "sigmoid", "isotonic", "none"]))
def test_loaded_head_predicts_what_the_saved_one_did(tmp_path: Path, clf: str, calibrate: str) -> None:
    """Saving and loading changes no probability."""
    head = made(clf, calibrate, **({"epochs": 2, "hidden": (4,)} if clf == "dense" else {}))
    loaded = Head.load(head.save(tmp_path / "head"))
    assert np.array_equal(loaded.predict_proba(X), head.predict_proba(X))
    assert (loaded.clf, loaded.layer, loaded.class_names) == (clf, "mix", ["a", "b", "c"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head"]


def test_classes_without_training_images_have_probability_zero() -> None:
    """A class the head has never seen keeps its column."""
    two = Y < 2
    estimator = fit(build("logreg"), X[two], Y[two] * 2, GROUPS[two])
    shares = Head("logreg", estimator, ["a", "b", "c"], "mix").predict_proba(X)
    assert shares.shape == (120, 3)
    assert (shares[:, 1] == 0).all()


def test_predict_gives_names() -> None:
    """Predicted labels are class names."""
    assert set(made("logreg").predict(X)) <= {"a", "b", "c"}
    assert made("logreg").predict_proba(X[:0]).shape == (0, 3)


def test_wrong_number_of_values() -> None:
    """Features of another layer are refused by their size."""
    with pytest.raises(HeadError, match=r"takes 10 values .* Received: 4"):
        made("logreg").predict_proba(np.zeros((2, 4)))


def test_saving_again_replaces_the_head(tmp_path: Path) -> None:
    """A head's folder is replaced whole."""
    made("svm").save(tmp_path / "head")
    made("logreg").save(tmp_path / "head")
    assert Head.load(tmp_path / "head").clf == "logreg"
    assert sorted(p.name for p in (tmp_path / "head").iterdir()) == ["head.json", "model.skops", "trained_on.bin"]


def test_other_folders_are_not_overwritten(tmp_path: Path) -> None:
    """A folder that holds something else is left alone."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(HeadError, match="holds other files"):
        made("logreg").save(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_tampered_model_is_refused(tmp_path: Path) -> None:
    """A model file that is not the one head.json describes is not opened."""
    folder = made("logreg").save(tmp_path / "head")
    model = folder / "model.skops"
    model.write_bytes(model.read_bytes() + b"x")
    with pytest.raises(HeadError, match="was changed after"):
        Head.load(folder)


def test_unknown_type_is_refused_without_running_it(tmp_path: Path) -> None:
    """A file that names a type outside the list runs nothing, even with a matching digest."""
    folder = made("logreg").save(tmp_path / "head")
    content = skops.io.dumps(made("logreg").estimator)
    source = zipfile.ZipFile(io.BytesIO(content))
    forged = io.BytesIO()
    with zipfile.ZipFile(forged, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "schema.json":
                schema = json.loads(data)
                schema["__class__"], schema["__module__"] = "Popen", "subprocess"
                data = json.dumps(schema).encode()
            target.writestr(name, data)
    (folder / "model.skops").write_bytes(forged.getvalue())
    card = json.loads((folder / "head.json").read_text())
    del card["sha256"]
    size, digest = len(forged.getvalue()), hashlib.sha256(forged.getvalue()).hexdigest()
    card["model"] |= {"size": size, "sha256": digest}
    own = hashlib.sha256(json.dumps(card, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    (folder / "head.json").write_text(json.dumps({**card, "sha256": own}))
    with pytest.raises(HeadError, match=r"subprocess\.Popen"):
        Head.load(folder)


ELSEWHERE = '{"format": 1, "clf": "logreg", "model": {"file": "../../etc/passwd", "sha256": ""}}'


@pytest.mark.parametrize(
    "card", ["", "5", "null", "[" * 100_000, "[]", "{}", '{"format": 1}', '{"format": 99}', ELSEWHERE]
)
def test_damaged_cards(tmp_path: Path, card: str) -> None:
    """Whatever head.json holds, it ends in one error, and no other file is read."""
    (tmp_path / "head.json").write_text(card)
    with pytest.raises(HeadError, match=r"is damaged|not trusted|is not the folder|has format"):
        Head.load(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    """A folder that is no head is named."""
    with pytest.raises(HeadError, match=r"nowhere.*does not exist"):
        Head.load(tmp_path / "nowhere")


def test_changed_card_is_refused(tmp_path: Path) -> None:
    """Class names that were swapped since are noticed."""
    folder = made("logreg").save(tmp_path / "head")
    card = (folder / "head.json").read_text()
    (folder / "head.json").write_text(card.replace('"a"', '"z"'))
    with pytest.raises(HeadError, match="changed after"):
        Head.load(folder)


def test_head_that_gives_no_numbers_is_refused() -> None:
    """NaN is not a probability."""
    head = made("logreg")
    head.estimator.estimator_.coef_[:] = np.nan
    with pytest.raises(HeadError, match="logreg head gives NaN"):
        head.predict_proba(X)


def test_training_images_are_remembered(tmp_path: Path) -> None:
    """The digests of the training images come back with the head."""
    head = made("logreg")
    head.trained_on = {bytes([i]) * 32 for i in range(5)}
    assert Head.load(head.save(tmp_path / "head")).trained_on == head.trained_on


def test_saving_over_a_file_or_beside_notes(tmp_path: Path) -> None:
    """A file is not replaced; in a head's folder notes and a report stay beside the new head."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(HeadError, match="is a file, not a folder"):
        made("logreg").save(tmp_path / "file")
    folder = made("logreg").save(tmp_path / "head")
    for name in ("notes.txt", "report.html"):
        (folder / name).write_text(name)
    head = made("logreg")
    head.class_names = ["a", "b", "new"]
    head.save(folder)
    assert Head.load(folder).class_names == head.class_names
    assert all((folder / name).read_text() == name for name in ("notes.txt", "report.html"))


def test_a_model_that_is_no_head_is_refused(tmp_path: Path) -> None:
    """A signed file of harmless types that is no head, or one of other classes, is not taken."""
    head = made("logreg")
    head.class_names = ["a", "b"]
    with pytest.raises(HeadError, match="not a head of 2 classes"):
        Head.load(head.save(tmp_path / "classes"))
    head = made("logreg")
    head.estimator = {"a": 1}
    with pytest.raises(HeadError, match="not a head of 3 classes"):
        Head.load(head.save(tmp_path / "dict"))
