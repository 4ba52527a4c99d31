"""Which folders are classes, and which only look like some: annotations, folds, one set of classes several times."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from featcache.errors import SourceError
from featcache.sources.folders import hints
from featcache.sources.folders.trees import Tree, wrapped
from featcache.sources.messages import classes_words, command, excluded, number_of, quoted, shown, split_words
from featcache.sources.names import known_splits

log = logging.getLogger(__name__)

_BESIDE = frozenset({"images", "image", "imgs", "img", "jpegimages"})
"""Names of folders, in lower case, that lie beside annotations or masks of the images."""


def classes_of(tree: Tree, path: str, folders: Sequence[str], wanted: Collection[str], *, top: bool) -> tuple[str, ...]:
    """Return the folders as classes, or refuse them; all of them being `wanted`, nothing is asked."""
    if set(folders) <= set(wanted):
        return tuple(folders)
    where, all_classes = f"{tree.where}/{path}".rstrip("/"), classes_words(folders)
    looks = {name: tree.look(f"{path}{name}/") for name in folders}
    barren = [name for name, look in looks.items() if not look.image and not look.folders]
    if barren:
        example = f"{barren[0]}/{looks[barren[0]].other}"
        raise SourceError(
            f"{where!r} has a folder without images, which is no class: {shown(barren)}, with files such as "
            f"{example!r}. Leave it out with {excluded(*barren)}; if its files have the labels, make a table."
        )
    deep = [name for name, look in looks.items() if not look.image]
    if top and len(folders) == 1 and (deep or hints.says_nothing(folders[0])):
        inner = f"{tree.where}/{wrapped(tree, f'{path}{folders[0]}/')}".rstrip("/")
        raise SourceError(
            f"{where!r} holds nothing but the folder {folders[0]!r}. Name {inner!r} as the source. If "
            f"{folders[0]!r} is a class: {all_classes}."
        )
    _check_holder(tree, path, where, folders, top=top)
    if parts := hints.parts_among(folders):
        raise SourceError(
            f"{where!r} has {shown(parts)}, which look like parts of one set by their names, not like classes. If a "
            f"table has the labels, name it: `featcache extract TABLE --images {quoted(where)}`. If they are splits: "
            f"{split_words(parts) if top else 'make a table of them'}. If all are classes: {all_classes}."
        )
    _check_masks(where, folders)
    if hints.are_numbered(folders):
        log.warning("%s: folders that differ by a number only are taken as classes: %s", where, shown(folders))
    if copies := hints.copies_among(folders):
        log.warning("%s: these look like copies or new folders, and each is a class: %s", where, shown(copies))
    if leftovers := hints.leftovers_among(folders):
        advice = f"If they are none, leave them out with {excluded(*leftovers)}"
        log.warning("%s: these folders are taken as classes: %s. %s", where, shown(leftovers), advice)
    if hints.are_forms(folders):
        said = f"{shown(folders)}. If so, name one of them as the source"
        log.warning("%s: these folders are taken as classes, and may be forms of the same images: %s", where, said)
    if deep := [name for name in deep if name not in leftovers]:
        _check_deep(tree, path, where, folders, deep, top=top)
    return tuple(folders)


def _check_holder(tree: Tree, path: str, where: str, folders: Sequence[str], *, top: bool) -> None:
    """Refuse a folder of images beside what belongs to them; beside table and text, say that it is a class."""
    holder = next((name for name in folders if name.lower() in _BESIDE), None)
    others = [name for name in folders if name != holder]
    if holder is None or not others:
        return
    if len(others) > 1 and not hints.belong_to_images(others):
        advice = "If it has the images and the others what belongs to them, name it as the source"
        log.warning("%s: %r is taken as a class. %s", where, holder, advice)
        return
    inside = f"{where}/{holder}"
    if tree.look(f"{path}{holder}/").folders:
        advice = f"if {holder!r} has folders of classes or splits, name it as the source: {command(inside)}"
    elif top:
        advice = f"for images without labels, name {holder!r} in it as the source: {command(inside)}"
    else:
        advice = "for images without labels, make a table of them"
    raise SourceError(
        f"{where!r} has {holder!r} beside {shown(others)}, which look like images and what belongs to them, not like "
        f"classes: {advice}. Labels that are in files need a table. If all of them are classes: "
        f"{classes_words(folders)}."
    )


def _check_masks(where: str, folders: Sequence[str]) -> None:
    """Refuse folders of masks beside those of images; among many classes, say so."""
    masks, sure = hints.masks_among(folders)
    advice = excluded(*masks)
    if sure and masks:
        others = [name for name in folders if name not in masks]
        raise SourceError(
            f"{where!r} has {shown(masks)} beside {shown(others)}, which look like masks or labels of the images, not "
            f"like classes. Leave them out with {advice}. If all are classes: {classes_words(folders)}."
        )
    if masks:
        log.warning(
            f"{where}: these are taken as classes: {shown(masks)}. If they have masks or labels of the other images, "
            f"leave them out with {advice}"
        )


def _check_deep(tree: Tree, path: str, where: str, folders: Sequence[str], deep: Sequence[str], *, top: bool) -> None:
    """Refuse class folders whose own folders are splits, or the same classes; say that others count as one class."""
    inside = {name: set(tree.look(wrapped(tree, f"{path}{name}/")).folders) for name in deep}
    every = sorted(set().union(*inside.values()))
    splits, all_classes = known_splits(every), classes_words(folders)
    train = next((name for name, split in splits.items() if split == "train"), None)
    if train is not None and len(splits) == len(every):
        raise SourceError(
            f"{where!r} has splits inside of folders: {quoted(f'{deep[0]}/{train}')}. The other way round is "
            f"understood: {quoted(f'{train}/{deep[0]}')}. Move the folders, or make a table with the columns path, "
            f"label and split. If the splits do not matter: {all_classes}."
        )
    masks, sure = hints.masks_among(every)
    if sure and masks:
        holder = next(name for name in deep if masks[0] in inside[name])
        raise SourceError(
            f"{where!r} has masks or labels beside images inside of class folders: {f'{holder}/{masks[0]}'!r}. Leave "
            f"them out with {excluded(*masks)}. If they are images of the classes: {all_classes}."
        )
    for name in deep:
        again = sorted(inside[name] & (set(folders) - {name}))
        if len(again) > 1 or (again and inside[name] <= set(folders)):
            raise SourceError(
                f"{where!r} has class folders that {name!r} has once more: {shown(again)}. Leave that folder out with "
                f"{excluded(path + name)}. If it is a class: {all_classes}."
            )
    for i, name in enumerate(deep):
        for other in deep[i + 1 : i + 20]:
            shared, sizes = inside[name] & inside[other], (len(inside[name]), len(inside[other]))
            if shared and 2 * len(shared) >= min(sizes) and max(sizes) > 1:
                raise SourceError(
                    f"It is not clear whether {shown(folders)} in {where!r} are classes: they have the same folders "
                    f"inside, such as {shown(sorted(shared)[:3])}. If they hold the same images, name one of them "
                    f"as the source. If they are splits: {split_words(folders) if top else 'make a table of them'}. "
                    f"If all are classes: {all_classes}."
                )
    several = next((name for name in deep if not all(map(hints.says_nothing, inside[name]))), None)
    if several is not None:
        log.warning(
            f"{where}: all that lies in the folders of a class folder is that class, such as "
            f"{several}/{min(inside[several])}. If those are the classes, make a table"
        )


def check_inside(where: str, classes: Collection[str], inside: Mapping[str, int], wanted: Collection[str]) -> None:
    """Refuse folders `inside` of class folders, with their images, that are no part of the class; say the others."""
    if not inside or set(classes) <= set(wanted):
        return
    lower = {name.lower() for name in classes}
    names = {path: path.split("/")[-2:] for path in sorted(inside)}
    others = [path for path, (name, inner) in names.items() if inner.lower() in lower - {name.lower()}]
    masks = [path for path, (_, inner) in names.items() if hints.are_masks(inner)]
    splits = [path for path, (_, inner) in names.items() if known_splits([inner])]

    def counted(paths: Collection[str]) -> str:
        return shown(paths, show=lambda path: f"{path!r} ({number_of(inside[path], 'image', 'images')})")

    ends = list(dict.fromkeys(names[path][1] for path in masks))
    table = "Make folders of splits with class folders in them, or a table with the columns path, label and split"
    for paths, what, advice in (
        (others, "other classes", f"Move or remove them, or leave them out with {excluded(*others)}"),
        (masks, "masks or labels", f"Leave them out with {excluded(*ends)}"),
        (splits, "splits", f"{table}; or leave them out with {excluded(*splits)}"),
    ):
        if paths:
            raise SourceError(
                f"{where!r} has {what} inside of class folders: {counted(paths)}. {advice}. If they are images of the "
                f"class they lie in: {classes_words(sorted(classes))}."
            )
    log.warning(
        f"{where}: images inside of folders of a class folder are of that class, too: {counted(names)}. Leave out "
        f"those that are none with --exclude, such as {excluded(next(iter(names)))}"
    )
