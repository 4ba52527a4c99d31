from typing import Any

import numpy as np
import pytest

from featcache.bases import layers_of, load_base
from featcache.errors import BaseError
from featcache.recipe import Request

SMALL = {"base": "vgg19", "weights": None, "image_size": (32, 32)}


@pytest.fixture(scope="module")
def nested() -> Any:
    """Return a classifier around a VGG19, with scaling in front of it."""
    import keras

    inner = keras.applications.VGG19(include_top=False, weights=None, input_shape=(32, 32, 3))
    pixels = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.GlobalAveragePooling2D()(inner(x))
    return keras.Model(pixels, keras.layers.Dense(3, name="classes")(x))


@pytest.mark.slow
def test_layers_come_in_the_networks_order() -> None:
    """The order in which layers are named does not matter; each comes once."""
    base = load_base(Request(**SMALL, layers=("block2_pool", "block1_pool", "block2_pool")))
    assert base.layers == ("block1_pool", "block2_pool")


def test_wrong_layer_gets_the_nearest() -> None:
    """A misspelt layer is answered with the nearest ones."""
    with pytest.raises(BaseError, match="nearest: block2_pool"):
        load_base(Request(**SMALL, layers=("blok2_pool",)))


def test_callers_model_is_left_alone(nested: Any) -> None:
    """Cutting a model in memory adds nothing to its layers."""
    before = [len(layer._inbound_nodes) for layer in nested.layers]
    load_base(Request(nested, layers=("classes",)))
    assert [len(layer._inbound_nodes) for layer in nested.layers] == before


def test_nested_layer_by_address(nested: Any) -> None:
    """`outer/inner` cuts inside a nested model, keeping what comes before it in the outer one."""
    import keras

    base = load_base(Request(nested, layers=("vgg19/block2_pool",)))
    assert base.parameters == 260_160
    assert base.preprocess == "none"  # the Rescaling layer is inside
    inner = nested.get_layer("vgg19")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    expected = keras.Model(inner.inputs, inner.get_layer("block2_pool").output)([pixels / 255])
    assert np.allclose(base.model(pixels), expected, atol=1e-5)


def test_outer_and_inner_layers_in_one_pass(nested: Any) -> None:
    """Layers inside and outside a nested model can be cut at together."""
    base = load_base(Request(nested, layers=("classes", "vgg19/block1_pool", "vgg19")))
    assert base.layers == ("vgg19/block1_pool", "vgg19", "classes")


def test_layers_list_has_nested_addresses(nested: Any) -> None:
    """The list of layers shows inner ones by address, and every one of them can be cut at."""
    described = {layer.address: layer for layer in layers_of(Request(nested))}
    assert described["vgg19/block1_conv1"].weight_shapes == [(3, 3, 3, 64), (64,)]
    assert described["vgg19/block1_pool"].bytes_per_image == 16 * 16 * 64 * 4
    assert described["classes"].output_shape == (3,)


def test_input_layer_can_be_cut_at() -> None:
    """Raw pixels are features too."""
    import keras

    model = keras.Sequential([keras.Input((8, 8, 1), name="pixels"), keras.layers.Conv2D(4, 3, name="conv")])
    assert load_base(Request(model, layers=("pixels", "conv"), preprocess="none")).layers == ("pixels", "conv")


def test_layer_used_twice_is_refused() -> None:
    """A shared layer has no one output."""
    import keras

    x = keras.Input((8, 8, 3))
    shared = keras.layers.Conv2D(3, 1, name="shared")
    model = keras.Model(x, shared(shared(x)))
    with pytest.raises(BaseError, match="more than once"):
        load_base(Request(model, layers=("shared",), preprocess="none"))


def test_canonical_names_are_not_mistaken_for_others() -> None:
    """A recipe's names mean layers by rank, also where this process gave the same names to other layers."""
    import keras

    keras.layers.Dense(1)  # moves the counter on
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(pixels)
    hidden = keras.layers.Dense(4, name="dense_1")
    model = keras.Model(pixels, keras.layers.Dense(2, name="dense_2")(hidden(x)))
    base = load_base(Request(model, layers=("dense", "dense_1"), preprocess="none", canonical=True))
    assert base.layers == ("dense_1", "dense_2")
