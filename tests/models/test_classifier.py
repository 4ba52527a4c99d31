import json
import os
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_image, write_image
from PIL import Image

from featcache import export_model
from featcache.errors import BaseError, HeadError, ImageError, OptionError, SourceError, WeightsError
from featcache.heads import Head
from featcache.models import classifier as classifier_module
from featcache.models import predictions
from featcache.models.classifier import ImageClassifier
from featcache.models.predictions import Prediction, own_files
from featcache.sources.arrays import ArraySource
from featcache.training import fit_head
from featcache.training.metrics import coverage_table


@pytest.fixture
def cache(extracting, split_photos: Path, tmp_path: Path):
    return extracting(split_photos, tmp_path / "c", layers=["mix", "positive"])


@pytest.mark.parametrize("clf", ["logreg", "linear-svm", "svm", "dense"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.by_default("float32-logreg", "float32-svm", "float16-dense")
def test_pixels_give_what_cached_features_gave(extracting, split_photos, tmp_path, clf: str, dtype: str) -> None:
    """On the images of the cache a classifier says what its head says on their rows, within 1e-4."""
    cache = extracting(split_photos, tmp_path / "c", dtype=dtype)
    head = fit_head(cache, clf, params={"epochs": 3} if clf == "dense" else {})
    classifier, images = ImageClassifier.load(head.path), [split_photos / path for path in cache.paths()]
    live = classifier.predict_proba(images)
    cached = head.predict_proba(np.asarray(cache.features()))
    assert np.abs(live - cached).max() <= 1e-4
    assert classifier.classes_.tolist() == head.class_names
    assert classifier.predict(images).tolist() == head.predict(np.asarray(cache.features())).tolist()


@pytest.mark.parametrize(
    "options", [{"precision": "bfloat16"}, {"precision": "float16"}, {"runtime": "openvino"}, {"fast_decode": True}]
)
@pytest.mark.by_default("options2")
def test_a_classifier_computes_as_its_cache_was_made(
    extracting, tmp_path, at_once: None, options: dict[str, object]
) -> None:
    """Runtime, precision and decoding are the cache's; one model of base and head is not far from it."""
    if "runtime" in options:
        pytest.importorskip("openvino")
    for i in range(8):
        for name, shade in (("dark", 0), ("light", 60)):
            pixels = np.kron(random_image(i, 20) // 3 + shade, np.ones((2, 2, 1))).astype(np.uint8)
            (tmp_path / "p" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "p" / name / f"{i}.jpg", quality=90)
    cache = extracting(tmp_path / "p", tmp_path / "c", **options)
    plain = extracting(tmp_path / "p", tmp_path / "plain")
    assert cache.recipe.fingerprint != plain.recipe.fingerprint
    if options.keys() == {"fast_decode"} or options.get("precision") == "bfloat16":
        assert not np.array_equal(cache.features(), plain.features())
    head = fit_head(cache, params={"C": 1e-4})
    classifier = ImageClassifier.load(head.path)
    predictions = list(classifier.predict_records([tmp_path / "p" / path for path in cache.paths()]))
    live = np.array([list(one.probabilities.values()) for one in predictions])
    assert np.abs(live - head.predict_proba(np.asarray(cache.features()))).max() <= 1e-4
    report = export_model(head.path, tmp_path / "saved")
    assert report.compared > 0
    rescored = "precision" in options  # the export is held to what it says itself, and scored
    tolerance = 1e-4 if rescored else cache.recipe.tolerance
    assert report.max_difference <= tolerance
    assert json.loads(report.metadata.read_text())["comparison"]["tolerance"] == tolerance
    assert (report.own_score is not None) == rescored


def test_head_on_a_shallow_layer(cache, split_photos: Path) -> None:
    """A head takes the layer it was trained on, not the deepest."""
    head = fit_head(cache, layer="mix")
    predictions = list(ImageClassifier.load(head.path).predict_records(split_photos / "validation"))
    live = np.array([list(one.probabilities.values()) for one in predictions])
    assert np.abs(live - head.predict_proba(np.asarray(cache.features("validation", "mix")))).max() <= 1e-4


def test_order_and_bad_images(cache, split_photos: Path, tmp_path: Path) -> None:
    """Predictions come in the order given; an unreadable image has its reason in its place."""
    (tmp_path / "bad.jpg").write_text("hello")
    good = split_photos / "validation" / "dark" / "d0.png"
    first, bad, last = list(
        ImageClassifier.load(fit_head(cache).path).predict_records(
            [split_photos / "validation" / "light" / "l0.png", tmp_path / "bad.jpg", good]
        )
    )
    assert (first.label, bad.label, last.label) == ("light", None, "dark")
    assert bad.reason == "not an image: its content is text"
    assert sum(last.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert last.probability == max(last.probabilities.values())


def assert_alike(found: dict[str, dict[str, object]], expected: dict[str, dict[str, object]]) -> None:
    """Assert that metrics are equal, those of probabilities up to rounding."""
    rounded = ("log_loss", "ece")
    assert [list(metrics) for metrics in found.values()] == [list(metrics) for metrics in expected.values()]
    for split, metrics in expected.items():
        for key, value in metrics.items():
            assert found[split][key] == (pytest.approx(value, abs=1e-6) if key in rounded else value)


def test_evaluate_repeats_the_heads_metrics(cache) -> None:
    """Scored from pixels, every split has the metrics it had on cached features."""
    head = fit_head(cache)
    assert_alike(ImageClassifier.load(head.path).evaluate()["metrics"], head.metrics)


def test_evaluate_repeats_a_split_by_content(extracting, photos: Path, tmp_path: Path) -> None:
    """Where the split is ours, evaluation finds the same images in it."""
    cache = extracting(photos, tmp_path / "c", validation_split=0.4, test_from=("validation", 0.5), seed=4)
    head = fit_head(cache)
    assert_alike(ImageClassifier.load(head.path).evaluate()["metrics"], head.metrics)


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
    """The cache's copy counts; without it a file that changed or is gone is refused, and a right one can be named."""
    import keras

    file = shutil.copy(oracle, tmp_path / "base.keras")
    head = fit_head(extracting(split_photos, tmp_path / "c", base=file))
    model = keras.models.load_model(file)
    model.set_weights([weight + 1 for weight in model.get_weights()])
    model.save(file)
    image = split_photos / "validation" / "dark" / "d0.png"
    assert ImageClassifier.load(head.path).predict(image)[0] == "dark"
    shutil.rmtree(tmp_path / "c" / "base")
    with pytest.raises(WeightsError, match=r"weights: other values"):
        list(ImageClassifier.load(head.path).predict_records(image))
    Path(file).unlink()
    with pytest.raises(BaseError, match=r"no sound copy in .*does not exist.*--weights FILE"):
        list(ImageClassifier.load(head.path).predict_records(image))
    assert ImageClassifier.load(head.path, base=oracle).predict(image)[0] == "dark"


def test_base_in_memory_is_the_caches_or_given_again(split_photos: Path, tmp_path: Path) -> None:
    """A head on features of a model object takes the cache's copy, else that model, under whatever layer names."""
    import keras

    from featcache.extraction.extracting import extract

    def base() -> object:
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 1), keras.layers.ReLU()])
        model.set_weights([np.full((1, 1, 3, 4), 0.5, np.float32), np.zeros(4, np.float32)])
        return model

    head = fit_head(extract(split_photos, base=base(), preprocess="none", cache=tmp_path / "c"))

    def check(classifier: ImageClassifier) -> None:
        found = classifier.evaluate()["metrics"]
        for split, metrics in head.metrics.items():
            assert found[split]["confusion"] == metrics["confusion"]
            assert found[split]["log_loss"] == pytest.approx(metrics["log_loss"], abs=1e-5)

    check(ImageClassifier.load(head.path))
    shutil.rmtree(tmp_path / "c" / "base")
    with pytest.raises(HeadError, match="as `base`"):
        ImageClassifier.load(head.path)
    classifier = ImageClassifier.load(head.path, base=base())
    check(classifier)
    options = {"precision": "bfloat16", "fast_decode": True}
    other = fit_head(extract(split_photos, base=base(), preprocess="none", cache=tmp_path / "other", **options))
    recipe = ImageClassifier.load(other.path, base=base()).extractor.recipe
    assert (recipe.precision, recipe.decode) == ("bfloat16", "reduced")


def test_head_without_its_base_is_refused(cache) -> None:
    """A head whose card lacks what names its base is one clear error."""
    head = fit_head(cache)
    del head.card["recipe"]
    with pytest.raises(HeadError, match=r"has no .*recipe"):
        ImageClassifier(head)


def test_missing_image(cache) -> None:
    """A path that does not exist is an error before anything is predicted."""
    with pytest.raises(SourceError, match="nowhere"):
        list(ImageClassifier.load(fit_head(cache).path).predict_records("nowhere.png"))


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
    predictions = list(ImageClassifier.load(fit_head(cache).path).predict_records([dark, light, dark]))
    assert [one.label for one in predictions] == ["dark", "light", "dark"]


def test_nothing_to_score_is_an_error(cache, split_photos: Path, tmp_path: Path) -> None:
    """Images that the head was trained on, and nothing else, give no score."""
    shutil.copytree(split_photos / "train", tmp_path / "seen")
    with pytest.raises(OptionError, match=r"can be scored: 40 are copies of training images"):
        ImageClassifier.load(fit_head(cache).path).evaluate(tmp_path / "seen")


@pytest.fixture
def classifier(cache) -> ImageClassifier:
    return ImageClassifier.load(fit_head(cache).path)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Return a folder of 300 images of all shades, of which some cannot be read."""
    for i in range(300):
        write_image(tmp_path / "many" / f"{i:03d}.png", random_image(i) // 2 + i % 128)
    for i in range(0, 300, 37):
        (tmp_path / "many" / f"{i:03d}.png").write_text("no image")
    return tmp_path / "many"


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_stopped_run_ends_as_one_that_was_not(classifier, many: Path, tmp_path: Path, monkeypatch, suffix) -> None:
    """Whatever chunk a run was stopped in, running it again gives the same file to the byte, and the same report."""
    monkeypatch.setattr(predictions, "COMMIT_SECONDS", 0.0)
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"p{suffix}"
    options = {"threshold": 0.9, "top_k": 2}
    expected = classifier.predict_to(whole, many, **options)
    for chunk in (1, 2, 3):

        def stop(done: int, total: int, chunk: int = chunk) -> None:
            if done >= min(chunk * 128, 300):
                raise StoppedError

        with pytest.raises(StoppedError):
            classifier.predict_to(out, many, progress=stop, **options)
        found = classifier.predict_to(out, many, **options)
        assert found.resumed == (chunk - 1) * 128
        assert out.read_bytes() == whole.read_bytes()
        assert (found.predicted, found.unsure, found.skipped) == (291, expected.unsure, expected.skipped)
        assert not any(path.exists() for path in own_files(out)[1:])
        out.unlink()
    assert 0 < expected.unsure < 291


@pytest.mark.parametrize("change", ["written", "exchanged"])
def test_a_stopped_run_does_not_go_on_with_images_that_have_changed(
    classifier, many: Path, tmp_path: Path, monkeypatch, change: str
) -> None:
    """Answers for images of before are not kept for those of now, even if size and time stamp are the old ones."""
    monkeypatch.setattr(predictions, "COMMIT_SECONDS", 0.0)
    photos, out = tmp_path / "photos", tmp_path / "p.csv"
    shutil.copytree(many, photos)
    calls = iter([None, None])

    def stop(done: int, total: int) -> None:
        if next(calls, StoppedError) is StoppedError:
            raise StoppedError

    with pytest.raises(StoppedError):
        classifier.predict_to(out, photos, progress=stop)
    first, second = sorted(path for path in photos.iterdir() if path.suffix == ".png")[:2]
    times = (first.stat().st_atime_ns, first.stat().st_mtime_ns)
    if change == "written":
        first.write_bytes(first.read_bytes()[:-1] + b"x")
        os.utime(first, ns=times)
    else:
        os.utime(second, ns=times)
        first.rename(photos / "third")
        second.rename(first)
        (photos / "third").rename(second)
    with pytest.raises(OptionError, match="time stamps"):
        classifier.predict_to(out, photos)
    own_files(out)[1].unlink()
    assert classifier.predict_to(out, photos).resumed == 0


def test_a_complete_file_without_its_name_needs_no_base(classifier, many, tmp_path, monkeypatch) -> None:
    """Killed between the last row and the renaming, the next run renames and computes nothing."""
    out = tmp_path / "p.csv"
    with monkeypatch.context() as patched:
        patched.setattr(predictions.PredictionFile, "finish", lambda self: (_ for _ in ()).throw(StoppedError))
        with pytest.raises(StoppedError):
            classifier.predict_to(out, many)
    again = ImageClassifier.load(classifier.head.path)
    assert again.predict_to(out, many).resumed == 300
    assert "extractor" not in vars(again)
    assert len(out.read_text().splitlines()) == 301


@pytest.mark.parametrize("name", ["list.csv", "list.csv.partial"])
def test_a_list_of_images_is_not_overwritten(classifier, many: Path, tmp_path: Path, name: str) -> None:
    """Predictions do not take the place of the table that names the images, complete or not."""
    table = tmp_path / name
    table.write_text("path\n" + "".join(f"{path}\n" for path in sorted(many.iterdir())[:2]))
    with pytest.raises(OptionError, match="`out` would replace"):
        classifier.predict_to(tmp_path / "list.csv", [table])
    assert table.read_text().startswith("path\n")


def test_another_commands_rows_are_refused(classifier, cache, many: Path, tmp_path: Path) -> None:
    """Rows of another head, list, threshold or top-k are not taken for this command's."""

    def stop(done: int, total: int) -> None:
        if done > 128:
            raise StoppedError

    out = tmp_path / "p.jsonl"
    with pytest.raises(StoppedError):
        classifier.predict_to(out, many, progress=stop)
    other = ImageClassifier.load(fit_head(cache, "ridge").path)
    for one, options, name in (
        (other, {}, "model"),
        (classifier, {"threshold": 0.5}, "threshold"),
        (classifier, {"top_k": 2}, "top-k"),
    ):
        with pytest.raises(OptionError, match=f"differs: {name}.* Delete"):
            one.predict_to(out, many, **options)
    (many / "000.png").rename(many / "zzz.png")
    with pytest.raises(OptionError, match="paths, sizes, time stamps"):
        classifier.predict_to(out, many)


def test_predictions_in_the_predicted_folder(classifier, many: Path) -> None:
    """The file that is written is no image of the folder that it lies in, neither growing nor finished."""

    def stop(done: int, total: int) -> None:
        if done > 128:
            raise StoppedError

    with pytest.raises(StoppedError):
        classifier.predict_to(many / "p.csv", many, progress=stop)
    assert classifier.predict_to(many / "p.csv", many).resumed == 128
    assert classifier.predict_to(many / "p.csv", many).predicted == 291


def test_bulk_holds_a_few_chunks(classifier, tmp_path: Path, monkeypatch) -> None:
    """However many images there are, the predictions that are alive at one time are those of two chunks at most."""
    alive = most = 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def stream(source, *_: object) -> Iterator[Prediction]:
        nonlocal alive, most
        for item in source.items:
            one = Prediction(item.path, "dark", 1.0, {"dark": 1.0, "light": 0.0}, None, None, (("dark", 1.0),))
            weakref.finalize(one, gone)
            alive += 1
            most = max(most, alive)
            yield one

    monkeypatch.setattr(classifier, "_stream", stream)
    images = ArraySource("grey", np.zeros((2000, 1, 1), np.uint8), [None] * 2000)
    assert classifier.predict_to(tmp_path / "p.jsonl", images).predicted == 2000
    assert most <= 2 * classifier_module._CHUNK


def test_threshold_and_top_k(classifier, many: Path) -> None:
    """Below the threshold the label is `unsure`, and `best` the class; `top` has the best classes in order."""
    plain = list(classifier.predict_records(many, top_k=2))
    for sure, one in zip(plain, list(classifier.predict_records(many, threshold=0.9)), strict=True):
        if one.reason is not None:
            assert (one.label, one.best, one.unsure, one.top) == (None, None, False, ())
            continue
        assert one.unsure == (one.probability < 0.9)
        assert one.label == ("unsure" if one.unsure else sure.label)
        assert one.best == sure.label == max(one.probabilities, key=one.probabilities.get)
        assert sure.top == tuple(sorted(one.probabilities.items(), key=lambda pair: -pair[1]))
    with pytest.raises(OptionError, match="`top_k` must be from 1 to 2"):
        list(classifier.predict_records(many, top_k=3))
    with pytest.raises(OptionError, match="from 0 to 1"):
        classifier.predict_records(ArraySource("none", np.zeros((1, 1, 1), np.uint8), [None]), threshold=2)


def test_coverage_is_of_validation_without_copies(extracting, many: Path, tmp_path: Path) -> None:
    """The table is of validation images that are no copies of training images; of a given source, of all of these."""
    for i in range(60):
        shade = random_image(i) // 2 + (0 if i % 2 else 60)
        split = "validation" if i % 3 == 0 else "train"
        write_image(tmp_path / "s" / split / ("dark" if i % 2 else "light") / f"{i}.png", shade)
    shutil.copy(tmp_path / "s" / "train" / "dark" / "1.png", tmp_path / "s" / "validation" / "dark" / "copy.png")
    head = fit_head(extracting(tmp_path / "s", tmp_path / "c"))
    classifier = ImageClassifier.load(head.path)
    result = classifier.evaluate(coverage=True)
    assert list(result["coverage"]) == ["validation"]
    files = sorted((tmp_path / "s" / "validation").rglob("[0-9]*.png"))
    found = list(classifier.predict_records(files))
    expected = coverage_table(
        np.array([["dark", "light"].index(file.parent.name) for file in files]),
        np.array([list(one.probabilities.values()) for one in found]),
    )
    assert json.loads(json.dumps(result["coverage"]["validation"])) == expected
    assert expected[0]["n"] == 20
    assert list(classifier.evaluate(tmp_path / "s" / "validation", coverage=True)["coverage"]) == ["all"]
    assert "coverage" not in classifier.evaluate()


@pytest.fixture
def shades(extracting, split_photos: Path, tmp_path: Path) -> ImageClassifier:
    return ImageClassifier.load(fit_head(extracting(split_photos, tmp_path / "c")).path)


def in_memory(path: Path) -> dict[str, Any]:
    """Return one image as a path, bytes, an array and a PIL image."""
    picture = Image.open(path)
    return {"path": path, "bytes": path.read_bytes(), "array": np.asarray(picture), "PIL": picture}


def test_images_in_memory_are_predicted_as_their_files(shades: ImageClassifier, split_photos: Path) -> None:
    """A path, its bytes, its pixels and its PIL image have the same probabilities, alone, in a list and in a batch."""
    paths = sorted((split_photos / "validation" / "dark").iterdir())[:2]
    expected = shades.predict_proba(paths)
    forms = [in_memory(path) for path in paths]
    for form in forms[0]:
        assert np.array_equal(shades.predict_proba([one[form] for one in forms]), expected), form
        assert np.array_equal(shades.predict_proba(forms[0][form]), expected[:1]), form
    assert np.array_equal(shades.predict_proba(np.stack([one["array"] for one in forms])), expected)
    mixed = shades.predict_records([forms[0]["path"], forms[1]["array"], split_photos / "train", forms[0]["PIL"]])
    found = list(mixed)
    assert [found[0].path, found[1].path, found[-1].path] == [str(paths[0]), "000001", "000003"]
    assert list(found[1].probabilities.values()) == expected[1].tolist()
    assert list(found[-1].probabilities.values()) == expected[0].tolist()


def test_pil_images_of_every_mode_are_their_files(shades: ImageClassifier, tmp_path: Path) -> None:
    """A PIL image gives what the same picture gives from a file, turned as its EXIF data say."""
    whole, exif = Image.fromarray(random_image(5, 9)[:6]), Image.Exif()
    exif[0x0112] = 6
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"):
        picture = whole.convert("L").convert("I").convert("I;16") if mode == "I;16" else whole.convert(mode)
        path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
        picture.save(path, exif=exif, **({"compression": "tiff_lzw"} if mode == "CMYK" else {}))  # else Pillow 13 errs
        assert np.array_equal(shades.predict_proba(Image.open(path)), shades.predict_proba(path)), mode


def test_an_image_that_cannot_be_read_is_not_passed_over(shades: ImageClassifier, split_photos: Path) -> None:
    """predict and predict_proba name the first one and what to use; predict_records goes on."""
    good = (split_photos / "validation" / "dark" / "d0.png").read_bytes()
    for ask in (shades.predict, shades.predict_proba):
        with pytest.raises(ImageError, match=r"1 of 2 images.*'000001'.*predict_records"):
            ask([good, b"no image"])
    records = list(shades.predict_records([good, b"no image"]))
    assert [one.reason is None for one in records] == [True, False]
    assert shades.predict_proba([]).shape == (0, 2)


def test_a_note_among_images_is_skipped(shades: ImageClassifier, split_photos: Path, tmp_path: Path) -> None:
    """What a shell's * names beside images costs nothing but its own answer; alone it is an error."""
    (tmp_path / "notes.txt").write_text("buy milk")
    image = split_photos / "validation" / "dark" / "d0.png"
    found = list(shades.predict_records([tmp_path / "notes.txt", image]))
    assert [one.label for one in found] == [None, "dark"]
    assert "text" in str(found[0].reason)
    with pytest.raises(SourceError, match=r"notes\.txt"):
        shades.predict(tmp_path / "notes.txt")


def test_what_is_no_image_is_named(shades: ImageClassifier) -> None:
    """Other types and shapes are named, with what an image may be."""
    five_axes = np.zeros((2, 2, 2, 2, 3), np.uint8)
    for given, named in ((3.5, "float"), ([object()], "object"), (five_axes, "shape")):
        with pytest.raises(SourceError, match=rf"PIL image.*Received: .*{named}"):
            shades.predict(given)


def test_predictions_are_a_frame(shades: ImageClassifier, split_photos: Path) -> None:
    """A frame has the columns of the .csv file, a row for each image, unreadable ones too."""
    pytest.importorskip("pandas")
    image = split_photos / "validation" / "dark" / "d0.png"
    frame = shades.predict_records([image, b"no image"], threshold=0.5).to_frame()
    assert frame["label"][0] == "dark"
    assert frame["label"].isna().tolist() == [False, True]
    assert list(frame.columns[:5]) == ["path", "label", "probability", "best", "unsure"]
    assert frame["probability_dark"][0] == pytest.approx(shades.predict_proba(image)[0, 0])
    assert frame["reason"][1]
