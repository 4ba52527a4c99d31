import pytest

from featcache.bases import load_base
from featcache.errors import BaseError, OptionError
from featcache.recipe import Request

SMALL = {"base": "vgg19", "weights": None, "image_size": (32, 32)}


@pytest.mark.slow
def test_parameter_counts() -> None:
    """A cut holds what lies before it: VGG19 at block2_pool has 260,160 parameters."""
    assert load_base(Request(**SMALL, layers=("block2_pool",))).parameters == 260_160
    assert load_base(Request("mobilenetv2", weights=None, image_size=(32, 32))).parameters == 2_257_984
    assert load_base(Request("densenet121", weights=None, image_size=(32, 32))).parameters == 7_037_504


@pytest.mark.parametrize("shape", [(8,), (8, 8, 4), (8, 8, 8, 3)])
def test_bases_that_take_no_images(shape: tuple[int, ...]) -> None:
    """A network for something else than images is refused with its input shape."""
    import keras

    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten()])
    with pytest.raises(BaseError, match="must take images"):
        load_base(Request(model, preprocess="none"))


def test_two_inputs_are_refused() -> None:
    """A base takes one image."""
    import keras

    a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    with pytest.raises(BaseError, match="one input"):
        load_base(Request(keras.Model([a, b], keras.layers.Add()([a, b])), preprocess="none"))


def test_model_without_its_own_scaling_needs_preprocess() -> None:
    """Nobody can guess how a model file wants its pixels."""
    import keras

    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(OptionError, match="`preprocess` must be given"):
        load_base(Request(model))


def test_free_image_size_must_be_given() -> None:
    """A network for images of any size needs one; a network of a fixed size refuses another."""
    import keras

    free = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(OptionError, match="`image_size`"):
        load_base(Request(free, preprocess="none"))
    assert load_base(Request(free, preprocess="none", image_size=(9, 11))).width == 11
    fixed = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(OptionError, match="8x8"):
        load_base(Request(fixed, preprocess="none", image_size=(9, 9)))


def test_unknown_setting_gets_the_known_ones() -> None:
    """A misspelt constructor argument is answered with the possible ones."""
    with pytest.raises(OptionError, match=r"'alfa'.*alpha"):
        load_base(Request("mobilenetv2", base_params={"alfa": 1}, weights=None))


def test_size_too_small_is_keras_message() -> None:
    """What Keras refuses comes through on one line."""
    with pytest.raises(BaseError, match="at least 32x32"):
        load_base(Request("vgg19", weights=None, image_size=(16, 16)))


def test_scaling_inside_a_nested_model_counts() -> None:
    """A model that scales in an inner model needs no preprocessing named."""
    import keras

    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255)], name="inner")
    x = keras.Input((8, 8, 3))
    assert load_base(Request(keras.Model(x, keras.layers.Conv2D(3, 1)(inner(x))))).preprocess == "none"
