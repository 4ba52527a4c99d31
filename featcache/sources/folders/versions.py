"""Files that are versions of one image by their names: RAW beside JPEG, turned and flipped copies, masks."""

from __future__ import annotations

import glob
import itertools
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.sources.columns import Words
from featcache.sources.folders.hints import is_counter, says_nothing
from featcache.sources.folders.trees import number_of, quoted
from featcache.sources.source import Items

log = logging.getLogger(__name__)

_FORMS = (
    "mask", "masks", "depth", "seg", "segm", "segmentation", "annotation", "annotated", "gt", "groundtruth", "label",
    "labels", "trimap", "contour", "contours", "heatmap", "overlay", "bbox", "band", "channel", "ch", "nir", "swir",
    "dapi", "gfp", "masked", "superpixel", "superpixels", "lesion", "binary", "inpaint", "inpainted",
)  # fmt: skip
_COPIES = (
    "copy", "kopie", "copie", "copia", "flip", "flipped", "hflip", "vflip", "fliph", "flipv", "mirror", "mirrored",
    "rot", "rotate", "rotated", "rotation", "aug", "augment", "augmented", "augmentation", "crop", "cropped", "resize",
    "resized", "thumb", "thumbnail", "noise", "noisy", "blur", "blurred", "blurry", "bright", "brightness", "brighter",
    "dark", "darken", "darker", "contrast", "zoom", "zoomed", "shear", "sheared", "shift", "shifted", "gauss",
    "gaussian", "jitter", "gray", "grey", "grayscale", "greyscale", "clahe", "edited", "enhanced", "horizontal",
    "vertical",
)  # fmt: skip
_MORE = ("deg", "degree", "degrees", "pixel", "map", "lr", "tb", "ud")
"""Words that stand behind the name of an image in those of its masks and copies, and what may follow those words."""


def _one_of(words: Sequence[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_GAP = r"(?:[^\w)\]]|_)"
"""What divides words of a name; a bracket that closes belongs to the word before it: ``cat (1)_mask``."""

_MARK = re.compile(
    rf"(?<!{_GAP}){_GAP}++(?:(?P<form>{_one_of(_FORMS)}|b(?=\d\d[a-z]?$))|{_one_of(_COPIES)}|new(?=\d)|\d++deg|"
    r"\d{2,4}+x\d{2,4}+|(?<=@)[23]x)"
    rf"(?>[\W_]*+(?>{_one_of([*_FORMS, *_COPIES, *_MORE])}|\d++|[xyhv](?![a-z])))*+[\W_]*+$",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"[\W_]+(?:b|band|ch|channel)[\W_]*\d", re.IGNORECASE)  # its number makes it another one
_ENDS = frozenset(word[-2:] for word in (*_FORMS, *_COPIES, *_MORE))
_BEFORE = re.compile(
    r"(?:(?P<form>(?:masks?|masked|seg|segmentation|gt|label|overlay|depth)[\W_]+)|copy of |copie de |kopie von |"
    r"(?:aug(?:mented)?|(?:[hv]?flip|mirror)(?:ped|ed)?|rot(?:ated)?)[\W_]?\d*[\W_])",
    re.IGNORECASE,
)
_STARTS = frozenset({"cop", "kop", "aug", "fli", "hfl", "vfl", "mir", "rot", "mas", "seg", "gt_", "gt-", "lab", "ove",
                     "dep"})  # fmt: skip
_TAIL = "._- "  # at the end of a name, where a mark begins as well
_NUMBER = re.compile(r"(?<=\S) ?\(\d{1,3}\)$")
_EXPORTED = re.compile(r"_(?:jpe?g|png|bmp)[._]rf[._][0-9a-zA-Z]{8,}$")  # Roboflow: the name of an image, and a hash

_MOST_NUMBERS = 3  # x (1), x (2), … beside x: more are a series
_MOST_VERSIONS = 30  # of one image: more are a series, too
_DOWNLOADS = frozenset({"download", "downloads", "unnamed", "untitled", "screenshot"})
_RAW = (".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2", ".pef", ".srw", ".raw", ".heic", ".heif")
_LONGEST = 200  # of a name in a tar, which may be of any length


class _Name(NamedTuple):
    """The name of a file, less its ending: that of the image it is a version of, and what stands beside it there."""

    bare: str
    mark: str = ""
    kind: str = ""


class _Version(NamedTuple):
    """A file that may be one of several versions of an image."""

    row: int
    path: str
    name: _Name


def joined_versions(where: str, items: Items) -> Items:
    """Return items in which versions of one image are a group, so that no draw divides them; say what they are.

    That is files of one folder that have one name but for the ending or for words such as ``_flip``; and copies of one
    class in any folder, if that name is more than a number. If items have groups already, nothing is grouped.
    """
    families = _families(items)
    if not families:
        return items
    grouped = not items.groups.names
    _say(where, items, families.values(), grouped=grouped)
    if not grouped:
        return items
    names, codes = list(families), np.full(len(items), -1)
    for code, family in enumerate(families.values()):
        codes[[version.row for version in family]] = code
    groups = Words.of(None if code < 0 else names[code] for code in codes.tolist())
    return Items(items.paths, items.labels, items.splits, groups, items.sizes, items.stamps, items.places,
                 items.changes)  # fmt: skip


def _families(items: Items) -> dict[str, list[_Version]]:
    """Return the versions of each image that has several, by a name for them."""
    labels, hashes, plain = items.labels, np.empty(len(items), np.int64), np.ones(len(items), bool)
    copied: set[str] = set()
    numbered: Counter[str] = Counter()
    for row, path in enumerate(items.paths):
        if not _may_be_marked(path):
            hashes[row] = hash(_stem(path))
            continue
        folder, name = _parted(path)
        hashes[row], plain[row] = hash(folder + name.bare), not name.kind
        if name.kind == "copy" and not is_counter(name.bare):
            copied.add(f"{labels[row] or ''}/{name.bare}")
        if not name.kind and (number := _NUMBER.search(name.bare)):
            numbered[folder + name.bare[: number.start()]] += 1
    if numbers := _numbers(numbered, hashes[plain]):
        for row, path in enumerate(items.paths):
            folder, name = _unnumbered(numbers, *_parted(path))
            hashes[row] = hash(folder + name.bare)
    _, at, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    several = counts[at] > 1
    if not copied and not several.any():
        return {}
    found: dict[str, list[_Version]] = {}
    for row, path in enumerate(items.paths):
        if copied or several[row]:
            folder, name = _unnumbered(numbers, *_parted(path))
            across = f"{labels[row] or ''}/{name.bare}" if copied else ""
            if across in copied or several[row]:
                key = across if across in copied else folder + name.bare
                found.setdefault(key, []).append(_Version(row, path, name))
    found = {key: _without_series(family) for key, family in found.items() if len(family) > 1}
    return {key: family for key, family in found.items() if len(family) > 1}


def _numbers(numbered: Counter[str], plain: npt.NDArray[np.int64]) -> frozenset[str]:
    """Return the names beside which ``x (1)`` is a copy of ``x``; in a series it is not."""
    few = [key for key, count in numbered.items() if count <= _MOST_NUMBERS]
    named = {key: key.rpartition("/")[2] for key in few}
    few = [key for key, name in named.items() if not says_nothing(name) and name.lower() not in _DOWNLOADS]
    there = np.isin(np.fromiter(map(hash, few), np.int64, len(few)), plain)
    return frozenset(itertools.compress(few, there.tolist()))


def _unnumbered(numbers: Collection[str], folder: str, name: _Name) -> tuple[str, _Name]:
    """Return a name without its number, if that is one of a copy; and its folder."""
    if numbers and (found := _NUMBER.search(name.bare)):
        bare = name.bare[: found.start()]
        if folder + bare in numbers:
            return folder, _Name(bare, name.mark or found[0], name.kind or "number")
    return folder, name


def _without_series(family: list[_Version]) -> list[_Version]:
    """Return a family without what only seems to be copies, as no image of that name is there: ``rock_dark_7``."""
    if len(family) > _MOST_VERSIONS:
        return []
    kinds = {version.name.kind for version in family}
    if "" not in kinds and not any(map(str.isdigit, family[0].name.bare)):
        return []
    return family


def _stem(path: str) -> str:
    """Return a path less the ending of its file's name."""
    dot = path.rfind(".")
    return path[:dot] if dot > path.rfind("/") + 1 else path


def _may_be_marked(path: str) -> bool:
    """Whether it is worth to look at a name more closely, in a fraction of the time."""
    stem = _stem(path)
    if stem[-1:] in _TAIL or stem.endswith(")") or ".rf." in path or "_rf_" in path:
        return True
    word = stem.rstrip("0123456789_-. ()")
    end, slash = word[-2:], path.rfind("/")
    sized = end[1:] == "x" and end[:1].isdecimal()  # x-300x200, x@2x
    return sized or end.lower() in _ENDS or end[:1] in ("_", "-", " ") or path[slash + 1 : slash + 4].lower() in _STARTS


def _parted(path: str) -> tuple[str, _Name]:
    """Return a file's folder, with a slash at its end, and what its name says."""
    head, slash, stem = _stem(path).rpartition("/")
    head += slash
    if not _may_be_marked(path) or len(stem) > _LONGEST:
        return head, _Name(stem)
    if (found := _MARK.search(stem)) and found.start():
        kind = "form" if found["form"] else "copy"
        mark = found[0] if _CHANNEL.match(found[0]) else found[0].rstrip("0123456789_-. ()")
        return head, _Name(stem[: found.start()], mark, kind)
    if (found := _EXPORTED.search(stem)) and found.start():
        return head, _Name(stem[: found.start()], "", "copy")
    if (found := _BEFORE.match(stem)) and found.end() < len(stem):
        return head, _Name(stem[found.end() :], f"<{found[0]}", "form" if found["form"] else "copy")
    return head, _Name(stem.rstrip(_TAIL) or stem)


def _say(where: str, items: Items, families: Iterable[list[_Version]], *, grouped: bool) -> None:
    """Warn of masks, of copies, of files that differ by their ending alone, and of copies in two splits."""
    forms, copies, endings, divided = _Kind(), _Kind(), _Kind(), _Kind()
    for family in families:
        plain = [version for version in family if not version.name.kind]
        marked = [version for version in family if version.name.kind in ("copy", "number")]
        others = [version for version in family if version.name.kind == "form"]
        if plain or marked or len({version.name.mark for version in others}) > 1:
            others = others if plain or marked else others[1:]  # channels: one of them stays
            forms.add(others, map(_glob, others))
        copies.add(marked[not plain :], map(_glob, marked if plain else ()))
        if len({_ending(version.path) for version in plain}) > 1:
            endings.add(plain[1:], (f"*{_ending(version.path)}" for version in plain))
        if items.splits.names and marked and len({items.splits[version.row] for version in family}) > 1:
            divided.add(marked, map(_glob, marked))
    stay = ". Such images stay in one split" if grouped else ""
    if forms:
        log.warning("%s: %s, such as %r. Leave %s out with %s", where, number_of(
            forms.count, "file looks like a mask or channel of an image beside it and counts as an image",
            "files look like masks or channels of images beside them and count as images"), forms.first,
            "it" if forms.count == 1 else "them", forms.advice())  # fmt: skip
    if divided:
        log.warning("%s: by name, %s in another split than the image or other copies, such as %r: scores will "
                    "be too high%s", where, number_of(divided.count, "copy of an image is", "copies of images are"),
                    divided.first, _to_leave_out(divided))  # fmt: skip
    elif copies:
        log.warning("%s: by name, %s, such as %r%s%s", where, number_of(
            copies.count, "image is a copy of another one", "images are copies of others"), copies.first, stay,
            _to_leave_out(copies))  # fmt: skip
    if endings:
        whole = Counter(f"*{_ending(path)}" for path in items.paths)
        twice = [kind for kind, count in endings.globs.items() if count == whole[kind]]
        twice.sort(key=lambda kind: not kind.lower().endswith(_RAW))
        advice = f"leave one kind out with --exclude {quoted(twice[0])}" if twice else "remove one of each"
        log.warning("%s: %s of another one but for the ending, such as %r%s. If they show the same, %s", where,
                    number_of(endings.count, "image has the name", "images have the name"), endings.first, stay,
                    advice)  # fmt: skip


def _to_leave_out(copies: _Kind) -> str:
    return f". Leave the copies out with {copies.advice()}" if copies.globs else ""


def _glob(version: _Version) -> str:
    """Return what leaves out a file and others that are marked so."""
    mark = glob.escape(version.name.mark)
    if version.name.kind == "number":
        return f"*{mark}.*"
    return f"{mark[1:]}*" if mark.startswith("<") else f"*{mark}*" if mark else ""


def _ending(path: str) -> str:
    return path[path.rfind(".") :] if "." in path.rpartition("/")[2] else ""


class _Kind:
    """How many files are of a kind, the first one, and the globs that leave them out."""

    def __init__(self) -> None:
        self.count, self.first = 0, ""
        self.globs: Counter[str] = Counter()

    def add(self, versions: Sequence[_Version], globs: Iterable[str]) -> None:
        """Count some files, if there are any."""
        if versions:
            self.count, self.first = self.count + len(versions), self.first or versions[0].path
            self.globs.update(filter(None, globs))

    def __bool__(self) -> bool:
        return self.count > 0

    def advice(self) -> str:
        """Return the options that leave most of them out."""
        return " ".join(f"--exclude {quoted(pattern)}" for pattern, _ in self.globs.most_common(4))
