"""The networks that Keras has by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from featcache.bases.file_kinds import other_kind
from featcache.errors import BaseError, nearest
from featcache.options import Preprocess
from featcache.system.startup import import_tensorflow

_MODES: tuple[Preprocess, ...] = ("caffe", "torch", "tf", "none")
_DEFAULT_SIZE = 224
_SIZES = {  # Keras' default input sizes where they are not 224 (a slow test compares them)
    "InceptionV3": 299, "InceptionResNetV2": 299, "Xception": 299, "NASNetLarge": 331,
    "EfficientNetB1": 240, "EfficientNetB2": 260, "EfficientNetB3": 300, "EfficientNetB4": 380,
    "EfficientNetB5": 456, "EfficientNetB6": 528, "EfficientNetB7": 600, "EfficientNetV2B1": 240,
    "EfficientNetV2B2": 260, "EfficientNetV2B3": 300, "EfficientNetV2S": 384, "EfficientNetV2M": 480,
    "EfficientNetV2L": 480,
}  # fmt: skip


@dataclass(frozen=True)
class Application:
    """One Keras application.

    Attributes
    ----------
    name : str
        The constructor's name.
    build : callable
        The constructor.
    preprocess : str
        What its own module's ``preprocess_input`` does: caffe, torch, tf or none.
    image_size : int
        Side of the square images it was made for, in pixels.
    """

    name: str
    build: Callable[..., Any]
    preprocess: Preprocess
    image_size: int


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
            found[name] = Application(name, build, mode, _SIZES.get(name, _DEFAULT_SIZE))
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
    """Return the application a name means; case, ``-`` and ``_`` do not count.

    Raises
    ------
    BaseError
        If there is none; the message has the nearest names.
    """
    known = {_folded(app): app for app in applications()}
    if _folded(name) not in known:
        if Path(name).exists():
            kind = other_kind(Path(name))
            raise BaseError(kind or f"{name!r} has no ending that says what it is. Name Keras models .keras or .h5.")
        raise BaseError(
            f"Expected a Keras application or a .keras / .h5 model file. Received: base={name!r} "
            f"({nearest(name, applications())})."
        )
    return applications()[known[_folded(name)]]


def application_in(name: str) -> str | None:
    """Return the application that a model's own name begins with, as ``mobilenetv2_1.00_224`` does; the longest."""
    found = [app for app in applications() if _folded(name).startswith(_folded(app))]
    return max(found, key=len, default=None)


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
