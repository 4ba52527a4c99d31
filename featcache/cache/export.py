"""A cache as one plain file, for people without featcache."""

from __future__ import annotations

import math
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache.features import FeatureRows
from featcache.cache.reader import FeatureCache
from featcache.errors import CacheDamagedError, CacheError, OptionError
from featcache.files.publishing import draft_of, sync_file, sync_folder
from featcache.recipe import canonical_json
from featcache.sources import Texts
from featcache.sources.columns import PIECE

_PIECE = 16 * 2**20
"""Bytes of features in memory at a time."""


@dataclass(frozen=True)
class ExportReport:
    """What `export_cache` wrote: a file, the shape of every array in it by name, and its size."""

    path: Path
    arrays: dict[str, tuple[int, ...]]
    bytes: int


def export_cache(
    cache: FeatureCache | str | os.PathLike[str], to: str | os.PathLike[str], *, layers: Sequence[str] = ()
) -> ExportReport:
    """Write X, y and paths of every split, and the class names, to one HDF5 or npz file, and read it back.

    Arrays are called ``X_<split>``, ``y_<split>`` (indices into ``class_names``, -1 without a label) and
    ``paths_<split>``; with several layers ``<layer>/X_<split>``. ``recipe`` is the recipe as JSON. Rows are in the
    source's order, without augmented views.

    Parameters
    ----------
    cache : FeatureCache or path
        A cache.
    to : path
        A file that ends in ``.h5``, ``.hdf5`` or ``.npz``; one that exists is replaced.
    layers : sequence of str
        Which features; default: those of all layers.

    Returns
    -------
    ExportReport
        The file, its arrays' shapes and its size.

    Raises
    ------
    OptionError
        If the file has another ending or cannot be written, or the cache has no such layer.
    CacheError
        If there is no cache, it has no rows, or it is damaged (`CacheDamagedError`).
    """
    opened = cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
    target = Path(to)
    write = {".h5": _write_hdf5, ".hdf5": _write_hdf5, ".npz": _write_npz}.get(target.suffix)
    if write is None:
        raise OptionError(f"The file name must end in .h5 or .npz. Received: {str(target)!r}.")
    if not len(opened):
        raise CacheError(f"The cache {str(opened.path)!r} has no rows to export. Run `featcache extract` first.")
    wanted = list(layers) or list(opened.layers)
    features = {
        f"X_{split}" if len(wanted) == 1 else f"{layer}/X_{split}": opened.features(split, layer)
        for layer in wanted
        for split in opened.splits
    }
    small: dict[str, Any] = {f"y_{split}": opened.label_indices(split) for split in opened.splits}
    texts = {f"paths_{split}": opened.path_texts(split) for split in opened.splits}
    texts["class_names"] = Texts.of(opened.class_names)
    texts["recipe"] = Texts.of([canonical_json(opened.recipe.to_dict())])
    needed = sum(math.prod(rows.shape) * rows.dtype.itemsize for rows in features.values())
    try:
        with draft_of(target, target.suffix) as draft:
            free = shutil.disk_usage(target.parent).free
            if free < needed:
                raise CacheError(
                    f"Not enough disk space for {str(target)!r}: {needed:,} bytes are needed, and {free:,} are free."
                )
            write(draft, features, small, texts)
            sync_file(draft)
            draft.replace(target)
    except OSError as error:
        raise CacheError(
            f"The file {str(target)!r} cannot be written: {error.strerror or error}. Choose another place."
        ) from None
    sync_folder(target.parent)
    shapes = {name: rows.shape for name, rows in features.items()}
    shapes.update({name: (len(values),) for name, values in {**small, **texts}.items()})
    return ExportReport(target, shapes, target.stat().st_size)


def _pieces(rows: FeatureRows | _Wide | npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield an array's rows, a few megabytes at a time."""
    row_bytes: int = math.prod(rows.shape[1:]) * rows.dtype.itemsize
    step = max(1, _PIECE // max(1, row_bytes))
    for start in range(0, len(rows), step):
        yield np.ascontiguousarray(rows[start : start + step])


def _same(name: str, written: int, read: int) -> None:
    if written != read:
        raise CacheDamagedError(f"The disk returned other bytes than were written, in {name}. Check the disk.")


def _write_hdf5(path: Path, features: dict[str, FeatureRows], small: dict[str, Any], texts: dict[str, Texts]) -> None:
    """Let HDF5 lay the file out, then write features as plain bytes, whose errors are ordinary ones."""
    import h5py

    places = {}
    with h5py.File(path, "w") as file:
        for name, values in small.items():
            file[name] = values
        for name, strings in texts.items():
            dataset = file.create_dataset(name, (len(strings),), h5py.string_dtype("utf-8"))
            for start in range(0, len(strings), PIECE):
                dataset[start : start + PIECE] = list(strings.raw(start, start + PIECE))
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        for name, rows in features.items():
            dataset = file.create_dataset(name, rows.shape, rows.dtype, dcpl=early)
            places[name] = dataset.id.get_offset()
    checksums = dict.fromkeys(features, 0)
    with path.open("r+b") as plain:
        for name, rows in features.items():
            plain.seek(places[name])
            for piece in _pieces(rows):
                plain.write(piece.data.cast("B"))
                checksums[name] = zlib.crc32(piece.data.cast("B"), checksums[name])
    with h5py.File(path) as file:
        for name in features:
            read = 0
            for piece in _pieces(file[name]):
                read = zlib.crc32(piece.data.cast("B"), read)
            _same(name, checksums[name], read)
        for name, values in small.items():
            _same(name, zlib.crc32(values.tobytes()), zlib.crc32(file[name][()].tobytes()))
        for name, strings in texts.items():
            for start in range(0, len(strings), PIECE):
                if file[name][start : start + PIECE].tolist() != list(strings.raw(start, start + PIECE)):
                    _same(name, 0, 1)


class _Wide:
    """Texts as NumPy stores them, four bytes a character, made when they are asked for."""

    def __init__(self, texts: Texts) -> None:
        longest = int(np.diff(texts.ends, prepend=0).max(initial=1))  # in bytes: no fewer than characters
        self._texts, self.shape, self.dtype = texts, (len(texts),), np.dtype(f"U{longest}")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        return np.array(self._texts[rows], self.dtype)


def _write_npz(path: Path, features: dict[str, FeatureRows], small: dict[str, Any], texts: dict[str, Texts]) -> None:
    """Write an uncompressed zip of npy files, as `numpy.savez` makes, piece by piece."""
    arrays: dict[str, Any] = {**features, **small, **{name: _Wide(text) for name, text in texts.items()}}
    checksums = {}
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, rows in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                kind = np.lib.format.dtype_to_descr(rows.dtype)
                header = {"descr": kind, "fortran_order": False, "shape": tuple(rows.shape)}
                np.lib.format.write_array_header_2_0(member, header)
                checksums[name] = 0
                for piece in _pieces(rows):
                    content = piece.tobytes()
                    member.write(content)
                    checksums[name] = zlib.crc32(content, checksums[name])
    with zipfile.ZipFile(path) as archive:
        for name in arrays:
            with archive.open(f"{name}.npy") as member:
                np.lib.format.read_magic(member)
                np.lib.format.read_array_header_2_0(member)
                read = 0
                while content := member.read(_PIECE):
                    read = zlib.crc32(content, read)
            _same(name, checksums[name], read)
