"""What `featcache.images` does, on tensors and in layers of Keras, so that a model can carry it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from featcache.errors import OptionError
from featcache.images.decoding import GREY_HALF, GREY_WEIGHTS, PixelSpec

_EVERYWHERE = ("bilinear", "nearest")
_OF_KERAS = (*_EVERYWHERE, "bicubic", "lanczos3", "lanczos5")
_ORIENTATION = 0x0112  # EXIF tag
_TURNS = (0, 0, 0, 2, 2, 3, 3, 1, 1)  # by EXIF orientation: quarter turns counter-clockwise …
_MIRRORED = (False, False, True, False, True, True, False, True, False)  # … then mirror left-right


def loaded(content: Any, spec: PixelSpec) -> Any:
    """Return one encoded image as the base's pixels, as `featcache.images.decoding.load` does."""
    import tensorflow as tf

    number = orientation(content)
    image = _decoded(content, number, spec)
    image.set_shape((None, None, 3))
    if spec.channels == 1:
        image = _grey(image)
    image = tf.image.rot90(image, tf.gather(tf.constant(_TURNS), number))
    image = tf.cond(tf.gather(tf.constant(_MIRRORED), number), lambda: tf.reverse(image, [1]), lambda: image)
    return resized(image, spec)


def _decoded(content: Any, number: Any, spec: PixelSpec) -> Any:
    import tensorflow as tf

    def other() -> Any:
        return tf.io.decode_image(content, channels=3, expand_animations=False)

    def reduced() -> Any:
        size = tf.io.extract_jpeg_shape(content)[:2]
        wanted = tf.constant(spec.room)
        wanted = tf.where(tf.gather(tf.constant(_TURNS), number) % 2 == 1, wanted[::-1], wanted)
        fitting = [tf.reduce_all((size + ratio - 1) // ratio >= wanted) for ratio in (2, 4, 8)]
        steps = tf.add_n([tf.cast(fits, tf.int32) for fits in fitting])  # what fits at 8 fits at 4 and 2
        return tf.switch_case(steps, [decoder(ratio) for ratio in (1, 2, 4, 8)])

    def decoder(ratio: int) -> Callable[[], Any]:
        return lambda: tf.io.decode_jpeg(content, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    jpeg = reduced if spec.decode == "reduced" else decoder(1)
    return tf.cond(tf.strings.substr(content, 0, 3) == b"\xff\xd8\xff", jpeg, other)


def _grey(image: Any) -> Any:
    """As `featcache.images.decoding.as_grey`, of ``uint8``."""
    import tensorflow as tf

    summed = tf.reduce_sum(tf.cast(image, tf.int32) * tf.constant(GREY_WEIGHTS), axis=-1, keepdims=True)
    return tf.cast(tf.bitwise.right_shift(summed + GREY_HALF, 16), tf.uint8)


def resized(images: Any, spec: PixelSpec) -> Any:
    """Return one image or a batch, of any size, in the size of `spec`, float32."""
    import tensorflow as tf

    size = (spec.height, spec.width)
    if spec.resize == "pad" or spec.crop < 1:
        result = _placed(images, spec)
    else:
        fitting = _cropped_to_aspect(images, size) if spec.resize == "crop" else images
        result = tf.cast(tf.image.resize(fitting, size, method=spec.interpolation), tf.float32)
    result.set_shape((*images.shape[:-3], *size, spec.channels))
    return result


def _cropped_to_aspect(images: Any, size: tuple[int, int]) -> Any:
    """As `featcache.images.decoding` crops."""
    import tensorflow as tf

    height, width = tf.unstack(tf.shape(images)[-3:-1])
    rows = tf.minimum(height, tf.maximum(1, width * size[0] // size[1]))
    columns = tf.minimum(width, tf.maximum(1, height * size[1] // size[0]))
    top, left = (height - rows) // 2, (width - columns) // 2
    return images[..., top : top + rows, left : left + columns, :]


def _placed(images: Any, spec: PixelSpec) -> Any:
    """Resize without changing the shape, then pad with black or take the centre, as `featcache.images` does."""
    import tensorflow as tf

    height, width = tf.unstack(tf.shape(images)[-3:-1])
    rows, top, columns, left = _sides(height, width, spec, tf)
    resized = tf.cast(tf.image.resize(images, [rows, columns], method=spec.interpolation), tf.float32)
    if spec.resize == "crop":
        return resized[..., -top : spec.height - top, -left : spec.width - left, :]
    around = [[top, spec.height - top - rows], [left, spec.width - left - columns], [0, 0]]
    batch = [[0, 0]] * (len(images.shape) - 3)
    return tf.pad(resized, [*batch, *around])


def _sides(height: Any, width: Any, spec: PixelSpec, ops: Any) -> tuple[Any, Any, Any, Any]:
    """Return the rows of a resized picture, how many black ones come before them, and the same of columns.

    Where some are cut off before the centre, their number is negative. All are integer tensors, computed as
    `featcache.images.decoding` does; `ops` is TensorFlow or `keras.ops`.
    """

    def side(length: Any, room: int, other_length: Any, other_room: int, taken: int) -> tuple[Any, Any]:
        scaled = length * other_room // other_length
        if spec.resize == "pad":
            whole = other_length * room <= length * other_room
            before = (other_length * room - length * other_room) // (2 * other_length)
            return ops.where(whole, room, ops.maximum(1, scaled)), ops.where(whole, 0, before)
        fitted = ops.where(other_length * room >= length * other_room, room, scaled)
        rest = fitted - taken
        return fitted, -(rest // 2 + rest % 4 // 3)  # `featcache.images.decoding._half`

    tall, wide = spec.room
    return *side(height, tall, width, wide, spec.height), *side(width, wide, height, tall, spec.width)


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
    rows, top, columns, left = _sides(height, width, spec, ops)
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


def orientation(content: Any) -> Any:
    """Return the EXIF orientation of a JPEG or PNG, 1 where there is none or no valid one."""
    import tensorflow as tf

    one = tf.constant(1)
    is_jpeg = tf.strings.substr(content, 0, 3) == b"\xff\xd8\xff"
    marked = tf.strings.regex_full_match(content, rb"(?s)\C*eXIf\C*")
    is_png = (tf.strings.substr(content, 0, 8) == b"\x89PNG\r\n\x1a\n") & marked
    data = tf.io.decode_raw(content, tf.uint8)

    def of_png() -> Any:
        return _tagged(data, *_walked(data, 8, _png_chunk))

    return tf.cond(
        is_jpeg,
        lambda: _tagged(data, *_walked(data, 2, _jpeg_segment)),
        lambda: tf.cond(is_png, of_png, lambda: one),
    )


def _number(data: Any, places: Any, length: int, big: Any = True) -> Any:
    """Return the unsigned integers of so many bytes that begin at places; bytes past the end are 0."""
    import tensorflow as tf

    size = tf.size(data, out_type=tf.int64)
    each = tf.cast(places, tf.int64)[..., None] + tf.range(length, dtype=tf.int64)
    inside = (each >= 0) & (each < size)
    zero = tf.constant(0, tf.int64)
    found = tf.cast(tf.gather(data, tf.where(inside, each, zero)), tf.int64)
    powers = tf.constant([256**power for power in reversed(range(length))], tf.int64)
    return tf.reduce_sum(tf.where(inside, found, zero) * tf.where(big, powers, powers[::-1]), axis=-1)


def _walked(data: Any, start: int, step: Any) -> tuple[Any, Any]:
    """Go from segment to segment; return where the EXIF block begins and ends, -1 if there is none."""
    import tensorflow as tf

    size = tf.size(data, out_type=tf.int64)
    place, begin, end = tf.constant(start, tf.int64), tf.constant(-1, tf.int64), tf.constant(-1, tf.int64)
    _, begin, end = tf.while_loop(
        lambda place, begin, end: (begin < 0) & (place >= 0) & (place + 8 <= size),
        lambda place, begin, end: step(data, place),
        (place, begin, end),
    )
    return begin, tf.minimum(end, size)


def _jpeg_segment(data: Any, place: Any) -> tuple[Any, Any, Any]:
    """Return the next segment's place, -1 behind the last, and the EXIF block's begin and end if it is here."""
    import tensorflow as tf

    marker = _number(data, place, 2)
    length = _number(data, place + 2, 2)
    alone = ((marker >= 0xFFD0) & (marker <= 0xFFD8)) | (marker == 0xFF01)
    after = tf.where(marker == 0xFFFF, place + 1, tf.where(alone, place + 2, place + 2 + length))
    last = (marker < 0xFF01) | (marker == 0xFFDA) | (marker == 0xFFD9)
    found = (marker == 0xFFE1) & (_number(data, place + 4, 6) == int.from_bytes(b"Exif\0\0"))
    return _where(~last, after), _where(found, place + 10), _where(found, place + 2 + length)


def _png_chunk(data: Any, place: Any) -> tuple[Any, Any, Any]:
    """As `_jpeg_segment`, of a PNG's chunks."""
    length, kind = _number(data, place, 4), _number(data, place + 4, 4)
    found = kind == int.from_bytes(b"eXIf")
    return place + 12 + length, _where(found, place + 8), _where(found, place + 8 + length)


def _where(condition: Any, place: Any) -> Any:
    """Return a place where the condition holds, else -1."""
    import tensorflow as tf

    return tf.where(condition, place, tf.constant(-1, tf.int64))


def _tagged(data: Any, begin: Any, end: Any) -> Any:
    """Return the orientation in a TIFF header's first directory, 1 if there is none."""
    import tensorflow as tf

    header, one = _number(data, begin, 4), tf.constant(1, tf.int64)
    big = header == int.from_bytes(b"MM\0*")
    sound = (begin >= 0) & (big | (header == int.from_bytes(b"II*\0")))
    directory = begin + _number(data, begin + 4, 4, big)
    entries = directory + 2 + 12 * tf.range(_number(data, directory, 2, big))
    tags, kinds = _number(data, entries, 2, big), _number(data, entries + 2, 2, big)
    counts = _number(data, entries + 4, 4, big)
    shorts, longs = _number(data, entries + 8, 2, big), _number(data, entries + 8, 4, big)
    values = tf.where((kinds == 3) & (counts <= 2), shorts, tf.where((kinds == 4) & (counts == 1), longs, one))
    here = sound & (entries + 12 <= end) & (tags == _ORIENTATION)
    last = tf.concat([[one], values[here]], axis=0)[-1]
    return tf.cast(tf.where((last >= 1) & (last <= 8), last, one), tf.int32)
