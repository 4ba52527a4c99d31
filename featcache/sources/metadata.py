"""Tables that lie in a folder with the images they list, or in the folders of its splits."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from featcache.errors import OptionError, SourceError
from featcache.sources.files import FileSource
from featcache.sources.folders import Content, Folders
from featcache.sources.headers import as_word, names_shown, open_columns
from featcache.sources.layouts import known_splits
from featcache.sources.lookup import IMAGE_NAME
from featcache.sources.options import SourceOptions
from featcache.sources.rows import JSON_LINES
from featcache.sources.source import SPLITS, Item
from featcache.sources.tables import TABLE_OPTIONS, table_items

log = logging.getLogger(__name__)

TABLES_BESIDE = (".csv", ".tsv", *JSON_LINES)
"""How names of tables end that are looked for in folders."""


def metadata_source(tree: Folders, options: SourceOptions) -> FileSource | None:
    """Return the source of a folder whose images are listed by tables in it.

    Parameters
    ----------
    tree : Folders
        A folder with ``metadata.csv`` or ``metadata.jsonl``; with images and one table that lists them; with a table
        for each split, named as it (``train.csv``, ``test.csv``); or with folders of splits, each of them so.
    options : SourceOptions
        As `featcache.sources.tables.table_source` has them, and `exclude`.

    Returns
    -------
    FileSource or None
        None if no table in it is about its images.

    Raises
    ------
    SourceError
        If tables are wrong, or several could be meant, or one beside images does not list them.
    """
    root, top = Path(tree.where), tree.content("")
    tables = _tables(top)
    parts = _parts(root, top, tables, options) if tables else _split_parts(tree, options)
    if not parts:
        return None
    options.check("a folder with tables of its images", "exclude", *TABLE_OPTIONS)
    source = FileSource(root, _items(tree, parts, options), options=options)
    tree.exclusion.warn(tree.where)
    return source


class _Part(NamedTuple):
    """A table in a folder below the root, and the split that its place or its name says; no table: no labels."""

    place: str
    table: str | None
    split: str | None


def _tables(top: Content) -> list[str]:
    """Return the names of a folder's tables, less Kaggle's example of an answer."""
    found = [name for name in top.files if name.lower().endswith(TABLES_BESIDE)]
    return [name for name in found if "submission" not in name.lower()]


def _parts(root: Path, top: Content, tables: list[str], options: SourceOptions) -> list[_Part]:
    """Return which of the tables in a folder list its images."""
    chosen = [name for name in tables if Path(name).stem.lower() == "metadata"]
    if not chosen:
        chosen = _that_list_files(root, top, tables, options)
        splits = known_splits([Path(name).stem for name in chosen]) | options.split_of
        of = {name: splits[Path(name).stem] for name in chosen if Path(name).stem in splits}
        if len(of) == len(chosen) > 1 and "train" in of.values():
            ordered = sorted(chosen, key=lambda name: SPLITS.index(of[name]))
            return [_Part("", name, of[name]) for name in ordered]
        if len(chosen) == 1 and not _has_images(top):
            raise SourceError(
                f"{str(root / chosen[0])!r} lists images that are in folders beside it. Name that table as the source, "
                f"or leave it out with --exclude {as_word(chosen[0])}."
            )
    return [_Part("", name, None) for name in _one_table(root, chosen)]


def _that_list_files(folder: Path, top: Content, tables: list[str], options: SourceOptions) -> list[str]:
    """Return the tables that list files which exist; a list without header counts beside images only.

    Raises
    ------
    SourceError
        If there is none, beside images.
    """
    found, beside = [], _has_images(top)
    for name in tables:
        try:
            table, columns = open_columns(folder / name, replace(options, splits={}), labelled=False)
            if columns.finder.hits and (beside or not columns.headless or len(table.header) > 1):
                found.append(name)
        except (SourceError, OptionError):
            if beside and len(tables) == 1:
                raise
    if beside and not found:
        raise SourceError(
            f"{names_shown(tables)} beside the images in {str(folder)!r} lists none of them. Move it out of the "
            f"folder, or leave it out with --exclude {as_word(tables[0])}."
        )
    return found


def _split_parts(tree: Folders, options: SourceOptions) -> list[_Part]:
    """Return the tables in the folders of splits; none if there are none."""
    root, top = Path(tree.where), tree.content("")
    splits = {**known_splits(top.folders), **options.split_of}
    below = {name: tree.content(f"{name}/") for name in top.folders if name in splits}
    parts: list[_Part] = []
    for name, inside in below.items():
        tables = _tables(inside)
        chosen = [table for table in tables if Path(table).stem.lower() == "metadata"]
        if not chosen and tables and _has_images(inside):
            chosen = _that_list_files(root / name, inside, tables, options)
        chosen = _one_table(root / name, chosen)
        parts.append(_Part(name, chosen[0] if chosen else None, splits[name]))
    if not any(part.table for part in parts):
        return []
    if others := [name for name in top.folders if name not in splits] or [
        part.place for part in parts if part.table is None and below[part.place].folders
    ]:
        raise SourceError(
            f"{str(root)!r} has folders of splits with tables of their images, and others: {names_shown(others)}. Move "
            "them elsewhere, or leave them out with --exclude."
        )
    return sorted(parts, key=lambda part: SPLITS.index(part.split or ""))


def _one_table(folder: Path, tables: list[str]) -> list[str]:
    if len(tables) > 1:
        raise SourceError(
            f"Several tables in {str(folder)!r} list images: {names_shown(tables)}. Name one of them as the source, or "
            "leave the others out with --exclude."
        )
    return tables


def _has_images(top: Content) -> bool:
    return any(map(IMAGE_NAME.search, top.files))


def _items(tree: Folders, parts: list[_Part], options: SourceOptions) -> Iterator[Item]:
    """Yield the images of all parts, and say which images no table lists."""
    if any(part.split for part in parts):
        options = replace(options, splits={})
    root = Path(tree.where)
    listed: dict[str, set[str]] = {}
    for part in parts:
        prefix = f"{part.place}/" if part.place else ""
        if part.table is None:
            log.warning("%s has no table: its images have no labels", root / part.place)
            found: Iterable[Item] = _unlabelled(root / part.place, tree.content(prefix).files)
        else:
            log.info("%s: images and labels are from %s", root / part.place, part.table)
            found = table_items(root / part.place / part.table, options)
        for item in found:
            if part.split and item.split not in (None, part.split):
                raise SourceError(
                    f"{str(root / prefix / (part.table or ''))!r} says that {item.path!r} is in {item.split}, and its "
                    f"place that it is in {part.split}. Mend the table."
                )
            path = item.path if item.path.startswith("/") else os.path.normpath(prefix + item.path)
            listed.setdefault(os.path.dirname(path), set()).add(os.path.basename(path))  # noqa: PTH119, PTH120
            if not tree.exclusion.covers_any(path):
                yield replace(item, path=path, split=part.split or item.split)
    _warn_of_others(tree, listed)


def _unlabelled(folder: Path, names: Iterable[str]) -> Iterator[Item]:
    for name in names:
        try:
            stat = (folder / name).stat()
        except OSError:  # a dangling link: listed, so that reading it gives the reason
            stat = (folder / name).lstat()
        yield Item(name, None, None, stat.st_size, stat.st_mtime_ns)


def _warn_of_others(tree: Folders, listed: Mapping[str, set[str]]) -> None:
    """Say how many images lie beside those that are listed."""
    others = [
        f"{folder}/{name}".lstrip("/") for folder, names in listed.items() if not folder.startswith(("/", ".."))
        for name in tree.content(f"{folder}/" if folder else "").files if name not in names and IMAGE_NAME.search(name)
    ]  # fmt: skip
    if others:
        log.warning(
            "%s: %s images are in no table and are left out, such as %r", tree.where, f"{len(others):,}", others[0]
        )
