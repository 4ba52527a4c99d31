"""Run a base with TensorFlow: as a graph of constants, from a batch of pixels to pooled features."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.bases import Base
from featcache.errors import BaseError, one_line
from featcache.options import Pooling, Precision, Preprocess

_CALLS = ("Call", "While", "If", "Case")  # ends of the operations that hold functions: loops, nested models
_CAFFE_MEAN = (103.939, 116.779, 123.68)  # BGR, as keras.applications.imagenet_utils has them
_TORCH_MEAN, _TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TensorFlowRuntime:
    """A base, compiled once for batches of any size: preprocessing, network and pooling in one function.

    `shapes` has that of one image's features for each layer; `passes` calls are best made at once.
    """

    def __init__(self, base: Base, pooling: Pooling, precision: Precision = "float32", passes: int = 1) -> None:
        import tensorflow as tf

        devices = tf.config.list_physical_devices("GPU")
        self.passes = 1 if devices else passes
        for device in devices:
            try:
                tf.config.experimental.set_memory_growth(device, True)
            except RuntimeError:
                break  # the GPU is in use already, with the settings of whoever was first

        tf.config.experimental.enable_tensor_float_32_execution(False)  # float32 means float32, on GPUs too
        self._forward, self.shapes = frozen(base, pooling, precision)
        self._optimised, self._optimising = False, threading.Lock()

    def __call__(self, pixels: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Return float32 features by layer of a batch (n, height, width, channels) of values in 0…255.

        Each n has kernels of its own, and so other last bits.
        """
        import tensorflow as tf

        with self._optimising:  # TensorFlow optimises a graph in its first call, and in each that comes before its end
            if not self._optimised:
                self._forward(tf.constant(pixels[:2]))
                self._optimised = True
        outputs = self._forward(tf.constant(pixels))
        return {layer: output.numpy() for layer, output in zip(self.shapes, outputs, strict=True)}


def preprocessed(pixels: Any, mode: Preprocess) -> Any:
    """Scale float32 pixels in 0…255 for a base: the operations of ``imagenet_utils.preprocess_input``, in its order."""
    if mode == "caffe":
        return pixels[..., ::-1] - np.array(_CAFFE_MEAN, np.float32)
    if mode == "torch":
        return (pixels / 255.0 - np.array(_TORCH_MEAN, np.float32)) / np.array(_TORCH_STD, np.float32)
    if mode == "tf":
        return pixels / 127.5 - 1.0
    return pixels / 255.0 if mode == "rescale" else pixels


def pooled(features: Any, pooling: Pooling) -> Any:
    """Reduce maps to one row per image: over all axes between the first and the last, or flattened."""
    import keras

    if pooling == "none" or len(features.shape) <= 2:
        return features
    if pooling == "flatten":
        return keras.ops.reshape(features, (-1, int(np.prod(features.shape[1:]))))
    axes = tuple(range(1, len(features.shape) - 1))
    return (keras.ops.mean if pooling == "avg" else keras.ops.max)(features, axis=axes)


def frozen(base: Base, pooling: Pooling, precision: Precision) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """Trace a base once, with its variables as constants, so that batch normalisation folds into convolutions.

    Returns TensorFlow's function, from float32 pixels (n, height, width, channels) in 0…255 to a list of float32
    tensors, and the shape of one image's features, for each layer. The network computes in `precision`.
    """
    import keras
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    weights = [(variable, variable.numpy()) for variable in base.model.variables]

    def forward(pixels: Any) -> list[Any]:
        scaled = preprocessed(pixels, base.preprocess)
        with keras.StatelessScope([(variable, tf.constant(values)) for variable, values in weights]):
            outputs = base.model(scaled[..., 0] if base.squeeze else scaled, training=False)
        listed = outputs if isinstance(outputs, list | tuple) else [outputs]
        return [pooled(tf.cast(output, tf.float32), pooling) for output in listed]

    signature = tf.TensorSpec((None, base.height, base.width, base.channels), tf.float32, "pixels")
    try:
        with computing_in(base.model, precision):
            traced = tf.function(forward, input_signature=[signature], autograph=False).get_concrete_function()
        function = traced
        if traced.captured_inputs or any(op.type.endswith(_CALLS) for op in traced.graph.get_operations()):
            function = convert_variables_to_constants_v2(traced)  # slow, and most networks have nothing for it to do
    except Exception as error:
        raise BaseError(f"TensorFlow cannot run the base {base.name!r}: {one_line(error)}") from None
    shapes = {}
    for layer, output in zip(base.layers, traced.outputs, strict=True):
        shape = tuple(output.shape[1:])
        if not shape or None in shape:
            raise BaseError(
                f"The output of layer {layer!r} has no fixed size: {shape}. Choose another layer, or `pooling`=avg."
            )
        shapes[layer] = tuple(int(n) for n in shape)
    return function, shapes


@contextlib.contextmanager
def computing_in(network: Any, precision: Precision) -> Iterator[None]:
    """Let a network compute in another precision while it is traced; its variables stay float32.

    Layers that scale pixels keep float32, and so do layers that were given a precision of their own.
    """
    import keras

    kept = keras.layers.InputLayer | keras.layers.Normalization | keras.layers.Rescaling | keras.Model
    policies = [
        (layer, layer.dtype_policy)
        for layer in network._flatten_layers(include_self=False)
        if not isinstance(layer, kept) and layer.dtype_policy.name == "float32"
    ]
    if precision == "float32":
        policies = []
    for layer, _ in policies:
        layer.dtype_policy = keras.DTypePolicy(f"mixed_{precision}")
    try:
        yield
    finally:
        for layer, policy in policies:
            layer.dtype_policy = policy
