"""Who is in which split: what the source says, else a draw by the image's content; and who counts in scores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from featcache.errors import OptionError
from featcache.sources.columns import PIECE, Ints, Words, encoded
from featcache.sources.digests import Digests
from featcache.sources.source import SPLITS, Item, Items, Source

RANKED_BELOW = 200
"""Classes with fewer images are split by rank: the wanted number of images with the smallest draws."""
_EXACT_BELOW = 50
_NEVER = 2.0  # no draw reaches it

Identify = Callable[[Ints], tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]]
"""From rows of a listing to their digests, shape (k, 32), and which of them could be read, shape (k,)."""


@dataclass(frozen=True)
class SplitPolicy:
    """How images get a split where the source brings none.

    `validation_split` and `test_split` are parts of the training images (default: a fifth becomes validation if the
    source brings no split); ``test_from=("validation", 0.2)`` makes a fifth of validation the test set; another `seed`
    is another draw. `ranked` sets `cutoffs`: of each small class, draws below the first are validation, from the second
    on test, and of the draws for `test_from` those below the third; and `shared`: images and groups of several small
    classes (64 hex digits), which the cutoffs do not apply to.

    An image's draw is a number from 0 to 1, SHA-256 of the seed and its digest (its group, if it has one): copies of an
    image are on one side, and adding images never moves an old one of a large class. In a class of fewer than 50
    images, the round(share × n) images with the smallest draws are taken, at least one of 5 or more; one more image
    then moves at most one old one to or from validation, and one to or from test. From 50 to `RANKED_BELOW` images the
    number moves, one at a time, to that of the plain draw, so that this holds while a class grows. Validation and test
    are the two ends of one draw: raising either takes images from train and leaves the other as it was. A copy that is
    in a small and in a large class is drawn for each; scores leave out what is in train, too.
    """

    validation_split: float | None = None
    test_from: tuple[str, float] | None = None
    seed: int = 0
    test_split: float | None = None
    cutoffs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    shared: Sequence[str] = ()

    @classmethod
    def from_listing(cls, listing: Mapping[str, Any]) -> SplitPolicy:
        """Return the policy that a cache's manifest or a head's card keeps; raise `TypeError` if it is none."""
        kept = {key: value for key, value in listing.items() if key != "classes"}
        if kept.get("test_from") is not None:
            kept["test_from"] = tuple(kept["test_from"])
        return cls(**kept)

    def __post_init__(self) -> None:
        for name in ("validation_split", "test_split"):
            fraction = getattr(self, name)
            if fraction is not None and not 0 <= fraction < 1:
                raise OptionError(f"`{name}` must be 0 or more, and less than 1. Received: {fraction!r}.")
        if (self.validation_split or 0) + (self.test_split or 0) >= 1:
            raise OptionError(
                f"`validation_split` {self.validation_split} and `test_split` {self.test_split} leave nothing for "
                "train. Lower one of them."
            )
        if self.test_from is not None and not (
            self.test_from[0] in ("train", "validation") and 0 < self.test_from[1] < 1
        ):
            raise OptionError(
                "`test_from` must be train or validation with a part between 0 and 1, such as "
                f"validation=0.2. Received: {self.test_from!r}."
            )
        if self.test_from is not None and self.test_split:
            raise OptionError(
                f"`test_split` {self.test_split} and `test_from` {self.test_from[0]}={self.test_from[1]} cannot be "
                "used together. Leave one out."
            )

    def settled(self, source: Source) -> SplitPolicy:
        """Return the policy with its defaults filled in; raise `OptionError` if it asks for a split the source has."""
        brought = Items.of(source.items).splits.names
        asked = {
            "validation_split": ("validation", self.validation_split),
            "test_split": ("test", self.test_split),
            "test_from": ("test", self.test_from and f"{self.test_from[0]}={self.test_from[1]}"),
        }
        for option, (split, value) in asked.items():
            if value and split in brought:
                raise OptionError(
                    f"`{option}` cannot be set: {source.location} has a {split} set already. Leave it out."
                )
        default = 0.0 if brought else 0.2
        return replace(self, validation_split=default if self.validation_split is None else self.validation_split)

    def ranked(self, items: Items, identify: Identify) -> SplitPolicy:
        """Return the policy with the cutoffs of a listing's small classes; `identify` is called with their rows."""
        if not (self.validation_split or self.test_split or self.test_from):
            return self
        rows = self._small(items)
        if not len(rows):
            return replace(self, cutoffs={}, shared=())
        digests, readable = identify(rows)
        rows, identities = rows[readable], digests[readable].copy()
        labels, groups = items.labels.codes[rows], items.groups.codes[rows]
        codes, at = np.unique(groups[groups >= 0], return_inverse=True)
        if len(codes):
            named = Digests.of(group_identity(items.groups.names[code]) for code in codes.tolist())
            identities[groups >= 0] = named.rows[at]
        both = np.concatenate([identities, labels.astype(">i4").view(np.uint8).reshape(-1, 4)], axis=1)
        pairs, first = np.unique(both, axis=0, return_index=True)
        same = np.all(pairs[1:, :32] == pairs[:-1, :32], axis=1)
        several = np.append(False, same) | np.append(same, False)
        across = np.isin(groups[first], _groups_of_several_classes(items))
        alone, shared = first[~(several | across)], first[several | across]
        brought = items.splits.among(SPLITS)[rows]
        alone = alone[np.argsort(labels[alone], kind="stable")]
        codes, starts = np.unique(labels[alone], return_index=True)
        cutoffs = {
            items.labels.names[code]: self._cutoffs(identities[alone[start:end]], brought[alone[start:end]])
            for code, start, end in zip(codes.tolist(), starts, [*starts[1:], len(alone)], strict=False)
        }
        return replace(self, cutoffs=cutoffs, shared=sorted({identities[i].tobytes().hex() for i in shared.tolist()}))

    def _small(self, items: Items) -> Ints:
        """Return the rows of classes with fewer than `RANKED_BELOW` images to draw; a group counts once."""
        labels, groups = items.labels.numbers, items.groups.numbers
        drawn = labels >= 0
        drawn &= items.splits.among(SPLITS) <= (1 if self.test_from else 0)
        grouped = np.flatnonzero(drawn & (groups >= 0))
        once = np.unique(labels[grouped] * (len(items.groups.names) + 1) + groups[grouped], return_index=True)[1]
        counted = np.concatenate([labels[drawn & (groups < 0)], labels[grouped[once]]])
        small = np.bincount(counted, minlength=len(items.labels.names) + 1) < RANKED_BELOW
        return np.flatnonzero(drawn & small[labels])

    def _cutoffs(self, identities: npt.NDArray[np.uint8], brought: Ints) -> list[float]:
        """Return the cutoffs of a class, given its distinct images (n, 32) and the splits the source brings."""
        free = brought <= 0
        draws = self._draws(b"validation", identities)
        ordered = np.sort(draws[free])
        below = _taken(ordered, self.validation_split or 0.0, len(ordered) - 1)
        above = _taken(1 - ordered[::-1], self.test_split or 0.0, len(ordered) - 1 - below)
        low = float(ordered[below]) if below else 0.0
        high = float(ordered[len(ordered) - above]) if above else _NEVER
        second = 0.0
        if self.test_from:
            split = np.where(free, np.where(draws < low, 1, np.where(draws >= high, 2, 0)), brought)
            left = np.sort(self._draws(b"test", identities[split == SPLITS.index(self.test_from[0])]))
            count = _taken(left, self.test_from[1], len(left) - 1, slack=max(0, len(ordered) - _EXACT_BELOW + 1))
            second = float(left[count]) if count else 0.0
        return [low, high, second]

    def split_of(self, item: Item, identity: bytes) -> str:
        """Return the split of an image, given its digest (32 bytes); a group's images are drawn together."""
        split = item.split or "train"
        if item.group is not None:
            identity = group_identity(item.group)
        low, high, second = self._plain_cutoffs
        own = self.cutoffs.get(item.label or "")
        if own is not None and identity not in self._exempt:
            low, high, second = own
        if split == "train":
            drawn = self._draw(b"validation", identity)
            if drawn < low:
                split = "validation"
            elif drawn >= high:
                split = "test"
        if self.test_from and split == self.test_from[0] and self._draw(b"test", identity) < second:
            split = "test"
        return split

    def validation_candidates(self, items: Items) -> Ints:
        """Return the rows of images that can be validation, whatever their digests are, in an order drawn for good."""
        brought = items.splits.among(SPLITS)
        can = brought == SPLITS.index("validation")
        if self.validation_split:
            can |= brought <= SPLITS.index("train")  # -1: the source brings no split
        return np.random.default_rng(0).permutation(np.flatnonzero(can))

    def splits_of(self, items: Items, digests: npt.NDArray[np.uint8]) -> Words:
        """Return what `split_of` says of many images, given their digests, shape (n, 32)."""
        if not (self.validation_split or self.test_split or self.test_from):
            brought = items.splits.among(SPLITS)
            return Words(np.where(brought < 0, 0, brought), SPLITS)
        if not items.splits.names and not items.groups.names and not self.test_from:
            drawn, plain = self._draws(b"validation", digests), self._plain_cutoffs
            limits = np.array([*(self.cutoffs.get(name, plain) for name in items.labels.names), plain])
            low, high = limits[items.labels.codes, 0], limits[items.labels.codes, 1]
            if self._exempt:
                exempt = Digests.of(self._exempt).find(digests) >= 0
                low[exempt], high[exempt] = plain[:2]
            return Words(np.where(drawn < low, 1, np.where(drawn >= high, 2, 0)), SPLITS)
        return Words.of(map(self.split_of, items, (bytes(row) for row in digests)))

    @cached_property
    def _exempt(self) -> frozenset[bytes]:
        return frozenset(map(bytes.fromhex, self.shared))

    @property
    def _plain_cutoffs(self) -> tuple[float, float, float]:
        second = self.test_from[1] if self.test_from else 0.0
        return self.validation_split or 0.0, 1 - (self.test_split or 0.0), second

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


def _groups_of_several_classes(items: Items) -> Ints:
    """Return the codes of groups whose images have more than one label."""
    labels, groups = items.labels.numbers, items.groups.numbers
    grouped = (groups >= 0) & (labels >= 0)
    pairs = np.unique(groups[grouped] * (len(items.labels.names) + 1) + labels[grouped])
    codes, counts = np.unique(pairs // (len(items.labels.names) + 1), return_counts=True)
    return codes[counts > 1]


def _taken(draws: npt.NDArray[np.float64], share: float, most: int, *, slack: int | None = None) -> int:
    """Return how many of a class's draws, in ascending order, a share takes: `most` at most.

    `slack` is how far a part of a class may be from its rounded share; default: as the class grows, the number goes
    towards that of the plain draw by no more than one for each image, and never back.
    """
    n = len(draws)
    if not share:
        return 0
    rounded = int(share * (min(n, _EXACT_BELOW - 1) if slack is None else n) + 0.5)
    least = most_of = max(rounded, 1) if n >= 5 else rounded
    if slack is not None:
        least, most_of = least - slack, most_of + slack
    elif n >= _EXACT_BELOW:
        most_of += n - (_EXACT_BELOW - 1)
    plain = int(np.searchsorted(draws, share))
    return max(0, min(max(plain, least), most_of, most))


def group_identity(group: str) -> bytes:
    """Return 32 bytes that stand for a group: SHA-256 of its name."""
    return hashlib.sha256(encoded(group)).digest()


def why_left_out(trained_on: Set[bytes], item: Item, identity: bytes) -> Literal["copy", "member"] | None:
    """Return why an image does not count in a model's scores, None if it counts: it is a copy of a training image, or
    its group has training images. `trained_on` has digests of images and identities of groups, `identity` is its
    digest.
    """
    if identity in trained_on:
        return "copy"
    return "member" if item.group is not None and group_identity(item.group) in trained_on else None
