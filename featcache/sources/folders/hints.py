"""What names of folders and classes say: parts of one set, masks, copies, names that are hardly different; counters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence

from featcache.sources.names import SAYS_NOTHING, each_word, words_of


def _words(text: str) -> frozenset[str]:
    return frozenset(each_word(text))


_HOLDERS = _words("all unlabeled unlabelled unknown none original originals raw from")
"""Words beside `SAYS_NOTHING` that say that there are images and not of what."""
_PARTS = _words("fold folds part batch chunk subset cv shard")
_IS_CLASS = _words(
    """class category type label grade level stage digit person identity id face writer user character char symbol
    sample object obj product"""
)
"""Words before a number that is that of a class: of a kind of things, of a person, of a character."""
_CAMERA = re.compile(r"[1-9]\d\d(?=.*[A-Z_])[A-Z_\d]{5}")  # as cameras name folders: 100CANON
_DATE = re.compile(r"(19|20)\d\d([\W_]?(0\d|1[0-2])([\W_]?[0-3]\d)?)?")
_MONTH = re.compile(
    "january|february|march|april|may|june|july|august|september|october|november|december", re.IGNORECASE
)
_MASKS = _words("masks labels annotation annotations groundtruth segmentation segmentations")
_MASK = _MASKS | {"mask", "label", "truth"}
_BELONGS = _MASK | _words(
    """gt seg bbox bboxes boxes xml json txt csv meta metadata crops cropped thumbs thumbnails features depth sketch
    sketches edges trimaps keypoints polygons"""
)
_COUNTER = re.compile(r"[^\W\d_]*[\W_]*\d{1,6}\)?")
_LEFTOVER = {"to sort", "not labeled"} | _words(
    """unsorted todo rejected rejects trash deleted backup old temp tmp unlabeled unlabelled unknown unclassified
    discarded junk runs logs plots figures figs results result output outputs predictions preds weights checkpoints
    tensorboard wandb mlruns notebooks src scripts docs augmented augmentation aug duplicates thumbnails thumbs
    previews"""
)
"""Names of folders, in lower case, for pictures that nobody has sorted or wants, and for what programs write."""
FORMS = _words(
    """rgb depth thermal infrared ir nir swir hr lr grey gray grayscale greyscale input inputs target targets left right
    noisy clean sharp hazy source content style edges sketch sketches"""
)
"""Words for forms of one image, as cameras and data sets for other tasks have them."""
_COPY = re.compile(
    r"^(?:(?:new|untitled) folder|neuer ordner|nouveau dossier|nueva carpeta|nova pasta|nuova cartella)\b|"
    r"^(?:copy of|kopie von|copie de|copia d[ei]) |[ _]?\(\d+\)$| - (?:copy|kopie|copie|copia)\b.*$| copy( \d+)?$",
    re.IGNORECASE,
)
"""What systems add to names of folders, or call new ones."""
_CHANGED = _words(
    """augmented augmentation aug augs copy copies kopie dup duplicate duplicates flip flipped rotated cropped resized
    mask masks new old backup bak original originals 2 3 4 5 6 7 8 9"""
)
"""Words and numbers that people add to the name of a class, for more images of it or for others made of them."""
_PREDICTED = _words("predict prediction predictions preds")
_LETTERS = str.maketrans("\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456", "aeopcyxi")
"""Cyrillic letters that look like Latin ones."""
_LEAST, _TIMES = 6, 5
"""Letters of a name, and how much larger the other class is, where one letter more or less is taken for a slip."""


def says_nothing(name: str) -> bool:
    """Whether a folder's name says that it has images, and not of what: ``images``, ``data_2``, ``100CANON``."""
    words = {word for word in words_of(name) if not word.isdecimal()}
    return (bool(words) and words <= SAYS_NOTHING | _HOLDERS | _PARTS) or bool(_CAMERA.fullmatch(name))


def parts_among(folders: Sequence[str]) -> list[str]:
    """Return the folders that are parts of one set by their names: a number after a word that says nothing."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in folders:
        before, last, stem = _numbered(name)
        if _CAMERA.fullmatch(name):
            groups.setdefault(("camera",), []).append(name)
        elif last and (before in SAYS_NOTHING | _PARTS or says_nothing(name)):
            groups.setdefault(stem, []).append(name)
    return next((names for names in groups.values() if len(names) > 1), [])


def are_numbered(folders: Sequence[str]) -> bool:
    """Whether all folders have one word and a running number, or are dates: they may be no classes."""
    if len(folders) < 2:
        return False
    numbers, stems = {_numbered(name)[1] for name in folders}, {_numbered(name)[2] for name in folders}
    word = {part for stem in stems for part in stem if len(part) > 1}  # n01440764 and c1 are names of classes
    same = len(stems) == 1 and bool(word) and not word & _IS_CLASS and "" not in numbers
    return same or any(all(map(kind.fullmatch, folders)) for kind in (_DATE, _MONTH)) or _are_hashes(folders)


def _are_hashes(folders: Sequence[str]) -> bool:
    """Whether folders divide files by the beginnings of hashes: ``0a``, ``0b``, ``ff``."""
    text = "".join(folders)
    hexadecimal = all(re.fullmatch(r"[0-9a-f]{2,3}", name) for name in folders) and len(set(map(len, folders))) == 1
    return len(folders) > 3 and hexadecimal and any(map(str.isdigit, text)) and any(map(str.isalpha, text))


def _numbered(name: str) -> tuple[str, str, tuple[str, ...]]:
    """Return the word before the last number of a name, that number, and all other words."""
    words = words_of(name)
    place = max((i for i, word in enumerate(words) if word.isdecimal()), default=None)
    if place is None:
        return "", "", tuple(words)
    return words[place - 1] if place else "", words[place], (*words[:place], *words[place + 1 :])


def masks_among(folders: Iterable[str]) -> tuple[list[str], bool]:
    """Return the folders that hold masks or labels of the images in the others, by their names, and if that is sure."""
    words = {name: words_of(name) for name in folders}
    plain = {tuple(each) for each in words.values()}
    images = any(map(says_nothing, words))
    found = []
    for name, each in words.items():
        bare = tuple(word for word in each if word not in _MASK)
        paired = bare in plain  # benign_mask beside benign
        of_images = SAYS_NOTHING & set(each) or (images and not bare)
        clear = _MASKS & set(each) or "ground truth" in " ".join(each) or each == ["gt"]
        if clear or (len(bare) < len(each) and (paired or of_images)):
            found.append(name)
    others = [name for name in words if name not in found]
    if not others or any(re.search("mask|label", name, re.IGNORECASE) for name in others):
        return [], False
    return found, len(others) <= max(3, len(found))  # among many classes, masks may be one: hats, masks, shoes, …


def are_masks(name: str) -> bool:
    """Whether a folder's name says nothing but that it has masks or labels of images: ``Masks``, ``ground truth``."""
    words = set(words_of(name))
    return bool(words & (_MASK | {"gt"})) and words <= _MASK | SAYS_NOTHING | {"gt", "ground"}


def copies_among(folders: Sequence[str]) -> list[str]:
    """Return the folders whose names systems give to new folders, or people and systems to copies of others."""
    bare = {name: _COPY.sub("", name) for name in folders}
    known = {tuple(words_of(name)) for name in folders}
    less = {name: tuple(word for word in words_of(name) if word not in _CHANGED) for name in folders}
    changed = {name for name, words in less.items() if words and words in known and len(words) < len(words_of(name))}
    return [name for name, rest in bare.items() if name in changed or (rest != name and (not rest or rest in folders))]


def leftovers_among(folders: Sequence[str]) -> list[str]:
    """Return the folders for what nobody has sorted or wants, or programs write: ``unsorted``, ``plots``."""
    young = {"young", "new"} & {name.lower() for name in folders}
    words = {name: words_of(name) for name in folders}
    left = _LEFTOVER | ({"all"} if len(folders) > 2 else set())  # of two, all may be a class: a kind of leukaemia
    found = [name for name in folders if " ".join(words[name]) in left or _PREDICTED.intersection(words[name])]
    return [name for name in found if not (name.lower() == "old" and young)]


def belong_to_images(folders: Iterable[str]) -> list[str]:
    """Return the folders that have a word in their names for what belongs to images: ``labels``, ``xml``, ``crops``."""
    return [name for name in folders if (_BELONGS | SAYS_NOTHING).intersection(words_of(name))]


def are_forms(folders: Sequence[str]) -> bool:
    """Whether the names of all folders have a word for a form of one image: ``rgb`` and ``depth``, ``HR``, ``LR``."""
    if {name.lower() for name in folders} == {"x", "y"}:
        return True
    return len(folders) > 1 and all(FORMS.intersection(words_of(name)) for name in folders)


def is_counter(stem: str) -> bool:
    """Whether a file's name, less its ending, is a number, maybe after a word: ``0001``, ``IMG_0001``, ``cat (12)``."""
    return _COUNTER.fullmatch(stem) is not None


def twins(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return groups of names that differ by case, spaces (``_``, ``-``), Unicode form, as 1 and 01, as cat and cats."""
    plain = {name: _plain(name) for name in names}
    known = set(plain.values())
    groups: dict[str, list[str]] = {}
    for name, text in plain.items():
        groups.setdefault(_singular(text, known), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _plain(name: str) -> str:
    """Return a name without what only looks different in it."""
    text = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    text = re.sub(r"^[\s_]+|(?<=\S)[\s_-]+", " ", text).strip().strip("'\"").rstrip(".,;: ") or text
    text = text.casefold().translate(_LETTERS)
    number = re.fullmatch(r"([-+]?)0*(\d+?)([.,]0*)?", text)
    return number[1].strip("+") + number[2] if number else text


def _singular(text: str, known: Collection[str]) -> str:
    """Return the one of the `known` names that a name is the plural of, else itself."""
    for end, single in (("ies", "y"), ("es", ""), ("s", "")):
        word = text.removesuffix(end) + single
        if text.endswith(end) and len(word) > 2 and word in known:
            return word
    return text


def slips(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return small classes, and that of five times as many images whose name differs by one letter, sorted."""
    near: dict[str, list[str]] = {}
    words = [name for name in counts if len(name) >= _LEAST and not any(map(str.isdigit, name))]
    for name in words:
        for variant in {name, *(name[:i] + name[i + 1 :] for i in range(len(name)))}:
            near.setdefault(variant, []).append(name)
    found: dict[str, str] = {}
    alike = {name: group for group in twins(list(counts)) for name in group}
    for names in near.values():
        common = max(names, key=counts.__getitem__)
        for name in names:
            if counts[name] * _TIMES <= counts[common] and common not in alike.get(name, ()):
                found.setdefault(name, common)
    return sorted(found.items())
