import io
from pathlib import Path

import numpy as np
import pytest
from conftest import slow
from PIL import Image

from featcache.errors import OptionError
from featcache.images.decoding import PixelSpec, load
from featcache.models.export import clean, formats
from featcache.models.export.graph import taking_any_size

SIZES = [(37, 51), (51, 33), (20, 28), (20, 20), (64, 64), (1, 9), (1, 300), (200, 2), (1, 1)]
PICTURES = [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(SIZES)]


def fitting(spec: PixelSpec, kind: str = "keras") -> object:
    """Return a model that gives back what the base would get."""
    import keras

    pixels = keras.Input((spec.height, spec.width, spec.channels))
    return taking_any_size(keras.Model(pixels, keras.layers.Rescaling(1.0)(pixels)), spec, kind)


def fed(pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {
        "pixels": np.concatenate([one.ravel() for one in pictures]),
        "shapes": np.array([p.shape for p in pictures]),
    }


@pytest.mark.parametrize("size", [slow((20, 20)), (20, 28)])
@pytest.mark.parametrize(
    ("resize", "interpolation"),
    [(resize, how) for resize in ("stretch", "crop") for how in ("bilinear", "nearest", "bicubic", "lanczos3")]
    + [("pad", "bilinear"), ("pad", "nearest")],
)
@pytest.mark.by_default("stretch-bilinear-size1", "crop-bicubic-size1", "pad-bilinear-size1", "pad-nearest-size1")
def test_keras_fits_pictures_as_extraction_does(
    tmp_path: Path, size: tuple[int, int], resize: str, interpolation: str
) -> None:
    """Bit for bit, after saving and loading in safe mode, in colour and grey, of uint8 and of floats."""
    import keras

    spec = PixelSpec(*size, 3, resize, interpolation)
    fitting(spec).save(tmp_path / "m.keras")
    found = keras.models.load_model(tmp_path / "m.keras")
    for picture in PICTURES:
        assert np.array_equal(found.predict(picture[None], verbose=0)[0], load(picture, spec)), picture.shape
    assert np.array_equal(found(PICTURES[0][None].astype(np.float32))[0], load(PICTURES[0], spec))
    assert np.array_equal(found(np.stack([PICTURES[0]] * 2))[1], load(PICTURES[0], spec))
    grey = PixelSpec(*size, 1, resize, interpolation)
    assert np.array_equal(fitting(grey)(PICTURES[0][None, ..., :1])[0], load(PICTURES[0][..., 0], grey))


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_converted_models_fit_pictures_as_extraction_does(tmp_path: Path, kind: str, resize: str) -> None:
    """Of any size, in the model's own runtime, to a fiftieth of a step of 255."""
    if kind == "onnx":
        pytest.importorskip("tf2onnx")
        pytest.importorskip("onnxruntime")
    spec = PixelSpec(20, 28, 3, resize)
    formats.write(kind, fitting(spec, kind), spec, ["a"], tmp_path / "model")
    for picture in PICTURES:
        (found,) = clean.answers(kind, str(tmp_path / "model"), fed([picture]))["images"]
        assert np.abs(found - load(picture, spec)).max() < 0.02, picture.shape
    both = clean.answers(kind, str(tmp_path / "model"), fed([PICTURES[0], PICTURES[0] // 2]))["images"]
    assert np.abs(both[1] - load(PICTURES[0] // 2, spec)).max() < 0.02


def test_onnx_resizes_with_its_own_operation(tmp_path: Path) -> None:
    """What stretches is one `Resize`, which every runtime has a fast way for."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx")
    spec = PixelSpec(20, 28, 3)
    formats.write("onnx", fitting(spec), spec, ["a"], tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert [node.op_type for node in graph.node].count("Resize") == 1
    (given,) = graph.input
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8


@pytest.mark.parametrize(
    ("kind", "resize", "interpolation"),
    [
        ("keras", "stretch", "area"),
        ("keras", "pad", "bicubic"),
        ("onnx", "stretch", "bicubic"),
        ("tflite", "crop", "lanczos3"),
    ],
)
def test_what_a_format_cannot_resize_is_said(kind: str, resize: str, interpolation: str) -> None:
    """The message names the two ways that are left."""
    with pytest.raises(OptionError, match=f"cannot resize with .*'{interpolation}'.*SavedModel.*input='fixed'"):
        fitting(PixelSpec(8, 8, 3, resize, interpolation), kind)


def test_a_pillow_picture_needs_nothing_else(tmp_path: Path) -> None:
    """What Pillow decodes of a JPEG gives the pixels that featcache makes of its bytes."""
    content = io.BytesIO()
    Image.fromarray(PICTURES[0]).save(content, "JPEG")
    spec = PixelSpec(20, 28, 3, "crop")
    picture = np.asarray(Image.open(content).convert("RGB"))
    assert np.array_equal(fitting(spec)(picture[None])[0], load(content.getvalue(), spec))
