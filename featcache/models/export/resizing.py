"""A Keras model that takes pictures of any size: it fits them into the base's size, and asks another model."""

from __future__ import annotations

from typing import Any

import numpy as np

from featcache.errors import OptionError
from featcache.images.decoding import PixelSpec
from featcache.models.export.graph import covering, within

_EVERYWHERE = ("bilinear", "nearest")
_OF_KERAS = (*_EVERYWHERE, "bicubic", "lanczos3", "lanczos5")


def taking_any_size(model: Any, spec: PixelSpec, kind: str = "keras") -> Any:
    """Return a model that resizes, crops or pads pictures as `featcache.images.decoding.load` does, and asks `model`.

    It takes ``pixels`` (n, any height, any width, channels), values in 0…255, and is made of Keras' own layers and
    operations only. `kind` is the format it is to be written in; `OptionError` if that cannot resize in this way.
    """
    import keras

    possible = _OF_KERAS if kind == "keras" and spec.resize != "pad" and spec.crop == 1 else _EVERYWHERE
    if spec.interpolation not in possible:
        raise OptionError(
            f"A {kind} model cannot resize with interpolation {spec.interpolation!r} and resize {spec.resize!r} itself "
            f"(it can with {', '.join(possible)}). Export a SavedModel, or resize the pictures before and export with "
            "input='fixed'."
        )
    pixels = keras.Input((None, None, spec.channels), name="pixels")
    if spec.resize == "pad" or spec.crop < 1:
        fitted = _placing(spec)(pixels)
    else:
        crop = {"crop_to_aspect_ratio": spec.resize == "crop", "data_format": "channels_last"}
        fitted = keras.layers.Resizing(spec.height, spec.width, spec.interpolation, name="fitting", **crop)(pixels)
    return keras.Model(pixels, model(fitted), name="classifier")


def _placing(spec: PixelSpec) -> Any:
    """Return a model that resizes without changing the shape, and pads with black or takes the centre.

    Keras' own padding comes before its resizing, which needs the memory of a square of the longer side.
    """
    import keras

    ops = keras.ops
    pixels = keras.Input((None, None, spec.channels))

    def counted(line: Any) -> Any:  # a model of Keras cannot ask for a size, but it can count
        return ops.sum(ops.ones_like(line, dtype="int32"))

    height, width = counted(pixels[0, :, 0, 0]), counted(pixels[0, 0, :, 0])
    if spec.resize == "pad":
        rows, top = within(height, spec.height, width, spec.width, ops)
        columns, left = within(width, spec.width, height, spec.height, ops)
    else:
        rows, cut_rows = covering(height, spec.room[0], width, spec.room[1], spec.height, ops)
        columns, cut_columns = covering(width, spec.room[1], height, spec.room[0], spec.width, ops)
        top, left = -cut_rows, -cut_columns
    down = _Line(height, spec.height, rows, top)
    across = _Line(width, spec.width, columns, left)

    def blended(first: Any, second: Any, share: Any) -> Any:
        return first + (second - first) * share

    def row(places: Any) -> Any:
        line = ops.take(pixels, places, axis=1)
        if spec.interpolation == "nearest":
            return ops.take(line, across.nearest, axis=2)
        first, second = ops.take(line, across.lower, axis=2), ops.take(line, across.upper, axis=2)
        return blended(first, second, ops.reshape(across.share, (1, 1, -1, 1)))

    if spec.interpolation == "nearest":
        found = row(down.nearest)
    else:
        found = blended(row(down.lower), row(down.upper), ops.reshape(down.share, (1, -1, 1, 1)))
    inside = ops.reshape(down.inside, (1, -1, 1, 1)) * ops.reshape(across.inside, (1, 1, -1, 1))
    return keras.Model(pixels, found * inside, name="fitting")


class _Line:
    """Where each pixel of a side comes from, as TensorFlow resizes: `lower` and `upper`, a `share` of the latter."""

    def __init__(self, length: Any, room: int, fitted: Any, before: Any) -> None:
        from keras import ops

        def kept(place: Any) -> Any:
            return ops.maximum(0, ops.minimum(ops.cast(ops.floor(place), "int32"), length - 1))

        numbers = ops.subtract(np.arange(room, dtype=np.int32), before)
        scale = ops.cast(length, "float32") / ops.cast(fitted, "float32")
        centre = (ops.cast(numbers, "float32") + 0.5) * scale
        place = centre - 0.5
        self.inside = ops.cast(ops.logical_and(numbers >= 0, numbers < fitted), "float32")
        self.share = place - ops.floor(place)
        self.lower, self.upper, self.nearest = kept(place), kept(place + 1), kept(centre)
