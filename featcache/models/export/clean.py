"""Run as a script in a process of its own: an exported model answers without featcache.

It takes ``FORMAT MODEL INPUTS OUTPUTS``; inputs and outputs are npz files, see `answers`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

_BATCH = 16


def answers(kind: str, path: str, inputs: Any) -> dict[str, Any]:
    """Return what an exported model says: the probabilities of ``images``.

    `inputs` has ``pixels``, all pictures' values in a row, and ``shapes`` (n, 3), their heights, widths and channels;
    ``encoded``, all images' bytes in a row, and ``ends`` (n,), where each ends; one of no bytes is not asked about.
    A SavedModel also says ``encoded`` and ``label`` of the bytes: NaN and "" where the graph could not decode them.
    """
    if kind == "savedmodel":
        return _saved_model(path, inputs)
    ask = {"keras": _keras, "tflite": _tflite, "onnx": _onnx}[kind](path)
    return {"images": np.concatenate([ask(batch) for batch in _batches(inputs)])}


def _batches(inputs: Any) -> Iterator[Any]:
    """Yield pictures that follow each other and are of one size as batches, in their own type."""
    pixels, shapes = inputs["pixels"], inputs["shapes"].tolist()
    ends = np.cumsum([height * width * channels for height, width, channels in shapes]).tolist()
    first = 0
    while first < len(shapes):
        last = first + 1
        while last < len(shapes) and last - first < _BATCH and shapes[last] == shapes[first]:
            last += 1
        yield pixels[ends[first - 1] if first else 0 : ends[last - 1]].reshape(-1, *shapes[first])
        first = last


def _keras(path: str) -> Callable[[Any], Any]:
    import keras

    model = keras.models.load_model(path)
    return lambda batch: np.asarray(model.predict(batch, verbose=0))


def _tflite(path: str) -> Callable[[Any], Any]:
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(path)
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()

    def ask(batch: Any) -> Any:
        interpreter.resize_tensor_input(given["index"], batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], batch)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return ask


def _onnx(path: str) -> Callable[[Any], Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(["probabilities"], {"pixels": batch})[0]


def _saved_model(path: str, inputs: Any) -> dict[str, Any]:
    import tensorflow as tf

    model = tf.saved_model.load(path)
    ask = {name: model.signatures[name] for name in ("images", "encoded")}

    def asked(batch: Any) -> Any:
        return ask["images"](images=tf.constant(batch, tf.float32))["probabilities"].numpy()

    images = np.concatenate([asked(batch) for batch in _batches(inputs)])
    content, ends = inputs["encoded"].tobytes(), inputs["ends"].tolist()
    encoded, labels = np.full_like(images, np.nan), [b""] * len(ends)
    for i, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        if start == end:
            continue
        try:
            found = ask["encoded"](encoded=tf.constant([content[start:end]]))
        except tf.errors.OpError:
            continue
        encoded[i], labels[i] = found["probabilities"].numpy()[0], found["label"].numpy()[0]
    return {"images": images, "encoded": encoded, "label": np.array(labels, dtype=bytes)}


if __name__ == "__main__":
    sys.modules["featcache"] = None  # type: ignore[assignment]  # whoever imports it fails
    with np.load(sys.argv[3]) as given:
        np.savez(sys.argv[4], **answers(sys.argv[1], sys.argv[2], given))
