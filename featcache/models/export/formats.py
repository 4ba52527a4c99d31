"""Write a Keras model from pixels to probabilities in a format that others read."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featcache.errors import OptionError
from featcache.images.decoding import PixelSpec
from featcache.models.export import graph

_SUFFIXES = {".keras": "keras", ".tflite": "tflite", ".onnx": "onnx", "": "savedmodel"}


def format_of(target: Path) -> str:
    """Return the format that a name means; `OptionError` if it means none, or what writes it is not installed."""
    kind = _SUFFIXES.get(target.suffix)
    if kind is None:
        raise OptionError(
            "`to` must be a file ending in .keras, .tflite or .onnx, or for a SavedModel the name of a folder, "
            f"without a dot. Received: {str(target)!r}."
        )
    missing = [name for name in ("tf2onnx", "onnxruntime") if kind == "onnx" and not importlib.util.find_spec(name)]
    if missing:
        raise OptionError(
            f"ONNX files need packages that are not installed: {' and '.join(missing)}. "
            "Run pip install 'featcache[onnx]'."
        )
    return kind


def with_every_class(model: Any, trained: Sequence[int], count: int) -> Any:
    """Return a model that gives a column for each of `count` classes; those that were not `trained` have 0.

    The given model's output is (n, 1), of the second of two classes, or (n, len(trained)).
    """
    import keras

    pixels = keras.Input(model.input.shape[1:], name="pixels")
    shares = model(pixels)  # as one layer: operations in a model from a file may have the names that new ones get
    if shares.shape[-1] == 1:
        shares = keras.ops.concatenate([1 - shares, shares], axis=-1)
    if list(trained) != list(range(count)):
        column = {number: i for i, number in enumerate(trained)}
        padded = keras.ops.concatenate([shares, keras.ops.zeros_like(shares[:, :1])], axis=-1)
        shares = keras.ops.take(padded, [column.get(i, len(column)) for i in range(count)], axis=-1)
    named = keras.layers.Activation("linear", name="class_probabilities", dtype="float32")(shares)
    return keras.Model(pixels, named, name="classifier")


def write(kind: str, model: Any, spec: PixelSpec, class_names: Sequence[str], target: Path) -> None:
    """Write a model in a format; nothing may be there yet."""
    if kind == "keras":
        model.save(target)
    elif kind == "savedmodel":
        _write_saved_model(model, spec, class_names, target)
    elif kind == "tflite":
        import tensorflow as tf

        converter = tf.lite.TFLiteConverter.from_concrete_functions([_frozen(_pixels_function(model))])
        target.write_bytes(converter.convert())
    else:
        target.write_bytes(_onnx(_pixels_function(model), class_names))


def described_input(kind: str, spec: PixelSpec, pictures: str) -> dict[str, Any]:
    """Return what programs must know to feed an exported model, as JSON-ready values."""
    size = [spec.height, spec.width] if pictures == "fixed" else [None, None]
    return {
        "pictures": "any size" if pictures == "any" else "fixed size",
        "shape": [None, *size, spec.channels],
        "dtype": "uint8" if pictures == "any" and kind in ("onnx", "tflite") else "float32",
        "range": [0, 255],
        "channel_order": "RGB" if spec.channels == 3 else "grey",
        **{name: getattr(spec, name) for name in ("height", "width", "channels")},
        "resized_by": "the model" if pictures == "any" else "the caller",
        **{name: getattr(spec, name) for name in ("resize", "interpolation")},
        "antialias": False,
        "crop": _crop(spec),
        "padding": "black, on both sides" if spec.resize == "pad" else None,
        "decode": spec.decode,
        "orientation": "upright: apply the EXIF orientation before",
        "preprocessing": "none needed: it is in the model",
    }


def _crop(spec: PixelSpec) -> str | None:
    """Return how the centre of a picture is taken, for people."""
    if spec.resize != "crop":
        return None
    if spec.crop < 1:
        return "the centre, after resizing without changing the shape until {} x {} are covered".format(*spec.room)
    return "centre, largest part of the shape of height and width"


def _pixels_function(model: Any) -> Any:
    """Return a function of pixels; of pictures of any size they are ``uint8``, as programs have them."""
    import tensorflow as tf

    (given,) = model.inputs
    dtype = tf.uint8 if given.shape[1] is None else tf.float32
    signature = tf.TensorSpec(given.shape, dtype, name="pixels")

    def classifier(pixels: Any) -> dict[str, Any]:
        return {"probabilities": model(tf.cast(pixels, tf.float32), training=False)}

    return tf.function(classifier, input_signature=[signature], autograph=False)


def _write_saved_model(model: Any, spec: PixelSpec, class_names: Sequence[str], target: Path) -> None:
    import tensorflow as tf

    names = [name.encode("utf-8", "surrogateescape") for name in class_names]
    shape = (spec.height, spec.width, spec.channels)

    def answer(pixels: Any) -> dict[str, Any]:
        shares = model(pixels, training=False)
        return {"probabilities": shares, "label": tf.gather(tf.constant(names), tf.argmax(shares, axis=-1))}

    def images(images: Any) -> dict[str, Any]:
        there = tf.reduce_all(tf.shape(images)[1:3] == shape[:2])
        pixels = tf.cond(there, lambda: images, lambda: graph.resized(images, spec))
        return answer(tf.ensure_shape(pixels, (None, *shape)))

    def encoded(encoded: Any) -> dict[str, Any]:
        one = tf.TensorSpec(shape, tf.float32)
        return answer(tf.map_fn(lambda content: graph.loaded(content, spec), encoded, fn_output_signature=one))

    decoded = tf.TensorSpec((None, None, None, spec.channels), tf.float32, name="images")
    content = tf.TensorSpec((None,), tf.string, name="encoded")
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    signatures = {
        "images": tf.function(images, input_signature=[decoded], autograph=False),
        "encoded": tf.function(encoded, input_signature=[content], autograph=False),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        tf.saved_model.save(module, str(target), {**signatures, "serving_default": signatures["encoded"]})


def _frozen(function: Any) -> Any:
    """Return a function of which every weight is a constant."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function.get_concrete_function())


def _onnx(function: Any, class_names: Sequence[str]) -> bytes:
    import tensorflow as tf
    import tf2onnx

    frozen = _frozen(function)  # tf2onnx takes constants that a function captured for inputs

    def classifier(pixels: Any) -> dict[str, Any]:
        return {"probabilities": tf.nest.flatten(frozen(pixels))[0]}

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    plain = tf.function(classifier, input_signature=function.input_signature, autograph=False)
    model, _ = tf2onnx.convert.from_function(plain, input_signature=plain.input_signature, opset=17)
    entry = model.metadata_props.add()
    entry.key, entry.value = "class_names", json.dumps(list(class_names))
    content: bytes = model.SerializeToString()
    return content
