"""Run a base with TensorFlow, on the GPU where there is one."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from featcache.bases import Base
from featcache.bases.runtimes.graph import frozen
from featcache.options import Pooling, Precision


class TensorFlowRuntime:
    """A base, compiled once for batches of any size.

    Parameters
    ----------
    base : Base
        What to run.
    pooling : {"avg", "max", "flatten", "none"}
        What becomes of spatial maps.
    precision : {"float32", "bfloat16", "float16"}
        In what the network computes.

    Attributes
    ----------
    shapes : dict
        Shape of one image's features for each layer.
    passes : int
        Calls that are best made at once.
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
        """Return the features of a batch, see `featcache.bases.runtimes.Runtime`."""
        import tensorflow as tf

        with self._optimising:  # TensorFlow optimises a graph in its first call, and in each that comes before its end
            if not self._optimised:
                self._forward(tf.constant(pixels[:2]))
                self._optimised = True
        outputs = self._forward(tf.constant(pixels))
        return {layer: output.numpy() for layer, output in zip(self.shapes, outputs, strict=True)}
