"""Whether a table in a folder is about the images there: the first of its names are looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from featcache.errors import OptionError, SourceError
from featcache.sources.folders.folders import Content
from featcache.sources.folders.trees import excluded
from featcache.sources.options import SourceOptions
from featcache.sources.tables.headers import LABEL_NAMES, SURE_IMAGES, WANTED, names_shown
from featcache.sources.tables.lookup import IMAGE_NAME
from featcache.sources.tables.roles import open_columns
from featcache.sources.tables.rows import JSON_LINES, open_table, squashed

TABLES_BESIDE = (".csv", ".tsv", *JSON_LINES)
"""How names of tables end that are looked for in folders."""


def tables_in(top: Content) -> list[str]:
    """Return the names of a folder's tables, less Kaggle's example of an answer."""
    found = [name for name in top.files if name.lower().endswith(TABLES_BESIDE)]
    return [name for name in found if "submission" not in name.lower()]


def that_list_files(
    folder: Path,
    top: Content,
    tables: list[str],
    options: SourceOptions,
    splits: Mapping[str, str] = MappingProxyType({}),
    near: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str | None]:
    """Return the tables that list files which exist, and the folder of a split that has them if it is that.

    Of tables that are named as a split, `splits` has the split and `near` its folder.
    """
    found: dict[str, str | None] = {}
    beside = has_images(top)
    for name in tables:
        looked = tried(folder / name, replace(options, splits={}), near.get(name))
        if isinstance(looked, Exception):
            if (beside and len(tables) == 1) or _is_about_images(folder / name, name in splits):
                raise SourceError(
                    f"{str(looked).rstrip('.')}. If that table is not needed, leave it out with {excluded(name)}."
                ) from None
        elif looked.hits and (beside or name in splits or not looked.lone):
            found[name] = looked.images
        elif not looked.hits and _is_about_images(folder / name, name in splits):
            lists = f"names images that are not there, such as {looked.first!r}" if looked.first else "lists no images"
            raise SourceError(f"{str(folder / name)!r} {lists}. Mend it, or leave it out with {excluded(name)}.")
    if beside and tables and not found:
        raise SourceError(
            f"{names_shown(tables)} beside the images in {str(folder)!r} lists none of them. Move it out of the "
            f"folder, or leave it out with {excluded(tables[0])}."
        )
    return found


class Tried(NamedTuple):
    """What the first names in a table are.

    `hits` of them are files, `exact` if as they stand; `images` is the folder of the split if they are there; `foreign`
    are paths of another machine; `first` is one of them; `lone` says that the table has neither header nor labels.
    """

    hits: int
    exact: bool
    images: str | None
    foreign: bool
    first: str
    lone: bool


def tried(path: Path, options: SourceOptions, near: str | None = None) -> Tried | SourceError | OptionError:
    """Look up the first names of a table as they are, else in the folder of its split; return what is wrong."""
    plain = _looked_up(path, options)
    if near is None or options.images is not None or (isinstance(plain, Tried) and plain.hits and plain.exact):
        return plain
    there = _looked_up(path, replace(options, images=near))
    return there if isinstance(there, Tried) and there.hits and not there.foreign else plain


def _looked_up(path: Path, options: SourceOptions) -> Tried | SourceError | OptionError:
    try:
        table, columns = open_columns(path, options, labelled=False)
    except (SourceError, OptionError) as error:
        return error
    finder, names = columns.finder, {squashed(name) for name in table.header}
    first, images = next(iter(finder.tried), ""), None if options.images is None else str(options.images)
    whole = names & set(WANTED) and finder.hits == len(finder.tried)  # else 7 may be any number
    sure = columns.headless or names & (SURE_IMAGES | LABEL_NAMES) or IMAGE_NAME.search(first) or whole
    lone = columns.headless and len(table.header) == 1
    return Tried(finder.hits if sure else 0, not finder.base, images, finder.elsewhere, first, lone)


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


def has_images(top: Content) -> bool:
    """Whether a folder has files with names of images."""
    return any(map(IMAGE_NAME.search, top.files))
