"""Who is in which split: what the source says, else a draw by the image's content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from featcache.errors import OptionError
from featcache.sources.columns import PIECE, Words
from featcache.sources.source import SPLITS, Item, Items, Source


@dataclass(frozen=True)
class SplitPolicy:
    """How images get a split where the source brings none.

    Parameters
    ----------
    validation_split : float, optional
        Part of the training images that becomes validation, 0 ≤ x < 1. Default: 0.2 if the source brings
        no split, else 0.
    test_from : tuple of (str, float), optional
        ``("validation", 0.2)`` makes a fifth of validation the test set.
    seed : int
        Another seed is another draw.
    test_split : float, optional
        Part of the training images that becomes test, 0 ≤ x < 1; with `validation_split` less than 1.
        Default: 0.

    Notes
    -----
    An image's side is decided by SHA-256 of the seed and its digest (its group, if it has one) alone: adding
    images never moves an old one, and copies of an image are on one side. Validation and test are the
    two ends of one draw: raising either takes images from train and leaves the other as it was.
    """

    validation_split: float | None = None
    test_from: tuple[str, float] | None = None
    seed: int = 0
    test_split: float | None = None

    def __post_init__(self) -> None:
        for name in ("validation_split", "test_split"):
            fraction = getattr(self, name)
            if fraction is not None and not 0 <= fraction < 1:
                raise OptionError(f"Expected 0 <= {name} < 1. Received: {fraction!r}.")
        if (self.validation_split or 0) + (self.test_split or 0) >= 1:
            raise OptionError(
                "Expected validation_split and test_split to leave something for train. Received: "
                f"{self.validation_split} and {self.test_split}. Lower one of them."
            )
        if self.test_from is not None and not (
            self.test_from[0] in ("train", "validation") and 0 < self.test_from[1] < 1
        ):
            raise OptionError(
                "Expected test_from to be train or validation with a part between 0 and 1, such as "
                f"validation=0.2. Received: {self.test_from!r}."
            )
        if self.test_from is not None and self.test_split:
            raise OptionError(
                f"Expected test_split or test_from. Received: {self.test_split} and "
                f"{self.test_from[0]}={self.test_from[1]}. Leave one out."
            )

    def settled(self, source: Source) -> SplitPolicy:
        """Return the policy with its defaults filled in for a source.

        Raises
        ------
        OptionError
            If it asks for a split that the source already brings.
        """
        brought = Items.of(source.items).splits.names
        asked = {
            "validation_split": ("validation", self.validation_split),
            "test_split": ("test", self.test_split),
            "test_from": ("test", self.test_from and f"{self.test_from[0]}={self.test_from[1]}"),
        }
        for option, (split, value) in asked.items():
            if value and split in brought:
                raise OptionError(
                    f"Expected no {option}, as {source.location} has a {split} set. Received: {value}. Leave it out."
                )
        default = 0.0 if brought else 0.2
        return replace(self, validation_split=default if self.validation_split is None else self.validation_split)

    def split_of(self, item: Item, identity: bytes) -> str:
        """Return the split of an image, given its digest (32 bytes); a group's images are drawn together."""
        split = item.split or "train"
        if item.group is not None:
            identity = hashlib.sha256(item.group.encode("utf-8", "surrogateescape")).digest()
        if split == "train":
            drawn = self._draw(b"validation", identity)
            if drawn < (self.validation_split or 0):
                split = "validation"
            elif drawn >= 1 - (self.test_split or 0):
                split = "test"
        if self.test_from and split == self.test_from[0] and self._draw(b"test", identity) < self.test_from[1]:
            split = "test"
        return split

    def splits_of(self, items: Items, digests: npt.NDArray[np.uint8]) -> Words:
        """Return what `split_of` says of many images, given their digests, shape (n, 32)."""
        if not (self.validation_split or self.test_split or self.test_from):
            brought = items.splits.among(SPLITS)
            return Words(np.where(brought < 0, 0, brought), SPLITS)
        if not items.splits.names and not items.groups.names and not self.test_from:
            drawn = self._draws(b"validation", digests)
            late = drawn >= 1 - (self.test_split or 0)
            return Words(np.where(drawn < (self.validation_split or 0), 1, np.where(late, 2, 0)), SPLITS)
        return Words.of(map(self.split_of, items, (bytes(row) for row in digests)))

    def _draws(self, purpose: bytes, identities: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Return what `_draw` says of many identities (n, 32), shape (n,)."""
        known, sha256 = b"featcache %s %d " % (purpose, self.seed), hashlib.sha256
        drawn = np.empty(len(identities))
        for start in range(0, len(identities), PIECE):
            part = identities[start : start + PIECE].tobytes()
            heads = [sha256(known + part[i : i + 32]).digest()[:8] for i in range(0, len(part), 32)]
            drawn[start : start + PIECE] = np.frombuffer(b"".join(heads), ">u8") / 2**64
        return drawn

    def _draw(self, purpose: bytes, identity: bytes) -> float:
        drawn = hashlib.sha256(b"featcache %s %d " % (purpose, self.seed) + identity).digest()
        return int.from_bytes(drawn[:8], "big") / 2**64
