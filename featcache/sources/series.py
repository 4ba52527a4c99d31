"""Images that belong together by their folders or names, with no group said: of one patient, frames of a video."""

from __future__ import annotations

import logging
import re

import numpy as np

from featcache.sources.source import Items
from featcache.sources.trees import number_of

log = logging.getLogger(__name__)

_SUBJECT = re.compile(
    r"(patient|subject|participant|case|person|lesion|specimen|animal|plant|video|vid|clip|scene|session|sequence|seq)"
    r"(?:[\W_]*(?:id|no|nr|number))?[\W_]*\d+[a-z]?",
    re.IGNORECASE,
)
_FRAME = re.compile(r"(.*[^\W_])[\W_]*(?:frame|frm)[\W_]*\d+$", re.IGNORECASE | re.DOTALL)
_LONGEST = 1000
_MANY = 10  # classes, most of which have one image

ADVICE = "List them in a table with the columns path, label and group"


def warn_of_series(where: str, items: Items) -> None:
    """Say which images seem to be several of one patient, video and the like, if a draw may divide them.

    Parameters
    ----------
    where : str
        The source, for messages.
    items : Items
        Its images; of those with splits or groups of their own nothing is said.
    """
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
