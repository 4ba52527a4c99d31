"""Which folders are classes, and which only look like some: annotations, folds, one set of classes several times."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence

from featcache.errors import SourceError
from featcache.sources.layouts import known_splits
from featcache.sources.trees import Tree, classes_words, quoted, shown, split_words, wrapped

log = logging.getLogger(__name__)

HOLDERS = frozenset({
    "images", "image", "imgs", "img", "jpegimages", "jpg", "jpeg", "png", "data", "dataset", "photos", "pictures",
    "all", "unlabeled", "unlabelled", "unknown", "none",
})  # fmt: skip
"""Names of folders, in lower case, that say that there are images and not of what."""

_BESIDE = frozenset({"images", "image", "imgs", "img", "jpegimages"})
"""Those of them that lie beside annotations or masks of the images."""

_FOLD = re.compile(r"(fold|split|part|batch|chunk|subset|cv|shard)[\W_]*\d+", re.IGNORECASE)


def classes_of(tree: Tree, path: str, folders: Sequence[str], wanted: Collection[str], *, top: bool) -> tuple[str, ...]:
    """Return the folders as classes; all of them being `wanted`, nothing is asked.

    Raises
    ------
    SourceError
        If they look like something else: annotations, folds, one folder around all, splits of one set of classes.
    """
    if set(folders) <= set(wanted):
        return tuple(folders)
    where = f"{tree.where}/{path}".rstrip("/")
    looks = {name: tree.look(f"{path}{name}/") for name in folders}
    barren = [name for name, look in looks.items() if not look.image and not look.folders]
    if barren:
        example = f"{barren[0]}/{looks[barren[0]].other}"
        words = " ".join(f"--exclude {quoted(name)}" for name in barren[:3])
        raise SourceError(
            f"{where!r} has a folder without images, which is no class: {shown(barren)}, with files such as "
            f"{example!r}. Leave it out with {words}."
        )
    deep = [name for name, look in looks.items() if not look.image]
    if top and len(folders) == 1 and (deep or folders[0].lower() in HOLDERS):
        inner = f"{tree.where}/{wrapped(tree, f'{path}{folders[0]}/')}".rstrip("/")
        raise SourceError(
            f"{where!r} holds nothing but the folder {folders[0]!r}. Name {inner!r} as the source. If "
            f"{folders[0]!r} is a class: {classes_words(folders)}."
        )
    holder = next((name for name in folders if name.lower() in _BESIDE), None)
    if holder is not None and len(folders) > 1:
        others = [name for name in folders if name != holder]
        advice = f"name {holder!r} in it as the source" if top else "make a table of them"
        raise SourceError(
            f"{where!r} has {holder!r} beside {shown(others)}, which look like images and what belongs to them, not "
            f"like classes. For images without labels {advice}; labels that are in files need a table. If all of them "
            f"are classes: {classes_words(folders)}."
        )
    if len(folders) > 1 and all(map(_FOLD.fullmatch, folders)):
        raise _one_set(where, folders, "look like parts of one set by their names", top=top)
    if deep:
        _check_deep(tree, path, where, folders, deep, top=top)
    return tuple(folders)


def _check_deep(tree: Tree, path: str, where: str, folders: Sequence[str], deep: Sequence[str], *, top: bool) -> None:
    """Refuse class folders whose own folders are splits, or the same classes; say that others count as one class."""
    inside = {name: set(tree.look(wrapped(tree, f"{path}{name}/")).folders) for name in deep}
    every = sorted(set().union(*inside.values()))
    splits = known_splits(every)
    train = next((name for name, split in splits.items() if split == "train"), None)
    if train is not None and len(splits) == len(every):
        raise SourceError(
            f"{where!r} has splits inside of folders: {quoted(f'{deep[0]}/{train}')}. The other way round is "
            f"understood: {quoted(f'{train}/{deep[0]}')}. Move the folders, or make a table with the columns path, "
            f"label and split. If the splits do not matter: {classes_words(folders)}."
        )
    for name in deep:
        again = sorted(inside[name] & set(folders))
        if len(again) > 1:
            raise SourceError(
                f"{where!r} has class folders that {name!r} has once more: {shown(again)}. Leave that folder out with "
                f"--exclude {quoted(path + name)}. If it is a class: {classes_words(folders)}."
            )
    for i, name in enumerate(deep):
        for other in deep[i + 1 : i + 20]:
            shared, sizes = inside[name] & inside[other], (len(inside[name]), len(inside[other]))
            if shared and 2 * len(shared) >= min(sizes) and max(sizes) > 1:
                what = f"have the same folders inside, such as {shown(sorted(shared)[:3])}"
                raise _one_set(where, folders, what, top=top)
    if len(deep) == len(folders) and not all(name.lower() in HOLDERS for name in every):
        log.warning("%s: each of %s is one class with all that lies in its folders, such as %s/%s. If those are the "
                    "classes, make a table", where, shown(folders), deep[0], min(inside[deep[0]], default="")
        )  # fmt: skip


def _one_set(where: str, folders: Sequence[str], why: str, *, top: bool) -> SourceError:
    advice = f"Say which is which, such as {split_words(folders)}" if top else "Make a table of them"
    return SourceError(
        f"{where!r} has {shown(folders)}, which {why}: they are splits rather than classes. {advice}. If they are "
        f"classes: {classes_words(folders)}."
    )
