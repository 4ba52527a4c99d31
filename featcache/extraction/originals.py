"""The images that a cache was made of, read from where its source lies."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache import FeatureCache
from featcache.cache.listing import Entry
from featcache.errors import FeatcacheError, ImageError
from featcache.images.decoding import PixelSpec, load
from featcache.sources import Item, Source, digest, read_image
from featcache.sources.files import read_file
from featcache.sources.opening import reopen
from featcache.system.startup import import_tensorflow


class Originals:
    """A cache's images as they were when it was extracted; nothing is read before it is asked for.

    Parameters
    ----------
    cache : FeatureCache
        Its source may have moved or changed since: images say so when they are read.

    Attributes
    ----------
    root : Path
        What the paths of files are relative to: the source's folder, or that of its table.
    """

    def __init__(self, cache: FeatureCache) -> None:
        self._cache = cache
        self._location = Path(cache.source["location"] or ".")
        self.root = self._location.parent if self._location.is_file() else self._location

    @property
    def entries(self) -> Sequence[Entry]:
        """Every image that the cache lists."""
        return self._cache.entries

    def file(self, entry: Entry) -> Path | None:
        """Return an image's file, None if it is none or not there."""
        path = self.root / entry.path
        with contextlib.suppress(OSError, ValueError):
            return path if path.is_file() else None
        return None

    def content(self, entry: Entry) -> bytes | npt.NDArray[Any]:
        """Return an image's encoded bytes or its pixels.

        Raises
        ------
        ImageError
            If it cannot be read, or is no longer what was extracted.
        """
        found: bytes | npt.NDArray[Any]
        if (path := self.file(entry)) is not None:
            found = read_file(path)
        else:
            if isinstance(self._opened, str):
                raise ImageError(self._opened)
            source, items = self._opened
            if entry.path not in items:
                raise ImageError("not in the source any more")
            found = read_image(source, items[entry.path])
        if entry.digest is not None and digest(found) != entry.digest:
            raise ImageError("changed since it was extracted")
        return found

    def thumbnail(self, entry: Entry, side: int) -> npt.NDArray[np.float32]:
        """Return an image of (side, side, 3), values in 0…255, stretched; raise `ImageError` as `content` does."""
        import_tensorflow()
        return load(self.content(entry), PixelSpec(side, side, 3, "stretch", "area"))

    def size(self, entry: Entry) -> tuple[int, int] | None:
        """Return height and width in pixels as a file's header says, or an array has; None if neither does."""
        from PIL import Image

        try:
            if (path := self.file(entry)) is not None:
                with Image.open(path) as image:
                    return image.height, image.width
            content = self.content(entry)
            if isinstance(content, bytes):
                with Image.open(io.BytesIO(content)) as image:
                    return image.height, image.width
            return int(content.shape[0]), int(content.shape[1])
        except (FeatcacheError, OSError, ValueError, SyntaxError, ArithmeticError, LookupError):
            return None

    @cached_property
    def _opened(self) -> tuple[Source, dict[str, Item]] | str:
        """The source, listed again, which images that are no files need; or why it cannot be."""
        try:
            source = reopen(self._cache.source, classes=self._cache.listing_options.get("classes"))
        except (FeatcacheError, OSError) as error:
            return f"its source cannot be opened: {error}"
        return source, {item.path: item for item in source.items}
