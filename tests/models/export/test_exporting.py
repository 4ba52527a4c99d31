import importlib.util
import io
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image, slow, write_image
from PIL import Image

import featcache
from featcache import ImageClassifier, export_model, fit_head
from featcache.errors import ExportError, HeadError, OptionError, SourceError
from featcache.images.decoding import PixelSpec, load
from featcache.models.composition import compose
from featcache.models.export import clean, comparison, exporting, graph
from featcache.models.folder import PixelModel

SERVING = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
HOSTILE = ["a 'quoted' \"name\"", "lines\nand\ttabs", "naïve ☃"]


def photographs(root: Path, names: list[str], each: tuple[int, int] = (12, 4), side: int = 9) -> Path:
    """Write images of as many shades as there are classes, none of them as large as the base wants them."""
    for split, count, first in (("train", each[0], 0), ("validation", each[1], 1000)):
        for i in range(count):
            for j, name in enumerate(names):
                pixels = random_image(first + 100 * j + i, side + i % 3) // 3 + 60 * j
                write_image(root / split / name / f"{i}.png", pixels.astype(np.uint8)[: side - i % 4])
    return root


@pytest.fixture(scope="module")
def head(extracting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a head of three classes with names that break things, and images to be padded."""
    root = tmp_path_factory.mktemp("three")
    cache = extracting(photographs(root / "photos", HOSTILE), root / "c", resize="pad")
    return fit_head(cache, "logreg", params={"C": 1e-5}, out=root / "head").path


def encoded(pixels: np.ndarray, kind: str, exif: bytes = b"") -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **({"exif": b"Exif\0\0" + exif} if exif else {}))
    return content.getvalue()


def tiff(orientation: int, order: str, *, gap: int = 0, kind: str = "H", count: int = 1) -> bytes:
    """Return an EXIF block with two tags, the second of them the orientation."""
    start = {">": b"MM\0*", "<": b"II*\0"}[order] + struct.pack(order + "I", 8 + gap) + bytes(gap)
    number = {"H": 3, "I": 4}[kind]
    other = struct.pack(order + "HHI", 0x010E, 2, 4) + b"abc\0"
    tag = struct.pack(order + "HHI", 0x0112, number, count) + struct.pack(order + kind, orientation).ljust(4, b"\0")
    return start + struct.pack(order + "H", 2) + other + tag + bytes(4)


@pytest.mark.parametrize("name", ["three.keras", "three", "three.tflite", "three.onnx"])
@pytest.mark.by_default("three.onnx")
def test_each_format_answers_like_its_head(head: Path, tmp_path: Path, name: str) -> None:
    """Loaded in a process without featcache, on images of the validation set, it gives the same probabilities."""
    if name.endswith(".onnx"):
        pytest.importorskip("tf2onnx")
        pytest.importorskip("onnxruntime")
    report = export_model(head, tmp_path / name)
    assert report.compared == 12
    assert report.max_difference < 1e-5
    assert report.classes == HOSTILE
    known = json.loads(report.metadata.read_text())
    assert known["class_names"] == HOSTILE
    assert known["comparison"]["max_difference"] == report.max_difference
    assert known["comparison"]["tolerance"] == 1e-4
    assert known["comparison"]["compared_with"] == report.compared_with == "the classifier"
    assert known["recipe"]["resize"] == "pad"
    assert "oracle.keras, which is yours to check" in known["weights"]
    assert set(known["files"]) >= ({"saved_model.pb"} if name == "three" else {name})
    beside = {name} if name == "three" else {name, f"{name}.json"}
    assert {path.name for path in tmp_path.iterdir()} == beside


def test_a_head_in_memory_is_exported_as_its_folder_is(head: Path, tmp_path: Path, at_once: None) -> None:
    """A `Head` exports to the very classes and numbers that its folder exports to."""
    import keras

    models = [
        keras.models.load_model(export_model(model, tmp_path / f"{i}.keras").path)
        for i, model in enumerate([head, featcache.Head.load(head)])
    ]
    pixels = np.stack([random_image(3), random_image(4)]).astype(np.float32)
    assert np.array_equal(*[model.predict(pixels, verbose=0) for model in models])


def test_a_saved_model_reads_bytes_and_images_of_any_size(head: Path, tmp_path: Path, at_once: None) -> None:
    """Both signatures resize as extraction does; the label is the name of the most probable class."""
    import tensorflow as tf

    export_model(head, tmp_path / "m")
    signatures = tf.saved_model.load(str(tmp_path / "m")).signatures
    assert set(signatures) == {"images", "encoded", "serving_default"}
    pixels = [random_image(7, 31)[:17], random_image(8, 12)[:, :5] // 2]
    contents = [encoded(pixels[0], "JPEG", tiff(6, ">")), encoded(pixels[1], "PNG")]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}").write_bytes(content)
    said = list(ImageClassifier.load(head).predict_records([tmp_path / "0", tmp_path / "1"]))
    found = signatures["serving_default"](encoded=tf.constant(contents))
    assert np.allclose(found["probabilities"], [list(one.probabilities.values()) for one in said], atol=1e-5)
    assert [name.decode() for name in found["label"].numpy()] == [one.label for one in said]
    decoded = signatures["images"](images=tf.constant(pixels[1][None], tf.float32))
    assert np.allclose(decoded["probabilities"][0], list(said[1].probabilities.values()), atol=1e-5)


@pytest.mark.parametrize(
    ("fitting", "dtype"),
    [
        ({"resize": "pad"}, "float32"),
        ({"resize": "crop"}, "float16"),
        ({"crop": 0.7}, "float32"),
        slow({"resize": "pad"}, "float16"),
        slow({"resize": "crop"}, "float32"),
        slow({"crop": 0.7}, "float16"),
    ],
)
@pytest.mark.by_default("fitting1-float16", "fitting2-float32")
def test_two_classes_have_two_columns(extracting, tmp_path: Path, at_once: None, fitting: dict, dtype: str) -> None:
    """Also those of a head that knows one logit only, whatever the cache's type and the way of resizing."""
    cache = extracting(photographs(tmp_path / "p", ["b", "a"]), tmp_path / "c", dtype=dtype, **fitting)
    fit_head(cache, "ridge", out=tmp_path / "h")
    for name in ("m.keras", "m", "m.tflite"):
        report = export_model(tmp_path / "h", tmp_path / name, compare=5)
        assert (report.classes, report.compared) == (["a", "b"], 5)
        assert report.max_difference < (5e-3 if dtype == "float16" else 1e-4)


@pytest.mark.slow
def test_a_class_without_training_images_has_its_column(extracting, tmp_path: Path, at_once: None) -> None:
    """It is 0, and the others stay in their places."""
    import keras

    photographs(tmp_path / "p", ["a", "c"])
    write_image(tmp_path / "p" / "validation" / "b" / "0.png", random_image(5))
    fit_head(extracting(tmp_path / "p", tmp_path / "c"), params={"C": 1e-5}, out=tmp_path / "h")
    assert export_model(tmp_path / "h", tmp_path / "m.keras").max_difference < 1e-5
    found = keras.models.load_model(tmp_path / "m.keras").predict(np.ones((2, 8, 8, 3)), verbose=0)
    assert found.shape == (2, 3)
    assert (found[:, 1] == 0).all()
    for name in ("m", "m.tflite"):
        assert export_model(tmp_path / "h", tmp_path / name).max_difference < 1e-5


def test_a_whole_model_is_exported_like_a_head(head: Path, tmp_path: Path, at_once: None) -> None:
    """What has no head any more, such as a fine-tuned model, is taken as it is."""
    classifier = ImageClassifier.load(head)
    made = classifier.head
    network = compose(made, classifier.extractor.base, classifier.recipe)
    card = {key: made.card[key] for key in ("source", "listing", "recipe")}
    PixelModel(network, made.class_names, [0, 1, 2], classifier.extractor.spec, card).save(tmp_path / "whole")
    report = export_model(tmp_path / "whole", tmp_path / "m.keras")
    assert (report.compared, report.classes) == (12, HOSTILE)
    assert report.max_difference < 1e-5
    assert "nothing is recorded" in report.notes[-1]


@pytest.mark.slow
def test_constants_of_a_base_go_along(extracting, tmp_path: Path, at_once: None) -> None:
    """What a layer keeps outside its weights, as Normalization does in EfficientNet, is in every format."""
    import keras

    inputs = keras.Input((8, 8, 3))
    normal = keras.layers.Normalization(mean=[100.0, 90.0, 80.0], variance=[50.0, 60.0, 70.0])(inputs)
    keras.Model(inputs, keras.layers.Conv2D(5, 3, name="mix")(normal)).save(tmp_path / "b.keras")
    cache = extracting(photographs(tmp_path / "p", ["a", "b"]), tmp_path / "c", base=tmp_path / "b.keras")
    fit_head(cache, params={"C": 1e-3}, out=tmp_path / "h")
    installed = [name for name in ("tf2onnx", "onnxruntime") if importlib.util.find_spec(name)]
    for name in ["m.keras", "m", "m.tflite", *(["m.onnx"] if len(installed) == 2 else [])]:
        assert export_model(tmp_path / "h", tmp_path / name).max_difference < 1e-5


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_graph_turns_images_as_featcache_does(kind: str, order: str) -> None:
    """All orientations there are, and numbers that are none, in both byte orders."""
    import tensorflow as tf

    pixels = random_image(3, 24)[:15]
    spec = PixelSpec(15, 24, 3)
    for number in range(12):
        for gap in (0, 2):
            content = encoded(pixels, kind, tiff(number, order, gap=gap, kind="I" if gap else "H"))
            assert np.array_equal(graph.loaded(tf.constant(content), spec), load(content, spec)), (number, gap)


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"MM",
        b"MM\0*",
        b"II*\0\xff\xff\xff\xff",
        b"XX\0*" + bytes(20),
        tiff(6, ">", count=2),
        tiff(6, "<")[:30],
        b"II*\0\x08\0\0\0\xff\xff" + tiff(6, "<")[10:],
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_damaged_exif_turns_nothing(kind: str, exif: bytes) -> None:
    """Whatever the block holds, the picture is read as featcache reads it."""
    import tensorflow as tf

    content = encoded(random_image(3, 24)[:15], kind, exif)
    assert np.array_equal(graph.loaded(tf.constant(content), PixelSpec(8, 8, 3)), load(content, PixelSpec(8, 8, 3)))


def test_exif_behind_other_segments_is_found() -> None:
    """Padding, comments and other APP segments before it are passed over."""
    import tensorflow as tf

    content = encoded(random_image(3, 24)[:15], "JPEG", tiff(8, "<"))
    before = b"\xff\xe1" + struct.pack(">H", 30) + b"http://ns.adobe.com/xap/1.0\0" + b"\xff\xff\xff\xfe\0\x06Exif"
    changed = content[:2] + before + content[2:]
    assert graph.orientation(tf.constant(changed)).numpy() == 8
    assert np.array_equal(graph.loaded(tf.constant(changed), PixelSpec(8, 8, 3)), load(changed, PixelSpec(8, 8, 3)))
    assert all(graph.orientation(tf.constant(content[:end])).numpy() in (1, 8) for end in range(0, 120, 7))


@pytest.mark.parametrize("orientation", [1, 6, 8])
@pytest.mark.parametrize("size", [(7, 3), (8, 6), (12, 12), (40, 8)])
@pytest.mark.by_default("size0-6", "size3-1")
def test_the_graph_decodes_fast_as_featcache_does(size: tuple[int, int], orientation: int) -> None:
    """A JPEG is reduced by as much, turned or not; a PNG by nothing."""
    import tensorflow as tf

    spec = PixelSpec(*size, 3, decode="reduced")
    run = tf.function(lambda content: graph.loaded(content, spec), input_signature=[tf.TensorSpec((), tf.string)])
    for kind in ("JPEG", "PNG"):
        content = encoded(random_image(3, 64)[:59, :37], kind, tiff(orientation, "<"))
        assert np.array_equal(run(tf.constant(content)), load(content, spec))


@pytest.mark.parametrize(("resize", "crop"), [("stretch", 1.0), ("pad", 1.0), ("crop", 1.0), ("crop", 0.7)])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest", "bicubic", "lanczos3", "gaussian", "area"])
@pytest.mark.by_default("bilinear-pad-1.0", "bicubic-crop-0.7", "area-stretch-1.0", "nearest-crop-1.0")
def test_the_graph_resizes_as_featcache_does(resize: str, crop: float, interpolation: str) -> None:
    """Odd sizes, sizes that fit and sizes that fit on one side, in colour and grey."""
    import tensorflow as tf

    for channels in (1, 3):
        spec = PixelSpec(20, 28, channels, resize, interpolation, crop=crop)
        run = tf.function(lambda c, spec=spec: graph.loaded(c, spec), input_signature=[tf.TensorSpec((), tf.string)])
        for height, width in ((33, 47), (47, 33), (20, 28), (20, 11), (1, 9)):
            content = encoded(random_image(height, 64)[:height, :width], "PNG")
            assert np.array_equal(run(tf.constant(content)), load(content, spec)), (height, width)


def pictures(root: Path) -> list[str]:
    """Write pictures of many sizes and kinds, the same one lying on its side and as it is, and return their names."""
    tall = np.kron(random_image(1, 20)[:, :13] // 4 + 40, np.ones((3, 3, 1))).astype(np.uint8)
    wide = random_image(2, 40)[:14] // 9 + np.linspace(0, 130, 40, dtype=np.uint8)[None, :, None]  # a slope
    contents = {
        "tall.jpg": encoded(tall, "JPEG"),
        "turned.jpg": encoded(wide, "JPEG", tiff(6, ">")),
        "lying.jpg": encoded(wide, "JPEG"),
        "wide.png": encoded(wide, "PNG", tiff(8, "<")),
        "grey.jpg": encoded(tall[..., 0], "JPEG"),
        "small.png": encoded(random_image(3, 8) // 3 + 30, "PNG"),
    }
    for name, content in contents.items():
        (root / name).write_bytes(content)
    return list(contents)


@pytest.fixture(scope="module")
def cropping_head(extracting, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a head of two classes, of whose pictures the middle counts, and where in it what is."""
    root = tmp_path_factory.mktemp("two")
    cache = extracting(photographs(root / "photos", ["cats", "dogs"]), root / "c", resize="crop", pooling="flatten")
    return fit_head(cache, "logreg", params={"C": 1e-2}, calibrate="none", out=root / "head").path


LITERT = """
import sys, types
try:
    import ai_edge_litert.interpreter
except ImportError:  # the same class lies in TensorFlow
    import tensorflow
    sys.modules["ai_edge_litert"] = types.ModuleType("ai_edge_litert")
    sys.modules["ai_edge_litert.interpreter"] = tensorflow.lite
"""


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("onnx", "photos.onnx"),
        slow("keras", "photos.keras"),
        slow("tflite", "photos.tflite"),
        slow("saved", "models/photos/1"),
    ],
)
def test_the_scripts_in_the_documents_run(
    cropping_head: Path, tmp_path: Path, at_once: None, kind: str, target: str
) -> None:
    """Each is short, needs its own libraries alone, and says of any picture what featcache says."""
    if kind == "onnx":
        pytest.importorskip("tf2onnx")
        pytest.importorskip("onnxruntime")
    export_model(cropping_head, tmp_path / target)
    block = re.search(rf"```python {kind}\n(.*?)```", SERVING, re.S)
    assert block
    assert len(block[1].splitlines()) <= 21
    names = pictures(tmp_path)
    absent = {"keras": [], "saved": [], "tflite": ["keras"], "onnx": ["keras", "tensorflow"]}[kind]
    before = LITERT if kind == "tflite" else "import sys\n"
    before += "".join(f"sys.modules[{name!r}] = None\n" for name in ["featcache", *absent])
    shown = subprocess.run(
        [sys.executable, "-c", before + block[1], *names], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    said = list(ImageClassifier.load(cropping_head).predict_records([tmp_path / name for name in names]))
    assert np.diff(sorted(next(iter(one.probabilities.values())) for one in said)).min() > 1e-3
    for line, name, one in zip(shown.stdout.splitlines(), names, said, strict=True):
        *named, probability = line.split()
        assert named == [f"{name}:", one.label]
        assert float(probability) == pytest.approx(one.probability, abs=1e-4)


def test_pixels_of_the_bases_size(cropping_head: Path, tmp_path: Path, at_once: None) -> None:
    """`input="fixed"` leaves the resizing to the caller, and the JSON says how."""
    for name in ("m.keras", "m.tflite"):
        report = export_model(cropping_head, tmp_path / name, input="fixed")
        assert report.compared == 8
        known = json.loads(report.metadata.read_text())["input"]
        assert (known["pictures"], known["resized_by"], known["shape"]) == ("fixed size", "the caller", [None, 8, 8, 3])
        assert (known["dtype"], known["antialias"], known["resize"]) == ("float32", False, "crop")
        (said,) = ImageClassifier.load(cropping_head).predict_records(
            write_image(tmp_path / "one.png", random_image(1, 13))
        )
        spec = ImageClassifier.load(cropping_head).extractor.spec
        pixels = load(np.asarray(Image.open(tmp_path / "one.png")), spec)
        fed = {"pixels": pixels.ravel(), "shapes": np.array([pixels.shape])}
        (found,) = clean.answers(report.format, str(report.path), fed)["images"]
        assert np.allclose(found, list(said.probabilities.values()), atol=1e-5)
    with pytest.raises(OptionError, match="Leave out input='fixed'"):
        export_model(cropping_head, tmp_path / "m", input="fixed")
    with pytest.raises(OptionError, match="`input` must be one of any, fixed"):
        export_model(cropping_head, tmp_path / "m.keras", input="256")


@pytest.mark.slow
def test_the_metadata_says_how_to_feed_it(cropping_head: Path, tmp_path: Path, at_once: None) -> None:
    """Which pictures, in which type and order, and what the model makes of them."""
    for name, dtype in (("m.keras", "float32"), ("m.tflite", "uint8"), ("m", "float32")):
        known = json.loads(export_model(cropping_head, tmp_path / name).metadata.read_text())["input"]
        assert (known["pictures"], known["resized_by"], known["dtype"]) == ("any size", "the model", dtype)
        assert (known["shape"], known["range"], known["channel_order"]) == ([None, None, None, 3], [0, 255], "RGB")
        assert (known["interpolation"], known["antialias"], known["decode"]) == ("bilinear", False, "accurate")
        assert known["crop"].startswith("centre")
        assert known["padding"] is None


def test_it_is_compared_on_several_sizes(extracting, tmp_path: Path) -> None:
    """Also where all images of a source have one size, two pieces of the first do not."""
    for i in range(16):
        for name, shade in (("a", 0), ("b", 100)):
            split = "train" if i < 12 else "validation"
            write_image(tmp_path / "p" / split / name / f"{i}.png", random_image(i, 12) // 2 + np.uint8(shade))
    fit_head(extracting(tmp_path / "p", tmp_path / "c"), out=tmp_path / "h")
    shown = comparison.images_for(ImageClassifier.load(tmp_path / "h"), 4, None, "any")
    assert [picture.shape[:2] for picture in shown.pixels] == [*[(12, 12)] * 4, (8, 12), (12, 6)]
    assert (shown.compared, len(shown.expected)) == (4, 6)
    assert {picture.dtype for picture in shown.pixels} == {np.dtype(np.uint8)}


def test_reduced_decoding_is_said(extracting, tmp_path: Path, at_once: None) -> None:
    """A head on features of reduced JPEGs can be exported, with a note that full ones give other answers."""
    for i in range(8):
        for name, shade in (("a", 0), ("b", 60)):
            (tmp_path / "p" / name).mkdir(parents=True, exist_ok=True)
            content = encoded((random_image(i, 40) // 3 + np.uint8(shade)), "JPEG")
            (tmp_path / "p" / name / f"{i}.jpg").write_bytes(content)
    fit_head(extracting(tmp_path / "p", tmp_path / "c", fast_decode=True), out=tmp_path / "h")
    for name in ("m", "m.keras"):
        report = export_model(tmp_path / "h", tmp_path / name, images=str(tmp_path / "p" / "a"))
        assert report.compared == 8
        assert any("decoded at full size give other answers" in note for note in report.notes)
        assert json.loads(report.metadata.read_text())["input"]["decode"] == "reduced"


@pytest.mark.parametrize("name", ["m.h5", "m.pb", "m.keras.zip"])
def test_other_formats_are_refused(head: Path, tmp_path: Path, name: str) -> None:
    """A name that means no format says which there are."""
    with pytest.raises(OptionError, match=r"ending in .keras, .tflite or .onnx"):
        export_model(head, tmp_path / name)


def test_without_the_extra_onnx_is_named(head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing, and how it is installed."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"not installed: tf2onnx and onnxruntime. Run pip install"):
        export_model(head, tmp_path / "m.onnx")


@pytest.mark.slow
def test_what_is_no_export_is_not_overwritten(head: Path, tmp_path: Path, at_once: None) -> None:
    """Files and folders of others stay; an earlier export is replaced."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years of work")
    (tmp_path / "mine.keras").write_text("a model")
    (tmp_path / "new.keras.json").write_text("[1]")
    (tmp_path / "file").write_text("a letter")
    (tmp_path / "empty").mkdir()
    for name in ("thesis", "mine.keras", "new.keras", "file", "thesis/text/m.keras"):
        with pytest.raises((OptionError, ExportError), match=r"already|no earlier export|must be a file|be written"):
            export_model(head, tmp_path / name)
    assert (tmp_path / "thesis" / "text").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "a letter"
    for name in ("empty", "empty", "m.keras", "m.keras"):
        export_model(head, tmp_path / name)
    (tmp_path / "empty" / "assets.extra").mkdir()
    (tmp_path / "empty" / "assets.extra" / "warmup").write_text("requests")
    with pytest.raises(OptionError, match=r"no earlier export, such as 'assets.extra/warmup'"):
        export_model(head, tmp_path / "empty")
    assert (tmp_path / "empty" / "assets.extra" / "warmup").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tmp")]


@pytest.mark.slow
def test_a_model_that_differs_is_not_published(
    head: Path, tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probabilities beyond the tolerance, or none at all, are an error, and nothing is left behind."""
    honest = comparison.asked
    for wrong in (2e-4, np.nan):
        monkeypatch.setattr(comparison, "asked", lambda *args, wrong=wrong: {"images": honest(*args)["images"] + wrong})
        with pytest.raises(
            ExportError, match=r"by 0.0002 from those of the classifier, more than 0.0001|gives no probabilities"
        ):
            export_model(head, tmp_path / "m.keras")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_model_that_does_not_load_is_not_published(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a clean process says against it is in the message."""
    monkeypatch.setattr(exporting, "write", lambda *args: args[-1].write_text("no model"))
    with pytest.raises(ExportError, match=r"does not load in a process of its own: .*m.keras"):
        export_model(head, tmp_path / "m.keras")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_converted(head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a converter says ends in one error, and nothing is left behind."""

    def write(*_: object) -> None:
        raise KeyError("no such operation")

    monkeypatch.setattr(exporting, "write", write)
    with pytest.raises(ExportError, match="tflite cannot hold this network: 'no such operation'"):
        export_model(head, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_heads_that_no_network_expresses(extracting, split_photos: Path, tmp_path: Path) -> None:
    """They are named before anything is written."""
    fit_head(extracting(split_photos, tmp_path / "c"), "knn", out=tmp_path / "h")
    with pytest.raises(HeadError, match="No network can express knn"):
        export_model(tmp_path / "h", tmp_path / "new" / "m.keras")
    assert not (tmp_path / "new").exists()


def test_what_it_is_compared_on(head: Path, tmp_path: Path, at_once: None) -> None:
    """Given images, those of the source, or, where there are none, random pixels; it says which."""
    write_image(tmp_path / "images" / "a.png", random_image(1))
    Image.fromarray(random_image(2)).save(tmp_path / "images" / "b.tif")
    (tmp_path / "images" / "c.png").write_bytes(b"no image")
    report = export_model(head, tmp_path / "m", images=str(tmp_path / "images"))
    assert report.compared == 2
    assert "1 of the 2 images are no JPEG or PNG that the graph decodes" in report.notes
    report = export_model(head, tmp_path / "m", compare=0)
    assert report.compared == 0
    assert "random pixels: not compared on images: none were asked for" in report.notes
    with pytest.raises(SourceError):
        export_model(head, tmp_path / "m", images=str(tmp_path / "nowhere"))


def test_a_source_that_is_gone(extracting, tmp_path: Path, at_once: None) -> None:
    """The model is compared on random pixels, and the note says why."""
    photographs(tmp_path / "p", ["a", "b"])
    fit_head(extracting(tmp_path / "p", tmp_path / "c"), out=tmp_path / "h")
    (tmp_path / "p").rename(tmp_path / "q")
    report = export_model(tmp_path / "h", tmp_path / "m.keras")
    assert report.compared == 0
    assert any("not compared on images: " in note and "/p" in note for note in report.notes)


@pytest.mark.slow
def test_arrays_are_compared_too(extracting, tmp_path: Path, at_once: None) -> None:
    """Images that were never files are compared as PNG."""
    images = np.stack([random_image(i) // 2 + 100 * (i % 2) for i in range(40)]).astype(np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(40) % 2)
    fit_head(extracting(tmp_path / "set.npz", tmp_path / "c"), params={"C": 1e-5}, out=tmp_path / "h")
    report = export_model(tmp_path / "h", tmp_path / "m")
    assert report.compared > 0
    assert report.max_difference < 1e-5


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"base": "vgg19", "weights": "imagenet"}, "CC BY 4.0"),
        ({"base": "mobilenetv2", "weights": "imagenet"}, "Apache 2.0"),
        ({"base": "someday", "weights": "imagenet"}, "keras.applications"),
        ({"base": "vgg19", "weights": None}, "drawn at random"),
        ({"base": "vgg19", "weights": {"file": "/w/mine.h5"}}, "that of mine.h5"),
        ({"base": {"file": "/w/base.keras"}, "weights": "imagenet"}, "that of base.keras"),
    ],
)
def test_whose_weights_they_are(request_: dict[str, object], expected: str) -> None:
    """The note names their origin, and their licence as far as it is known."""
    whole = {
        "settings": {},
        "layers": [],
        "pooling": "avg",
        "image_size": None,
        "resize": "pad",
        "preprocess": "auto",
        "interpolation": "bilinear",
        "dtype": "float32",
        "precision": "float32",
        "runtime": "tensorflow",
        "decode": "accurate",
        "seed": 0,
        **request_,
    }
    assert expected in exporting._licence({"request": whole})
    assert "drawn at random" in exporting._licence({"request": whole, "options": {"reinitialise": True}})


def test_it_is_public() -> None:
    """The package offers it under its name."""
    assert featcache.export_model is export_model
