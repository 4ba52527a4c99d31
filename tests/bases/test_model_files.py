import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featcache.bases import load_base
from featcache.errors import BaseError
from featcache.recipe import Request

PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Change every layer's entry in the configuration of an HDF5 model."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            change(layer)
        file.attrs["model_config"] = json.dumps(config)
    return path


def small(*layers: Any) -> Any:
    import keras

    model = keras.Sequential([keras.Input((8, 8, 3)), *layers], name="small")
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.5, 1.5, value.shape) for value in model.get_weights()])
    return model


def as_keras_2_wrote_it(layer: dict[str, Any]) -> None:
    """Turn a layer's configuration into that of tf.keras 2.11, as far as the two differ."""
    config, kind = layer["config"], layer["class_name"]
    for key in ("module", "registered_name", "build_config"):
        layer.pop(key, None)
    if kind == "InputLayer":
        config["batch_input_shape"] = config.pop("batch_shape")
        config.pop("optional", None)
    config["dtype"] = "float32"
    if "Conv2D" in kind:
        config.setdefault("groups", 1)
    if kind == "SeparableConv2D":
        config |= {
            "kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}},
            "kernel_regularizer": None,
            "kernel_constraint": None,
        }
    if kind == "BatchNormalization":
        config |= {"axis": [3], "renorm": False, "fused": True}


@pytest.mark.parametrize("name", ["m.h5", "m.hdf5", "m.keras"])
def test_models_of_keras_2_load(tmp_path: Path, name: str) -> None:
    """Arguments that layers no longer take are left out where they change nothing; the file stays as it is."""
    import keras

    model = small(
        keras.layers.DepthwiseConv2D(3),
        keras.layers.BatchNormalization(),
        keras.layers.SeparableConv2D(4, 3),
        keras.layers.Conv2DTranspose(2, 2),
        keras.layers.Conv2D(2, 1, groups=2),
    )
    model.save(tmp_path / "m.h5")
    path = edited(tmp_path / "m.h5", as_keras_2_wrote_it).rename(tmp_path / name)
    content = path.read_bytes()
    base = load_base(Request(path, preprocess="none"))
    assert np.allclose(base.model(PIXELS), model(PIXELS), rtol=1e-5, atol=1e-5)
    assert path.read_bytes() == content


def test_arguments_that_change_numbers_are_not_dropped(tmp_path: Path) -> None:
    """A layer that are not available as it was is refused, in one line."""
    import keras

    small(keras.layers.DepthwiseConv2D(3)).save(tmp_path / "m.h5")

    def two_groups(layer: dict[str, Any]) -> None:
        if layer["class_name"] == "DepthwiseConv2D":
            layer["config"]["groups"] = 2

    with pytest.raises(BaseError, match=r"Unrecognized keyword.*DepthwiseConv2D: \{'groups': 2\}") as caught:
        load_base(Request(edited(tmp_path / "m.h5", two_groups), preprocess="none"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_unknown_layers_are_named(tmp_path: Path, suffix: str) -> None:
    """The classes that Keras does not know are named, with the way to use the weights of a known network."""
    import keras

    class FixedDropout(keras.layers.Dropout):
        pass

    x = keras.Input((8, 8, 3))
    path = tmp_path / f"m{suffix}"
    keras.Model(x, FixedDropout(0.2)(keras.layers.Conv2D(2, 1)(x)), name="mobilenetv2_1.00_224").save(path)
    with pytest.raises(BaseError, match=f"does not know: FixedDropout.*--base mobilenetv2 --weights {path}") as caught:
        load_base(Request(path, preprocess="none"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.slow
def test_registered_layers_load(tmp_path: Path) -> None:
    """A class that its program has registered is one that Keras knows."""
    import keras

    @keras.saving.register_keras_serializable("featcache-tests")
    class Doubled(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return 2 * x

    small(Doubled()).save(tmp_path / "m.keras")
    assert np.allclose(load_base(Request(tmp_path / "m.keras", preprocess="none")).model(PIXELS), 2 * PIXELS)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_model_that_would_run_code_is_refused(tmp_path: Path, suffix: str) -> None:
    """A Lambda layer in a model file is not unpickled; the message names it."""
    import keras

    small(keras.layers.Lambda(lambda x: x * 2, name="twice")).save(tmp_path / f"m{suffix}")
    with pytest.raises(BaseError, match=r"Lambda layers \(twice\).*safe mode"):
        load_base(Request(tmp_path / f"m{suffix}", preprocess="none"))


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    """A file with weights only is called that, with the options that take it."""
    import keras

    small(keras.layers.Conv2D(2, 1)).save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(BaseError, match=f"--base NAME --weights {tmp_path / 'm.weights.h5'}"):
        load_base(Request(tmp_path / "m.weights.h5", preprocess="none"))


def test_model_under_another_name(tmp_path: Path) -> None:
    """A .keras file that is called otherwise is told to be renamed."""
    import keras

    small(keras.layers.Conv2D(2, 1)).save(tmp_path / "m.keras")
    (tmp_path / "m.keras").rename(tmp_path / "m.h5")
    with pytest.raises(BaseError, match=r"Rename it to end in \.keras"):
        load_base(Request(tmp_path / "m.h5", preprocess="none"))


def test_tensors_that_keras_would_swap(tmp_path: Path) -> None:
    """Keras reads an HDF5 model's tensors as they lie; where their names say otherwise, the file is refused."""
    import keras

    small(keras.layers.BatchNormalization(name="bn")).save(tmp_path / "m.h5")
    load_base(Request(tmp_path / "m.h5", preprocess="none"))
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        group = file["model_weights/bn"]
        names = list(group.attrs["weight_names"])
        group.attrs["weight_names"] = [names[1], names[0], *names[2:]]
    with pytest.raises(BaseError, match="tensors of bn in another order"):
        load_base(Request(tmp_path / "m.h5", preprocess="none"))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_damaged_model_file(tmp_path: Path, suffix: str, seed: int) -> None:
    """Flipped bytes and torn files end in one line or in a base, never in another exception."""
    import keras

    path = tmp_path / f"m{suffix}"
    small(keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()).save(path)
    rng = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for place in rng.integers(0, len(content), 30):
        content[place] ^= 0xFF
    path.write_bytes(content[: len(content) if seed % 2 else int(rng.integers(1, len(content)))])
    try:
        load_base(Request(path, preprocess="none"))
    except BaseError as error:
        assert "\n" not in str(error)
