"""What executes a base: a compiled function from a batch of pixels to pooled features."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from featcache.bases import Base
from featcache.bases.runtimes.openvino import OpenVINORuntime
from featcache.bases.runtimes.tensorflow import TensorFlowRuntime
from featcache.recipe import Request
from featcache.system.startup import import_tensorflow

__all__ = ["OpenVINORuntime", "Runtime", "TensorFlowRuntime", "compiled", "faster_on_this_cpu"]

_CPU_FLAGS = Path("/proc/cpuinfo")


class Runtime(Protocol):
    """A base, compiled: preprocessing, network and pooling in one function.

    Attributes
    ----------
    shapes : dict
        Shape of one image's features for each layer.
    passes : int
        Calls, from as many threads, that are best made at once.
    """

    shapes: dict[str, tuple[int, ...]]
    passes: int

    def __call__(self, pixels: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Return the features of a batch.

        Parameters
        ----------
        pixels : array, shape (n, height, width, channels), float32
            Values in 0…255.

        Returns
        -------
        dict of arrays, shape (n, …), float32
            One per layer, in the order of `shapes`. Each n has kernels of its own, and so other last bits.
        """
        ...


def compiled(base: Base, request: Request, file: Path | None = None, passes: int = 1) -> Runtime:
    """Return a base, compiled for the runtime, precision and pooling of a request.

    Parameters
    ----------
    base : Base
    request : Request
    file : Path, optional
        The file it was loaded from, if that is not the request's: OpenVINO's form of it is kept beside the weights,
        and beside this where these are gone.
    passes : int
        Forward passes that this process is set up to run at once, see `featcache.system.processors`.

    Raises
    ------
    BaseError
        If the runtime cannot run the base.
    OptionError
        If the runtime is not installed, or the machine does not compute in the precision.
    """
    if request.runtime == "openvino":
        beside = _weights_file(request)
        if file is not None and (beside is None or not beside.parent.is_dir()):
            beside = file
        return OpenVINORuntime(base, request.pooling, request.precision, beside, passes)
    return TensorFlowRuntime(base, request.pooling, request.precision, passes)


def _weights_file(request: Request) -> Path | None:
    """Return the file that a base's weights are from; of downloaded ones, what could be its name; else None."""
    if request.in_memory or request.weights == "none":
        return None
    if request.weights not in (None, "imagenet"):
        return Path(str(request.weights))
    if request.is_file:
        return Path(str(request.base))
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")  # noqa: PTH111 - never raises
    return Path(home, "models", str(request.base))


def faster_on_this_cpu(request: Request) -> str | None:
    """Say what OpenVINO would bring, where TensorFlow is asked for and there is no GPU."""
    import_tensorflow()
    import tensorflow as tf

    if request.runtime != "tensorflow" or tf.config.list_physical_devices("GPU"):
        return None
    option, factor, networks = "--runtime openvino", "1.1 to 1.4", "three networks' forward passes"
    price = ""
    try:
        low = "avx512_bf16" in _CPU_FLAGS.read_text()
    except OSError:
        low = False
    if low:
        option, factor, networks = f"{option} --precision bfloat16", "1.6 to 2.2", "four networks"
        price = (
            "; its price: export and fine-tune compute in float32, so what they make of its heads is another "
            "classifier, with a score of its own, and refused where that is clearly lower"
        )
    install = "" if importlib.util.find_spec("openvino") else "; pip install 'featcache[openvino]'"
    return (
        f"a faster way on this processor is {option}: {factor} times as fast as TensorFlow in float32 with "
        f"{networks} on two cores, see benchmarks/README.md; it makes a cache of its own{price}{install}"
    )
