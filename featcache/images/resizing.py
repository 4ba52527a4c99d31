"""Pixels → the base's size: stretched, cropped or padded, with TensorFlow's own operations and Keras' defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import ImageError, OptionError
from featcache.options import MAX_PIXELS, Interpolation, Resize
from featcache.recipe import Decode, Recipe, choices


@dataclass(frozen=True)
class PixelSpec:
    """How an image must look for a base; 3 channels are RGB, 1 is grey; the rest as in `featcache.recipe.Request`."""

    height: int
    width: int
    channels: int
    resize: Resize = "stretch"
    interpolation: Interpolation = "bilinear"
    decode: Decode = "accurate"
    crop: float = 1.0
    max_pixels: int = MAX_PIXELS

    @property
    def room(self) -> tuple[int, int]:
        """Height and width that an image must cover before its centre is taken."""
        return int(self.height / self.crop), int(self.width / self.crop)

    @classmethod
    def of(cls, recipe: Recipe, channels: int, max_pixels: int = MAX_PIXELS) -> PixelSpec:
        """Return how images looked for the base of a recipe."""
        decode: Decode = "reduced" if recipe.decode == "reduced" else "accurate"
        size = recipe.image_size
        return cls(*size, channels, recipe.resize, recipe.interpolation, decode, recipe.crop, max_pixels)


def resized(pixels: npt.NDArray[Any], spec: PixelSpec) -> npt.NDArray[np.float32]:
    """Return pixels (height, width, channels) in 0…255 as the base gets them."""
    import tensorflow as tf

    if spec.resize not in choices(Resize):
        raise OptionError(f"`resize` must be stretch, pad or crop. Received: {spec.resize!r}.")
    size = (spec.height, spec.width)
    if spec.crop < 1:
        return _centre(pixels, spec)
    if spec.resize == "crop":
        pixels = _cropped_to_aspect(pixels, size)
    if spec.resize == "pad":
        return _padded(pixels, spec)
    if spec.interpolation == "bilinear":  # `tf.image.resize` without detours
        image = tf.raw_ops.ResizeBilinear(images=pixels[None], size=_constant(size), half_pixel_centers=True)
        stretched: npt.NDArray[np.float32] = image.numpy()[0]
        return stretched
    image = tf.image.resize(pixels, size, method=spec.interpolation)
    result: npt.NDArray[np.float32] = tf.cast(image, tf.float32).numpy()
    return result


@cache
def _constant(size: tuple[int, int]) -> Any:
    """Return a size as a tensor: made of a tuple each time, it takes as long as a small image."""
    import tensorflow as tf

    return tf.constant(size, tf.int32)


def _cropped_to_aspect(pixels: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Return the largest centred part of the shape of `size`, in whole pixels, as Keras crops."""
    height, width = pixels.shape[:2]
    rows = min(height, max(1, width * size[0] // size[1]))
    columns = min(width, max(1, height * size[1] // size[0]))
    top, left = (height - rows) // 2, (width - columns) // 2
    return pixels[top : top + rows, left : left + columns]


def _centre(pixels: npt.NDArray[Any], spec: PixelSpec) -> npt.NDArray[np.float32]:
    """Return the centre of an image whose shorter side fits, with torchvision's way of halving an odd rest.

    An image so long and thin that its resized form would have more than `MAX_PIXELS` is an `ImageError`.
    """
    (height, width), room = pixels.shape[:2], spec.room
    rows, columns = _covering(height, room[0], width, room[1]), _covering(width, room[1], height, room[0])
    if rows * columns > MAX_PIXELS:
        raise ImageError(f"{height}x{width} pixels are too long and thin to be cropped at {spec.crop:g}")
    whole = resized(pixels, replace(spec, height=rows, width=columns, resize="stretch", crop=1.0))
    top, left = _half(rows - spec.height), _half(columns - spec.width)
    return whole[top : top + spec.height, left : left + spec.width]


def _covering(length: int, room: int, other_length: int, other_room: int) -> int:
    """Return how long one side becomes if both are to cover some room."""
    return room if other_length * room >= length * other_room else length * other_room // other_length


def _half(rest: int) -> int:
    """Return half of a whole number, halves to the even one."""
    return rest // 2 + rest % 4 // 3


def _padded(pixels: npt.NDArray[Any], spec: PixelSpec) -> npt.NDArray[np.float32]:
    """Return the largest image of the same shape that fits, with black around it, as `tf.image.resize_with_pad` does.

    TensorFlow computes sizes in float32. These are whole numbers, which are the same on every machine.
    """
    (height, width), result = pixels.shape[:2], np.zeros((spec.height, spec.width, spec.channels), np.float32)
    rows, top = _within(height, spec.height, width, spec.width)
    columns, left = _within(width, spec.width, height, spec.height)
    smaller = replace(spec, height=rows, width=columns, resize="stretch")
    result[top : top + rows, left : left + columns] = resized(pixels, smaller)
    return result


def _within(length: int, room: int, other_length: int, other_room: int) -> tuple[int, int]:
    """Return how long one side becomes, and what is left free before it."""
    if other_length * room <= length * other_room:
        return room, 0
    before = (other_length * room - length * other_room) // (2 * other_length)
    return max(1, length * other_room // other_length), before
