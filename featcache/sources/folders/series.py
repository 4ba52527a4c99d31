"""Images that belong together by their folders or names, with no group said: of one patient, frames of a video."""

from __future__ import annotations

import itertools
import logging
import re
from collections import Counter

import numpy as np

from featcache.sources.folders.trees import number_of
from featcache.sources.names import known_splits
from featcache.sources.source import Items

log = logging.getLogger(__name__)

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
_LONGEST = 1000
_LOOKED_AT = 100_000  # names of files: more of them say nothing more
_LONG = 5  # images of each number from which on two numbers are those of a series and an image
_MANY = 10  # classes, most of which have one image

ADVICE = "List them in a table with the columns path, label and group"


def warn_of_series(where: str, items: Items) -> None:
    """Say which images seem to be several of one patient, video and the like, if a draw may divide them."""
    if items.splits.names or items.groups.names or not items.labels.names:
        return
    folders: dict[str, int] = {}
    videos: dict[str, int] = {}
    for path in items.paths:
        folder, _, name = path.rpartition("/")
        folders[folder] = folders.get(folder, 0) + 1
        if "fr" in name.lower() and len(path) < _LONGEST and (found := _FRAME.match(path.rpartition(".")[0])):
            videos[found[1]] = videos.get(found[1], 0) + 1
    classes = set(items.labels.names)
    single = int((np.bincount(items.labels.codes[items.labels.codes >= 0]) == 1).sum())
    if len(classes) >= _MANY and 2 * single > len(classes):
        log.warning("%s: %d of %d classes have a single image: they may be no classes", where, single, len(classes))
    names = [(folder, folder.rpartition("/")[2]) for folder, count in folders.items() if count > 1]
    subjects = [folder for folder, name in names if name not in classes and _SUBJECT.fullmatch(name)]
    if subjects:
        log.warning("%s: images of one may be in several splits: %s, such as %r. %s", where, number_of(
            len(subjects), "folder looks like a patient, a video or the like",
            "folders look like patients, videos or the like"), subjects[0], ADVICE)  # fmt: skip
    several = {video: count for video, count in videos.items() if count > 1}
    if several:
        log.warning("%s: %s look like frames of %s, such as %r, and frames of one may be in several splits. %s", where,
                    f"{sum(videos.values()):,} images", number_of(len(videos), "video", "videos"), next(iter(several)),
                    ADVICE)  # fmt: skip
    elif first := _named_series(items):
        log.warning("%s: by their names, several files are of one patient, video or the like, such as %r (%d images), "
                    "and may be in several splits. %s", where, *first, ADVICE)  # fmt: skip


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
        log.warning("%s: names of files begin with those of splits (%s), which are not used: make a table with the "
                    "columns path, label and split", where, ", ".join(sorted(found)))  # fmt: skip
