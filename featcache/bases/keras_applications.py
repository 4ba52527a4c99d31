"""The networks that Keras has by name, and the graphs that some of them have for ImageNet weights."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.bases.file_kinds import other_kind
from featcache.errors import BaseError, nearest
from featcache.options import Preprocess
from featcache.system.startup import import_tensorflow

_MODES: tuple[Preprocess, ...] = ("caffe", "torch", "tf", "none")
_SIZES = {  # names by Keras' default input size where that is not 224 (a slow test compares them)
    240: ("EfficientNetB1", "EfficientNetV2B1"),
    260: ("EfficientNetB2", "EfficientNetV2B2"),
    299: ("InceptionV3", "InceptionResNetV2", "Xception"),
    300: ("EfficientNetB3", "EfficientNetV2B3"),
    331: ("NASNetLarge",),
    380: ("EfficientNetB4",),
    384: ("EfficientNetV2S",),
    456: ("EfficientNetB5",),
    480: ("EfficientNetV2M", "EfficientNetV2L"),
    528: ("EfficientNetB6",),
    600: ("EfficientNetB7",),
}


@dataclass(frozen=True)
class Application:
    """One Keras application: its constructor, what its own ``preprocess_input`` does, and its side in pixels."""

    name: str
    build: Callable[..., Any]
    preprocess: Preprocess
    image_size: int


def list_bases() -> list[Application]:
    """List the applications of the installed Keras.

    Returns
    -------
    list of Application
        Name, what its own ``preprocess_input`` does, and the side of its images in pixels.
    """
    return list(applications().values())


@cache
def applications() -> dict[str, Application]:
    """Return every application of the installed Keras by its constructor's name."""
    import_tensorflow()
    import keras

    found = {}
    for name, build in sorted(vars(keras.applications).items()):
        if name[:1].isupper() and callable(build):
            module = getattr(keras.applications, build.__module__.rpartition(".")[2])
            mode = _mode_of(module.preprocess_input)
            size = next((size for size, names in _SIZES.items() if name in names), 224)
            found[name] = Application(name, build, mode, size)
    return found


def _mode_of(preprocess_input: Callable[..., Any]) -> Preprocess:
    """Say which of Keras' modes an application's own preprocessing is, by what it does to pixels."""
    import keras

    pixels = np.random.default_rng(0).uniform(0, 255, (1, 2, 2, 3)).astype(np.float32)
    result = preprocess_input(pixels.copy())
    for mode in _MODES:
        expected = (
            pixels if mode == "none" else keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode=mode)
        )
        if np.array_equal(result, expected):
            return mode
    raise BaseError(f"Expected one of Keras' preprocessing modes. Received: {preprocess_input.__module__}.")


def find_application(name: str) -> Application:
    """Return the application a name means, or raise `BaseError`; case, ``-`` and ``_`` do not count."""
    known = {_folded(app): app for app in applications()}
    if _folded(name) not in known:
        if Path(name).exists():
            kind = other_kind(Path(name))
            raise BaseError(kind or f"{name!r} has no ending that says what it is. Name Keras models .keras or .h5.")
        raise BaseError(
            f"There is no base {name!r}: it is neither a Keras application nor a .keras or .h5 file "
            f"({nearest(name, applications())})."
        )
    return applications()[known[_folded(name)]]


def application_in(name: str) -> str | None:
    """Return the application that a model's own name begins with, as ``mobilenetv2_1.00_224`` does; the longest."""
    found = [app for app in applications() if _folded(name).startswith(_folded(app))]
    return max(found, key=len, default=None)


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


# EfficientNet B0 to B7 for ImageNet weights: Keras gives these networks one more Rescaling layer then, because the
# weights were trained on pixels divided by what their Normalization layer has as variance, and that layer divides by
# its square root. A file with these weights can be told only by those values.

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def normalization(model: Any) -> Any | None:
    """Return the layer whose statistics are weights, where a network has one (of the applications: EfficientNet)."""
    import keras

    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Normalization) and layer.weights]
    return layers[0] if len(layers) == 1 else None


def are_imagenet_statistics(mean: npt.ArrayLike, variance: npt.ArrayLike) -> bool:
    """Whether a Normalization layer has the values of Keras' ImageNet weights: a standard deviation as variance.

    They may have been stored as float16 or bfloat16.
    """
    pairs = ((np.ravel(mean), _MEAN), (np.ravel(variance), _DEVIATION))
    return all(
        values.shape == (3,) and np.allclose(values, expected, rtol=0, atol=1.5e-3) for values, expected in pairs
    )


def as_for_imagenet(model: Any) -> Any:
    """Return the graph that Keras builds for ``weights="imagenet"``, with the layers of the one built for None."""
    import keras

    before = normalization(model)
    if before is None or sum(isinstance(layer, keras.layers.Rescaling) for layer in model.layers) > 1:
        return model
    scale = [1.0 / math.sqrt(deviation) for deviation in _DEVIATION]
    output = pixels = keras.Input(model.input_shape[1:])

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal output
        output = layer(*args, **kwargs)
        if layer is before:
            output = keras.layers.Rescaling(scale)(output)
        return output

    keras.models.clone_model(model, input_tensors=pixels, clone_function=lambda layer: layer, call_function=call)
    return keras.Model(pixels, output, name=model.name)
