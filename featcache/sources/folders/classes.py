"""Which folders are classes, and which only look like some: annotations, folds, one set of classes several times."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from featcache.errors import SourceError
from featcache.sources.folders.hints import (
    are_forms,
    are_numbered,
    belong_to_images,
    copies_among,
    leftovers_among,
    masks_among,
    parts_among,
    says_nothing,
)
from featcache.sources.folders.trees import (
    Tree,
    classes_words,
    exclude_words,
    excluded,
    quoted,
    shown,
    split_words,
    wrapped,
)
from featcache.sources.names import known_splits

log = logging.getLogger(__name__)

_BESIDE = frozenset({"images", "image", "imgs", "img", "jpegimages"})
"""Names of folders, in lower case, that lie beside annotations or masks of the images."""


def classes_of(tree: Tree, path: str, folders: Sequence[str], wanted: Collection[str], *, top: bool) -> tuple[str, ...]:
    """Return the folders as classes, or refuse them; all of them being `wanted`, nothing is asked."""
    if set(folders) <= set(wanted):
        return tuple(folders)
    where = f"{tree.where}/{path}".rstrip("/")
    looks = {name: tree.look(f"{path}{name}/") for name in folders}
    barren = [name for name, look in looks.items() if not look.image and not look.folders]
    if barren:
        example = f"{barren[0]}/{looks[barren[0]].other}"
        raise SourceError(
            f"{where!r} has a folder without images, which is no class: {shown(barren)}, with files such as "
            f"{example!r}. Leave it out with {exclude_words(barren)}; if its files have the labels, make a table."
        )
    deep = [name for name, look in looks.items() if not look.image]
    if top and len(folders) == 1 and (deep or says_nothing(folders[0])):
        inner = f"{tree.where}/{wrapped(tree, f'{path}{folders[0]}/')}".rstrip("/")
        raise SourceError(
            f"{where!r} holds nothing but the folder {folders[0]!r}. Name {inner!r} as the source. If "
            f"{folders[0]!r} is a class: {classes_words(folders)}."
        )
    _check_holder(tree, path, where, folders, top=top)
    if parts := parts_among(folders):
        raise SourceError(
            f"{where!r} has {shown(parts)}, which look like parts of one set by their names, not like classes. If a "
            f"table has the labels, name it: `featcache extract TABLE --images {quoted(where)}`. If they are splits: "
            f"{split_words(parts) if top else 'make a table of them'}. If all are classes: {classes_words(folders)}."
        )
    _check_masks(where, folders)
    if are_numbered(folders):
        log.warning("%s: folders that differ by a number only are taken as classes: %s", where, shown(folders))
    if copies := copies_among(folders):
        log.warning("%s: these look like copies or new folders, and each is a class: %s", where, shown(copies))
    if leftovers := leftovers_among(folders):
        log.warning("%s: these folders are taken as classes: %s. If they are none, leave them out with %s", where,
                    shown(leftovers), exclude_words(leftovers))  # fmt: skip
    if are_forms(folders):
        log.warning("%s: these folders are taken as classes, and may be forms of the same images: %s. If so, name one "
                    "of them as the source", where, shown(folders))  # fmt: skip
    if deep := [name for name in deep if name not in leftovers]:
        _check_deep(tree, path, where, folders, deep, top=top)
    return tuple(folders)


def _check_holder(tree: Tree, path: str, where: str, folders: Sequence[str], *, top: bool) -> None:
    """Refuse a folder of images beside what belongs to them; beside table and text, say that it is a class."""
    holder = next((name for name in folders if name.lower() in _BESIDE), None)
    others = [name for name in folders if name != holder]
    if holder is None or not others:
        return
    if len(others) > 1 and not belong_to_images(others):
        log.warning("%s: %r is taken as a class. If it has the images and the others what belongs to them, name it as "
                    "the source", where, holder)  # fmt: skip
        return
    inside = f"{where}/{holder}"
    if tree.look(f"{path}{holder}/").folders:
        advice = f"if {holder!r} has folders of classes or splits, name it as the source: {_command(inside)}"
    elif top:
        advice = f"for images without labels, name {holder!r} in it as the source: {_command(inside)}"
    else:
        advice = "for images without labels, make a table of them"
    raise SourceError(
        f"{where!r} has {holder!r} beside {shown(others)}, which look like images and what belongs to them, not like "
        f"classes: {advice}. Labels that are in files need a table. If all of them are classes: "
        f"{classes_words(folders)}."
    )


def _command(source: str) -> str:
    return f"`featcache extract {quoted(source)}`"


def _check_masks(where: str, folders: Sequence[str]) -> None:
    """Refuse folders of masks beside those of images; among many classes, say so."""
    masks, sure = masks_among(folders)
    if not masks:
        return
    if not sure:
        log.warning("%s: these are taken as classes: %s. If they have masks or labels of the other images, leave them "
                    "out with %s", where, shown(masks), exclude_words(masks))  # fmt: skip
        return
    others = [name for name in folders if name not in masks]
    raise SourceError(
        f"{where!r} has {shown(masks)} beside {shown(others)}, which look like masks or labels of the images, not like "
        f"classes. Leave them out with {exclude_words(masks)}. If all are classes: {classes_words(folders)}."
    )


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
    masks, sure = masks_among(every)
    if sure and masks:
        holder = next(name for name in deep if masks[0] in inside[name])
        raise SourceError(
            f"{where!r} has masks or labels beside images inside of class folders: {f'{holder}/{masks[0]}'!r}. Leave "
            f"them out with {exclude_words(masks)}. If they are images of the classes: {classes_words(folders)}."
        )
    for name in deep:
        again = sorted(inside[name] & (set(folders) - {name}))
        if len(again) > 1 or (again and inside[name] <= set(folders)):
            raise SourceError(
                f"{where!r} has class folders that {name!r} has once more: {shown(again)}. Leave that folder out with "
                f"{excluded(path + name)}. If it is a class: {classes_words(folders)}."
            )
    for i, name in enumerate(deep):
        for other in deep[i + 1 : i + 20]:
            shared, sizes = inside[name] & inside[other], (len(inside[name]), len(inside[other]))
            if shared and 2 * len(shared) >= min(sizes) and max(sizes) > 1:
                what = f"have the same folders inside, such as {shown(sorted(shared)[:3])}"
                raise _one_set(where, folders, what, top=top)
    several = next((name for name in deep if not all(map(says_nothing, inside[name]))), None)
    if several is not None:
        log.warning("%s: all that lies in the folders of a class folder is that class, such as %s/%s. If those are the "
                    "classes, make a table", where, several, min(inside[several]))  # fmt: skip


def _one_set(where: str, folders: Sequence[str], why: str, *, top: bool) -> SourceError:
    advice = f"If they are splits: {split_words(folders)}" if top else "If they are splits: make a table of them"
    return SourceError(
        f"{where!r} has {shown(folders)}, which {why}: they are no classes. If they hold the same images, name one of "
        f"them as the source. {advice}. If all are classes: {classes_words(folders)}."
    )
