"""Names of files in class folders: which may be images, how many lie deeper, and whether all folders have the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from featcache.sources.folders.hints import FORMS, is_counter
from featcache.sources.folders.trees import may_be_image
from featcache.sources.names import words_of

_NUMBER = re.compile(r"\d+")

_MOST_KINDS = 64


class Print(NamedTuple):
    """What is equal of folders with equal names of files, less their endings.

    `named` are those that are more than a number, as numbers alone are in any folder; `kinds` is how many of these
    there are if numbers in them do not count, at most `_MOST_KINDS`; `endings` of all of them.
    """

    files: int
    stems: int
    named: int
    named_stems: int
    kinds: int
    endings: frozenset[str]


def are_the_same(folders: Sequence[str], prints: Sequence[Print]) -> bool:
    """Whether folders seem to have forms of the same images."""
    first = prints[0]
    telling = first.kinds > 2 and first.kinds >= min(_MOST_KINDS, first.named / 4)  # not IMG_#-edited, slide#_x#_y#
    if telling and len({(one.named, one.named_stems) for one in prints}) == 1:
        return True
    if first.files < 3 or len({one[:2] for one in prints}) > 1:
        return False
    kinds = {one.endings for one in prints}
    return len(kinds) > 1 or any((FORMS | {"mask", "masks"}).intersection(words_of(name)) for name in folders)


class Sieve:
    """Lets names of files through that may be images, and counts the others.

    `top` is the class folder that is walked, `inside` the images in each folder that lies in one beside images.
    """

    def __init__(self) -> None:
        self.top: str | None = None
        self.inside: Counter[str] = Counter()
        self._beside = False
        self.count = self.others = 0
        self.other = ""
        self._stems = self._named = self._named_stems = 0
        self._kinds: set[str] = set()
        self._endings: set[str] = set()

    def __call__(self, folder: str, names: list[str]) -> list[str]:
        """Return those of the names in a folder that may be images."""
        images = [name for name in names if may_be_image(name)]
        if len(images) < len(names):
            self.others += len(names) - len(images)
            self.other = self.other or folder + next(name for name in names if not may_be_image(name))
        self.count += len(images)
        if folder == self.top:
            self._beside = bool(images)
        elif self.top is not None and self._beside and images:
            self.inside[self.top + folder[len(self.top) :].partition("/")[0]] += len(images)
        for name in images:
            stem, _, ending = name.rpartition(".")
            self._stems += hash(stem or name)
            self._endings.add(ending)
            if not is_counter(stem or name):
                self._named, self._named_stems = self._named + 1, self._named_stems + hash(stem or name)
                if len(self._kinds) < _MOST_KINDS:
                    self._kinds.add(_NUMBER.sub("#", stem or name))
        return images

    def print(self) -> Print:
        """Return what the names of the files so far are like, and begin anew."""
        found = Print(self.count, self._stems, self._named, self._named_stems, len(self._kinds),
                       frozenset(self._endings))  # fmt: skip
        self.count = self._stems = self._named = self._named_stems = 0
        self._kinds, self._endings = set(), set()
        return found
