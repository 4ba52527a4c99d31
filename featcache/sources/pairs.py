"""Images and labels from Python: paths, encoded bytes or arrays, in any iterable."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import SourceError
from featcache.sources.files import Lister, Named, read_file
from featcache.sources.source import Item, Items, counted, label_name, sole_content, stamp


class PairSource:
    """Pairs of an image and its label, in any iterable.

    All are held: an iterator is used up, and what it makes (arrays, bytes) stays in memory, and is hashed when it is
    listed. Files are under the paths given, others under their position, such as ``000123``.
    """

    name = "images"
    location = "(image, label) pairs"
    sequential = False

    def __init__(self, pairs: Iterable[Any]) -> None:
        self._images: list[str | bytes | npt.NDArray[Any]] = []
        lister = Lister(Path())
        self.items = Items.of(counted(self._listed(pairs, lister), self.location))
        lister.check(self.location, "Mend the list.")
        if not self.items:
            raise SourceError("Expected (image, label) pairs. Received: none.")

    def _listed(self, pairs: Iterable[Any], lister: Lister) -> Iterator[Item]:
        for place, pair in enumerate(pairs):
            where = f"position {place}"
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise SourceError(
                    f"Expected (image, label) pairs. Received: {type(pair).__name__} at {where}. "
                    "For X and y take zip(X, y), for images without labels (image, None)."
                )
            image, label = _content(pair[0], where), _label(pair[1], where)
            self._images.append(image)
            if not isinstance(image, str):
                path, stamped = f"{place:06d}", stamp(image)
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
    array = np.asarray(image)
    if array.dtype.kind not in "buif":
        raise SourceError(
            f"Expected a path, encoded bytes or an array as image. Received: {type(image).__name__} at {where}."
        )
    return array


def _label(label: Any, where: str) -> str | None:
    try:
        return label_name(label)
    except ValueError as error:
        raise SourceError(f"Expected text, an integer or None as label. Received: {error} at {where}.") from None
