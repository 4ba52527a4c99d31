"""What the names of tar files and of the folders in them mean."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from featcache.errors import SourceError
from featcache.sources.columns import Coder, Words
from featcache.sources.folders.branches import Branch, branches
from featcache.sources.folders.inside import check_inside
from featcache.sources.folders.trees import Look, excluded, may_be_image, number_of, quoted
from featcache.sources.names import known_splits
from featcache.sources.options import SourceOptions
from featcache.sources.source import Items

log = logging.getLogger(__name__)

SUFFIXES = re.compile(r"\.(tar|tgz|tbz2?|txz|tzst)$|\.tar\.\w+$", re.IGNORECASE)
"""How names of tar files end, compressed ones too."""

_DEEP = 64  # folders: what lies deeper says nothing about classes, and names of members may be megabytes long

FOLDER, LABEL = "f", "l"
"""What the text of a label begins with until it is known what folders mean."""


class Names:
    """The folders of members, as `featcache.sources.folders.branches.branches` looks at them."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._found: dict[str, tuple[set[str], str | None, str | None]] = {"": (set(), None, None)}

    def add(self, member: str) -> str:
        """Note a file and return the folder it lies in, with a slash at its end."""
        *parts, file = [part for part in member.split("/") if part not in ("", ".")] or [""]
        parts = parts[:_DEEP]
        folder = "".join(f"{part}/" for part in parts)
        if folder not in self._found:
            above = ""
            for part in parts:
                self._found[above][0].add(part)
                above += f"{part}/"
                self._found.setdefault(above, (set(), None, None))
        folders, image, other = self._found[folder]
        kept = (image or file, other) if may_be_image(file) else (image, other or file)
        self._found[folder] = (folders, *kept)
        return folder

    def look(self, path: str, *, whole: bool = False) -> Look:
        """Return what lies in a folder."""
        folders, image, other = self._found[path]
        return Look(sorted(folders), image, other)


def with_labels(
    listed: Items, names: Names, options: SourceOptions, classes: Collection[str] | None, *, folders: bool
) -> Items:
    """Return items whose labels are those of label files and, if asked, folders, which may be splits, too."""
    known = listed.labels.names
    asked = folders and (any(map(_is_folder, known)) or options.splits)
    found = branches(names, options, classes, packed=True) if asked else []
    meanings = [_meaning(name[1:], found) if _is_folder(name) else (name[1:], None) for name in known]
    if any(branch.classes for branch in found):
        counts = np.bincount(listed.labels.codes[listed.labels.codes >= 0], minlength=len(known)).tolist()
        held = {name[1:]: count for name, count in zip(known, counts, strict=True) if _is_folder(name)}
        check_inside(names.where, found, _inside(held, found), frozenset(classes or ()))
    codes, coder, of_splits = listed.labels.codes, Coder(), Coder()
    labels = Words(coder.codes([label for label, _ in meanings])[codes], list(coder.known))
    splits = Words(of_splits.codes([split for _, split in meanings])[codes], list(of_splits.known))
    splits = listed.splits if listed.splits.names else splits
    if folders and (bare := int((labels.codes < 0).sum())):
        log.warning("%s: %s", names.where, "no image has a label, so no head can be trained" if bare == len(listed) else
                    number_of(bare, "image has no label", "images have no label"))  # fmt: skip
    return Items(listed.paths, labels, splits, listed.groups, listed.sizes, listed.stamps, listed.places,
                 listed.changes)  # fmt: skip


def _is_folder(label: str) -> bool:
    return label.startswith(FOLDER)


def _inside(held: Mapping[str, int], found: Sequence[Branch]) -> Counter[str]:
    """Return how many images are in each folder that lies in a class folder beside images, given those of folders."""
    inside: Counter[str] = Counter()
    for folder, count in held.items():
        branch = next((branch for branch in found if folder.startswith(branch.path)), None)
        parts = [] if branch is None or not branch.classes else folder[len(branch.path) :].split("/")
        if branch is not None and len(parts) > 2 and f"{branch.path}{parts[0]}/" in held:
            inside[f"{branch.path}{parts[0]}/{parts[1]}"] += count
    return inside


def _meaning(folder: str, found: Sequence[Branch]) -> tuple[str | None, str | None]:
    """Return label and split of the images in a folder."""
    for branch in found:
        if folder.startswith(branch.path):
            name, slash, _ = folder[len(branch.path) :].partition("/")
            return (name if slash and branch.classes is not None else None), branch.split
    return None, None


def splits_of(tars: Sequence[Path], root: Path, options: SourceOptions) -> dict[Path, str]:
    """Return the splits that the beginnings of tar files' names mean; raise `SourceError` if some are none, and others
    are.
    """
    starts = {tar: re.sub(r"[\W_]*\d*$", "", SUFFIXES.sub("", tar.name)) for tar in tars}
    known = known_splits(starts.values()) | options.split_of
    found = {tar: known[start] for tar, start in starts.items() if start in known}
    others = [tar.name for tar in tars if tar not in found]
    if found and others:
        example, other = next(iter(found)).name, others[0]
        raise SourceError(
            f"Some tar files of {str(root)!r} are splits by their names ({example!r}) and others are not ({other!r}). "
            f"Leave it out with {excluded(other)}, or say which split it is with "
            f"--split test={quoted(starts[root / other])}."
        )
    return found
