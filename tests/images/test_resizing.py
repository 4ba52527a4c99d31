import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from featcache.errors import ImageError, OptionError
from featcache.images.decoding import PixelSpec, load
from featcache.recipe import Request

GREY = np.linspace(0, 255, 40 * 60).reshape(40, 60).astype(np.uint8)
RGB = np.stack([GREY, GREY.T.reshape(40, 60), 255 - GREY], -1)
NOISE = np.random.default_rng(1).integers(0, 256, (61, 83, 3), np.uint8)


def test_stretch_is_keras_resize() -> None:
    """The default equals `keras.utils.load_img`'s siblings in tf.data: bilinear, no antialias."""
    import tensorflow as tf

    expected = tf.image.resize(RGB, (17, 23), method="bilinear").numpy()
    assert np.array_equal(load(RGB, PixelSpec(17, 23, 3)), expected)


def test_pad_keeps_the_shape_and_adds_black() -> None:
    """A wide image padded to a square has black bars above and below."""
    white = np.full((20, 40, 3), 255, np.uint8)
    padded = load(white, PixelSpec(40, 40, 3, "pad"))
    assert padded[:9].max() == 0
    assert padded[-9:].max() == 0
    assert padded[11:29].min() == 255


@pytest.mark.parametrize("size", [(33, 47), (47, 33), (20, 28), (21, 11), (41, 83), (61, 61)])
@pytest.mark.parametrize("target", [(24, 24), (20, 28), (30, 8)])
def test_crop_and_pad_are_tensorflows(size: tuple[int, int], target: tuple[int, int]) -> None:
    """Cropping equals Keras' own, and padding `tf.image.resize_with_pad`."""
    import keras
    import tensorflow as tf

    pixels = NOISE[: size[0], : size[1]]
    crop = keras.layers.Resizing(*target, crop_to_aspect_ratio=True, data_format="channels_last")
    assert np.array_equal(load(pixels, PixelSpec(*target, 3, "crop")), crop(pixels[None].astype(np.float32))[0])
    padded = tf.image.resize_with_pad(pixels, *target).numpy()
    assert np.array_equal(load(pixels, PixelSpec(*target, 3, "pad")), padded)


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2, 3000), (3000, 2), (1, 1)])
def test_lines_and_points_are_pictures_too(resize: str, size: tuple[int, int]) -> None:
    """However long and thin a picture is, something of it is left."""
    assert load(np.full((*size, 3), 200, np.uint8), PixelSpec(16, 12, 3, resize)).max() == 200


@pytest.mark.parametrize("size", [(33, 47), (47, 33), (20, 28), (240, 321), (61, 61), (1, 90)])
@pytest.mark.parametrize(("target", "crop"), [((24, 24), 0.875), ((20, 28), 0.7), ((30, 8), 0.5)])
def test_a_crop_resizes_the_shorter_side_and_takes_the_centre(
    size: tuple[int, int], target: tuple[int, int], crop: float
) -> None:
    """The whole image, resized by TensorFlow without changing its shape, is cut as torchvision's CenterCrop cuts."""
    import tensorflow as tf

    pixels = np.resize(NOISE, (*size, 3))
    room = [math.floor(side / crop) for side in target]
    scale = max(Fraction(room[0], size[0]), Fraction(room[1], size[1]))
    rows, columns = math.floor(size[0] * scale), math.floor(size[1] * scale)
    whole = tf.image.resize(pixels, (rows, columns)).numpy()
    top, left = round((rows - target[0]) / 2), round((columns - target[1]) / 2)
    expected = whole[top : top + target[0], left : left + target[1]]
    assert np.array_equal(load(pixels, PixelSpec(*target, 3, "crop", crop=crop)), expected)


def test_a_crop_of_1_is_what_crop_was() -> None:
    """Its pixels are those of `resize` crop bit for bit, and its recipe has no other name."""
    whole, named = Request("x", resize="crop"), Request("x", crop=1)
    assert (whole.fraction, whole.resize) == (named.fraction, named.resize) == (1.0, "crop")
    assert Request("vgg19", resize="crop").to_dict() == Request("vgg19", crop=1).to_dict()
    spec = PixelSpec(20, 28, 3, "crop")
    assert np.array_equal(load(NOISE[:33, :47], spec), load(NOISE[:33, :47], replace(spec, crop=1.0)))


@pytest.mark.parametrize(
    "options", [{"crop": 0.5, "resize": "pad"}, {"crop": 0.5, "resize": "stretch"}, {"crop": 1.5}, {"crop": 0.0}]
)
def test_a_crop_beside_another_way_of_fitting_is_refused(options: dict[str, Any]) -> None:
    """It implies `resize` crop, and is a fraction."""
    with pytest.raises(OptionError, match="`crop`"):
        Request("vgg19", **options)


def test_what_is_too_thin_to_be_cropped_is_an_image_error() -> None:
    """A line of many pixels would be huge if its shorter side were enlarged."""
    with pytest.raises(ImageError, match="too long and thin"):
        load(np.zeros((1, 40_000, 3), np.uint8), PixelSpec(200, 200, 3, "crop", crop=0.5))


def test_crop_takes_the_centre() -> None:
    """A wide image cropped to a square keeps its middle."""
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 255
    assert load(image, PixelSpec(20, 20, 3, "crop")).min() == 255
