"""Small pictures of a source's images, fit to be put into a page."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import ImageError
from featcache.images.augmentation import Augmentation
from featcache.images.decoding import PixelSpec, decode, load
from featcache.options import Progress
from featcache.sources import Item, Source, digest, read_image
from featcache.system.cpus import count
from featcache.system.startup import import_tensorflow

log = logging.getLogger(__name__)

SIDE = 96
"""Pixels of the longer side."""
MOST_BYTES = 3600
"""Of one picture, so that a page with 1,000 of them is below 8 MB, whatever they show."""

_PIXELATED = 48  # images up to this side are enlarged without smoothing


class Pictures:
    """Reads images of a source again and makes small pictures of them.

    `missing` has path and reason of each image that could not be shown; it grows.
    """

    def __init__(self, source: Source | None) -> None:
        self._source = source
        self._items: dict[str, Item] = {}
        self._known: dict[tuple[str, int], str | None] = {}
        self.missing: dict[str, str] = {}

    @property
    def possible(self) -> bool:
        """Whether there is a source to read from."""
        return self._source is not None

    def find(self, paths: Iterable[str]) -> None:
        """Look images up in the source, once for all that will be asked for."""
        wanted = set(paths)
        if self._source is not None:
            self._items |= {item.path: item for item in self._source.items if item.path in wanted}
        if self._items:
            import_tensorflow()  # decodes; threads that import it at once wait for each other for long

    def of(self, paths: Sequence[str], *, side: int = SIDE, progress: Progress | None = None) -> dict[str, str | None]:
        """Return a data URI for each path that `find` was told of, None for an image that cannot be shown."""

        def one(path: str) -> str | None:
            content = self._content(path)
            return None if content is None else self._small(path, content, side)

        todo = [path for path in dict.fromkeys(paths) if (path, side) not in self._known]
        with ThreadPoolExecutor(count()) as threads:
            for done, (path, picture) in enumerate(zip(todo, threads.map(one, todo), strict=True), 1):
                self._known[path, side] = picture
                if progress is not None:
                    progress(done, len(todo))
        return {path: self._known[path, side] for path in paths}

    def as_seen(self, path: str, spec: PixelSpec, policy: Augmentation | None, views: int) -> list[str]:
        """Return an image as the base gets it, and augmented views of it after that; none if it cannot be shown."""
        content = self._content(path)
        if content is None:
            return []
        try:
            pixels = load(content, spec)
        except ImageError as error:
            self.missing[path] = str(error)
            return []
        more = [] if policy is None else [policy.apply(pixels, digest(content), view + 1) for view in range(views)]
        return [encoded(np.clip(one, 0, 255).astype(np.uint8), SIDE) for one in (pixels, *more)]

    def _content(self, path: str) -> bytes | npt.NDArray[Any] | None:
        if self._source is None or path not in self._items:
            self.missing[path] = "it is not in the source any more" if self._source is not None else "no source"
            return None
        try:
            return read_image(self._source, self._items[path])
        except ImageError as error:
            self.missing[path] = str(error)
            return None

    def _small(self, path: str, content: bytes | npt.NDArray[Any], side: int) -> str | None:
        try:
            if isinstance(content, bytes):
                return encoded(decode(content, 3), side)
            spec = PixelSpec(content.shape[0], content.shape[1], 3)
            return encoded(load(content, spec).astype(np.uint8), side)
        except (ImageError, IndexError) as error:
            self.missing[path] = str(error)
            return None


def encoded(pixels: npt.NDArray[np.uint8], side: int) -> str:
    """Return pixels (height, width, 1 or 3) as a data URI of a picture of about `MOST_BYTES` × (side / 96)² at most.

    Its longer side has at most `side` pixels. Tiny images are enlarged by a whole factor, without smoothing.
    """
    from PIL import Image

    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels)).convert("RGB")
    longer = max(picture.size)
    most = MOST_BYTES * side**2 // SIDE**2
    if longer <= _PIXELATED:
        factor = max(1, side // longer)
        enlarged = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
        file = io.BytesIO()
        enlarged.save(file, "PNG", optimize=True)
        if file.tell() <= most:
            return _uri(file, "png")
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    for quality in (80, 65, 50, 35, 20, 8, 1):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= most:
            break
    return _uri(file, "jpeg")


def _uri(file: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
