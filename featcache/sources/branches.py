"""What the folders of a source mean: splits, classes, or images without labels. What could mean two things is refused.

A wrong list of classes looks like a right one, and heads score well on it. So nothing here guesses: every refusal
names the option that says what is meant.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from featcache.errors import SourceError
from featcache.sources.layouts import known_splits
from featcache.sources.options import SourceOptions
from featcache.sources.source import SPLITS

log = logging.getLogger(__name__)

_NOT_IMAGES = (
    ".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".html", ".htm", ".md", ".yaml", ".yml", ".log", ".ini", ".cfg",
    ".py", ".ipynb", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".mat", ".npy", ".npz", ".h5", ".pkl", ".pt", ".zip",
    ".gz", ".tar", ".mp4", ".avi", ".mov", ".wav", ".mp3",
)  # fmt: skip
"""How names of files end that are certainly no images; a folder of nothing else is no class."""

_HOLDERS = frozenset({
    "images", "image", "imgs", "img", "jpegimages", "jpg", "jpeg", "png", "data", "dataset", "photos", "pictures",
    "all", "unlabeled", "unlabelled", "unknown", "none",
})  # fmt: skip
"""Names of folders, in lower case, that say that there are images and not of what."""

_BESIDE = frozenset({"images", "image", "imgs", "img", "jpegimages"})
"""Those of them that lie beside annotations or masks of the images."""

_FOLD = re.compile(r"(fold|split|part|batch|chunk|subset|cv|shard)[\W_]*\d+", re.IGNORECASE)

_DEEP = 16


class Look(NamedTuple):
    """What lies in a folder.

    Attributes
    ----------
    folders : sequence of str
        Names of its folders, in order; of a folder with an image it may be some of them.
    image : str or None
        A file that may be an image.
    other : str or None
        A file that is certainly none.
    """

    folders: Sequence[str]
    image: str | None = None
    other: str | None = None


class Tree(Protocol):
    """Folders, on disk or in a tar."""

    where: str

    def look(self, path: str, *, whole: bool = False) -> Look:
        """Return what lies in a folder, given by its path with a slash at its end (the top is ""); maybe `whole`."""
        ...


def may_be_image(name: str) -> bool:
    """Whether a file is not certainly something else."""
    return not name.lower().endswith(_NOT_IMAGES)


@dataclass(frozen=True)
class Branch:
    """A folder of classes or of images.

    Attributes
    ----------
    path : str
        With a slash at its end; "" is the source itself.
    split : str or None
        The split of all that lies in it.
    classes : tuple of str or None
        Names of its class folders; None if all that lies in it has no label.
    """

    path: str
    split: str | None
    classes: tuple[str, ...] | None


def branches(
    tree: Tree, options: SourceOptions, classes: Collection[str] | None = None, *, packed: bool = False
) -> list[Branch]:
    """Return where the images of a source are and what their folders mean, in order of splits.

    Parameters
    ----------
    tree : Tree
        The folders.
    options : SourceOptions
        Their `splits` are taken as they are.
    classes : collection of str, optional
        The classes wanted: where all top folders are among them, they are classes.
    packed : bool
        Whether the user cannot name a folder of it as the source.

    Raises
    ------
    SourceError
        If the folders could mean two things, or what they mean is nothing to train on.
    """
    wanted = frozenset(classes or ())
    root = _unpacked(tree, wanted) if packed else ""
    here = tree.look(root, whole=True)
    folders = _filled(tree, root, here.folders)
    sure = not options.splits and set(folders) <= wanted
    splits = {} if sure else _splits(tree, folders, options)
    if not splits:
        if folders and (here.image or here.other) and not packed:
            raise _files_beside(tree.where, here)
        bare = not folders or (packed and not sure and [name.lower() in _HOLDERS for name in folders] == [True])
        return [Branch(root, None, None if bare else _classes(tree, root, folders, wanted, top=True))]
    _check_splits(tree, root, folders, splits, options)
    if here.image:
        log.warning("%s: files beside the folders of splits are not read, such as %r", tree.where, here.image)
    parts = [_split(tree, f"{root}{name}/", split, wanted) for name, split in splits.items()]
    parts.sort(key=lambda part: SPLITS.index(part.split or ""))
    parts = [_unlabelled(tree, part, parts) for part in parts]
    _check_same_classes(tree, parts, wanted)
    return parts


def _unpacked(tree: Tree, wanted: Collection[str]) -> str:
    """Return where a tar's own folders begin: below those that wrap all that was packed."""
    path = _wrapped(tree, "", wanted, stop_at_splits=True)
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


def _wrapped(tree: Tree, path: str, wanted: Collection[str] = (), *, stop_at_splits: bool = False) -> str:
    """Return the path below folders that hold one folder of folders and nothing else; `wanted` ones are classes."""
    for _ in range(_DEEP):
        here = tree.look(path, whole=True)
        if here.image or here.other or len(here.folders) != 1 or here.folders[0] in wanted:
            break
        if stop_at_splits and known_splits(here.folders):
            break
        below = tree.look(f"{path}{here.folders[0]}/")
        if below.image or below.other or not below.folders:
            break
        path = f"{path}{here.folders[0]}/"
    return path


def _splits(tree: Tree, folders: Sequence[str], options: SourceOptions) -> dict[str, str]:
    """Return the split of each folder that is one: as the options say, else by its name."""
    given = options.split_of
    lost = [name for name in given if name not in folders]
    if lost:
        raise SourceError(
            f"--split names {_shown(lost)}, and {tree.where!r} has no such folder. Its folders: {_shown(folders)}."
        )
    known = {name: split for name, split in known_splits(folders).items() if split not in given.values()}
    return known | given


def _check_splits(
    tree: Tree, root: str, folders: Sequence[str], splits: dict[str, str], options: SourceOptions
) -> None:
    """Raise `SourceError` unless the folders are train and other splits, one folder each."""
    others = [name for name in folders if name not in splits]
    if others:
        there = [f"--exclude {_quoted(name)}" for name in others[:3]]
        raise SourceError(
            f"Some folders of {tree.where!r} are splits by their names ({_shown(splits)}) and others are not "
            f"({_shown(others)}). Leave these out with {' '.join(there)}, or say which split they are with "
            f"{_split_words(others[:1])}. If all of them are classes: {_classes_words(folders)}."
        )
    if "train" not in splits.values():
        raise SourceError(
            f"{tree.where!r} has no train folder beside {_shown(splits)}. Add one, or name one of these folders as the "
            f"source. If all of them are classes: {_classes_words(folders)}."
        )
    for split in SPLITS:
        same = [name for name in splits if splits[name] == split]
        if len(same) > 1 and split not in options.splits:
            if all(tree.look(f"{root}{name}/").image for name in same):
                raise SourceError(
                    f"{tree.where!r} has folders of images whose names seem to hold split and class: {_shown(same)}. "
                    "Make folders of splits with folders of classes in them, or a table with the columns path, label "
                    f"and split. If all of them are classes: {_classes_words(folders)}."
                )
            words = " ".join(f"--split {split}={_quoted(name)}" for name in same)
            raise SourceError(
                f"{tree.where!r} has more than one {split} folder: {_shown(same)}. Use them together with {words}, or "
                f"leave one out, such as --exclude {_quoted(same[-1])}."
            )


def _split(tree: Tree, path: str, split: str, wanted: Collection[str]) -> Branch:
    """Return what a split's folder holds, below folders that only wrap it (``seg_train/seg_train/``)."""
    below = _wrapped(tree, path, wanted)
    for place in (path, below):
        inside = tree.look(place, whole=True).folders
        others = set(known_splits(inside).values()) - {split}
        if others and len(known_splits(inside)) == len(inside) and not set(inside) <= set(wanted):
            raise SourceError(
                f"The folder of {split} in {tree.where!r}, {place.rstrip('/')!r}, has splits in it again: "
                f"{_shown(inside)}. Name that folder as the source, or leave it out with --exclude "
                f"{_quoted(place.rstrip('/'))}. If they are classes: {_classes_words(inside)}."
            )
    if not all(_repeats(name, path, split) for name in below[len(path) :].split("/")[:-1]):
        log.warning("%s: the class folders of %s are taken from %s", tree.where, split, below.rstrip("/"))
    here = tree.look(below, whole=True)
    if here.folders and (here.image or here.other):
        raise _files_beside(f"{tree.where}/{below}", here)
    folders = _filled(tree, below, here.folders)
    return Branch(below, split, _classes(tree, below, folders, wanted, top=False) if folders else None)


def _repeats(name: str, path: str, split: str | None) -> bool:
    """Whether a folder in a split's folder means that split once more, such as ``test/test/``."""
    return name.lower() == path.rstrip("/").rpartition("/")[2].lower() or known_splits([name]).get(name) == split


def _unlabelled(tree: Tree, part: Branch, parts: Sequence[Branch]) -> Branch:
    """Return a split without classes if its one folder is none: ``test/all/``, ``test/test/``, ``train/images/``."""
    holds = part.classes is not None or tree.look(part.path).image is not None
    if part.classes is not None and len(part.classes) == 1:
        (name,) = part.classes
        elsewhere = {other for one in parts if one is not part for other in one.classes or ()}
        repeated = _repeats(name, part.path, part.split)
        if name.lower() in _HOLDERS or repeated or (len(elsewhere) > 1 and name not in elsewhere):
            part = Branch(part.path, part.split, None)
    if holds and part.classes is None and part.split != "test" and any(one.classes for one in parts):
        log.warning("%s/%s has no class folders: %s has no labels", tree.where, part.path.rstrip("/"), part.split)
    return part


def _check_same_classes(tree: Tree, parts: Sequence[Branch], wanted: Collection[str]) -> None:
    """Refuse splits that have no class in common with train: their names are others for the same classes."""
    train = {name for part in parts if part.split == "train" for name in part.classes or ()}
    for part in parts:
        if part.classes and train and not train & set(part.classes) and not set(part.classes) <= set(wanted):
            raise SourceError(
                f"The classes of {part.split} in {tree.where!r} ({_shown(part.classes)}) are not those of train "
                f"({_shown(sorted(train))}): none is the same. Give folders of one class the same name, or leave the "
                f"split out with --exclude {_quoted(part.path.split('/')[0])}."
            )


def _classes(tree: Tree, path: str, folders: Sequence[str], wanted: Collection[str], *, top: bool) -> tuple[str, ...]:
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
        words = " ".join(f"--exclude {_quoted(name)}" for name in barren[:3])
        raise SourceError(
            f"{where!r} has a folder without images, which is no class: {_shown(barren)}, with files such as "
            f"{example!r}. Leave it out with {words}."
        )
    deep = [name for name, look in looks.items() if not look.image]
    if top and len(folders) == 1 and (deep or folders[0].lower() in _HOLDERS):
        inner = f"{tree.where}/{_wrapped(tree, f'{path}{folders[0]}/')}".rstrip("/")
        raise SourceError(
            f"{where!r} holds nothing but the folder {folders[0]!r}. Name {inner!r} as the source. If "
            f"{folders[0]!r} is a class: {_classes_words(folders)}."
        )
    holder = next((name for name in folders if name.lower() in _BESIDE), None)
    if holder is not None and len(folders) > 1:
        others = [name for name in folders if name != holder]
        advice = f"name {holder!r} in it as the source" if top else "make a table of them"
        raise SourceError(
            f"{where!r} has {holder!r} beside {_shown(others)}, which look like images and what belongs to them, not "
            f"like classes. For images without labels {advice}; labels that are in files need a table. If all of them "
            f"are classes: {_classes_words(folders)}."
        )
    if len(folders) > 1 and all(map(_FOLD.fullmatch, folders)):
        raise _one_set(where, folders, "look like parts of one set by their names", top=top)
    if deep:
        _check_deep(tree, path, where, folders, deep, top=top)
    return tuple(folders)


def _check_deep(tree: Tree, path: str, where: str, folders: Sequence[str], deep: Sequence[str], *, top: bool) -> None:
    """Refuse class folders whose own folders are splits, or the same classes; say that others count as one class."""
    inside = {name: set(tree.look(_wrapped(tree, f"{path}{name}/")).folders) for name in deep}
    every = sorted(set().union(*inside.values()))
    splits = known_splits(every)
    train = next((name for name, split in splits.items() if split == "train"), None)
    if train is not None and len(splits) == len(every):
        raise SourceError(
            f"{where!r} has splits inside of folders: {deep[0]}/{train}. The other way round is understood: "
            f"{train}/{deep[0]}. Move the folders, or make a table with the columns path, label and split. If the "
            f"splits do not matter: {_classes_words(folders)}."
        )
    for name in deep:
        again = sorted(inside[name] & set(folders))
        if len(again) > 1:
            raise SourceError(
                f"{where!r} has class folders that {name!r} has once more: {_shown(again)}. Leave that folder out with "
                f"--exclude {_quoted(path + name)}. If it is a class: {_classes_words(folders)}."
            )
    for i, name in enumerate(deep):
        for other in deep[i + 1 : i + 20]:
            shared, sizes = inside[name] & inside[other], (len(inside[name]), len(inside[other]))
            if shared and 2 * len(shared) >= min(sizes) and max(sizes) > 1:
                what = f"have the same folders inside, such as {_shown(sorted(shared)[:3])}"
                raise _one_set(where, folders, what, top=top)
    if len(deep) == len(folders) and not all(name.lower() in _HOLDERS for name in every):
        log.warning("%s: each of %s is one class with all that lies in its folders, such as %s/%s. If those are the "
                    "classes, make a table", where, _shown(folders), deep[0], min(inside[deep[0]], default="")
        )  # fmt: skip


def _one_set(where: str, folders: Sequence[str], why: str, *, top: bool) -> SourceError:
    advice = f"Say which is which: {_split_words(folders)}" if top else "Make a table of them"
    return SourceError(
        f"{where!r} has {_shown(folders)}, which {why}: they are splits rather than classes. {advice}. If they are "
        f"classes: {_classes_words(folders)}."
    )


def _files_beside(where: str, here: Look) -> SourceError:
    file = here.image or here.other or ""
    return SourceError(
        f"{where.rstrip('/')!r} holds folders, which are classes, and files beside them, such as {file!r}. Move images "
        f"into the folder of their class, and leave other files out with --exclude {_quoted(file)}."
    )


def _split_words(folders: Sequence[str]) -> str:
    """Return an example of the option `--split` with folders that there are."""
    splits = ("train", "test") if len(folders) > 1 else ("test",)
    return " ".join(f"--split {split}={_quoted(name)}" for split, name in zip(splits, folders, strict=False))


def _classes_words(folders: Sequence[str]) -> str:
    return f"--classes {_quoted(','.join(folders))}" if len(folders) <= 8 else "--classes with all their names"


def _quoted(name: str) -> str:
    """Return a name for a shell; one that no line can show as Python writes it."""
    return shlex.quote(name) if name.isprintable() else repr(name)


def _shown(names: Collection[str]) -> str:
    shown = [repr(name) for name in list(names)[:5]]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
