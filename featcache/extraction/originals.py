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

    Its source may have moved or changed since: images say so when they are read. `root` is what the paths of files are
    relative to: the source's folder, or that of its table.
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
        """Return an image's encoded bytes or pixels; `ImageError` if it cannot be read, or has changed since."""
        found: bytes | npt.NDArray[Any]
        if (path := self.file(entry)) is not None:
            found = read_file(path)
        elif isinstance(self._listed, str):
            raise ImageError(f"its source cannot be opened: {self._listed}")
        elif entry.path not in (items := self._listed[1]):
            raise ImageError("not in the source any more")
        else:
            found = read_image(self._listed[0], items[entry.path])
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
        except Image.DecompressionBombError:  # of as many pixels as Pillow does not read in a program of somebody else
            return None

    def source(self) -> Source:
        """Return the source, listed again; `FeatcacheError` or `OSError` if it cannot be."""
        return reopen(self._cache.source, classes=self._cache.listing_options.get("classes"))

    @cached_property
    def _listed(self) -> tuple[Source, dict[str, Item]] | str:
        """The source and its images, which those that are no files need; or why it cannot be opened."""
        try:
            source = self.source()
        except (FeatcacheError, OSError) as error:
            return str(error)
        return source, {item.path: item for item in source.items}
