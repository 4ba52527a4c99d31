"""Reading a cache: X, y, paths and class names per split and layer, in source order."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from featcache.cache.compressed import CompressedRows, RecentBlocks
from featcache.cache.inspection import check_same, file_checksum
from featcache.cache.manifest import Entry, Manifest, Place
from featcache.cache.shard import Key, ShardInfo, block_rows
from featcache.errors import CacheDamagedError, CacheError, OptionError, nearest
from featcache.recipe import Recipe
from featcache.sources import SPLITS

Order = Literal["source", "storage"]
"""As the source lists the images, or as the rows lie in the shards, which reads faster."""


@dataclass(frozen=True)
class _Rows:
    """Some rows; in source order, the views of an image come one after the other.

    `images` are indices into the usable entries, shape (n,); `views`, `shards` and `positions` are alike.
    """

    images: npt.NDArray[np.int64]
    views: npt.NDArray[np.int64]
    shards: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]

    def take(self, rows: npt.NDArray[np.int64]) -> _Rows:
        return _Rows(self.images[rows], self.views[rows], self.shards[rows], self.positions[rows])


class FeatureCache:
    """A cache, opened for reading.

    Parameters
    ----------
    path : path
        The cache's folder.

    Attributes
    ----------
    path : Path
        The folder.
    recipe : Recipe
        What decided the numbers.
    description : dict
        All of ``recipe.json``: also the request, and the versions that wrote it.
    report : ExtractionReport or None
        What extraction did, if `featcache.extract` returned this object.

    Raises
    ------
    CacheError
        If there is no cache, or it has another format version.
    CacheDamagedError
        If the recipe or the manifest is damaged.

    Examples
    --------
    >>> cache = FeatureCache("cache/digits-vgg19-0a1b2c3d")  # doctest: +SKIP
    >>> X, y = cache.load("train")  # doctest: +SKIP
    """

    report: Any = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._manifest = Manifest(self.path / "manifest.sqlite")
        self._meta = self._manifest.meta()
        self.description = read_description(self.path)
        self.recipe = Recipe.from_dict(self.description["recipe"])
        if self._meta.get("fingerprint", self.recipe.fingerprint) != self.recipe.fingerprint:  # not set: no rows yet
            raise CacheDamagedError(
                f"Expected one recipe in {str(self.path)!r}. Received: recipe.json and manifest differ. "
                "Run verify --fix: it restores what the shards say."
            )

    @classmethod
    def from_arrays(
        cls,
        X: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]],
        y: Sequence[Any] | npt.NDArray[Any] | None,
        paths: Sequence[str | os.PathLike[str]] | None,
        spec: Mapping[str, Any],
        *,
        path: str | os.PathLike[str],
        splits: Sequence[str | None] | None = None,
        groups: Sequence[Any] | None = None,
        class_names: Sequence[str] | None = None,
        digests: Sequence[bytes] | None = None,
    ) -> FeatureCache:
        """Make a cache of features that come from elsewhere, or add them to one of the same spec.

        Parameters
        ----------
        X : array, shape (n, …), or mapping of layer to array
            Finite numbers, stored as float32 (float16 if all are); may be memory-mapped. The deepest layer last.
        y : sequence, length n, or None
            Class names; indices if `class_names` is given, -1 for none.
        paths : sequence of paths, length n, or None
            Where the images are, or any distinct names; None: their numbers.
        spec : mapping
            What describes the encoder, fit for JSON: part of the recipe, so that another spec is another cache.
        path : path
            The cache's folder.
        splits : sequence, length n, optional
            ``train``, ``validation`` or ``test``; without any, a fifth becomes validation, as in `extract`.
        groups : sequence, length n, optional
            Images of one group are on one side of every split.
        class_names : sequence of str, optional
            What `y` indexes.
        digests : sequence of bytes, length n, optional
            32 bytes for each image, equal for copies. Default: SHA-256 of the files if `paths` are files, else of
            the features. Of rows with equal digests the first is kept; rows that are there already stay.

        Raises
        ------
        OptionError
            If lengths differ, a path occurs twice, only some paths are files, or a number is not finite.
        CacheError
            If the folder has another recipe or other files, or cannot be written.
        """
        from featcache.cache.arrays import write_arrays

        write_arrays(X, y, paths, spec, path=Path(path), splits=splits, groups=groups, class_names=class_names,
                     digests=digests)  # fmt: skip
        return cls(path)

    def with_listing(self, entries: list[Entry]) -> FeatureCache:
        """Return the same rows under another listing of images, such as those that several caches share."""
        other = FeatureCache(self.path)
        other.adopt(entries, self.places)
        return other

    def adopt(self, entries: list[Entry], places: dict[Key, Place]) -> None:
        """Take over a listing and rows that this process has read, checked or written already."""
        self.entries, self.places = entries, places

    def __repr__(self) -> str:
        return f"FeatureCache({str(self.path)!r}: {self.splits}, layers {', '.join(self.layers)})"

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Shape of one row of each layer, the deepest last."""
        return {layer: tuple(shape) for layer, shape in self._meta.get("layers", [])}

    @property
    def source(self) -> dict[str, str]:
        """The source's ``name`` and ``location`` when it was last extracted; empty if nobody knows."""
        source: dict[str, str] = self._meta.get("source", {"name": "", "location": ""})
        return source

    @property
    def listing_options(self) -> dict[str, Any]:
        """How the source was listed: classes, validation_split, test_from, seed."""
        options: dict[str, Any] = self._meta.get("listing", {})
        return options

    @cached_property
    def class_names(self) -> list[str]:
        """Class names in alphanumeric order; a label is an index into them."""
        return sorted({entry.label for entry in self.entries if entry.label is not None})

    @cached_property
    def entries(self) -> list[Entry]:
        """Every image of the source, in its order, those without a row too."""
        return self._manifest.listing()

    @property
    def skipped(self) -> list[dict[str, str]]:
        """Images that could not be used: ``path`` and ``reason``."""
        return [{"path": entry.path, "reason": entry.reason} for entry in self.entries if entry.reason]

    @property
    def views(self) -> int:
        """Number of augmented views of each training image, beside the image as it is."""
        return int(self._meta.get("views", {}).get("count", 0))

    @property
    def rows(self) -> int:
        """Number of rows the images have: one each, and their augmented views."""
        return len(self._chosen(None, views=True).images)

    @property
    def missing(self) -> int:
        """Number of rows that have not been extracted yet (of an unread image: one)."""
        views = self.views
        wanted = sum(1 + (views if entry.split == "train" else 0) for entry in self.entries if entry.reason is None)
        return wanted - self.rows

    @property
    def splits(self) -> dict[str, int]:
        """Number of images in each split that has any."""
        counts = {split: int((self._split_numbers == number).sum()) for number, split in enumerate(SPLITS)}
        return {split: count for split, count in counts.items() if count}

    @cached_property
    def _split_numbers(self) -> npt.NDArray[np.int8]:
        """The split of each usable entry as an index into `SPLITS`, -1 for none."""
        number = {split: i for i, split in enumerate(SPLITS)}
        return np.array([number.get(entry.split or "", -1) for entry in self.usable], np.int8)

    @cached_property
    def shards(self) -> dict[int, ShardInfo]:
        """Every shard by its number."""
        return self._manifest.shards()

    def __len__(self) -> int:
        return len(self.usable)

    @cached_property
    def places(self) -> dict[Key, Place]:
        """Where every row lies, those of images that are no longer listed too."""
        return self._manifest.rows()

    @property
    def augmentation(self) -> str:
        """Fingerprint of the policy and seed that make views; empty if there are none."""
        return str(self._meta.get("views", {}).get("augmentation", ""))

    @property
    def augmentation_policy(self) -> dict[str, Any] | None:
        """What makes views, the arguments of `featcache.augmentation.Augmentation`; None if there are none."""
        policy: dict[str, Any] | None = self._meta.get("views", {}).get("policy")
        return policy

    def keys(self, digest: bytes, *, views: bool = True) -> list[Key]:
        """Return the keys of an image's rows that are wanted: as it is, then its views."""
        more = range(1, self.views + 1) if views else ()
        return [Key(digest, 0, ""), *(Key(digest, view, self.augmentation) for view in more)]

    @cached_property
    def usable(self) -> list[Entry]:
        """The listed images that have features, in source order."""
        return [e for e in self.entries if e.reason is None and e.digest and Key(e.digest, 0, "") in self.places]

    def _chosen(self, split: str | None, *, views: bool, order: Order = "source") -> _Rows:
        if split is not None and split not in self.splits:
            raise OptionError(
                f"Expected a split of {str(self.path)!r}: {', '.join(self.splits) or 'it has none'}. "
                f"Received: {split!r}."
            )
        rows = self._with_views if views and self.views else self._plain
        if split is not None:
            rows = rows.take(np.flatnonzero(self._split_numbers[rows.images] == SPLITS.index(split)))
        return rows if order == "source" else rows.take(np.lexsort((rows.positions, rows.shards)))

    @cached_property
    def _plain(self) -> _Rows:
        return self._find(views=False)

    @cached_property
    def _with_views(self) -> _Rows:
        return self._find(views=True)

    def _find(self, *, views: bool) -> _Rows:
        places = self.places
        wanted = [(key.view, key.augmentation) for key in self.keys(b"", views=views)]
        found = (
            (i, view, *place)
            for i, entry in enumerate(self.usable)
            for view, augmentation in (wanted if entry.split == "train" else wanted[:1])
            if (place := places.get(Key(entry.digest or b"", view, augmentation))) is not None
        )
        return _Rows(*np.ascontiguousarray(np.fromiter(found, np.dtype((np.int64, 4))).T))

    def layer_name(self, layer: str | None) -> str:
        """Return a layer's name, the deepest one's for None.

        Raises
        ------
        OptionError
            If there is no such layer.
        """
        if layer is None:
            return list(self.layers)[-1]
        if layer not in self.layers:
            raise OptionError(
                f"Expected a layer of {str(self.path)!r}. Received: {layer!r} ({nearest(layer, self.layers)})."
            )
        return layer

    def features(
        self, split: str | None = None, layer: str | None = None, *, views: bool = False, order: Order = "source"
    ) -> FeatureRows:
        """Return the features of a split, still on disk.

        Parameters
        ----------
        split : str, optional
            ``train``, ``validation`` or ``test``; default: all rows.
        layer : str, optional
            Default: the deepest.
        views : bool
            Take augmented views too, after the image they are of: for training, never for evaluation.
        order : {"source", "storage"}
            Of the rows; `labels`, `paths`, `digests` and `groups` take it too. In order of storage, a random one
            unless the source is sequential, reading is sequential and each stretch of rows is a sample of all.

        Returns
        -------
        FeatureRows
            Shape (n, …).
        """
        rows = self._chosen(split, views=views, order=order)
        return FeatureRows(self, self.layer_name(layer), rows.shards, rows.positions)

    def labels(
        self, split: str | None = None, *, views: bool = False, order: Order = "source"
    ) -> npt.NDArray[np.int64]:
        """Return the class indices of a split, shape (n,); -1 where an image has no label."""
        number = {name: i for i, name in enumerate(self.class_names)}
        entries = self.usable
        rows = self._chosen(split, views=views, order=order)
        return np.array([number.get(entries[i].label or "", -1) for i in rows.images], np.int64)

    def paths(self, split: str | None = None, *, views: bool = False, order: Order = "source") -> list[str]:
        """Return the images' paths relative to the source."""
        return [self.usable[i].path for i in self._chosen(split, views=views, order=order).images]

    def digests(self, split: str | None = None, *, views: bool = False, order: Order = "source") -> list[bytes]:
        """Return the images' digests, 32 bytes each: equal for exact duplicates and for views of one image."""
        return [self.usable[i].digest or b"" for i in self._chosen(split, views=views, order=order).images]

    def groups(
        self, split: str | None = None, *, views: bool = False, order: Order = "source"
    ) -> npt.NDArray[np.int64]:
        """Return a number for each row, shape (n,): equal for rows that must not be on two sides of a split.

        These are views of one image, exact duplicates, members of one group of the source, and whatever
        hangs together through several of these.
        """
        return self._components[self._chosen(split, views=views, order=order).images]

    @cached_property
    def _components(self) -> npt.NDArray[np.int64]:
        parent = list(range(len(self.usable)))

        def root(i: int) -> int:
            while parent[i] != i:
                parent[i] = parent[parent[i]]
                i = parent[i]
            return i

        first: dict[bytes | str, int] = {}
        for i, entry in enumerate(self.usable):
            for name in (entry.digest, entry.group):
                if name is not None:
                    parent[root(i)] = root(first.setdefault(name, i))
        return np.array([root(i) for i in range(len(parent))], np.int64)

    def numbers(
        self, split: str | None = None, *, views: bool = False, order: Order = "source"
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return which image each row is of, among the images that have features, and which view; shapes (n,)."""
        rows = self._chosen(split, views=views, order=order)
        return rows.images, rows.views

    def load(
        self, split: str | None = None, layer: str | None = None, *, views: bool = False
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Return X of shape (n, …) and y of shape (n,) of a split, in memory and in source order."""
        return np.asarray(self.features(split, layer, views=views)), self.labels(split, views=views)

    @cached_property
    def _maps(self) -> dict[tuple[int, str], npt.NDArray[Any] | CompressedRows]:
        return {}

    @cached_property
    def _recent_blocks(self) -> RecentBlocks:
        return RecentBlocks()

    @cached_property
    def _sound_files(self) -> set[str]:
        return set()

    @cached_property
    def _sound_blocks(self) -> dict[tuple[int, str], npt.NDArray[np.bool_]]:
        return {}

    def _map(self, info: ShardInfo, layer: str) -> npt.NDArray[Any] | CompressedRows:
        """Return a layer's rows in a shard, memory-mapped without HDF5, which may hang on a damaged file.

        Compressed ones go through HDF5, after the checksum of the whole file was found right.
        """
        path, shape = self.path / "shards" / info.name, (info.rows, *self.layers[layer])
        if info.offsets[layer] == 0:
            if info.name not in self._sound_files:
                check_same(path, file_checksum(path), info)
                self._sound_files.add(info.name)
            return CompressedRows(path, layer, shape, np.dtype(self.recipe.dtype), self._recent_blocks)
        try:
            return np.memmap(path, self.recipe.dtype, "r", offset=info.offsets[layer], shape=shape)
        except (OSError, ValueError, KeyError) as error:
            raise CacheDamagedError(
                f"Expected {layer} in the shard {str(path)!r}. Received: {error}. Run verify --fix, then extract again."
            ) from None

    def _shard_rows(self, number: int, layer: str, positions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return rows of one shard after checking the blocks they lie in, each once per process."""
        info = self.shards.get(number)
        if info is None or layer not in info.offsets or positions.max() >= info.rows:
            raise CacheDamagedError(
                f"Expected shard {number} with row {positions.max()} of {layer} in the manifest of {str(self.path)!r}. "
                "Received: none. Run verify --fix, then extract again."
            )
        if (number, layer) not in self._maps:
            self._maps[number, layer] = self._map(info, layer)
        features, expected = self._maps[number, layer], info.checksums[layer]
        step = block_rows(math.prod(features.shape[1:]) * features.dtype.itemsize)
        sound = self._sound_blocks.setdefault((number, layer), np.zeros(len(expected), bool))

        def check(block: int, content: npt.NDArray[Any]) -> None:
            if not sound[block] and zlib.crc32(np.ascontiguousarray(content).data.cast("B")) != expected[block]:
                raise CacheDamagedError(
                    f"Expected block {block} of {layer} in {str(self.path / 'shards' / info.name)!r} to have its "
                    "checksum. Received: damaged bytes. Run verify --fix, then extract again."
                )
            sound[block] = True

        if isinstance(features, CompressedRows):
            return features.gather(positions, step, check)
        blocks = np.unique(positions // step)
        for block in blocks[~sound[blocks]]:
            check(block, features[block * step : (block + 1) * step])
        first, last = int(positions[0]), int(positions[-1])
        in_order = last - first == len(positions) - 1 and bool((np.diff(positions) == 1).all())
        rows: npt.NDArray[Any] = features[first : last + 1] if in_order else features[positions]  # a view: no copy
        return rows


class FeatureRows:
    """Features of some rows, read from disk when indexed.

    Index it with an integer, a slice or an array of integers, or pass it to `numpy.asarray`.

    Attributes
    ----------
    shape : tuple
        (n, …).
    dtype : numpy.dtype
        As stored.
    """

    def __init__(
        self, cache: FeatureCache, layer: str, shards: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]
    ) -> None:
        self._cache, self._layer, self._shards, self._positions = cache, layer, shards, positions
        self.shape = (len(shards), *cache.layers[layer])
        self.dtype = np.dtype(cache.recipe.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: int | slice | Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        if isinstance(rows, int | np.integer):
            row: npt.NDArray[Any] = self[[int(rows)]][0]
            return row
        result = np.empty((len(self._shards[rows]), *self.shape[1:]), self.dtype)
        self.read(rows, result, np.arange(len(result)))
        return result

    def read(
        self, rows: slice | Sequence[int] | npt.NDArray[np.int64], out: npt.NDArray[Any], at: npt.NDArray[np.int64]
    ) -> None:
        """Copy rows to the places `at` (k,) of an array of shape (m, …), converting them to its type."""
        shards, positions = self._shards[rows], self._positions[rows]
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            out[at[here]] = self._cache._shard_rows(int(shard), self._layer, positions[here])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("Expected copy=True or None: rows on disk are always copied into an array.")
        rows = self[:]
        return rows if dtype is None else rows.astype(dtype, copy=False)


def read_description(folder: Path) -> dict[str, Any]:
    """Return what ``recipe.json`` of a cache says: recipe, fingerprint, request, versions.

    Raises
    ------
    CacheError
        If there is none, or it is not JSON.
    """
    path = folder / "recipe.json"
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise CacheError(f"Expected a cache. Received: {str(folder)!r}, which has no recipe.json.") from None
    except (OSError, ValueError) as error:
        raise CacheDamagedError(f"Expected JSON in {str(path)!r}. Received: {error}. Run verify --fix.") from None
    if not isinstance(value, dict) or "recipe" not in value:
        raise CacheDamagedError(f"Expected a recipe in {str(path)!r}. Received: something else. Run verify --fix.")
    return value


def newest_cache(root: Path) -> Path:
    """Return the cache under `root` that was extracted into last (a run that had nothing to do counts).

    Raises
    ------
    CacheError
        If there is none.
    """
    found = [path.parent for path in root.glob("*/manifest.sqlite") if (path.parent / "recipe.json").is_file()]
    if not found:
        raise CacheError(f"Expected a cache under {str(root)!r}. Received: none. Run extract first, or name one.")
    return max(found, key=lambda folder: folder.stat().st_mtime_ns)  # the writer's lock came and went in it
