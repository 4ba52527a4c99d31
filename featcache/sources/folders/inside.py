"""Folders inside of class folders that have images of their own: part of the class, or masks, other classes, splits."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from featcache.errors import SourceError
from featcache.sources.folders.branches import Branch
from featcache.sources.folders.hints import are_masks
from featcache.sources.folders.trees import classes_words, exclude_words, excluded, number_of
from featcache.sources.names import known_splits

log = logging.getLogger(__name__)


def check_inside(where: str, found: Sequence[Branch], inside: Mapping[str, int], wanted: Collection[str]) -> None:
    """Refuse folders inside of class folders that are no part of the class by their names; say the others.

    `inside` has the images in each folder that lies in a class folder beside images, by its path in the source.
    """
    classes = sorted({name for branch in found for name in branch.classes or ()})
    if not inside or set(classes) <= set(wanted):
        return
    lower = {name.lower() for name in classes}
    names = {path: path.split("/")[-2:] for path in sorted(inside)}
    others = [path for path, (name, inner) in names.items() if inner.lower() in lower - {name.lower()}]
    masks = [path for path, (_, inner) in names.items() if are_masks(inner)]
    splits = [path for path, (_, inner) in names.items() if known_splits([inner])]
    for paths, what, advice in (
        (others, "other classes", f"Move or remove them, or leave them out with {exclude_words(others)}"),
        (masks, "masks or labels", f"Leave them out with {exclude_words(_ends(masks, names))}"),
        (splits, "splits", "Make folders of splits with class folders in them, or a table with the columns path, label "
                           f"and split; or leave them out with {exclude_words(splits)}"),
    ):  # fmt: skip
        if paths:
            raise SourceError(
                f"{where!r} has {what} inside of class folders: {_counted(paths, inside)}. {advice}. If they are "
                f"images of the class they lie in: {classes_words(classes)}."
            )
    log.warning("%s: images inside of folders of a class folder are of that class, too: %s. Leave out those that are "
                "none with --exclude, such as %s", where, _counted(list(names), inside),
                excluded(next(iter(names))))  # fmt: skip


def _ends(paths: Sequence[str], names: Mapping[str, list[str]]) -> list[str]:
    """Return the names of the folders, each once."""
    return list(dict.fromkeys(names[path][1] for path in paths))


def _counted(paths: Sequence[str], inside: Mapping[str, int]) -> str:
    """Return the first paths with how many images they have."""
    first = ", ".join(f"{path!r} ({number_of(inside[path], 'image', 'images')})" for path in paths[:5])
    return first + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
