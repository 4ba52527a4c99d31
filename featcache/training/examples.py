"""What heads are trained and scored on: rows of a cache with their labels and groups."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache import FeatureCache
from featcache.errors import HeadError
from featcache.heads import Head, Rows
from featcache.heads.rows import Array, Bools, Float32s, Ints
from featcache.heads.showing import left_out_text
from featcache.sources import Digests, DigestSet, group_identity
from featcache.training.metrics import split_metrics

FOLDS = 5
"""Of the training images, which are scored where no other image counts."""


@dataclass(frozen=True)
class Examples:
    """Rows of one split, in order of storage, which is the order heads see them in.

    `labels` (n,) are indices into the class names, `groups` equal for rows that must not be on two sides of a split;
    `images` says which image a row is of. `scored` is False where a row may not count in metrics: of an augmented view,
    of a copy of a training image (`copies`), and of an image of a group that has training images.
    """

    rows: Rows
    labels: Ints
    groups: Ints
    images: Ints
    scored: Bools
    copies: Bools

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: Array) -> Examples:
        """Return some of the rows, by indices or a mask."""
        columns: Any = (self.labels, self.groups, self.images, self.scored, self.copies)
        return Examples(self.rows.take(chosen), *(column[chosen] for column in columns))


def training_examples(cache: FeatureCache, layer: str) -> Examples:
    """Return the training rows of a cache, augmented views included."""
    if "train" not in cache.splits:
        raise HeadError(
            f"No training images in {str(cache.path)!r}: it has {cache.splits or 'no rows'}. Extract images "
            "that belong to train."
        )
    if unlabelled := int((cache.label_indices() < 0).sum()):
        raise HeadError(
            f"{unlabelled} of {len(cache)} images have no class, so no head can be trained. Put images into "
            "one folder per class, or name the classes in a table, and extract again."
        )
    images, views = cache.numbers("train", views=True, order="storage")
    return Examples(
        Rows(cache.features("train", layer, views=True, order="storage")).in_memory(),
        cache.label_indices("train", views=True, order="storage"),
        cache.groups("train", views=True, order="storage"),
        images,
        views == 0,
        np.zeros(len(images), bool),
    )


def evaluation_examples(cache: FeatureCache, split: str, layer: str) -> Examples:
    """Return the images of a split as they are; what `FeatureCache.left_out` names is not `scored`."""
    copies, members = cache.left_out(split, order="storage")
    return Examples(
        Rows(cache.features(split, layer, order="storage")),
        cache.label_indices(split, order="storage"),
        cache.groups(split, order="storage"),
        cache.numbers(split, order="storage")[0],
        ~(copies | members),
        copies,
    )


def nothing_counts(cache: FeatureCache, split: str) -> str | None:
    """Return why no image of a split counts in scores, None if one does."""
    copies, members = cache.left_out(split)
    if len(copies) > (left_out := int(copies.sum() + members.sum())):
        return None
    return left_out_text(split, int(copies.sum()), int(members.sum()), left_out)


def trained_on(cache: FeatureCache) -> DigestSet:
    """Return what a head keeps of its training images, so that these and their groups never count in its scores.

    These are their digests, the identities of groups that hang together with them, as `FeatureCache.groups` says,
    and the digests of images without a group that do.
    """
    digests = cache.digest_rows("train")
    words = cache.usable.groups
    if not words.names:
        return DigestSet(digests)
    near = np.isin(cache.groups(), cache.groups("train"))
    grouped = near & (words.codes >= 0)
    identities = Digests.of(group_identity(words.names[code]) for code in np.unique(words.codes[grouped]).tolist())
    return DigestSet(np.concatenate([digests, cache.digest_rows()[near & ~grouped], identities.rows]))


def probabilities(head: Head, rows: Rows) -> Float32s:
    """Return a head's probabilities of rows that need not be in memory, shape (n, k)."""
    shares = np.empty((len(rows), len(head.class_names)), np.float32)
    for part, block in rows.blocks():
        shares[part] = head.predict_proba(block)
    return shares


def scores(examples: Examples, shares: Array, class_names: list[str]) -> dict[str, Any] | None:
    """Return the metrics of probabilities (n, k) over the rows that count, None if none does."""
    return split_metrics(examples.labels, shares, class_names, examples.groups, examples.scored, examples.copies)


@contextlib.contextmanager
def packed(examples: Examples, folder: Path) -> Iterator[Examples]:
    """Copy features to one contiguous float32 file, which all processes can map, and which is gone afterwards.

    It lies in a folder, or where temporary files go if that cannot be written to. HeadError says that there is no room.
    """
    n, d = examples.rows.shape
    place = folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
    if (free := shutil.disk_usage(place).free) < n * d * 4:
        raise HeadError(
            f"Not enough disk space in {str(place)!r}: folds and several heads need a copy of the {n:,} x "
            f"{d:,} features, {n * d * 4 / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. Free some space, or "
            "fit one head without `cv`, `tune` and `fewshot`."
        )
    linux = sys.platform == "linux"
    with tempfile.TemporaryFile(dir=place) if linux else tempfile.NamedTemporaryFile(dir=place) as file:
        for _, block in examples.rows.blocks():
            file.write(np.ascontiguousarray(block).data)
        file.flush()
        # On Linux the file has no name, so that no kill leaves it behind; other processes find it here.
        name = f"/proc/{os.getpid()}/fd/{file.fileno()}" if linux else file.name
        if linux and not _is(Path(name), file.fileno()):
            raise HeadError(
                "/proc does not show this process: it is that of another pid namespace. Run the same with a /proc of "
                "its own (`unshare --mount-proc`)."
            )
        yield replace(examples, rows=Rows(np.memmap(name, np.float32, "r", shape=(n, d))))


def _is(path: Path, descriptor: int) -> bool:
    """Whether a path leads to an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False
