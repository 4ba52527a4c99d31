"""Files that belong together by their names: versions of one image; images of one patient, frames of a video."""

from __future__ import annotations

import glob
import itertools
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from featcache.sources.columns import Words
from featcache.sources.folders.hints import is_counter, says_nothing
from featcache.sources.messages import number_of, quoted
from featcache.sources.names import each_word, known_splits
from featcache.sources.source import Items

log = logging.getLogger(__name__)

_FORMS = each_word(
    """mask masks depth seg segm segmentation annotation annotated gt groundtruth label labels trimap contour
    contours heatmap overlay bbox band channel ch nir swir dapi gfp masked superpixel superpixels lesion binary
    inpaint inpainted"""
)
_COPIES = each_word(
    """copy kopie copie copia flip flipped hflip vflip fliph flipv mirror mirrored rot rotate rotated rotation aug
    augment augmented augmentation crop cropped resize resized thumb thumbnail noise noisy blur blurred blurry
    bright brightness brighter dark darken darker contrast zoom zoomed shear sheared shift shifted gauss gaussian
    jitter gray grey grayscale greyscale clahe edited enhanced horizontal vertical"""
)
_MORE = each_word("deg degree degrees pixel map lr tb ud")
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
_STARTS = frozenset(each_word("cop kop aug fli hfl vfl mir rot mas seg gt_ gt- lab ove dep"))
_TAIL = "._- "  # at the end of a name, where a mark begins as well
_NUMBER = re.compile(r"(?<=\S) ?\(\d{1,3}\)$")
_EXPORTED = re.compile(r"_(?:jpe?g|png|bmp)[._]rf[._][0-9a-zA-Z]{8,}$")  # Roboflow: the name of an image, and a hash
_MOST_NUMBERS = 3  # x (1), x (2), … beside x: more are a series
_MOST_VERSIONS = 30  # of one image: more are a series, too
_DOWNLOADS = frozenset(each_word("download downloads unnamed untitled screenshot"))
_RAW = each_word(".cr2 .cr3 .nef .arw .dng .raf .orf .rw2 .pef .srw .raw .heic .heif")
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
    return replace(items, groups=Words(codes, names))


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
    return {key: family for key, family in found.items() if len(family) > 1 and not _are_series(family)}


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


def _are_series(family: Sequence[_Version]) -> bool:
    """Whether files only seem to be copies, as they are many or no image of that name is there: ``rock_dark_7``."""
    unnamed = all(version.name.kind for version in family) and not any(map(str.isdigit, family[0].name.bare))
    return unnamed or len(family) > _MOST_VERSIONS


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
        said = forms.said(
            "file looks like a mask or channel of an image beside it and counts as an image",
            "files look like masks or channels of images beside them and count as images",
        )
        which = "it" if forms.count == 1 else "them"
        log.warning("%s: %s. Leave %s out with %s", where, said, which, forms.advice())
    if divided:
        apart = "in another split than the image or other copies"
        said = divided.said(f"copy of an image is {apart}", f"copies of images are {apart}")
        log.warning("%s: by name, %s: scores will be too high%s", where, said, _to_leave_out(divided))
    elif copies:
        said = copies.said("image is a copy of another one", "images are copies of others")
        log.warning("%s: by name, %s%s%s", where, said, stay, _to_leave_out(copies))
    if endings:
        whole = Counter(f"*{_ending(path)}" for path in items.paths)
        twice = [kind for kind, count in endings.globs.items() if count == whole[kind]]
        twice.sort(key=lambda kind: not kind.lower().endswith(_RAW))
        advice = f"leave one kind out with --exclude {quoted(twice[0])}" if twice else "remove one of each"
        alike = "of another one but for the ending"
        said = endings.said(f"image has the name {alike}", f"images have the name {alike}")
        log.warning("%s: %s%s. If they show the same, %s", where, said, stay, advice)


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

    def said(self, one: str, several: str) -> str:
        """Return how many they are, with an example."""
        return f"{number_of(self.count, one, several)}, such as {self.first!r}"

    def advice(self) -> str:
        """Return the options that leave most of them out."""
        return " ".join(f"--exclude {quoted(pattern)}" for pattern, _ in self.globs.most_common(4))


_SUBJECT = re.compile(
    r"(patient|subject|participant|case|person|lesion|specimen|animal|plant|video|vid|clip|scene|session|sequence|seq)"
    r"(?:[\W_]*(?:id|no|nr|number))?[\W_]*\d+[a-z]?",
    re.IGNORECASE,
)
_FRAME = re.compile(r"(.*[^\W_])[\W_]*(?:frame|frm)[\W_]*\d+$", re.IGNORECASE | re.DOTALL)
_NAMED = re.compile(
    r"(?:.*[\W_])?(?P<word>patient|subject|participant|person|case|lesion|specimen|animal|plant|slide|scan|video|clip|"
    r"scene|session|sequence)[\W_]?\d+(?=[\W_])|.*\.(?:mp4|avi|mov|mkv|webm|m4v)(?=[\W_]+\d+$)|"
    r".*?(?=[\W_]BURST\d)|(?P<number>(?!(?:19|20)\d{6}_)\d{3,})(?=_\d{3,}$)",
    re.IGNORECASE | re.DOTALL,
)
"""The part of a file's name that says what it is one of several images of, as ``person1`` in ``person1_virus_2``."""
_SPLIT = re.compile(r"(train|training|test|val|valid|validation)(?=[\W_\d])", re.IGNORECASE)
_LONGEST_PATH = 1000
_LOOKED_AT = 100_000  # names of files: more of them say nothing more
_LONG = 5  # images of each number from which on two numbers are those of a series and an image
_MANY = 10  # classes, most of which have one image
ADVICE = "List them in a table with the columns path, label and group"


def warn_of_series(where: str, items: Items) -> None:
    """Say which images seem to be several of one patient, video and the like, if a draw may divide them."""
    if items.splits.names or items.groups.names or not items.labels.names:
        return
    folders: Counter[str] = Counter()
    videos: Counter[str] = Counter()
    for path in items.paths:
        folder, _, name = path.rpartition("/")
        folders[folder] += 1
        if "fr" in name.lower() and len(path) < _LONGEST_PATH and (found := _FRAME.match(path.rpartition(".")[0])):
            videos[found[1]] += 1
    classes, single = set(items.labels.names), int((items.labels.counts == 1).sum())
    if len(classes) >= _MANY and 2 * single > len(classes):
        log.warning("%s: %d of %d classes have a single image: they may be no classes", where, single, len(classes))
    names = [(folder, folder.rpartition("/")[2]) for folder, count in folders.items() if count > 1]
    subjects = [folder for folder, name in names if name not in classes and _SUBJECT.fullmatch(name)]
    if subjects:
        one, several = "folder looks like a patient, a video", "folders look like patients, videos"
        said = number_of(len(subjects), f"{one} or the like", f"{several} or the like")
        first = f"such as {subjects[0]!r}. {ADVICE}"
        log.warning("%s: images of one may be in several splits: %s, %s", where, said, first)
    video = next((video for video, count in videos.items() if count > 1), None)
    if video is not None:
        said = f"{videos.total():,} images look like frames of {number_of(len(videos), 'video', 'videos')}"
        advice = f"such as {video!r}, and frames of one may be in several splits. {ADVICE}"
        log.warning("%s: %s, %s", where, said, advice)
    elif series := _named_series(items):
        log.warning(
            f"{where}: by their names, several files are of one patient, video or the like, such as {series[0]!r} "
            f"({series[1]} images), and may be in several splits. {ADVICE}"
        )


def _named_series(items: Items) -> tuple[str, int] | None:
    """Return what the names of some files say that they are of, and how many they are; None if less than two do."""
    words: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for path, label in itertools.islice(zip(items.paths, items.labels, strict=True), _LOOKED_AT):
        folder, slash, name = path.rpartition("/")
        found = _NAMED.match(name.rpartition(".")[0]) if len(name) < 256 else None
        if found and (found["word"] is None or found["word"].lower() != (label or "").lower()):
            (numbers if found["number"] else words)[folder + slash + found[0]] += 1
    several = [(key, count) for key, count in words.items() if count > 1]
    if len(numbers) > 1 and numbers.total() >= _LONG * len(numbers):
        several += numbers.items()
    return several[0] if len(several) > 1 else None


def warn_of_split_names(where: str, items: Items) -> None:
    """Say which splits the names of most files begin with, as nothing else says splits and these are not used."""
    if items.splits.names:
        return
    found: Counter[str] = Counter()
    for path in itertools.islice(items.paths, _LOOKED_AT):
        if begin := _SPLIT.match(path.rpartition("/")[2]):
            found[begin[1].lower()] += 1
    if len(set(known_splits(found).values())) > 1 and 2 * found.total() > min(len(items), _LOOKED_AT):
        advice = "make a table with the columns path, label and split"
        said = ", ".join(sorted(found))
        log.warning("%s: names of files begin with those of splits (%s), which are not used: %s", where, said, advice)
