"""Run a base with OpenVINO, on the CPU."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.bases import Base
from featcache.bases.runtimes import tensorflow
from featcache.bases.runtimes.tensorflow import frozen
from featcache.errors import BaseError, OptionError, one_line
from featcache.files.publishing import publish
from featcache.files.reading import open_plain, parsed, trouble
from featcache.files.values import anything, list_of, mapping_of, record, text, whole
from featcache.options import Pooling, Precision
from featcache.recipe import canonical_json
from featcache.system.cpus import threads_given

log = logging.getLogger(__name__)

_HINTS = {"float32": ("FP32", "f32"), "bfloat16": ("BF16", "bf16"), "float16": ("FP16", "f16")}


class OpenVINORuntime:
    """A base, compiled for each batch size that it is called with.

    Beside the file `beside`, which its weights are from, what OpenVINO makes of the base is kept for the next run, as
    ``<file>.<digest>.openvino``; the digest is of all that it depends on. It may be deleted at any time.
    """

    passes = 1

    def __init__(
        self,
        base: Base,
        pooling: Pooling,
        precision: Precision = "float32",
        beside: Path | None = None,
        passes: int = 1,
    ) -> None:
        try:
            import openvino
        except ImportError:
            raise OptionError(
                "The runtime openvino needs OpenVINO, which is not installed. Run: pip install 'featcache[openvino]'"
            ) from None
        self._core = openvino.Core()
        capability, hint = _HINTS[precision]
        if capability not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise OptionError(f"OpenVINO cannot compute in {precision} on this CPU. Use `precision`=float32.")
        self._options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        threads = threads_given()
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads * passes
        made_of = _made_of(base, pooling)
        name = hashlib.sha256(canonical_json(made_of).encode()).hexdigest()[:16]
        kept = None if beside is None else beside.with_name(f"{beside.name}.{name}.openvino")
        found = None if kept is None else _read(self._core, kept, made_of)
        if found is None:
            function, shapes = frozen(base, pooling, "float32")
            try:
                model = _converted(self._core, function)
            except RuntimeError as error:
                raise BaseError(
                    f"OpenVINO cannot run the base {base.name!r}: {one_line(error)}. Use `runtime`=tensorflow."
                ) from None
            found = model, [output.name for output in function.outputs], list(shapes.values())
            if kept is not None:
                _keep(kept, made_of, *found)
        self._model, self._outputs, shapes_found = found
        self.shapes = dict(zip(base.layers, shapes_found, strict=True))
        self._requests: dict[int, Any] = {}
        self._one_at_a_time = threading.Lock()  # two threads in OpenVINO's Python part can wait for each other for ever

    def __call__(self, pixels: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Return the features of a batch, as `featcache.bases.runtimes.TensorFlowRuntime` does."""
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


def _made_of(base: Base, pooling: Pooling) -> dict[str, Any]:
    """Return all that a converted base depends on, the code that traces it included."""
    import keras
    import openvino
    import tensorflow as tf

    return {
        "architecture": base.architecture,
        "weights": base.weights,
        "layers": list(base.canonical_layers),
        "preprocess": base.preprocess,
        "pooling": pooling,
        "pixels": [base.height, base.width, base.channels, base.squeeze],
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__, "openvino": openvino.__version__},
        "code": [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in (tensorflow.__file__, __file__)],
    }


_OUTPUTS = {"outputs": list_of(text, least=1), "shapes": list_of(list_of(whole(1)), least=1)}
_ABOUT = record({**_OUTPUTS, "xml": whole(1), "made_of": mapping_of(anything)})


def _keep(path: Path, made_of: dict[str, Any], model: Any, outputs: list[str], shapes: list[tuple[int, ...]]) -> None:
    """Publish a converted base: a line with the SHA-256 of the rest, one of JSON, OpenVINO's XML, its weights.

    The JSON says what it was made of. If that cannot be done, the next run converts it again.
    """
    import openvino

    try:
        with tempfile.TemporaryDirectory() as folder:
            xml, weights = Path(folder, "base.xml"), Path(folder, "base.bin")
            openvino.save_model(model, xml, compress_to_fp16=False)
            about = {"made_of": made_of, "outputs": outputs, "shapes": shapes, "xml": xml.stat().st_size}
            content = json.dumps(about).encode() + b"\n" + xml.read_bytes() + weights.read_bytes()
        publish(path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    except (OSError, RuntimeError) as error:
        log.info("the converted base is not kept: %s", error)


def _read(core: Any, path: Path, made_of: dict[str, Any]) -> tuple[Any, list[str], list[tuple[int, ...]]] | None:
    """Return what `_keep` published of such a base, or None if there is nothing that is whole and of this one."""
    import openvino

    try:
        with open_plain(path) as file:
            checksum, head, rest = file.readline(100).strip(), file.readline(2**20), memoryview(file.read())
        found = hashlib.sha256(head)
        found.update(rest)
        if found.hexdigest().encode() != checksum:
            raise ValueError("its checksum is wrong")
        about = parsed(head)
        _ABOUT(about, "")
        differing = [key for key, value in made_of.items() if about["made_of"].get(key) != value]
        if differing:
            raise ValueError(f"it was made of another base or by other programs: {', '.join(differing)}")
        weights = np.frombuffer(rest[about["xml"] :], np.uint8)
        model = core.read_model(bytes(rest[: about["xml"]]), openvino.Tensor(weights))
        return model, about["outputs"], [tuple(shape) for shape in about["shapes"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and trouble(error) is not None:
            raise
        log.warning("the converted base in %s is not used and is made again: %s", path, one_line(error))
        return None
