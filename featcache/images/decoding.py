"""Bytes or arrays → pixels of one size: decoding, EXIF orientation, channels; resizing is `images.resizing`'s.

Decoding is TensorFlow's own operations with Keras' defaults, so that features equal those of a plain Keras pipeline;
what TensorFlow cannot decode goes through Pillow. Only of JPEGs the default is another: TensorFlow's own trades
accuracy for speed, and gives other pixels than Keras' `load_img`, Pillow and OpenCV.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import NO_MEMORY, ImageError, about_image, one_line
from featcache.images import resizing
from featcache.images.resizing import PixelSpec as PixelSpec
from featcache.options import MAX_PIXELS

GREY_WEIGHTS, GREY_HALF = (19595, 38470, 7471), 1 << 15
"""Grey of red, green and blue, in parts of 65,536 and rounded, as Pillow computes it."""

_FORMATS = "JPEG MPO PNG GIF BMP DIB WEBP TIFF JPEG2000 AVIF PPM TGA PCX ICO QOI"
_PILLOWS_LIMIT = "above Pillow's own limit, PIL.Image.MAX_IMAGE_PIXELS, which holds in programs that import featcache"
_TOO_LARGE = re.compile(r"(\d+)x(\d+) pixels are more than the limit ")
_AT_ONCE = 1 << 22
_JPEG = b"\xff\xd8\xff"
_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}
"""EXIF orientation → quarter turns counter-clockwise, then whether mirrored left to right."""

_DAMAGED = (OSError, ValueError, SyntaxError, TypeError, ArithmeticError, LookupError, struct.error)
"""What Pillow raises about a file that is not as it should be."""

_limit_lifted = False


def take_over_pillow() -> None:
    """Let Pillow neither warn nor refuse images for their size here: for processes that do nothing but our work.

    Pillow is not imported yet, as that takes a while and many commands need none.
    """
    global _limit_lifted
    _limit_lifted = True
    warnings.filterwarnings("ignore", module=r"PIL\b")  # a damaged image is named with its reason


def load(content: bytes | npt.NDArray[Any], spec: PixelSpec) -> npt.NDArray[np.float32]:
    """Return an image as the base's pixels (spec.height, spec.width, spec.channels), values in 0…255.

    It is encoded, or pixels of shape (height, width) or (height, width, 1, 3 or 4) as ``uint8`` or floats in 0…1. What
    cannot be decoded or resized is an `ImageError` with the reason, whatever a library raised.
    """
    if isinstance(content, bytes):
        at_least = spec.room if spec.decode == "reduced" else None
        pixels = decode(content, spec.channels, at_least, spec.max_pixels)
    else:
        with about_image("used"):
            pixels = _from_array(content, spec.channels)
    with about_image("resized"):
        return resizing.resized(pixels, spec)


@about_image("decoded")
def decode(
    content: bytes, channels: int, at_least: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Return an encoded image's pixels (height, width, channels), upright, the first frame of an animation.

    Its format is told by its content. Transparency is dropped, as Keras does. A JPEG may come out reduced to its
    smallest eighth, quarter or half that is not below a height and width of `at_least`. What neither TensorFlow nor
    Pillow can decode is an `ImageError`, and so is an image of more pixels than `max_pixels`.
    """
    import tensorflow as tf
    from PIL import Image

    if not content:
        raise ImageError("empty file")
    orientation = 1
    header: Any = None
    try:
        header = _opened(content)
        _check_size(_declared(content) if header is None else header.size, max_pixels)
        if header is not None and _has_exif(header, content):
            orientation = header.getexif().get(_ORIENTATION, 1)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{_PILLOWS_LIMIT}: {error}") from None
    except _DAMAGED:
        if header is None:  # a header or EXIF block that Pillow cannot read; the picture itself may be sound
            _check_size(_declared(content), max_pixels)
    try:
        ratio = 1
        if at_least is not None and header is not None:
            turned = _UPRIGHT.get(orientation, (0, False))[0] % 2
            ratio = _ratio((header.height, header.width), at_least[::-1] if turned else at_least)
        pixels = _decoded_by_tensorflow(content, ratio)
    except (tf.errors.OpError, ValueError) as error:
        if header is None:
            if all(32 <= byte < 127 or byte in b"\t\r\n\f" for byte in content[:64]):
                raise ImageError("not an image: its content is text") from None
            reason = "not an image in a format that TensorFlow or Pillow reads, or damaged at its start"
            raise ImageError(reason) from None
        pixels = _decoded_by_pillow(header, error)
    if channels == 1:
        pixels = as_grey(pixels)
    turns, mirror = _UPRIGHT.get(orientation, (0, False))
    if turns:
        pixels = np.rot90(pixels, turns)
    return pixels[:, ::-1] if mirror else pixels


def worth_another_try(reason: str, max_pixels: int) -> bool:
    """Return whether an image that failed for a reason may succeed now: the limit was raised, or memory was short."""
    if size := _TOO_LARGE.match(reason):
        return int(size[1]) * int(size[2]) <= max_pixels
    return reason.startswith(NO_MEMORY)


def _opened(content: bytes) -> Any:
    """Return an image that Pillow knows, not decoded yet, else None.

    As `PIL.Image.open` does it, but for Pillow's limit of pixels, which is one for all of a process.
    """
    from PIL import Image

    for name in _pillow_formats():
        factory, accept = Image.OPEN[name]
        try:
            known = accept is None or accept(content[:16])
            if known and not isinstance(known, str):  # a text says what is not installed
                return factory(io.BytesIO(content), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    return None


def _check_size(size: tuple[int, int] | None, max_pixels: int) -> None:
    """Raise `ImageError` if an image of this width and height is too large."""
    if size is not None and size[0] * size[1] > max_pixels:
        raise ImageError(
            f"{size[0]}x{size[1]} pixels are more than the limit of {max_pixels:,}; a higher max_pixels "
            "(--max-pixels) includes it"
        )


def _declared(content: bytes) -> tuple[int, int] | None:
    """Return the width and height in the header of a format that TensorFlow decodes; None if it is none of them."""
    import tensorflow as tf

    if content.startswith(_JPEG):
        try:
            height, width, _ = tf.io.extract_jpeg_shape(content).numpy().tolist()
        except tf.errors.OpError:
            return None
        return width, height
    start = content[:30].ljust(30, b"\0")
    if start.startswith(b"\x89PNG"):
        return struct.unpack_from(">II", start, 16)
    if start.startswith(b"GIF8"):
        return struct.unpack_from("<HH", start, 6)
    if start.startswith(b"BM"):
        width, height = struct.unpack_from("<ii", start, 18)
        return abs(width), abs(height)
    if start.startswith(b"RIFF"):  # WebP has at most 16,383 a side
        wide = start[12:16] == b"VP8X"
        width, height = (int.from_bytes(start[i : i + 3], "little") + 1 if wide else 16_383 for i in (24, 27))
        return width, height
    return None


def _has_exif(header: Any, content: bytes) -> bool:
    """Return whether it is worth to ask Pillow for EXIF, which may read the whole file for it."""
    if header.format == "TIFF":  # Pillow turns them itself
        return False
    if header.format in ("JPEG", "MPO"):  # known from its header; to look through all of it takes a tenth of decoding
        return "exif" in header.info
    return b"Exif" in content or b"eXIf" in content or b"EXIF" in content


@cache
def _pillow_formats() -> tuple[str, ...]:
    """Return the formats that Pillow may open: none that runs a program, as EPS does Ghostscript."""
    from PIL import Image

    Image.init()
    if _limit_lifted:
        Image.MAX_IMAGE_PIXELS = None  # `_check_size` has been there before
    return tuple(name for name in _FORMATS.split() if name in Image.OPEN)


def _ratio(size: tuple[int, int], at_least: tuple[int, int]) -> int:
    """Return by how much a JPEG of this height and width can be reduced, 8, 4, 2 or 1, without going below another."""
    return next(r for r in (8, 4, 2, 1) if r == 1 or all(-(-size[i] // r) >= at_least[i] for i in (0, 1)))


def as_grey(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return grey pixels (…, 1) of RGB pixels (…, 3), bit for bit as Pillow and so `keras.utils.load_img` make them.

    Pixels that are grey already keep their values; floats are not rounded. A JPEG's own luma is not taken: it differs
    from this by up to 11.
    """
    if pixels.dtype == np.uint8:
        whole = np.empty(pixels.shape[:-1], np.uint8)
        rows = max(1, _AT_ONCE * len(pixels) // max(1, pixels.size))
        for start in range(0, len(pixels), rows):  # whole integers are four times as large as the picture
            part = slice(start, start + rows)
            summed = pixels[part].astype(np.int32) @ np.array(GREY_WEIGHTS, np.int32)
            whole[part] = (summed + GREY_HALF) >> 16
        return whole[..., None]
    grey: npt.NDArray[np.float32] = pixels @ (np.array(GREY_WEIGHTS, np.float32) / np.float32(1 << 16))
    return grey[..., None]


def _decoded_by_tensorflow(content: bytes, ratio: int) -> npt.NDArray[np.uint8]:
    import tensorflow as tf

    if content.startswith(_JPEG):
        image = tf.io.decode_jpeg(content, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")
    else:
        image = tf.io.decode_image(content, channels=3, expand_animations=False)
    pixels: npt.NDArray[np.uint8] = image.numpy()
    return pixels


def _decoded_by_pillow(header: Any, tensorflow_says: Exception) -> npt.NDArray[np.uint8]:
    from PIL import Image

    try:
        if not header.width * header.height:
            raise ValueError("it has no pixels")
        header.load()
        if header.mode in ("I", "F"):
            raise ValueError("pixels of 32 bits have no known range; convert it to 8 or 16 bits")
        if header.mode.startswith("I;16"):  # Pillow's own conversion clips; TensorFlow takes the high byte, too
            return np.repeat((np.asarray(header) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
        pixels: npt.NDArray[np.uint8] = np.array(header if header.mode == "RGB" else header.convert("RGB"))
        return pixels
    except Image.DecompressionBombError as error:
        raise ImageError(f"{_PILLOWS_LIMIT}: {error}") from None
    except _DAMAGED as error:
        reason = str(error) or str(tensorflow_says)
        raise ImageError(f"{header.format} cannot be decoded: {one_line(reason)[:160]}") from None


def _from_array(array: npt.NDArray[Any], channels: int) -> npt.NDArray[Any]:
    """Return pixels in 0…255 with the wanted number of channels; integers stay ``uint8``."""
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4) or not pixels.size:
        raise ImageError(f"expected (height, width) or (height, width, 1, 3 or 4), received {array.shape}")
    if pixels.dtype != np.uint8:
        if not np.issubdtype(pixels.dtype, np.floating):
            raise ImageError(f"expected uint8 or floats in 0…1, received {pixels.dtype}")
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ImageError(
                f"expected floats in 0…1, received {pixels.min():.4g} to {pixels.max():.4g}; "
                "use uint8 for values in 0…255"
            )
        pixels = pixels.astype(np.float32) * np.float32(255)
    if pixels.shape[-1] == 4:
        pixels = pixels[..., :3]
    if pixels.shape[-1] == channels:
        return pixels
    return np.repeat(pixels, 3, axis=-1) if channels == 3 else as_grey(pixels)
