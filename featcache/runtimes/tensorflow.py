"""Run a base with TensorFlow, on the GPU where there is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.bases import Base
from featcache.errors import BaseError
from featcache.recipe import Pooling, Preprocess

_CAFFE_MEAN = (103.939, 116.779, 123.68)  # BGR, as keras.applications.imagenet_utils has them
_TORCH_MEAN, _TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def preprocessed(pixels: Any, mode: Preprocess) -> Any:
    """Scale pixels for a base: the operations of ``imagenet_utils.preprocess_input``, in its order.

    Parameters
    ----------
    pixels : tensor, shape (n, height, width, channels), float32
        Values in 0…255; left untouched.
    mode : str
        ``caffe``: BGR minus ImageNet's mean; ``torch``: 0…1, then ImageNet's mean and deviation;
        ``tf``: -1…1; ``rescale``: 0…1; ``none``.

    Returns
    -------
    tensor of the same shape
    """
    if mode == "caffe":
        return pixels[..., ::-1] - np.array(_CAFFE_MEAN, np.float32)
    if mode == "torch":
        return (pixels / 255.0 - np.array(_TORCH_MEAN, np.float32)) / np.array(_TORCH_STD, np.float32)
    if mode == "tf":
        return pixels / 127.5 - 1.0
    return pixels / 255.0 if mode == "rescale" else pixels


def pooled(features: Any, pooling: Pooling) -> Any:
    """Reduce maps to one row per image: over all axes between the first and the last, or flattened.

    Parameters
    ----------
    features : tensor, shape (n, …, channels)
        A tensor of shape (n, channels) has nothing to pool and is returned as it is.
    pooling : {"avg", "max", "flatten", "none"}

    Returns
    -------
    tensor, shape (n, channels), (n, values) or as it came
    """
    import keras

    if pooling == "none" or len(features.shape) <= 2:
        return features
    if pooling == "flatten":
        return keras.ops.reshape(features, (-1, int(np.prod(features.shape[1:]))))
    axes = tuple(range(1, len(features.shape) - 1))
    return (keras.ops.mean if pooling == "avg" else keras.ops.max)(features, axis=axes)


class TensorFlowRuntime:
    """A base, compiled: preprocessing, network and pooling in one function.

    Parameters
    ----------
    base : Base
        What to run.
    pooling : {"avg", "max", "flatten", "none"}
        What becomes of spatial maps.

    Attributes
    ----------
    shapes : dict
        Shape of one image's features for each layer.
    """

    def __init__(self, base: Base, pooling: Pooling) -> None:
        import tensorflow as tf

        for device in tf.config.list_physical_devices("GPU"):
            try:
                tf.config.experimental.set_memory_growth(device, True)
            except RuntimeError:
                break  # the GPU is in use already, with the settings of whoever was first

        tf.config.experimental.enable_tensor_float_32_execution(False)  # float32 means float32, on GPUs too

        def forward(pixels: Any) -> list[Any]:
            scaled = preprocessed(pixels, base.preprocess)
            outputs = base.model(scaled[..., 0] if base.squeeze else scaled, training=False)
            listed = outputs if isinstance(outputs, list | tuple) else [outputs]
            return [tf.cast(pooled(output, pooling), tf.float32) for output in listed]

        self._layers = base.layers
        signature = tf.TensorSpec((None, base.height, base.width, base.channels), tf.float32)
        self._forward = tf.function(forward, input_signature=[signature], autograph=False)
        try:
            shapes = [tuple(output.shape[1:]) for output in self._forward.get_concrete_function().outputs]
        except Exception as error:
            text = " ".join(str(error).split())[:300]
            raise BaseError(f"Expected a base that TensorFlow can run. Received: {base.name!r}: {text}") from None
        self.shapes: dict[str, tuple[int, ...]] = {}
        for layer, shape in zip(base.layers, shapes, strict=True):
            if not shape or None in shape:
                raise BaseError(
                    f"Expected a layer whose output size is known. Received: {layer!r} with {shape}. "
                    "Choose another --layer or --pooling avg."
                )
            self.shapes[layer] = tuple(int(n) for n in shape)

    def __call__(self, pixels: npt.NDArray[np.float32], batch_size: int) -> dict[str, npt.NDArray[np.float32]]:
        """Return the features of a batch.

        Parameters
        ----------
        pixels : array, shape (n, height, width, channels), float32
            Values in 0…255, 1 ≤ n ≤ `batch_size`.
        batch_size : int
            The batch is padded to this size with its first image, because kernels for other batch
            sizes give other last bits.

        Returns
        -------
        dict of arrays, shape (n, …), float32
            One per layer.
        """
        count = len(pixels)
        if count < batch_size:
            padding = np.broadcast_to(pixels[:1], (batch_size - count, *pixels.shape[1:]))
            pixels = np.concatenate([pixels, padding])
        outputs = self._forward(pixels)
        return {layer: output.numpy()[:count] for layer, output in zip(self._layers, outputs, strict=True)}
