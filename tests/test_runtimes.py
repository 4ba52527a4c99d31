import numpy as np
import pytest
from conftest import MIX, SHIFT, predicted_mean, predicted_relu_max, random_image

from featcache.bases import load_base
from featcache.errors import BaseError
from featcache.recipe import Request
from featcache.runtimes import TensorFlowRuntime
from featcache.runtimes.tensorflow import pooled, preprocessed

IMAGES = np.stack([random_image(i) for i in range(5)]).astype(np.float32)


@pytest.fixture(scope="module")
def base(oracle):
    return load_base(Request(oracle, layers=("mix", "positive"), preprocess="none"))


@pytest.mark.parametrize("mode", ["caffe", "torch", "tf"])
def test_preprocessing_is_keras_own(mode: str) -> None:
    """Each mode equals Keras' function bit for bit and leaves the pixels as they were."""
    import keras

    expected = keras.applications.imagenet_utils.preprocess_input(IMAGES.copy(), mode=mode)
    before = IMAGES.copy()
    assert np.allclose(np.asarray(preprocessed(IMAGES, mode)), expected, atol=1e-6)
    assert np.array_equal(IMAGES, before)


def test_rescale_and_none() -> None:
    """rescale divides by 255, none does nothing."""
    assert np.array_equal(np.asarray(preprocessed(IMAGES, "rescale")), IMAGES / np.float32(255))
    assert preprocessed(IMAGES, "none") is IMAGES


def test_pooling_of_maps_and_tokens() -> None:
    """Pooling is over all axes between the first and the last; vectors stay as they are."""
    maps = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    assert np.allclose(pooled(maps, "avg"), maps.mean(axis=(1, 2)))
    assert np.array_equal(pooled(maps, "max"), maps.max(axis=(1, 2)))
    assert np.array_equal(pooled(maps, "flatten"), maps.reshape(2, -1))
    assert pooled(maps, "none") is maps
    tokens = maps.reshape(2, 12, 5)
    assert np.allclose(pooled(tokens, "avg"), tokens.mean(axis=1))
    assert pooled(maps[:, 0, 0], "avg").shape == (2, 5)


def test_features_are_what_numpy_predicts(base) -> None:
    """Average- and max-pooled features of a known network come out as computed by hand."""
    mean = TensorFlowRuntime(base, "avg")(IMAGES, 5)["mix"]
    assert np.allclose(mean, [predicted_mean(image) for image in IMAGES], rtol=1e-5)
    largest = TensorFlowRuntime(base, "max")(IMAGES, 5)["positive"]
    assert np.allclose(largest, [predicted_relu_max(image) for image in IMAGES], rtol=1e-5)


def test_unpooled_maps(base) -> None:
    """Without pooling the map itself is stored."""
    runtime = TensorFlowRuntime(base, "none")
    assert runtime.shapes == {"mix": (8, 8, 4), "positive": (8, 8, 4)}
    assert np.allclose(runtime(IMAGES, 5)["mix"], IMAGES @ MIX + SHIFT, rtol=1e-4, atol=1e-3)


def test_padding_does_not_change_a_bit(base) -> None:
    """The images of a short batch have the features they have in a full one."""
    runtime = TensorFlowRuntime(base, "avg")
    full = runtime(np.concatenate([IMAGES, IMAGES[:3]]), 8)["mix"]
    assert np.array_equal(runtime(IMAGES, 8)["mix"], full[:5])


def test_base_without_a_channel_axis() -> None:
    """A network that takes 28x28 gets its pixels without a channel axis."""
    import keras

    model = keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten(name="flat")])
    runtime = TensorFlowRuntime(load_base(Request(model, preprocess="none")), "avg")
    assert runtime(np.ones((2, 28, 28, 1), np.float32), 2)["flat"].shape == (2, 784)


def test_layer_of_unknown_size_is_refused() -> None:
    """A layer whose output size depends on the data cannot be stored."""
    import keras

    class Ragged(keras.layers.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.boolean_mask(x, x[:, 0, 0, 0] > 0)[:, : tf.cast(x[0, 0, 0, 0], tf.int32)]

        def compute_output_shape(self, shape):
            return (shape[0], None, *shape[2:])

    model = keras.Sequential([keras.Input((8, 8, 3)), Ragged(name="ragged")])
    with pytest.raises(BaseError, match="ragged"):
        TensorFlowRuntime(load_base(Request(model, preprocess="none")), "none")
