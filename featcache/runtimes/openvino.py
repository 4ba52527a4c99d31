"""Run a base with OpenVINO, on the CPU."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache import processors
from featcache.bases import Base
from featcache.errors import BaseError, OptionError
from featcache.processors import threads_given
from featcache.recipe import Pooling, Precision
from featcache.runtimes.graph import frozen

_HINTS = {"float32": ("FP32", "f32"), "bfloat16": ("BF16", "bf16"), "float16": ("FP16", "f16")}


class OpenVINORuntime:
    """A base, compiled for each batch size that it is called with.

    Parameters
    ----------
    base, pooling, precision
        As of `featcache.runtimes.TensorFlowRuntime`.

    Attributes
    ----------
    shapes, passes
        As there; it divides a pass well itself.

    Raises
    ------
    OptionError
        If OpenVINO is not installed, or the CPU does not compute in this precision.
    BaseError
        If OpenVINO cannot hold the base.
    """

    passes = 1

    def __init__(self, base: Base, pooling: Pooling, precision: Precision = "float32") -> None:
        try:
            import openvino
        except ImportError:
            raise OptionError(
                "Expected OpenVINO for the runtime openvino. Received: it is not installed. "
                "pip install 'featcache[openvino]'"
            ) from None
        self._core = openvino.Core()
        capability, hint = _HINTS[precision]
        if capability not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise OptionError(
                f"Expected a precision that OpenVINO computes in on this CPU. Received: {precision}. "
                "Take --precision float32."
            )
        self._options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        threads = threads_given()
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads * processors.passes
        function, self.shapes = frozen(base, pooling, "float32")
        try:
            self._model = _converted(self._core, function)
        except RuntimeError as error:
            text = " ".join(str(error).split())[:300]
            raise BaseError(
                f"Expected a base that OpenVINO can hold. Received: {base.name!r}: {text}. Take --runtime tensorflow."
            ) from None
        self._outputs = [output.name for output in function.outputs]
        self._requests: dict[int, Any] = {}
        self._one_at_a_time = threading.Lock()  # two threads in OpenVINO's Python part can wait for each other for ever

    def __call__(self, pixels: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Return the features of a batch, see `featcache.runtimes.Runtime`."""
        with self._one_at_a_time:
            if len(pixels) not in self._requests:
                self._model.reshape(list(pixels.shape))  # a fixed size is faster, and as fast to compile as a free one
                compiled = self._core.compile_model(self._model, "CPU", self._options)
                self._requests[len(pixels)] = compiled.create_infer_request()
            request = self._requests[len(pixels)]
            request.infer([np.ascontiguousarray(pixels)], share_inputs=True)
            return {
                layer: np.array(request.get_tensor(output).data)
                for layer, output in zip(self.shapes, self._outputs, strict=True)
            }


def _converted(core: Any, function: Any) -> Any:
    """Return a frozen function as OpenVINO's model.

    It goes through a file, as ``openvino.convert_model`` calls ``openvino_telemetry``, made to report to its makers.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "base.pb")
        path.write_bytes(function.graph.as_graph_def().SerializeToString())
        return core.read_model(path)
