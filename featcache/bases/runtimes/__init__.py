"""What executes a base: a compiled function from a batch of pixels to pooled features."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from pathlib import Path

from featcache.bases import Base
from featcache.bases.finding import weights_file
from featcache.bases.runtimes.openvino import OpenVINORuntime
from featcache.bases.runtimes.tensorflow import TensorFlowRuntime
from featcache.recipe import Request
from featcache.system.startup import import_tensorflow

__all__ = ["OpenVINORuntime", "TensorFlowRuntime", "compiled", "faster_on_this_cpu"]

_CPU_FLAGS = Path("/proc/cpuinfo")


def compiled(
    base: Base, request: Request, file: Path | None = None, passes: int = 1
) -> TensorFlowRuntime | OpenVINORuntime:
    """Return a base, compiled for the runtime, precision and pooling of a request.

    `file` is what the base was loaded from, if not from the request's: OpenVINO's form of the network is kept beside
    the weights, and beside this if they are gone. `passes` forward passes are run at once.
    """
    if request.runtime == "openvino":
        beside = _file_of_weights(request)
        if file is not None and (beside is None or not beside.parent.is_dir()):
            beside = file
        return OpenVINORuntime(base, request.pooling, request.precision, beside, passes)
    return TensorFlowRuntime(base, request.pooling, request.precision, passes)


def _file_of_weights(request: Request) -> Path | None:
    """Return the file that a base's weights are from; of downloaded ones, what could be its name; else None."""
    if request.in_memory or request.weights is None:
        return None
    if (file := weights_file(request)) is not None:
        return file
    home = os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")  # noqa: PTH111 - never raises
    return Path(home, "models", str(request.base))


def faster_on_this_cpu(request: Request) -> str | None:
    """Say what OpenVINO would bring, where TensorFlow is asked for and there is no GPU."""
    import_tensorflow()
    import tensorflow as tf

    if request.runtime != "tensorflow" or tf.config.list_physical_devices("GPU"):
        return None
    option, factor, networks = "--runtime openvino", "1.1 to 1.4", "three networks' forward passes"
    flags, price = "", ""
    with contextlib.suppress(OSError):
        flags = _CPU_FLAGS.read_text()
    if "avx512_bf16" in flags:
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
