"""The images of a head's source by split, decoded ahead in threads, in bounded memory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from featcache.errors import ImageError, OptionError, about_image
from featcache.extraction.extractor import mapped_ahead
from featcache.heads.rows import Float32s, Ints
from featcache.images.augmentation import Augmentation
from featcache.images.decode_crashes import Journal
from featcache.images.decoding import PixelSpec, load
from featcache.sources import Item, Source, SplitPolicy, digest, read_image
from featcache.system.cpus import decoding_threads

log = logging.getLogger(__name__)

_AHEAD = 64


@dataclass(frozen=True)
class Picture:
    """An image that was read; its label is an index into the class names, its group equal for what belongs together."""

    item: Item
    digest: bytes
    label: int
    group: int


@dataclass
class Pictures:
    """All images of a source, by split, in its order.

    `skipped` has path and reason of each that cannot be read; it grows as images are decoded.
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
        order: Sequence[int] | Ints | None = None,
        augmentation: Augmentation | None = None,
        view: int = 0,
    ) -> Iterator[tuple[list[Picture], Float32s]]:
        """Yield the pictures of a split with their pixels, (n, height, width, channels), at most `size` at a time.

        `order` has indices into the split's pictures; default: the source's order. What is drawn for an augmentation is
        decided by a picture's digest and `view`, 1 or more.
        """
        pictures = self.by_split[split]
        chosen = [pictures[i] for i in (range(len(pictures)) if order is None else order)]
        journal = Journal()

        def prepare(picture: Picture) -> tuple[Picture, Float32s | None, str]:
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
            batch: list[Picture] = []
            values: list[Float32s] = []
            for picture, pixels, reason in prepared:
                if pixels is None:
                    self.skip(picture.item, reason)
                    continue
                batch.append(picture)
                values.append(pixels)
                if len(batch) == size:
                    yield batch, np.stack(values)
                    batch, values = [], []
            if batch:
                yield batch, np.stack(values)

    def skip(self, item: Item, reason: str) -> None:
        """Note that an image cannot be used."""
        log.warning("skipped %s: %s", item.path, reason)
        self.skipped[item.path] = reason


def listed(
    source: Source, policy: SplitPolicy, spec: PixelSpec, class_names: Sequence[str], known: dict[str, str]
) -> Pictures:
    """Read and hash every image once, and return them by split.

    Source and policy are those of a head's cache, `class_names` all classes that may occur, `known` path and reason of
    images that are known to be unreadable: they are left alone. OptionError says that an image has another class.
    """
    number = {name: i for i, name in enumerate(class_names)}
    odd = sorted({str(item.label) for item in source.items if item.label not in number})
    if odd:
        raise OptionError(
            f"The source {source.location!r} has classes that the head does not know: {', '.join(odd)}. It knows "
            f"{', '.join(class_names)}. Extract again and train the head on that."
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
