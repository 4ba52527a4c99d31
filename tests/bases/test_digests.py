from pathlib import Path

import pytest
from conftest import slow

from featcache.bases import load_base
from featcache.recipe import Request

SMALL = {"base": "vgg19", "weights": None, "image_size": (32, 32)}


@pytest.mark.parametrize("name", ["vgg19", "mobilenetv3small", slow("efficientnetb0"), slow("densenet121")])
@pytest.mark.by_default("vgg19")
def test_building_twice_is_the_same_recipe(name: str) -> None:
    """Keras numbers layers on and on in a process; the digests and canonical names do not notice."""
    request = Request(name, weights=None, image_size=(32, 32))
    first, second = load_base(request), load_base(request)
    assert first.architecture == second.architecture
    assert first.weights == second.weights
    assert first.layers == second.layers == first.canonical_layers


def test_digests_tell_bases_apart() -> None:
    """Another seed is other weights; another cut, size or setting another architecture."""
    one = load_base(Request(**SMALL, layers=("block1_pool",)))
    assert load_base(Request(**SMALL, layers=("block1_pool",), seed=1)).weights != one.weights
    assert load_base(Request(**SMALL, layers=("block1_conv2",))).architecture != one.architecture
    larger = Request("vgg19", weights=None, image_size=(64, 64), layers=("block1_pool",))
    assert load_base(larger).architecture != one.architecture


def test_saved_model_is_the_same_base(tmp_path: Path) -> None:
    """A base saved as .keras and loaded has the digests of the one it was."""
    import keras

    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()])
    model.save(tmp_path / "m.keras")
    live = load_base(Request(model, preprocess="none"))
    file = load_base(Request(tmp_path / "m.keras", preprocess="none"))
    assert (live.architecture, live.weights) == (file.architecture, file.weights)


def test_activation_is_part_of_the_architecture() -> None:
    """Networks of equal shapes with another activation are another base."""
    import keras

    def digest_with(activation: str) -> str:
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation=activation)])
        return load_base(Request(model, preprocess="none")).architecture

    assert digest_with("relu") != digest_with("tanh")


def test_wiring_is_part_of_the_architecture() -> None:
    """The same layers connected otherwise are another base."""
    import keras

    def digest_with(swap: bool) -> str:
        x = keras.Input((8, 8, 3))
        y = keras.layers.Conv2D(3, 1)(x)
        out = keras.layers.Subtract()([x, y] if swap else [y, x])
        return load_base(Request(keras.Model(x, out), preprocess="none")).architecture

    assert digest_with(True) != digest_with(False)


def test_dtype_policy_is_part_of_the_architecture() -> None:
    """Networks that compute in another precision are another base."""
    import keras

    def digest_with(dtype: str) -> str:
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, dtype=dtype)])
        return load_base(Request(model, preprocess="none")).architecture

    assert digest_with("float32") != digest_with("mixed_bfloat16")
