"""Real photographs and real weights against plain Keras and plain scikit-learn."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from featcache.errors import WeightsError
from featcache.extraction.extracting import extract
from featcache.models.classifier import ImageClassifier
from featcache.models.export import clean, export_model
from featcache.models.export.comparison import Images, inputs
from featcache.training import fit_head

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def some(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 64 of the photographs, 32 a class."""
    root = tmp_path_factory.mktemp("some") / "photos"
    for name in ("cats", "dogs"):
        (root / name).mkdir(parents=True)
        for path in sorted((data / "cats_dogs" / "validation" / name).iterdir())[:32]:
            shutil.copy2(path, root / name)
    return root


def plain_keras(root: Path, model: object, preprocess: object, size: int) -> tuple[list[np.ndarray], list[str]]:
    """Return the outputs of a plain Keras script on what `load_img` reads, and the files in their order."""
    import keras

    files = sorted(map(str, root.rglob("*.jpg")))
    layer = keras.layers.Resizing(size, size)
    pixels = [layer(keras.utils.img_to_array(keras.utils.load_img(file))).numpy() for file in files]
    outputs = model.predict(preprocess(np.stack(pixels)), verbose=0)
    return outputs if isinstance(outputs, list) else [outputs], files


def check(cache: object, layer: str, expected: np.ndarray, files: list[str], root: Path) -> None:
    """Assert that a layer equals a plain script's output, row by row."""
    ours = np.asarray(cache.features(layer=layer))
    assert cache.paths() == [str(Path(file).relative_to(root)) for file in files]
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


def test_vgg19_features_equal_plain_keras(some: Path, vgg19_weights: Path, tmp_path: Path) -> None:
    """Three layers in one pass equal `load_img`, `preprocess_input` and `predict`."""
    import keras

    names = ["block1_pool", "block2_pool", "block3_pool"]
    whole = keras.applications.VGG19(include_top=False, weights=None, input_shape=(96, 96, 3))
    outputs = [keras.layers.GlobalAveragePooling2D()(whole.get_layer(name).output) for name in names]
    model = keras.Model(whole.input, outputs)
    model.load_weights(vgg19_weights, by_name=True)
    expected, files = plain_keras(some, model, keras.applications.vgg19.preprocess_input, 96)
    cache = extract(some, base="vgg19", weights=vgg19_weights, layers=names, image_size=96, cache=tmp_path / "c")
    assert list(cache.layers) == names
    for name, values in zip(names, expected, strict=True):
        check(cache, name, values, files, some)


def test_mobilenet_features_equal_plain_keras(some: Path, mobilenet_weights: Path, tmp_path: Path) -> None:
    """The whole MobileNetV2 with average pooling equals Keras' own."""
    import keras

    model = keras.applications.MobileNetV2(
        include_top=False, weights=str(mobilenet_weights), alpha=0.35, input_shape=(224, 224, 3), pooling="avg"
    )
    expected, files = plain_keras(some, model, keras.applications.mobilenet_v2.preprocess_input, 224)
    cache = extract(
        some,
        base="mobilenetv2",
        base_params={"alpha": 0.35},
        weights=mobilenet_weights,
        image_size=224,
        cache=tmp_path / "c",
    )
    check(cache, "out_relu", expected[0], files, some)


def test_vgg19_file_without_blocks_4_and_5(some: Path, vgg19_weights: Path, tmp_path: Path) -> None:
    """Loaded into the whole network the file is refused with the layers it lacks."""
    with pytest.raises(WeightsError, match=r"no weights for block4_conv1, .*block5_conv4"):
        extract(some, base="vgg19", weights=vgg19_weights, cache=tmp_path / "c")


def test_prediction_equals_the_heads_own(some: Path, mobilenet_weights: Path, tmp_path: Path) -> None:
    """On photographs, pixels give the probabilities that cached features gave, within 1e-4."""
    cache = extract(
        some,
        base="mobilenetv2",
        base_params={"alpha": 0.35},
        weights=mobilenet_weights,
        image_size=96,
        validation_split=0.3,
        cache=tmp_path / "c",
    )
    head = fit_head(cache)
    assert head.metrics["validation"]["accuracy"] > 0.7
    predictions = list(ImageClassifier.load(head.path).predict_records([some / path for path in cache.paths()]))
    live = np.array([list(one.probabilities.values()) for one in predictions])
    assert np.abs(live - head.predict_proba(np.asarray(cache.features()))).max() <= 1e-4


def test_a_folder_of_odd_images(some: Path, mobilenet_weights: Path, tmp_path: Path) -> None:
    """Readable pictures of every kind give rows; the others are listed with their reasons."""
    root = tmp_path / "odd"
    (root / "x").mkdir(parents=True)
    source = sorted((some / "cats").iterdir())[0]
    photo = Image.open(source)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(root / "x" / "rotated.jpg", exif=exif)
    photo.convert("CMYK").save(root / "x" / "cmyk.jpg")
    photo.convert("L").save(root / "x" / "grey.jpg")
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(root / "x" / "deep.png")
    photo.convert("RGBA").save(root / "x" / "alpha.png")
    photo.save(root / "x" / "moving.gif", save_all=True, append_images=[photo.rotate(90)])
    photo.save(root / "x" / "photo.webp")
    photo.save(root / "x" / "photo.tiff")
    (root / "x" / "half.jpg").write_bytes(source.read_bytes()[:9000])
    (root / "x" / "empty.jpg").write_bytes(b"")
    (root / "x" / "text.jpg").write_text("this is a text")
    cache = extract(
        root,
        base="mobilenetv2",
        base_params={"alpha": 0.35},
        weights=mobilenet_weights,
        image_size=96,
        cache=tmp_path / "c",
    )
    assert sorted(Path(path).name for path in cache.paths()) == sorted(
        ["rotated.jpg", "cmyk.jpg", "grey.jpg", "deep.png", "alpha.png", "moving.gif", "photo.webp", "photo.tiff"]
    )
    reasons = {Path(one["path"]).name: one["reason"] for one in cache.skipped}
    assert set(reasons) == {"half.jpg", "empty.jpg", "text.jpg"}
    assert "truncated" in reasons["half.jpg"]
    assert reasons["empty.jpg"] == "empty file"
    assert "text" in reasons["text.jpg"]


def test_every_photograph(data: Path, mobilenet_weights: Path, tmp_path: Path) -> None:
    """Features of all photographs equal plain Keras'; every export says of those of validation what `predict` says."""
    import keras

    whole = keras.applications.MobileNetV2(
        include_top=False, weights=str(mobilenet_weights), alpha=0.35, input_shape=(224, 224, 3), pooling="avg"
    )
    photographs = data / "cats_dogs"
    cache = extract(
        photographs,
        base="mobilenetv2",
        base_params={"alpha": 0.35},
        weights=mobilenet_weights,
        image_size=224,
        cache=tmp_path / "c",
    )
    (expected,), files = plain_keras(photographs, whole, keras.applications.mobilenet_v2.preprocess_input, 224)
    check(cache, "out_relu", expected, files, photographs)
    print(f"features of {len(files)}: {np.abs(cache.features() - expected).max() / np.abs(expected).max():.1e}")
    head = fit_head(cache, params={"C": 0.01}, out=tmp_path / "head")
    paths = [photographs / path for path in cache.paths("validation")]
    said = np.array(
        [list(one.probabilities.values()) for one in ImageClassifier.load(head.path).predict_records(paths)]
    )
    pictures = [np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")) for path in paths]
    for name in ("m.keras", "m", "m.tflite", "m.onnx"):
        if name == "m.onnx" and not find_spec("tf2onnx"):
            continue
        report = export_model(head, tmp_path / name)
        worst = 0.0
        for start in range(0, len(paths), 50):
            some = slice(start, start + 50)
            contents = [path.read_bytes() for path in paths[some]]
            images = Images(contents, list(pictures[some]), said[some], True, "", 0)
            answers = clean.answers(report.format, str(report.path), inputs(images))
            worst = max(worst, *(np.abs(answers[key] - said[some]).max() for key in answers if key != "label"))
        print(f"{report.format} of {len(paths)}: {worst:.1e}")
        assert worst <= 1e-4
