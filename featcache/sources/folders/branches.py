"""What the folders of a source mean: splits, classes, or images without labels. What could mean two things is refused.

A wrong list of classes looks like a right one, and heads score well on it. So nothing here guesses: every refusal
names the option that says what is meant.
"""

from __future__ import annotations

import difflib
import glob
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from featcache.errors import SourceError
from featcache.sources.folders.classes import classes_of
from featcache.sources.folders.hints import says_nothing
from featcache.sources.folders.trees import Look, Tree, wrapped
from featcache.sources.messages import classes_words, command, excluded, quoted, shown, split_words
from featcache.sources.names import PACKED, known_splits
from featcache.sources.options import SourceOptions
from featcache.sources.source import SPLITS, split_order

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Branch:
    """A folder of classes (None: its images have no labels) with a slash at its end ("": the source), and its split."""

    path: str
    split: str | None
    classes: tuple[str, ...] | None


def classes_in(found: Sequence[Branch]) -> set[str]:
    """Return the classes of all of them."""
    return {name for branch in found for name in branch.classes or ()}


def branches(
    tree: Tree, options: SourceOptions, classes: Collection[str] | None = None, *, packed: bool = False
) -> list[Branch]:
    """Return where the images of a source are and what their folders mean, in order of splits; refuse what is not
    clear.

    A `packed` source is one of which the user cannot name a folder as the source.
    """
    wanted = frozenset(classes or ())
    root = _unpacked(tree, wanted) if packed else ""
    here = tree.look(root, whole=True)
    folders = _filled(tree, root, here.folders)
    sure = not options.splits and set(folders) <= wanted
    splits = {} if sure else _splits(tree, folders, options)
    if not splits:
        if folders and (here.image or here.other) and not packed:
            raise _files_beside(tree, root, here)
        if not folders and not packed:
            advice = "If there are classes, make a folder of each, or a table with the columns path and label"
            log.warning("%s: no image has a label, so no head can be trained. %s", tree.where, advice)
        bare = not folders or (packed and not sure and [says_nothing(name) for name in folders] == [True])
        return [Branch(root, None, None if bare else classes_of(tree, root, folders, wanted, top=True))]
    _check_splits(tree, root, folders, splits, options)
    beside = [here.image, *here.tables[:1], here.other] if packed else [here.image]  # `check_unread` says others
    if beside := list(filter(None, beside)):
        log.warning("%s: files beside the folders of splits are not read, such as %r", tree.where, beside[0])
    parts = [_split(tree, f"{root}{name}/", split, wanted) for name, split in splits.items()]
    parts.sort(key=split_order)
    parts = [_unlabelled(tree, part, parts) for part in parts]
    if not any(part.classes for part in parts):
        log.warning("%s: no split has class folders: no image has a label", tree.where)
    _check_same_classes(tree, parts, wanted)
    return parts


def _unpacked(tree: Tree, wanted: Collection[str]) -> str:
    """Return where a tar's own folders begin: below those that wrap all that was packed."""
    path = wrapped(tree, "", wanted, stop_at_splits=True)
    here = tree.look(path)
    name = Path(tree.where).stem  # what `tar` packs is mostly a folder of the tar's name
    wraps = list(here.folders) == [name] and not here.image and name not in wanted and not known_splits([name])
    return f"{path}{name}/" if wraps else path


def _filled(tree: Tree, path: str, folders: Sequence[str]) -> list[str]:
    """Return the folders that hold something; the others are named."""
    found = []
    for name in folders:
        inside = tree.look(f"{path}{name}/")
        if inside.folders or inside.image or inside.other:
            found.append(name)
        else:
            log.warning("%s/%s%s has no file: it is left out", tree.where, path, name)
    return found


def _splits(tree: Tree, folders: Sequence[str], options: SourceOptions) -> dict[str, str]:
    """Return the split of each folder that is one: as the options say, else by its name."""
    given = options.split_of
    lost = [name for name in given if name not in folders]
    if lost:
        raise SourceError(
            f"--split names {shown(lost)}, and {tree.where!r} has no such folder. Its folders: {shown(folders)}."
        )
    known = {name: split for name, split in known_splits(folders).items() if split not in given.values()}
    return known | given


def _check_splits(
    tree: Tree, root: str, folders: Sequence[str], splits: dict[str, str], options: SourceOptions
) -> None:
    """Raise `SourceError` unless the folders are train and other splits, one folder each."""
    others = [name for name in folders if name not in splits]
    if others:
        missing = [split for split in ("train", "test", "validation") if split not in splits.values()] or ["test"]
        if missing[0] == "train":
            train = split_words(others[:3], ["train"] * 3)
            advice = f"If these are train: {train}. If they are classes: {excluded(*splits)}"
        else:
            advice = (
                f"Leave these out with {excluded(*others)}, or say which split they are, such as "
                f"{split_words(others[:1], missing)}"
            )
        raise SourceError(
            f"Some folders of {tree.where!r} are splits by their names ({shown(splits)}) and others are not "
            f"({shown(others)}). {advice}. If all of them are classes: {classes_words(folders)}."
        )
    if "train" not in splits.values():
        raise SourceError(
            f"{tree.where!r} has no train folder beside {shown(splits)}. Add one, or name one of these folders as the "
            f"source. If all of them are classes: {classes_words(folders)}."
        )
    for split in SPLITS:
        same = [name for name in splits if splits[name] == split]
        if len(same) > 1 and split not in (options.splits or {}):
            if all(tree.look(f"{root}{name}/").image for name in same):
                raise SourceError(
                    f"{tree.where!r} has folders of images whose names seem to hold split and class: {shown(same)}. "
                    "Make folders of splits with folders of classes in them, or a table with the columns path, label "
                    f"and split. If all of them are classes: {classes_words(folders)}."
                )
            words = split_words(same, [split] * len(same))
            raise SourceError(
                f"{tree.where!r} has more than one {split} folder: {shown(same)}. Use them together with {words}, or "
                f"leave one out, such as {excluded(same[-1])}."
            )


def _split(tree: Tree, path: str, split: str, wanted: Collection[str]) -> Branch:
    """Return what a split's folder holds, below folders that only wrap it (``seg_train/seg_train/``)."""
    below = wrapped(tree, path, wanted)
    for place in (path, below):
        inside = tree.look(place, whole=True).folders
        others = set(known_splits(inside).values()) - {split}
        if others and len(known_splits(inside)) == len(inside) and not set(inside) <= set(wanted):
            raise SourceError(
                f"The folder of {split} in {tree.where!r}, {place.rstrip('/')!r}, has splits in it again: "
                f"{shown(inside)}. Name that folder as the source, or leave it out with "
                f"{excluded(place.rstrip('/'))}. If they are classes: {classes_words(inside)}."
            )
    if not all(_repeats(name, path, split) for name in below[len(path) :].split("/")[:-1]):
        log.warning("%s: the class folders of %s are taken from %s", tree.where, split, below.rstrip("/"))
    here = tree.look(below, whole=True)
    if here.folders and (here.image or here.other):
        raise _files_beside(tree, below, here, split)
    folders = _filled(tree, below, here.folders)
    return Branch(below, split, classes_of(tree, below, folders, wanted, top=False) if folders else None)


def _repeats(name: str, path: str, split: str | None) -> bool:
    """Whether a folder in a split's folder means that split once more, such as ``test/test/``."""
    return name.lower() == path.rstrip("/").rpartition("/")[2].lower() or known_splits([name]).get(name) == split


def _unlabelled(tree: Tree, part: Branch, parts: Sequence[Branch]) -> Branch:
    """Return a split without classes if its one folder is none: ``test/all/``, ``test/test/``, ``train/images/``."""
    holds, odd = part.classes is not None or tree.look(part.path).image is not None, False
    if part.classes is not None and len(part.classes) == 1:
        (name,) = part.classes
        elsewhere = classes_in([one for one in parts if one is not part and len(one.classes or ()) > 1])
        empty = says_nothing(name) or _repeats(name, part.path, part.split)
        alike = difflib.get_close_matches(name.lower(), [other.lower() for other in elsewhere], 1, 0.75)  # cat, cats
        if name not in elsewhere and (empty or (elsewhere and not alike)):
            odd = not empty
            part = Branch(part.path, part.split, None)
    if holds and part.classes is None and (odd or part.split != "test") and any(one.classes for one in parts):
        log.warning("%s/%s has no class folders: %s has no labels", tree.where, part.path.rstrip("/"), part.split)
    return part


def _check_same_classes(tree: Tree, parts: Sequence[Branch], wanted: Collection[str]) -> None:
    """Refuse splits that have no class in common with train: their names are others for the same classes."""
    train = classes_in([part for part in parts if part.split == "train"])
    for part in parts:
        new = [name for name in part.classes or () if name not in train]
        if part.classes and train and not train & set(part.classes) and not set(part.classes) <= set(wanted):
            raise SourceError(
                f"The classes of {part.split} in {tree.where!r} ({shown(part.classes)}) are not those of train "
                f"({shown(sorted(train))}): none is the same. Give folders of one class the same name, or leave the "
                f"split out with {excluded(part.path.split('/')[0])}."
            )
        if new and train:
            log.warning("%s: classes of %s are not in train: %s", tree.where, part.split, shown(new))


def _files_beside(tree: Tree, path: str, here: Look, split: str | None = None) -> SourceError:
    """Return the error about files beside class folders, or beside the folders in that of a split."""
    where, file, tables = f"{tree.where}/{path}".rstrip("/"), here.image or here.other or "", here.tables
    start = f"{where!r} holds folders, which are classes, and files beside them, such as {file!r}"
    holder = here.folders[0] if len(here.folders) == 1 and says_nothing(here.folders[0]) and not here.image else None
    if holder and (split or not tables):
        start = f"{where!r} holds {holder!r} and {file!r}"
    if holder and split:
        advice = (
            f"If that file has the labels of {split}, make one table of all splits with the columns path, label and "
            f"split; {excluded(path + file)} leaves {split} without labels"
        )
    elif tables:
        kind, which = ("tables", "one of them") if len(tables) > 1 else ("a table", "it")
        start = f"{where!r} holds {kind} beside folders: {shown(tables)}"
        advice = (
            f"If {which} has the labels, name it: {command(f'{where}/{tables[0]}', images=where)}. If the folders are "
            f"the classes: {excluded(*tables)}"
        )
    elif here.image:
        end = Path(file).suffix
        images = f"{glob.escape(path) or '/'}*{end}" if end else glob.escape(file)
        advice = (
            f"Move images into the folder of their class; or leave out the folders with {excluded(*here.folders)}, "
            f"or these images with --exclude {quoted(images)}"
        )
    elif holder:
        inner = command(f"{where}/{holder}")
        advice = f"Name the folder as the source: {inner}. If {holder!r} is a class: {excluded(file)}"
    elif file.lower().endswith(PACKED):
        advice = f"Unpack {file!r} if it has images, or leave it out with {excluded(file)}"
    else:
        advice = f"Leave them out with {excluded(file)}"
    return SourceError(f"{start}. {advice}.")
