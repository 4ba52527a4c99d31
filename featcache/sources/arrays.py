"""Images that are pixels already: in memory, in an ``.npz`` file, or in a folder of ``.npy`` files."""

from __future__ import annotations

import bisect
import itertools
import logging
import math
import os
import re
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.errors import SourceError
from featcache.files.publishing import change_stamp
from featcache.sources.columns import Texts, Words
from featcache.sources.messages import reason
from featcache.sources.names import known_splits
from featcache.sources.source import SPLITS, Item, Items, counted, label_name, stamp

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]

_LAYOUT = (
    "x_train and y_train, or train_images and train_labels (likewise val, validation, test), or images and labels, "
    "or X and y"
)
_KEY = re.compile(r"(x|y|images|labels)(?:_(.+))?|(.+)_(x|y|images|labels)", re.IGNORECASE)
_ROLES = {"x": "images", "images": "images", "y": "labels", "labels": "labels"}


@dataclass(frozen=True)
class Part:
    """The images of one split: (n, height, width) or (n, height, width, 1, 3 or 4), ``uint8`` or floats in 0…1.

    `stamp` is ``mtime_ns`` and ``changes`` of the file they are mapped from, None if they are in memory.
    """

    images: Array
    labels: Sequence[str | None]
    split: str | None = None
    stamp: tuple[int, int] | None = None

    def items(self, first: int, location: str) -> Items:
        """Return the images' items, the first having the place `first`."""
        n, prefix = len(self.labels), f"{self.split}/" if self.split else ""
        none, size = np.full(n, -1, np.int8), self.images.nbytes // max(1, len(self.images))
        if self.stamp is None:
            stamps = changes = np.fromiter(map(stamp, counted(self.images, location)), np.int64, n)
        else:
            stamps, changes = (np.broadcast_to(np.int64(number), n) for number in self.stamp)
        splits = Words(none + 1, [self.split]) if self.split else Words(none, [])
        words = Words.of(self.labels), splits, Words(none, [])
        numbers = np.broadcast_to(np.int64(size), n), stamps, np.arange(first, first + n), changes
        return Items(Texts.of(f"{prefix}{index:06d}" for index in range(n)), *words, *numbers)


class PartsSource:
    """Images that are already pixels, by split, in the order given."""

    sequential = False

    def __init__(self, name: str, location: str, parts: Sequence[Part]) -> None:
        self.name, self.location, self._parts = name, location, parts
        self._starts = list(itertools.accumulate((len(part.images) for part in parts), initial=0))
        listed = [part.items(first, location) for part, first in zip(parts, self._starts, strict=False)]
        self.items: Sequence[Item] = listed[0] if len(listed) == 1 else Items.of(itertools.chain.from_iterable(listed))

    def read(self, item: Item, /) -> Array:
        """Return one image's pixels."""
        part = bisect.bisect_right(self._starts, item.place) - 1
        # A copy: a file that is mapped may change between the digest and the decoding of one image.
        return np.array(self._parts[part].images[item.place - self._starts[part]])


class ArraySource(PartsSource):
    """Images in memory, without splits; hashed when they are listed, so that others under the same name are seen."""

    def __init__(self, name: str, images: Array, labels: Sequence[str | None]) -> None:
        super().__init__(name, name, [Part(images, labels)])


def npz_source(path: Path) -> PartsSource:
    """Return the source of an ``.npz`` file, its images mapped from the file and never loaded whole.

    Compressed members are unpacked into a temporary file without a name, which is gone when the source is.
    """
    where = repr(str(path))
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            stamped, stored = _stamp(os.fstat(file.fileno())), {}
            for info in archive.infolist():
                key = info.filename.removesuffix(".npy")
                stored[key] = _Stored(f"{key} in {where}", stamped, partial(_member, archive, file, info))
            parts = _parts(stored, where)
    except SourceError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds on damaged bytes
        raise _damaged(where, error) from None
    return PartsSource(path.stem, str(path.absolute()), parts)


def npy_source(root: Path, names: Sequence[str]) -> PartsSource:
    """Return the source of a folder of ``.npy`` files, named as the keys of `npz_source`, mapped, never all loaded."""
    stored = {}
    for path in (root / name for name in names if name.lower().endswith(".npy")):
        stored[path.stem] = _Stored(repr(str(path)), _stamp(path.stat()), partial(_file, path))
    return PartsSource(root.absolute().name, str(root.absolute()), _parts(stored, repr(str(root))))


class _Stored(NamedTuple):
    """An array on disk: how errors name it, its file's time stamp and changes, and how to map it."""

    where: str
    stamp: tuple[int, int]
    map: Callable[[], Array]

    def mapped(self) -> Array:
        try:
            return self.map()
        except Exception as error:  # so do zlib, and NumPy's parser of headers with Python's tokenizer
            raise _damaged(self.where, error) from None


def _parts(stored: Mapping[str, _Stored], where: str) -> list[Part]:
    """Find images and labels of each split among named arrays."""
    found: dict[tuple[str | None, str], str] = {}
    for key, purpose in _purposes(stored).items():
        if purpose in found:
            raise SourceError(
                f"{where} has two arrays of {purpose[0] or 'all'} {purpose[1]}: {found[purpose]} and {key}. Remove one."
            )
        found[purpose] = key
    splits = [split for split in (None, *SPLITS) if (split, "images") in found]
    lost = [key for (split, _), key in found.items() if split not in splits]
    if not splits or lost or (None in splits and len(splits) > 1):
        raise SourceError(f"{where} must have arrays named {_LAYOUT}. It has: {_shown(stored)}.")
    unread = [key for key in stored if key not in found.values() and key != "class_names"]
    if unread:
        log.warning("%s: arrays that are not read: %s", where, _shown(unread[:5]))
    names = _class_names(stored["class_names"]) if "class_names" in stored else None
    parts = []
    for split in splits:
        origin = stored[found[split, "images"]]
        images = _checked_images(origin)
        labels: Sequence[str | None] = [None] * len(images)
        if (split, "labels") in found:
            labels = _labels(stored[found[split, "labels"]], len(images), names)
        parts.append(Part(images, labels, split, origin.stamp))
    return parts


def _purposes(keys: Iterable[str]) -> dict[str, tuple[str | None, str]]:
    """Return split and role of each array that has them by its key."""
    matches = {key: match for key in keys if (match := _KEY.fullmatch(key))}
    words = {key: match[2] or match[3] for key, match in matches.items()}
    splits = known_splits(word for word in words.values() if word)
    roles = {key: _ROLES[(match[1] or match[4]).lower()] for key, match in matches.items()}
    return {key: (splits.get(word), roles[key]) for key, word in words.items() if not word or word in splits}


def _checked_images(stored: _Stored) -> Array:
    images = stored.mapped()
    shape = images.shape
    sound = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3, 4))
    if not sound or not images.size or not (images.dtype == np.uint8 or np.issubdtype(images.dtype, np.floating)):
        raise SourceError(
            f"{stored.where} must be images: (n, height, width) or (n, height, width, 1, 3 or 4), uint8 or "
            f"floats in 0 to 1. Received: {images.dtype} of shape {shape}."
        )
    return images


def _labels(stored: _Stored, n: int, names: Sequence[str | None] | None) -> list[str | None]:
    array = stored.mapped()
    labels = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if labels.shape != (n,) or labels.dtype.kind not in "iubUS":
        raise SourceError(
            f"{stored.where} must be {n} labels: integers or text of shape ({n},) or ({n}, 1). Received: "
            f"{array.dtype} of shape {array.shape}."
        )
    values, index = np.unique(labels, return_inverse=True)
    if names is None or labels.dtype.kind in "US":
        named = [label_name(value) for value in values.tolist()]
    elif values[0] >= 0 and values[-1] < len(names):
        named = [names[int(value)] for value in values]
    else:
        raise SourceError(
            f"{stored.where} must be indices into {len(names)} class_names. Received: {values[0]} to {values[-1]}."
        )
    return [named[i] for i in index.reshape(-1).tolist()]


def _class_names(stored: _Stored) -> list[str | None]:
    array = stored.mapped()
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise SourceError(
            f"{stored.where} must be text of shape (classes,). Received: {array.dtype} of shape {array.shape}."
        )
    return [label_name(value) for value in array.tolist()]


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, change_stamp(status)


def _file(path: Path) -> Array:
    with path.open("rb") as file:
        return _mapped(file, 0, path.stat().st_size)


def _member(archive: zipfile.ZipFile, file: IO[bytes], info: zipfile.ZipInfo) -> Array:
    """Map a member where it lies; a compressed one is unpacked first, into a file that vanishes with the map."""
    if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
        file.seek(info.header_offset)
        local = file.read(30)
        name_length, extra_length = struct.unpack_from("<HH", local, 26)
        return _mapped(file, info.header_offset + 30 + name_length + extra_length, info.file_size)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < info.file_size:
        raise OSError(
            f"unpacked it needs {info.file_size / 1e6:,.0f} MB in {tempfile.gettempdir()}, which has {free / 1e6:,.0f} "
            "MB free: name another folder in TMPDIR"
        )
    with archive.open(info) as packed, tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(packed, unpacked, 1 << 20)
        unpacked.flush()
        return _mapped(unpacked, 0, info.file_size)


def _mapped(file: IO[bytes], start: int, length: int) -> Array:
    """Map an array in npy format that takes `length` bytes of a file; raise ValueError if it is none."""
    file.seek(start)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, column_major, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, column_major, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"npy format {version} holds structures only")
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are not loaded")
    offset = file.tell()
    if min(shape, default=0) < 0 or offset - start + math.prod(shape) * dtype.itemsize > length:
        raise ValueError("it is shorter than its header says")
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(file, dtype, "r", offset, shape, "F" if column_major else "C")


def _damaged(where: str, error: BaseException) -> SourceError:
    return SourceError(f"{where} cannot be read: {reason(error)}. Write it again with numpy.")


def _shown(names: Iterable[str]) -> str:
    """Return names from a file, fit for one line."""
    return ", ".join(name if name.isprintable() else repr(name) for name in names) or "none"
