"""Tables that lie in a folder with the images they list, or in the folders of its splits."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from featcache.errors import OptionError, SourceError
from featcache.sources.files import FileSource, item_at
from featcache.sources.folders.hints import says_nothing
from featcache.sources.folders.trees import Content, Folders, content
from featcache.sources.messages import command, excluded, number_of, shown
from featcache.sources.names import IMAGE_NAME, each_word, known_splits, may_be_image
from featcache.sources.options import SourceOptions
from featcache.sources.source import Item, Items, Source, class_names, split_order
from featcache.sources.tables.labels import check_same_classes
from featcache.sources.tables.roles import LABEL_NAMES, SURE_IMAGES, WANTED, open_columns
from featcache.sources.tables.rows import open_table, squashed
from featcache.sources.tables.tables import TABLE_OPTIONS, table_items

log = logging.getLogger(__name__)

_SHEETS = each_word(".xlsx .xls .ods .parquet .feather")  # how names of tables end that cannot be read
_EXPLAINS = re.compile(r"(readme|licen[sc]e|citation|changelog)\b", re.IGNORECASE)
"""Names of files that nobody takes for labels."""
_LABEL_WORDS = re.compile(r"[\W_]*(labels?|annotations?|metadata|meta|list|info|classes|truth|gt)[\W_]*", re.IGNORECASE)
"""What a table's name may have beside that of a split."""


def metadata_source(tree: Folders, options: SourceOptions) -> FileSource | None:
    """Return the source of a folder whose images are listed by tables in it; None if no table in it is about its
    images.

    That is ``metadata.csv`` or ``metadata.jsonl``; one table beside the images it lists; a table for each split, named
    as it (``train.csv``, ``test_labels.csv``); or folders of splits, each of them so.
    """
    root, top = Path(tree.where), tree.content("")
    parts = _parts(tree, top, options) or _split_parts(tree, options)
    if not parts:
        return None
    options.check("a folder with tables of its images", "exclude", *TABLE_OPTIONS)
    source = FileSource(root, _items(tree, parts, options), options=options)
    check_same_classes(tree.where, source.items)
    _warn_of_folders(tree.where, source.items)
    used = {(part.place, part.table) for part in parts}
    unused = []
    for place in dict.fromkeys(["", *(part.place for part in parts)]):
        tables = _tables_in(tree.content(f"{place}/" if place else ""))
        unused += [f"{place}/{name}".lstrip("/") for name in tables if (place, name) not in used]
    if unused:
        log.warning("%s: %s is not read: the labels are from other tables", tree.where, shown(unused, 20))
    tree.exclusion.warn(tree.where)
    return source


def _warn_of_folders(where: str, items: Items) -> None:
    """Say that folders are no classes if a table's labels are none of their names."""
    folders = {path.rpartition("/")[0].rpartition("/")[2] for path in items.paths}
    folders = {name for name in folders if name and not says_nothing(name)} - known_splits(folders).keys()
    if len(folders) > 1 and items.labels.names and not folders & set(items.labels.names):
        classes, others = shown(items.labels.names[:5]), shown(sorted(folders)[:5])
        log.warning("%s: the classes are from the table, not the folders: %s, not %s", where, classes, others)


def check_unread(tree: Folders, source: Source, options: SourceOptions) -> None:
    """Say which files beside folders are not read; refuse that if no image has a label and one is a table."""
    top = tree.content("")
    others = [name for name in top.files if not IMAGE_NAME.search(name) and not _EXPLAINS.match(name)]
    if not class_names(source.items):
        tables = [*_tables_in(top), *(name for name in others if name.lower().endswith(_SHEETS))]
        if tables:
            raise SourceError(
                f"The images in {tree.where!r} have no labels, and {tables[0]!r} is not read. Save it as a CSV file "
                f"that has columns such as path and label, or leave it out with {excluded(tables[0])}."
            )
        for name in itertools.islice(_lists(top), 20):
            if _tried(Path(tree.where, name), replace(options, splits={})).hits:
                raise SourceError(
                    f"The images in {tree.where!r} have no labels, and {name!r} lists them. Name that file as the "
                    f"source, or leave it out with {excluded(name)}."
                )
    if others and top.folders:
        log.warning("%s: files beside the folders are not read: %s", tree.where, shown(others, 20))


class _Part(NamedTuple):
    """A table in a folder below the root, and the split that its place or its name says; no table: no labels."""

    place: str
    table: str | None
    split: str | None
    images: str | None = None


def _lists(top: Content) -> Iterator[str]:
    """Yield the text files of a folder that are not beside an image of the same name."""
    images = {IMAGE_NAME.sub("", name) for name in top.files}
    return (name for name in top.files if name.lower().endswith(".txt") and name[:-4] not in images)


def _parts(tree: Folders, top: Content, options: SourceOptions) -> list[_Part]:
    """Return which of the tables in the top folder list its images."""
    root, tables = Path(tree.where), _tables_in(top)
    if chosen := list(filter(_is_metadata, tables)):
        return [_Part("", name, None) for name in _one_table(root, chosen)]
    known = options.known_splits(top.folders)
    folders = {known[name]: name for name in top.folders if name in known}
    splits = _splits_of_tables(tables, options)
    near = {name: str(root / folders[split]) for name, split in splits.items() if split in folders}
    images = _that_list_files(root, top, options, splits, near)
    of = {name: splits[name] for name in images if name in splits}
    named = len(of) == len(images) and len(set(of.values())) == len(of) and "train" in of.values()
    if named and (len(of) > 1 or (near and not _has_images(top))):
        parts = [_Part("", name, split, images[name]) for name, split in of.items()]
        rest = {split: name for split, name in folders.items() if split not in of.values()}
        if deep := [name for name in rest.values() if tree.content(f"{name}/").folders]:
            raise SourceError(
                f"{tree.where!r} has tables of some splits, and folders of others: {shown(deep, 20)}. Add a table "
                "for each of them, or leave them out with --exclude."
            )
        parts += [_Part(name, None, split) for split, name in rest.items()]
        return sorted(parts, key=split_order)
    if len(images) == 1 and not _has_images(top):
        [name] = images
        raise SourceError(
            f"{str(root / name)!r} lists images that are in folders beside it. Name that table as the source: "
            f"{command(str(root / name))}; or leave it out with {excluded(name)}."
        )
    return [_Part("", name, None) for name in _one_table(root, list(images))]


def _splits_of_tables(tables: list[str], options: SourceOptions) -> dict[str, str]:
    """Return the split of each table that is named as one: ``train.csv``, ``trainLabels.csv``, ``labels_test.csv``."""
    stems = {name: Path(name).stem for name in tables}
    bare = {name: _LABEL_WORDS.sub("", stem) for name, stem in stems.items()}
    known, given = known_splits(bare.values()), options.split_of
    found = {name: given.get(stems[name]) or known.get(bare[name]) for name in tables}
    return {name: split for name, split in found.items() if split}


def _split_parts(tree: Folders, options: SourceOptions) -> list[_Part]:
    """Return the tables in the folders of splits; none if there are none."""
    root, top = Path(tree.where), tree.content("")
    splits = options.known_splits(top.folders)
    below = {name: tree.content(f"{name}/") for name in top.folders if name in splits}
    parts: list[_Part] = []
    for name, inside in below.items():
        tables = _tables_in(inside)
        chosen = list(filter(_is_metadata, tables))
        if not chosen and tables and _has_images(inside):
            chosen = list(_that_list_files(root / name, inside, options, {}, {}))
        chosen = _one_table(root / name, chosen)
        parts.append(_Part(name, chosen[0] if chosen else None, splits[name]))
    if not any(part.table for part in parts):
        return []
    if others := [name for name in top.folders if name not in splits] or [
        part.place for part in parts if part.table is None and below[part.place].folders
    ]:
        raise SourceError(
            f"{str(root)!r} has folders of splits with a table of images in each, and other folders: "
            f"{shown(others, 20)}. Move the other folders elsewhere, or leave them out with --exclude."
        )
    return sorted(parts, key=split_order)


def _is_metadata(name: str) -> bool:
    return Path(name).stem.lower() == "metadata"


def _one_table(folder: Path, tables: list[str]) -> list[str]:
    if len(tables) > 1:
        raise SourceError(
            f"Several tables in {str(folder)!r} list images: {shown(tables, 20)}. Name one as the source, such as "
            f"{command(str(folder / tables[0]))}, or leave the others out with --exclude."
        )
    return tables


def _items(tree: Folders, parts: list[_Part], options: SourceOptions) -> Iterator[Item]:
    """Yield the images of all parts, and say which images no table lists."""
    if any(part.split for part in parts):
        options = replace(options, splits={})
    root = Path(tree.where)
    listed: dict[str, set[str]] = {}
    for part in parts:
        prefix = f"{part.place}/" if part.place else ""
        where = root / prefix / (part.table or "")
        if part.table is None:
            log.warning("%s has no table: its images have no labels", root / part.place)
            there = filter(may_be_image, tree.content(prefix).files)
            left = [name for name in there if name not in listed.get(part.place, ())]
            found: Iterable[Item] = (item_at(f"{root}/{prefix}{name}", name) for name in left)
        else:
            log.info("%s: images and labels are from %s", root / part.place, part.table)
            found = table_items(where, replace(options, images=part.images or options.images), split=part.split)
        for item in found:
            if part.split and item.split not in (None, part.split):
                raise SourceError(
                    f"{str(where)!r} says that {item.path!r} is in {item.split}, and its place that it is in "
                    f"{part.split}. Mend the table."
                )
            path = item.path if item.path.startswith("/") else os.path.normpath(prefix + item.path)
            folder, _, name = path.rpartition("/")
            names = listed.setdefault(folder, set())
            if name in names:
                raise SourceError(f"{str(where)!r} lists {path!r}, as another table does. Remove it from one of them.")
            names.add(name)
            if not tree.exclusion.covers_any(path):
                yield item._replace(path=path, split=part.split or item.split)
    _warn_of_others(tree, listed)


def _warn_of_others(tree: Folders, listed: Mapping[str, set[str]]) -> None:
    """Say how many images in the folder no table lists."""
    count, first = 0, ""
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    for folder in waiting:
        stat = os.stat(f"{tree.where}/{folder}")  # noqa: PTH116
        if (stat.st_dev, stat.st_ino) in seen:  # a link to a folder that was looked into
            continue
        seen.add((stat.st_dev, stat.st_ino))
        below = f"{folder}/" if folder else ""
        inside = content(f"{tree.where}/{folder}", below, tree.exclusion)
        names = listed.get(folder, ())
        for name in inside.files:
            if name not in names and IMAGE_NAME.search(name):
                count, first = count + 1, first or below + name
        waiting += [below + name for name in inside.folders]
    if count:
        said = number_of(count, "image is in no table and left out", "images are in no table and left out")
        log.warning("%s: %s, such as %r", tree.where, said, first)


def _tables_in(top: Content) -> list[str]:
    """Return the names of a folder's tables, less Kaggle's example of an answer."""
    return [name for name in top.tables if "submission" not in name.lower()]


def _that_list_files(
    folder: Path, top: Content, options: SourceOptions, splits: Mapping[str, str], near: Mapping[str, str]
) -> dict[str, str | None]:
    """Return the tables that list files which exist, and the folder of a split that has them if it is that.

    Of tables that are named as a split, `splits` has the split and `near` its folder.
    """
    found: dict[str, str | None] = {}
    beside, tables = _has_images(top), _tables_in(top)
    for name in tables:
        looked = _tried(folder / name, replace(options, splits={}), near.get(name))
        if looked.hits:
            if beside or name in splits or not looked.lone:
                found[name] = looked.images
        elif (looked.error and beside and len(tables) == 1) or _is_about_images(folder / name, name in splits):
            if looked.error:
                wrong = f"{str(looked.error).rstrip('.')}. If that table is not needed,"
            elif looked.first:
                wrong = f"{str(folder / name)!r} names images that are not there, such as {looked.first!r}. Mend it, or"
            else:
                wrong = f"{str(folder / name)!r} lists no images. Mend it, or"
            raise SourceError(f"{wrong} leave it out with {excluded(name)}.")
    if beside and tables and not found:
        raise SourceError(
            f"{shown(tables, 20)} beside the images in {str(folder)!r} lists none of them. Move it out of the "
            f"folder, or leave it out with {excluded(tables[0])}."
        )
    return found


class _Tried(NamedTuple):
    """What the first names in a table are, or what is wrong with it.

    `hits` of them are files, `exact` if as they stand; `images` is the folder of the split if they are there; `foreign`
    are paths of another machine; `first` is one of them; `lone` says that the table has neither header nor labels.
    """

    hits: int = 0
    exact: bool = False
    images: str | None = None
    foreign: bool = False
    first: str = ""
    lone: bool = False
    error: Exception | None = None


def _tried(path: Path, options: SourceOptions, near: str | None = None) -> _Tried:
    """Look up the first names of a table as they are, else in the folder of its split."""
    plain = _looked_up(path, options)
    if near is None or options.images is not None or (plain.hits and plain.exact):
        return plain
    there = _looked_up(path, replace(options, images=near))
    return there if there.hits and not there.foreign else plain


def _looked_up(path: Path, options: SourceOptions) -> _Tried:
    try:
        table, columns = open_columns(path, options, labelled=False)
    except (SourceError, OptionError) as error:
        return _Tried(error=error)
    finder, names = columns.finder, {squashed(name) for name in table.header}
    first, images = next(iter(finder.tried), ""), None if options.images is None else str(options.images)
    whole = names & set(WANTED) and finder.hits == len(finder.tried)  # else 7 may be any number
    sure = columns.headless or names & (SURE_IMAGES | LABEL_NAMES) or IMAGE_NAME.search(first) or whole
    lone = columns.headless and len(table.header) == 1
    return _Tried(finder.hits if sure else 0, not finder.base, images, finder.elsewhere, first, lone)


def _is_about_images(path: Path, named: bool) -> bool:
    """Whether a table's header says that it is to list images; `named` if its name is that of a split."""
    try:
        table = open_table(path, WANTED)
    except SourceError:
        return True
    names = {squashed(name) for name in table.header}
    if names & SURE_IMAGES or any(map(IMAGE_NAME.search, table.header)):
        return True
    labels = [i for i, name in enumerate(table.header) if squashed(name) in LABEL_NAMES]
    if named:
        return bool(names & {*WANTED, *LABEL_NAMES})
    several = any(len({row[i] for row in table.sample}) < len(table.sample) for i in labels)
    return bool(names & set(WANTED)) and several  # else a list of the classes


def _has_images(top: Content) -> bool:
    """Whether a folder has files with names of images."""
    return any(map(IMAGE_NAME.search, top.files))
