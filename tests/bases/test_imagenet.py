import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import compare_imagenet_graphs
import h5py
import numpy as np
import pytest
from conftest import slow

from featcache.bases import Base, layers_of, load_base
from featcache.bases.keras_applications import are_imagenet_statistics
from featcache.errors import WeightsError
from featcache.recipe import Request

OFFICIAL = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
PIXELS = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def network() -> Callable[..., Any]:
    """Return a maker of EfficientNetB0 with seeded weights and given statistics."""
    import keras

    model = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, value.shape) for value in layer.get_weights()])

    def make(mean: Any, variance: Any) -> Any:
        (layer,) = [layer for layer in model.layers if isinstance(layer, keras.layers.Normalization)]
        layer.set_weights([np.float32(mean), np.float32(variance), np.zeros((), layer.get_weights()[2].dtype)])
        layer.finalize_state()
        return model

    return make


def written(model: Any, path: Path) -> Path:
    model.save_weights(path) if path.name.endswith(".weights.h5") else model.save(path)
    return path


def by_keras(path: Path) -> Any:
    """Return EfficientNetB0 by Keras' own path for ImageNet weights, which is given this file as its download."""
    import keras
    from keras.src.utils import file_utils

    with mock.patch.object(file_utils, "get_file", return_value=str(path)):
        return keras.applications.EfficientNetB0(include_top=False, input_shape=(32, 32, 3))


def ours(weights: Path | str | None, *layers: str) -> Base:
    return load_base(Request("efficientnetb0", weights=weights, image_size=(32, 32), layers=layers))


def near(features: Any, expected: Any) -> bool:
    return bool(np.abs(features - expected).max() <= 1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_features_from_a_file_are_those_of_imagenet(tmp_path: Path, network: Callable[..., Any]) -> None:
    """A file with ImageNet's statistics gives what Keras computes with it as ImageNet weights, at any cut."""
    import keras

    path = written(network(*OFFICIAL), tmp_path / "w.h5")
    whole = by_keras(path)
    scaling = [layer for layer in whole.layers if isinstance(layer, keras.layers.Rescaling)][1]
    layers = [whole.layers[2], scaling, whole.get_layer("stem_bn"), whole.get_layer("block2a_expand_conv"), whole]
    expected = keras.Model(whole.input, [layer.output for layer in layers])(PIXELS)
    base = ours(path, "normalization", "rescaling_1", "stem_bn", "block2a_expand_conv", "top_activation")
    assert all(near(found, wanted) for found, wanted in zip(base.model(PIXELS), expected, strict=True))
    with mock.patch.object(keras.Model, "load_weights"), mock.patch("keras.src.utils.file_utils.get_file"):
        assert ours("imagenet", *base.layers).architecture == base.architecture


@pytest.mark.parametrize("suffix", [".h5", slow(".weights.h5"), slow("-without names.weights.h5"), slow(".keras")])
def test_every_kind_of_file_can_be_told(tmp_path: Path, network: Callable[..., Any], suffix: str) -> None:
    """ImageNet's statistics are seen in each kind of file; behind the second Rescaling layer it is another recipe."""
    model = network(*OFFICIAL)
    path = written(model, tmp_path / f"w{suffix}")
    if "without" in suffix:  # as early Keras 3 wrote it
        with h5py.File(path, "r+") as file:
            file.visititems(lambda _, group: group.attrs.pop("name", None) and None)
    base = ours(path, "stem_conv")
    pixels = ((PIXELS / 255 - OFFICIAL[0]) / np.array(OFFICIAL[1])).astype(np.float32)
    padded = np.pad(pixels, [(0, 0), (0, 1), (0, 1), (0, 0)])  # the layer alone divides by the square root
    assert near(base.model(PIXELS), model.get_layer("stem_conv")(padded))
    assert base.architecture != ours(None, "stem_conv").architecture


@pytest.mark.parametrize(
    ("mean", "variance"),
    [
        ([0.0] * 3, [1.0] * 3),
        slow([0.4, 0.5, 0.3], [0.05, 0.06, 0.07]),
        slow(OFFICIAL[0], np.square(OFFICIAL[1])),
        slow(np.add(OFFICIAL[0], 0.01), OFFICIAL[1]),
    ],
)
@pytest.mark.slow
def test_trained_from_scratch(tmp_path: Path, network: Callable[..., Any], mean: Any, variance: Any) -> None:
    """A file without ImageNet's values of mean and variance stays the network that it is."""
    import keras

    model = network(mean, variance)
    base = ours(written(model, tmp_path / "w.weights.h5"), "stem_bn")
    assert near(base.model(PIXELS), keras.Model(model.input, model.get_layer("stem_bn").output)(PIXELS))
    assert base.architecture == ours(None, "stem_bn").architecture


def test_statistics_of_reduced_precision() -> None:
    """ImageNet's statistics are also told where a file has them as float16 or bfloat16."""
    import ml_dtypes

    for dtype in (np.float16, ml_dtypes.bfloat16):
        assert are_imagenet_statistics(*(np.array(values).astype(dtype).astype(np.float32) for values in OFFICIAL))


def test_file_without_statistics_is_refused(tmp_path: Path, network: Callable[..., Any]) -> None:
    """Nobody can tell what scaling a file without its Normalization layer was trained with."""
    path = written(network(*OFFICIAL), tmp_path / "w.weights.h5")
    with h5py.File(path, "r+") as file:
        del file["layers/normalization"]
    with pytest.raises(WeightsError, match="no weights for normalization"):
        ours(path, "stem_bn")


@pytest.mark.slow
def test_whole_model_with_one_scaling_is_told(
    tmp_path: Path, network: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Where the model in a file has no second Rescaling layer itself, a warning names the way to use it as it is."""
    path = written(network(*OFFICIAL), tmp_path / "w.keras")
    with caplog.at_level(logging.WARNING):
        ours(path, "stem_bn")
    assert f"--base {path}" in caplog.text
    caplog.clear()
    written(by_keras(path), tmp_path / "two.keras")
    with caplog.at_level(logging.WARNING):
        ours(tmp_path / "two.keras", "stem_bn")
    assert not caplog.records


@pytest.mark.slow
def test_layers_are_listed_as_they_will_be() -> None:
    """The layers shown for ImageNet weights have the second Rescaling layer, without a download."""
    for weights, there in (("imagenet", True), (None, False)):
        listed = layers_of(Request("efficientnetb0", weights=weights, image_size=(32, 32)))
        assert ("rescaling_1" in [layer.address for layer in listed]) == there


@pytest.mark.parametrize(
    "name",
    [
        "EfficientNetB0",
        "EfficientNetV2B0",
        "MobileNetV2",
        "MobileNetV3Small",
        "ResNet50",
        "ResNet50V2",
        "VGG16",
        "ConvNeXtTiny",
    ],
)
@pytest.mark.by_default("EfficientNetB0", "VGG16")
def test_graph_for_imagenet_is_keras_own(name: str) -> None:
    """For one network of each family Keras' graph with ImageNet weights is the one that a weights file gets here."""
    found = compare_imagenet_graphs.compared(name)
    assert found["ours_as_keras"]
    assert found["same"] == (name != "EfficientNetB0")
