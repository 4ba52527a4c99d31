"""Which column of a table names the images, and what finds their files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import PurePosixPath

from featcache.errors import SourceError
from featcache.sources.tables.headers import DICOM, IMAGES, MEANT, WANTED, ask, named, names_shown
from featcache.sources.tables.lookup import IMAGE_NAME, Finder, has_dicom
from featcache.sources.tables.rows import Table, squashed

_LOOKED_AT = 50
"""Columns of other names that are tried as the images."""


def image_column(table: Table, finder: Callable[..., Finder], taken: set[int]) -> tuple[int, Finder]:
    """Return the column of the images, and what finds their files.

    Columns whose cells are files that exist come first, then the surer names.
    """
    candidates = [(tier, i) for tier, names in enumerate(IMAGES) for i in named(table, names, taken)]
    finders = {i: finder(i) for _, i in candidates}
    hits = [(tier, i) for tier, i in candidates if finders[i].hits] or [
        (tier, i) for tier, i in candidates if finders[i].among
    ]
    if hits:
        tier, image = hits[0]
        stems = _stems(finders[image], table, image)
        rivals = [i for other, i in candidates if other < tier or (other == tier and (other, i) in hits and i != image)]
        different = [i for i in rivals if _differ(_cell_stems(table, i), stems)]
        if different:
            raise ask(table, "several columns could name the images", [image, *different], "image")
        check_place(table, finders[image], image)
        return image, finders[image]
    if candidates:
        best = [i for tier, i in candidates if tier == candidates[0][0]]
        if len(best) > 1:
            raise ask(table, "no file was found for the columns that could name the images", best, "image")
        check_place(table, finders[best[0]], best[0])
        return best[0], finders[best[0]]
    free = [i for i, name in enumerate(table.header) if i not in taken and squashed(name) not in MEANT]
    found = {i: one for i in free[:_LOOKED_AT] if (one := finder(i)).hits}
    found = {i: one for i, one in found.items() if any(map(IMAGE_NAME.search, one.tried))} or found
    if len(found) == 1:
        [(image, one)] = found.items()
        return image, one
    if found:
        raise ask(table, "several columns could name the images", found, "image")
    raise SourceError(
        f"It is not clear which column of {str(table.path)!r} names the images. Its columns: "
        f"{names_shown(table.header)}. {_cause(table)}"
    )


def _cause(table: Table) -> str:
    """Return what to do about a table whose images were not found."""
    first = table.header[0]
    if first.startswith("#"):
        return "Its first lines are comments (#): delete them, and add a line that names the columns, like path,label."
    if len(table.header) == 1 and any(squashed(name) in WANTED for name in re.split(r"[,;\t|]", first)[:-1]):
        return "Each line is in quotes as a whole: remove the quotes at the beginning and the end of the lines."
    if has_dicom(str(table.path.absolute().parent)):
        return DICOM
    return "Choose one with --image-column; if the images are elsewhere, give their folder with --images."


def check_place(table: Table, finder: Finder, column: int) -> None:
    """Raise `SourceError` if it is not clear in which folder the images lie."""
    cell = next(iter(finder.tried), "")
    if finder.among:
        raise SourceError(
            f"{str(table.path)!r}: several folders have files named as in the column {table.header[column]!r}, such as "
            f"{cell!r}: {names_shown(finder.among)}. Give one of them with --images, or a folder above them to search "
            "them all."
        )
    if not finder.hits and finder.elsewhere:
        raise SourceError(
            f"The paths in {str(table.path)!r} are from another machine, such as {cell!r}. Give the folder that has "
            "the images here with --images."
        )


def _cell_stems(table: Table, column: int) -> list[str]:
    return [_stem(row[column].strip().replace("\\", "/")) for row in table.sample]


def _stems(finder: Finder, table: Table, column: int) -> list[str]:
    return list(map(_stem, finder.found([row[column] for row in table.sample])))


def _stem(path: str) -> str:
    return unicodedata.normalize("NFC", IMAGE_NAME.sub("", PurePosixPath(path).name))


def _differ(one: list[str], other: list[str]) -> bool:
    return any(a and b and a != b for a, b in zip(one, other, strict=True))
