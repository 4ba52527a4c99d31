"""Reading a cache: X, y, paths and class names per split and layer, in source order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from featcache.cache import checks, groups, showing
from featcache.cache.arrays import write_arrays
from featcache.cache.description import read_description
from featcache.cache.features import FeatureRows, StoredFeatures, damaged_manifest
from featcache.cache.listing import Entry, Listing
from featcache.cache.manifest import Manifest
from featcache.cache.rows import ChosenRows, RowTable, taken
from featcache.cache.shard import Key, ShardInfo
from featcache.errors import CacheDamagedError, OptionError, mending, nearest
from featcache.recipe import Recipe
from featcache.sources import SPLITS, Texts

if TYPE_CHECKING:
    import pandas as pd

Integers = npt.NDArray[np.int64]

Order = Literal["source", "storage"]
"""As the source lists the images, or as the rows lie in the shards, which reads faster."""


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
    """

    report: Any = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._manifest = Manifest(self.path / "manifest.sqlite")
        self._meta = self._manifest.meta()
        self._ordered: dict[tuple[bool, bool], ChosenRows] = {}
        self.description = read_description(self.path)
        self.recipe = Recipe.from_dict(self.description["recipe"])
        if self._meta.get("fingerprint", self.recipe.fingerprint) != self.recipe.fingerprint:  # not set: no rows yet
            raise CacheDamagedError(
                f"The cache {str(self.path)!r} is damaged: recipe.json and manifest have different recipes. Run "
                f"{mending(self.path)}: it restores what the shards say."
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

        Returns
        -------
        FeatureCache
            The cache, opened.

        Raises
        ------
        OptionError
            If lengths differ, a path occurs twice, only some paths are files, or a number is not finite.
        CacheError
            If the folder has another recipe or other files, or cannot be written.
        """
        write_arrays(
            X, y, paths, spec, Path(path), splits=splits, groups=groups, class_names=class_names, digests=digests
        )
        return cls(path)

    def with_listing(self, entries: Iterable[Entry]) -> FeatureCache:
        """Return another reader of the same rows, whose images are `entries`, such as those of several caches.

        Images without a row in this cache have no features there; nothing is written.
        """
        other = FeatureCache(self.path)
        other.adopt(entries, self.places, self.shards)
        return other

    def adopt(self, entries: Iterable[Entry], places: RowTable, shards: dict[int, ShardInfo]) -> None:
        """Take over `entries`, `places` and `shards` that this process has read, checked or written already."""
        self.entries, self.places, self.shards = Listing.of(entries), places, shards

    def __repr__(self) -> str:
        return f"FeatureCache({str(self.path)!r}: {showing.one_line(self)})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows of the cache."""
        return showing.as_html(self)

    def to_frame(self, split: str | None = None) -> pd.DataFrame:
        """Return a pandas frame of a split's images, in the order of `features`; of all that have features by default.

        Columns: ``path``, ``split``, ``label``, ``group`` (equal numbers are on one side of every split), ``digest``.
        OptionError if pandas is not installed.
        """
        return showing.as_frame(self, split)

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Shape of one row of each layer, the deepest last."""
        return {layer: tuple(shape) for layer, shape in self._meta.get("layers", [])}

    @property
    def source(self) -> dict[str, Any]:
        """The source's ``name``, ``location`` and options when it was last extracted; empty if nobody knows."""
        source: dict[str, Any] = self._meta.get("source", {"name": "", "location": ""})
        return source

    @property
    def listing_options(self) -> dict[str, Any]:
        """How the source was listed: classes, validation_split, test_from, seed."""
        options: dict[str, Any] = self._meta.get("listing", {})
        return options

    @cached_property
    def class_names(self) -> list[str]:
        """Class names in alphanumeric order, as `label_indices` counts them."""
        return list(self.entries.labels.names)

    @cached_property
    def entries(self) -> Listing:
        """Every image of the source, in its order, those without a row too."""
        return self._manifest.listing()

    @property
    def skipped(self) -> list[dict[str, str]]:
        """Images that could not be used: ``path`` and ``reason``."""
        reasons = self.entries.reasons
        return [{"path": self.entries.paths[i], "reason": reasons[i]} for i in sorted(reasons)]

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
        entries = self.entries
        sound = np.ones(len(entries), bool)
        sound[list(entries.reasons)] = False
        train = entries.splits.among(["train"]) == 0
        return int(sound.sum() + self.views * (train & sound).sum()) - self.rows

    @property
    def splits(self) -> dict[str, int]:
        """Number of images in each split that has any."""
        counts = {split: int((self._split_numbers == number).sum()) for number, split in enumerate(SPLITS)}
        return {split: count for split, count in counts.items() if count}

    @cached_property
    def _split_numbers(self) -> npt.NDArray[np.int8]:
        """The split of each usable entry as an index into `SPLITS`, -1 for none."""
        return self.usable.splits.among(SPLITS).astype(np.int8)

    @cached_property
    def shards(self) -> dict[int, ShardInfo]:
        """Every shard by its number."""
        found = self._stored[1]
        try:
            for info in found.values():
                checks.inside(info, self.layers, np.dtype(self.recipe.dtype))
        except ValueError as error:
            raise damaged_manifest(self.path, str(error)) from None
        return found

    def __len__(self) -> int:
        return len(self.usable)

    @cached_property
    def places(self) -> RowTable:
        """Where every row lies, those of images that are no longer listed too."""
        return self._stored[0]

    @cached_property
    def _stored(self) -> tuple[RowTable, dict[int, ShardInfo]]:
        return self._manifest.stored()

    @property
    def augmentation(self) -> str:
        """Fingerprint of the policy and seed that make views; empty if there are none."""
        return str(self._meta.get("views", {}).get("augmentation", ""))

    @property
    def channels(self) -> int:
        """Channels of the images as the base takes them: 3 for RGB, 1 for grey."""
        return int(self._meta.get("channels", 3))

    @property
    def augmentation_policy(self) -> dict[str, Any] | None:
        """What makes views, the arguments of `featcache.images.augmentation.Augmentation`; None if there are none."""
        policy: dict[str, Any] | None = self._meta.get("views", {}).get("policy")
        return policy

    @cached_property
    def usable(self) -> Listing:
        """The listed images that have features, in source order."""
        return self.entries.take(self._usable[0])

    @cached_property
    def _usable(self) -> tuple[Integers, Integers]:
        """Which listed images have features, and their rows as they are; each of shape (n,)."""
        readable = np.flatnonzero(self.entries.readable)
        found = self.places.find(taken(self.entries.digests, readable))
        return readable[found >= 0], found[found >= 0]

    @property
    def usable_positions(self) -> Integers:
        """Where in the listing the images are that have features, in source order."""
        return self._usable[0]

    def rows_of(self, key: Key) -> dict[str, npt.NDArray[Any]]:
        """Return the features of the row that has a `key` by layer, as they are stored."""
        shard, position = self.places[key]
        at = np.array([position])
        return {layer: self._stored_features.rows(shard, layer, at)[0] for layer in self.layers}

    def _chosen(self, split: str | None, *, views: bool, order: Order = "source") -> ChosenRows:
        if split is not None and split not in self.splits:
            raise OptionError(
                f"The cache {str(self.path)!r} has no split {split!r}. Its splits are: "
                f"{', '.join(self.splits) or 'none'}."
            )
        views, stored = views and self.views > 0, order == "storage"
        if (views, stored) not in self._ordered:
            rows = self._chosen(None, views=views) if stored else self._find(views=views)
            self._ordered[views, stored] = rows.as_stored() if stored else rows
        rows = self._ordered[views, stored]
        if split is None:
            return rows
        return rows.take(np.flatnonzero(self._split_numbers[rows.images] == SPLITS.index(split)))

    def _find(self, *, views: bool) -> ChosenRows:
        places, plain = self.places, self._usable[1]
        if not views:
            none = np.broadcast_to(np.uint16(0), len(plain))
            return ChosenRows(np.arange(len(plain)), none, places.shards[plain], places.positions[plain])
        found = np.full((len(plain), 1 + self.views), -1)
        found[:, 0] = plain
        augmented = np.flatnonzero(self._split_numbers == SPLITS.index("train"))
        digests = taken(self.usable.digests, augmented)
        for view in range(1, self.views + 1):
            found[augmented, view] = places.find(digests, view, self.augmentation)
        images, numbers = np.nonzero(found >= 0)
        rows = found[images, numbers]
        return ChosenRows(images, numbers.astype(np.uint16), places.shards[rows], places.positions[rows])

    def layer_name(self, layer: str | None) -> str:
        """Return the name of a `layer`, the deepest one's if it is None.

        Raises
        ------
        OptionError
            If there is no such layer.
        """
        if layer is None:
            return list(self.layers)[-1]
        if layer not in self.layers:
            raise OptionError(f"The cache {str(self.path)!r} has no layer {layer!r} ({nearest(layer, self.layers)}).")
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
            Of the rows. In order of storage, a random one unless the source is sequential, reading is sequential
            and each stretch of rows is a sample of all.

        Returns
        -------
        FeatureRows
            Shape (n, …), float32 or float16, as stored; `labels`, `paths`, `digests`, `groups` and the like give the
            same n rows for the same `split`, `views` and `order`.

        Raises
        ------
        OptionError
            If the cache has no such split or layer.
        CacheDamagedError
            When rows are read whose checksum is another.
        """
        rows = self._chosen(split, views=views, order=order)
        return FeatureRows(self._stored_features, self.layer_name(layer), rows.shards, rows.positions)

    def labels(
        self, split: str | None = None, *, views: bool = False, order: Order = "source"
    ) -> npt.NDArray[np.object_]:
        """Return the class names of a split, shape (n,); None where an image has no label.

        Parameters are those of `features`.
        """
        names = np.array([*self.class_names, None], object)
        return names[self.label_indices(split, views=views, order=order)]

    def label_indices(self, split: str | None = None, *, views: bool = False, order: Order = "source") -> Integers:
        """Return the labels of a split as indices into `class_names`, shape (n,); -1 where an image has no label.

        Parameters are those of `features`.
        """
        rows = self._chosen(split, views=views, order=order)
        return taken(self.usable.labels.among(self.class_names), rows.images)

    def paths(self, split: str | None = None, *, views: bool = False, order: Order = "source") -> list[str]:
        """Return the images' paths relative to the source, n of them. Parameters are those of `features`."""
        return list(self.path_texts(split, views=views, order=order))

    def path_texts(self, split: str | None = None, *, views: bool = False, order: Order = "source") -> Texts:
        """Return the images' paths without an object for each, n of them. Parameters are those of `features`."""
        return self.usable.paths.take(self._chosen(split, views=views, order=order).images)

    def digests(self, split: str | None = None, *, views: bool = False, order: Order = "source") -> list[bytes]:
        """Return the images' SHA-256 digests, 32 bytes each: equal for exact duplicates and for views of one image.

        Parameters are those of `features`.
        """
        rows = self.digest_rows(split, views=views, order=order).tobytes()
        return [rows[i : i + 32] for i in range(0, len(rows), 32)]

    def digest_rows(
        self, split: str | None = None, *, views: bool = False, order: Order = "source"
    ) -> npt.NDArray[np.uint8]:
        """Return the images' digests as an array of shape (n, 32). Parameters are those of `features`."""
        return taken(self.usable.digests, self._chosen(split, views=views, order=order).images)

    def identities(self, split: str | None = None, *, views: bool = False, order: Order = "source") -> Integers:
        """Return a number for each row, shape (n,): equal for exact duplicates and for views of one image alone.

        Parameters are those of `features`.
        """
        return self._firsts[self._chosen(split, views=views, order=order).images]

    @cached_property
    def _firsts(self) -> Integers:
        """The first usable image with the same content as each."""
        rows = self._usable[1]
        first = np.empty(len(self.places.views), np.int64)
        first[rows[::-1]] = np.arange(len(rows))[::-1]  # of equal indices the last value stays
        return first[rows]

    def groups(self, split: str | None = None, *, views: bool = False, order: Order = "source") -> Integers:
        """Return a number for each row, shape (n,): equal for rows that must not be on two sides of a split.

        These are views of one image, exact duplicates, members of one group of the source, and whatever
        hangs together through several of these. Parameters are those of `features`.
        """
        return self._components[self._chosen(split, views=views, order=order).images]

    @cached_property
    def _components(self) -> Integers:
        return groups.components(self._firsts, self.usable.groups)

    @property
    def divided_groups(self) -> list[str]:
        """Names of the source's groups that have images in more than one split, as only a source's own splits do."""
        return groups.divided(self.usable.groups, self._split_numbers)

    def left_out(self, split: str, *, order: Order = "source") -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return which images of a split do not count in scores, as train has too much of them, shapes (n,).

        Parameters
        ----------
        split : str
            Nothing of ``train`` itself is left out.
        order : {"source", "storage"}
            As in `features`.

        Returns
        -------
        copies : array of bool, shape (n,)
            Images that are in train, too.
        members : array of bool, shape (n,)
            Others whose group, in the sense of `groups`, has images in train.
        """
        images = self.identities(split, order=order)
        if split == "train" or "train" not in self.splits:
            return np.zeros(len(images), bool), np.zeros(len(images), bool)
        copies = np.isin(images, self.identities("train"))
        return copies, np.isin(self.groups(split, order=order), self.groups("train")) & ~copies

    def numbers(
        self, split: str | None = None, *, views: bool = False, order: Order = "source"
    ) -> tuple[Integers, Integers]:
        """Return which image each row is of, among the images that have features, and which view; shapes (n,).

        Parameters are those of `features`.
        """
        rows = self._chosen(split, views=views, order=order)
        return rows.images, rows.views.astype(np.int64)

    def load(
        self, split: str | None = None, layer: str | None = None, *, views: bool = False
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.object_]]:
        """Return the features and labels of a split, in memory and in source order.

        Parameters
        ----------
        split : str, optional
            ``train``, ``validation`` or ``test``; default: all rows.
        layer : str, optional
            Default: the deepest.
        views : bool
            Take augmented views too, after the image they are of.

        Returns
        -------
        X : array, shape (n, …)
            float32 or float16, as stored; (n, d) where maps were pooled.
        y : array of str, shape (n,)
            Class names; None where an image has no label.

        Raises
        ------
        OptionError
            If the cache has no such split or layer.
        CacheDamagedError
            If a block of rows does not have its checksum.
        """
        return np.asarray(self.features(split, layer, views=views)), self.labels(split, views=views)

    @cached_property
    def _stored_features(self) -> StoredFeatures:
        return StoredFeatures(self.path, self.shards, self.layers, np.dtype(self.recipe.dtype))
