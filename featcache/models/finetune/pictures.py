"""The images of a head's source by split, decoded ahead in threads, in bounded memory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from featcache.errors import ImageError, OptionError, about_image
from featcache.extraction.extractor import mapped_ahead
from featcache.images.augmentation import Augmentation
from featcache.images.decode_crashes import Journal
from featcache.images.decoding import PixelSpec, load
from featcache.sources import Item, Source, SplitPolicy, digest, read_image
from featcache.system.processors import decoding_threads

log = logging.getLogger(__name__)

_AHEAD = 64


@dataclass(frozen=True)
class Picture:
    """An image that was read.

    Attributes
    ----------
    item : Item
        Where it is.
    digest : bytes
        SHA-256.
    label : int
        Index into the class names.
    group : int
        Equal for images that belong together.
    """

    item: Item
    digest: bytes
    label: int
    group: int


@dataclass
class Pictures:
    """All images of a source, by split.

    Attributes
    ----------
    source : Source
        Reads them.
    spec : PixelSpec
        How they must look.
    by_split : dict
        In the source's order.
    skipped : dict
        Path and reason of each that cannot be read; it grows as images are decoded.
    """

    source: Source
    spec: PixelSpec
    by_split: dict[str, list[Picture]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def batches(
        self,
        split: str,
        size: int,
        *,
        order: Sequence[int] | npt.NDArray[np.int64] | None = None,
        augmentation: Augmentation | None = None,
        view: int = 0,
    ) -> Iterator[tuple[list[Picture], npt.NDArray[np.float32]]]:
        """Yield the pictures of a split with their pixels, (n, height, width, channels), `size` at a time.

        Parameters
        ----------
        split : str
        size : int
            The last batch may be smaller.
        order : sequence of int, optional
            Indices into the split's pictures; default: the source's order.
        augmentation : Augmentation, optional
            What is drawn is decided by a picture's digest and `view`.
        view : int
            1 or more.
        """
        pictures = self.by_split[split]
        chosen = [pictures[i] for i in (range(len(pictures)) if order is None else order)]
        journal = Journal()

        def prepare(picture: Picture) -> tuple[Picture, npt.NDArray[np.float32] | None, str]:
            try:
                content = read_image(self.source, picture.item)
                with journal.decoding(picture.item.path):
                    pixels = load(content, self.spec)
                with about_image("augmented"):
                    if augmentation is not None:
                        pixels = augmentation.apply(pixels, picture.digest, view)
            except ImageError as error:
                return picture, None, str(error)
            return picture, pixels, ""

        known = [picture for picture in chosen if picture.item.path not in self.skipped]
        threads = decoding_threads()
        with contextlib.closing(mapped_ahead(threads, prepare, known, 3 * size, journal.check)) as prepared:
            some: list[tuple[Picture, npt.NDArray[np.float32]]] = []
            for picture, pixels, reason in prepared:
                if pixels is None:
                    self.skip(picture.item, reason)
                    continue
                some.append((picture, pixels))
                if len(some) == size:
                    yield [one for one, _ in some], np.stack([values for _, values in some])
                    some = []
            if some:
                yield [one for one, _ in some], np.stack([values for _, values in some])

    def skip(self, item: Item, reason: str) -> None:
        """Note that an image cannot be used."""
        log.warning("skipped %s: %s", item.path, reason)
        self.skipped[item.path] = reason


def listed(
    source: Source, policy: SplitPolicy, spec: PixelSpec, class_names: Sequence[str], known: dict[str, str]
) -> Pictures:
    """Read and hash every image once, and return them by split.

    Parameters
    ----------
    source, policy : Source, SplitPolicy
        As a head's cache was extracted.
    spec : PixelSpec
    class_names : sequence of str
        All classes that may occur.
    known : dict
        Path and reason of images that are known to be unreadable: they are left alone.

    Raises
    ------
    OptionError
        If an image has no class, or one that is not in `class_names`.
    """
    number = {name: i for i, name in enumerate(class_names)}
    odd = sorted({str(item.label) for item in source.items if item.label not in number})
    if odd:
        raise OptionError(
            f"Expected images of the head's classes: {', '.join(class_names)}. Received: {', '.join(odd)} in "
            f"{source.location!r}. Extract again and train the head on that."
        )

    def identified(item: Item) -> tuple[Item, bytes | None, str]:
        try:
            return item, digest(read_image(source, item)), ""
        except ImageError as error:
            return item, None, str(error)

    pictures, groups = Pictures(source, spec, skipped=dict(known)), dict[object, int]()
    wanted = [item for item in source.items if item.path not in known]
    threads = decoding_threads()
    with contextlib.closing(mapped_ahead(threads, identified, wanted, _AHEAD, Journal().check)) as results:
        for item, identity, reason in results:
            if identity is None:
                pictures.skip(item, reason)
                continue
            group = groups.setdefault(item.group or identity, len(groups))
            split = policy.split_of(item, identity)
            label = number[str(item.label)]
            pictures.by_split.setdefault(split, []).append(Picture(item, identity, label, group))
    return pictures
