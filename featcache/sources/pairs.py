"""Images and labels from Python: paths, encoded bytes or arrays, in any iterable."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import SourceError
from featcache.sources.files import Lister, Named, read_file
from featcache.sources.source import Item, Items, counted, label_name, sole_content, stamp

log = logging.getLogger(__name__)

_ORIENTATION = 0x0112
"""EXIF's tag of how an image is turned."""


class PairSource:
    """Pairs of an image and its label, in any iterable.

    An image is a path, the bytes of an encoded file, an array or a PIL image. All are held: an iterator is used up, and
    what it makes stays in memory, and is hashed when it is listed. Files are under the paths given, others under their
    position, such as ``000123``, counted from `first`.
    """

    name = "images"
    location = "(image, label) pairs"
    sequential = False

    def __init__(self, pairs: Iterable[Any], *, first: int = 0) -> None:
        self._first = first
        self._images: list[str | bytes | npt.NDArray[Any]] = []
        lister = Lister(Path())
        self.items = Items.of(counted(self._listed(pairs, lister), self.location))
        lister.check(self.location, "Mend the list.")
        if not self.items:
            raise SourceError("No images: the list of (image, label) pairs is empty.")

    def _listed(self, pairs: Iterable[Any], lister: Lister) -> Iterator[Item]:
        for place, pair in enumerate(pairs):
            where = f"position {self._first + place}"
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise SourceError(
                    f"The source must be (image, label) pairs. Received: {type(pair).__name__} at {where}. "
                    "For X and y take zip(X, y), for images without labels (image, None)."
                )
            image, label = _content(pair[0], where), _label(pair[1], where)
            self._images.append(image)
            if not isinstance(image, str):
                path, stamped = f"{self._first + place:06d}", stamp(image)
                lister.claim(where, path)
                size = len(image) if isinstance(image, bytes) else image.nbytes
                yield Item(path, label, None, size, stamped, None, place, stamped)
            elif item := lister.item(Named(where, image, label), place):
                yield item

    def read(self, item: Item, /) -> bytes | npt.NDArray[Any]:
        """Return an image's bytes or pixels; raise `ImageError` if its file cannot be read."""
        image = self._images[item.place]
        if isinstance(image, str):
            return read_file(Path(image))
        return sole_content(image) if isinstance(image, bytes) else image


def _content(image: Any, where: str) -> str | bytes | npt.NDArray[Any]:
    if isinstance(image, str | os.PathLike):
        return os.fsdecode(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if _is_pil(image):
        return _encoded(image, where)
    array = np.asarray(image)
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3):
        shape = f" of shape {array.shape}" if array.dtype.kind in "buif" else ""
        raise SourceError(
            "An image is a path, the bytes of an encoded file, an array (height, width) or (height, width, channels), "
            f"or a PIL image. Received: {type(image).__name__}{shape} at {where}."
        )
    return array


def images_of(images: Any) -> list[Any]:
    """Return the images that are meant: one alone, each of an array (n, …), or those of an iterable."""
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview) or _is_pil(images):
        return [images]
    if isinstance(images, np.ndarray):
        return [images] if _is_one(images) else list(images)
    if not isinstance(images, Iterable) or isinstance(images, Mapping):
        raise SourceError(
            "The images must be paths, encoded bytes, arrays or PIL images, one or a list of them. Received: "
            f"{type(images).__name__}."
        )
    return list(images)


def _is_one(array: npt.NDArray[Any]) -> bool:
    """Whether an array is one image, and not several; what could be either is several, which is said."""
    if array.ndim != 3 or array.shape[2] in (1, 3, 4):
        return array.ndim == 2 or array.ndim == 3
    if array.shape[0] in (3, 4):
        log.warning(
            "an array of shape %s is taken for %d grey images; if it is one image with its channels first, give "
            "np.moveaxis(image, 0, -1)",
            array.shape,
            array.shape[0],
        )
    if array.shape[2] == 2:
        raise SourceError(
            f"An image has 1, 3 or 4 channels. Received: an array of shape {array.shape}. Leave a channel out, or give "
            "a list of grey images."
        )
    return False


def _is_pil(image: Any) -> bool:
    """Whether something is a PIL image; nobody has one who has not imported PIL."""
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(image, pil.Image)


def _encoded(image: Any, where: str) -> bytes:
    """Return a PIL image as an uncompressed PNG file, to be turned as the EXIF data of the image say."""
    target = io.BytesIO()
    try:
        image.load()  # which turns a TIFF, and takes that from its EXIF data
        known = image.getexif()
        turned = type(known)()
        turned[_ORIENTATION] = known.get(_ORIENTATION, 1)
        shown = image.convert("RGB") if image.mode == "CMYK" else image
        shown.save(target, "PNG", exif=turned, compress_level=0)
    except (OSError, ValueError) as error:
        raise SourceError(
            f"The PIL image at {where} cannot be read: {' '.join(str(error).split())}. Convert it first, such as by "
            'image.convert("RGB").'
        ) from None
    return target.getvalue()


def _label(label: Any, where: str) -> str | None:
    try:
        return label_name(label)
    except ValueError as error:
        raise SourceError(f"A label must be text, an integer or None. Received: {error} at {where}.") from None
