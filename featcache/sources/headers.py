"""What the columns of a table mean: by the option that names one, else by its name and by what it holds."""

from __future__ import annotations

import logging
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from featcache.errors import OptionError, SourceError, nearest
from featcache.sources.layouts import known_splits
from featcache.sources.lookup import IMAGE_NAME, Finder, has_dicom
from featcache.sources.options import SourceOptions
from featcache.sources.rows import Table, open_table, squashed

log = logging.getLogger(__name__)

IMAGES = (
    ("path", "file", "filename", "filepath", "imagepath", "imgpath", "imagefile", "imagefilename", "imagefilepath",
     "imagename", "imgname", "imgfile", "relativepath", "relpath", "fname", "filenames", "files", "paths"),
    ("image", "images", "img", "photo", "picture"),
    ("imageid", "imgid", "photoid", "fileid", "imageindex", "id", "uuid", "key"),
    ("name",),
)  # fmt: skip
"""Names of the column with the images, as `squashed` gives them, the surest first."""

LABELS = (
    ("label", "labels", "class", "classes", "classname", "classlabel", "labelname", "category", "categoryname",
     "target", "targetname", "species", "breed", "variety", "cultivar", "diagnosis", "dx", "disease", "finding",
     "findinglabels", "emotion", "expression", "groundtruth", "classid", "labelid", "categoryid", "targetid",
     "classindex", "classidx", "labelindex", "labelidx"),
    ("tag", "tags", "condition"),
)  # fmt: skip
"""Names of the column with the classes, the surer ones first."""

SPLITS = (("split", "splits", "datasplit", "datasetsplit", "splitname"),
          ("set", "subset", "usage", "partition", "phase", "dataset"))  # fmt: skip
"""Names of the column with the splits; the latter if it has names of splits. A fold is no split."""

GROUPS = (("group", "groups", "groupid", "groupname"), ("patient", "patientid", "subjectid", "participantid"))
"""Names of the column with the groups, the surest first."""

WANTED = tuple(name for names in IMAGES for name in names)
SURE_IMAGES = frozenset(WANTED) - {"id", "uuid", "key", "name"}
"""Names of columns that are of images, and of nothing else that has a name or a number."""

LABEL_NAMES = frozenset(name for names in LABELS for name in names)

DICOM = "The files here are DICOM (.dcm), which is not read: save the images as PNG."

NO_COLUMN = "none"
"""What an option says if there is no such column."""

_INDEX = re.compile(r"(unnamed[\s:_]*\d*|index|rownames|\.\.\.1|x\.?\d*|#)?", re.IGNORECASE)
"""Names of columns that programs write with the numbers of the rows."""

_MEANT = frozenset(name for tiers in (LABELS, SPLITS[:1], GROUPS) for names in tiers for name in names)
"""Names of columns that mean something else than images."""

_LOOKED_AT = 50
"""Columns of other names that are tried as the images."""

_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "0,0": False, "1,0": True, "false": False, "true": True}
_FOLDS = frozenset({"fold", "folds", "kfold", "cvfold", "foldid"})
"""Names of columns with the numbers of parts for cross-validation: no split, and no class."""


@dataclass(frozen=True)
class Columns:
    """Which columns mean what.

    Attributes
    ----------
    finder : Finder
        Finds the files that the cells of `image` mean.
    image : int
        Of the images.
    labels : tuple of int
        Of the classes: none, one, or several of which one has to be chosen.
    one_hot : bool
        Whether each of `labels` is a class, and its cells say whether an image is of it.
    split, group : int or None
        Of the splits and of the groups.
    headless : bool
        Whether the first row is an image and names no columns.
    """

    finder: Finder
    image: int
    labels: tuple[int, ...] = ()
    one_hot: bool = False
    split: int | None = None
    group: int | None = None
    headless: bool = False


def open_columns(path: Path, options: SourceOptions, *, labelled: bool = True) -> tuple[Table, Columns]:
    """Return a table and what its columns mean.

    Parameters
    ----------
    path : Path
        Its file.
    options : SourceOptions
        May name columns and the folder of the images.
    labelled : bool
        Whether it matters what the labels are; without, columns that may be labels are not asked about.

    Raises
    ------
    SourceError
        If the table cannot be read, or its columns could mean several things.
    OptionError
        If it has no column of a name that was given.
    """
    table = open_table(path, [*WANTED, *map(squashed, filter(None, [options.image_column]))])
    images = None if options.images is None else str(options.images)
    folder = str(path.absolute().parent)
    if images is not None and not Path(images).is_dir():
        raise OptionError(
            f"images (--images) is not a folder: {images!r}. Give the one that has the images of {str(path)!r}."
        )

    def finder(column: int, first: Iterable[str] = ()) -> Finder:
        return Finder(folder, images, [*first, *(row[column] for row in table.sample)])

    named = [getattr(options, f"{role}_column") for role in ("image", "label", "split", "group")]
    if table.delimiter is not None and all(name in (None, NO_COLUMN) for name in named):
        headless = _headless(table, finder)
        if headless is not None:
            return table, headless if options.label_column is None else replace(headless, labels=())
    given = {role: _given(table, options, role) for role in ("image", "label", "split", "group")}
    image = given["image"]
    taken = {column for column in given.values() if column is not None}
    if image is None:
        image, found = _image(table, finder, taken)
    else:
        found = finder(image)
        _check_place(table, found, image)
    taken.add(image)
    split = _unless_none(options.split_column, given["split"], lambda: _split(table, options, taken, labelled))
    group = _unless_none(options.group_column, given["group"], lambda: _group(table, taken))
    taken |= {column for column in (split, group) if column is not None}
    if given["label"] is not None:
        return table, Columns(found, image, (given["label"],), split=split, group=group)
    if options.label_column is not None:
        return table, Columns(found, image, split=split, group=group)
    labels, one_hot = _labels(table, taken, labelled)
    return table, Columns(found, image, labels, one_hot, split, group)


def flag(cell: str) -> bool | None:
    """Return what a cell says that is 0 or 1, None for all others."""
    return _FLAGS.get(cell.strip().lower())


def names_shown(names: Iterable[str]) -> str:
    """Return names of columns for a message, the first twenty."""
    listed = [repr(name) for name in names]
    return ", ".join(listed[:20]) + (f" and {len(listed) - 20} more" if len(listed) > 20 else "")


def as_word(text: str) -> str:
    """Return a text as a shell takes it, on one line."""
    return shlex.quote(text) if text.isprintable() else repr(text)


def is_row_number(name: str) -> bool:
    """Whether a column has a name that programs give to the numbers of the rows."""
    return _INDEX.fullmatch(name) is not None


def _unless_none(name: str | None, given: int | None, guess: Callable[[], int | None]) -> int | None:
    return guess() if name is None else given


def _given(table: Table, options: SourceOptions, role: str) -> int | None:
    """Return the column that an option names; None if it names none."""
    name = getattr(options, f"{role}_column")
    if name is None:
        return None
    columns = [i for i, one in enumerate(table.header) if one == name.strip()]
    columns = columns or [i for i, one in enumerate(table.header) if squashed(one) == squashed(name)]
    if len(columns) > 1:
        raise SourceError(f"{str(table.path)!r} has {len(columns)} columns named {name!r}. Rename all but one.")
    if columns:
        return columns[0]
    if name == NO_COLUMN and role != "image":
        return None
    raise OptionError(
        f"{str(table.path)!r} has no column {name!r} for {role}_column, but {names_shown(table.header)} "
        f"({nearest(name, table.header)})."
    )


def _ask(table: Table, what: str, columns: Iterable[int], role: str) -> SourceError:
    """Return the error that asks which of some columns has a role."""
    names = names_shown(table.header[i] for i in columns)
    return SourceError(f"{str(table.path)!r}: {what}: {names}. Choose one with --{role}-column.")


def _named(table: Table, names: Sequence[str], taken: Iterable[int] = ()) -> list[int]:
    """Return the columns of some names; raise `SourceError` if one is there twice."""
    columns = [i for i, name in enumerate(table.header) if squashed(name) in names and i not in taken]
    exact = [table.header[i] for i in columns]
    twice = [name for name in exact if exact.count(name) > 1]
    if twice:
        raise SourceError(f"{str(table.path)!r} has several columns named {twice[0]!r}. Rename all but one.")
    return columns


def _headless(table: Table, finder: Callable[..., Finder]) -> Columns | None:
    """Return the columns of a table whose first row is an image; None if it is a header."""
    known = {*WANTED, *_MEANT}
    if any(squashed(name) in WANTED for name in table.header) or len(table.header) > 9:
        return None
    files = []
    for column, name in enumerate(table.header):
        if squashed(name) not in known and not is_row_number(name):
            found = finder(column, [name])
            if IMAGE_NAME.search(name) or any(found.found([name])):
                files.append((column, found))
    if not files:
        return None
    if len(files) > 1 or len(table.header) > 2:
        raise SourceError(
            f"{str(table.path)!r} has no line that names its {len(table.header)} columns: its first line is "
            f"{names_shown(table.header)}. Add such a line at the top, for example path,label."
        )
    [(column, found)] = files
    _check_place(table, found, column)
    return Columns(found, column, tuple(i for i in range(len(table.header)) if i != column), headless=True)


def _image(table: Table, finder: Callable[..., Finder], taken: set[int]) -> tuple[int, Finder]:
    """Return the column of the images, and what finds their files.

    Columns whose cells are files that exist come first, then the surer names.
    """
    named = [(tier, i) for tier, names in enumerate(IMAGES) for i in _named(table, names, taken)]
    finders = {i: finder(i) for _, i in named}
    hits = [(tier, i) for tier, i in named if finders[i].hits] or [(tier, i) for tier, i in named if finders[i].among]
    if hits:
        tier, image = hits[0]
        stems = _stems(finders[image], table, image)
        rivals = [i for other, i in named if other < tier or (other == tier and (other, i) in hits and i != image)]
        different = [i for i in rivals if _differ(_cell_stems(table, i), stems)]
        if different:
            raise _ask(table, "several columns could name the images", [image, *different], "image")
        _check_place(table, finders[image], image)
        return image, finders[image]
    if named:
        best = [i for tier, i in named if tier == named[0][0]]
        if len(best) > 1:
            raise _ask(table, "no file was found for the columns that could name the images", best, "image")
        _check_place(table, finders[best[0]], best[0])
        return best[0], finders[best[0]]
    free = [i for i, name in enumerate(table.header) if i not in taken and squashed(name) not in _MEANT]
    found = {i: one for i in free[:_LOOKED_AT] if (one := finder(i)).hits}
    found = {i: one for i, one in found.items() if any(map(IMAGE_NAME.search, one.tried))} or found
    if len(found) == 1:
        [(image, one)] = found.items()
        return image, one
    if found:
        raise _ask(table, "several columns could name the images", found, "image")
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


def _check_place(table: Table, finder: Finder, column: int) -> None:
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


def _split(table: Table, options: SourceOptions, taken: set[int], labelled: bool) -> int | None:
    """Return the column of the splits; without `labelled` nothing is said of columns that may be it."""
    found = _named(table, SPLITS[0], taken)
    if not found:
        for column in _named(table, SPLITS[1], taken):
            cells = {row[column].strip() for row in table.sample} - {""}
            if known_splits(cells) or cells & options.split_of.keys():
                found.append(column)
    if not found and options.split_column is None:
        found = [i for i in range(len(table.header)) if _has_only_splits(table, i, taken)]
        if len(found) == 1 and labelled:
            log.warning("%s: the splits are read from %r, as it holds nothing else. If it is no split, give "
                        "--split-column none", table.path, table.header[found[0]])  # fmt: skip
    if len(found) > 1:
        raise _ask(table, "several columns could be the split", found, "split")
    if not found and labelled:
        flags = [i for i, name in enumerate(table.header) if i not in taken and known_splits([_flag_name(name)])]
        if flags := [i for i in flags if table.sample and _are_flags(table, i)]:
            log.warning("%s: %s is not read: a split is told by one column of names, such as train and test",
                        table.path, names_shown(table.header[i] for i in flags))  # fmt: skip
    return found[0] if found else None


def _has_only_splits(table: Table, column: int, taken: set[int]) -> bool:
    """Whether a column of another name has nothing but names of splits, and several of them."""
    if column in taken or squashed(table.header[column]) in _MEANT | set(WANTED):
        return False

    def other(cells: set[str]) -> bool:
        return not cells or cells != known_splits(cells).keys()

    if other({row[column].strip() for row in table.sample} - {""}):
        return False
    cells = {row[column].strip() for _, row in table.rows()} - {""}
    return not other(cells) and len(set(known_splits(cells).values())) > 1


def _group(table: Table, taken: set[int]) -> int | None:
    for names in GROUPS:
        found = _named(table, names, taken)
        if len(found) > 1:
            raise _ask(table, "several columns could be the group", found, "group")
        if found:
            return found[0]
    return None


def _labels(table: Table, taken: set[int], labelled: bool) -> tuple[tuple[int, ...], bool]:
    """Return the columns that may be the classes, and whether each is a class of its own.

    Raises
    ------
    SourceError
        If there is none, and columns that could be.
    """
    for names in LABELS:
        if found := _named(table, names, taken):
            return tuple(found), False
    skipped = {name for names in IMAGES[:3] for name in names}
    others = [
        i for i, name in enumerate(table.header)
        if i not in taken and not (squashed(name) in skipped and _are_different(table, i))
        and not (is_row_number(name) and _are_numbers(table, i))
        and any(row[i].strip() for row in table.sample)
    ]  # fmt: skip
    split_names = known_splits({_flag_name(table.header[i]) for i in others})
    flags = [
        i
        for i in others
        if squashed(table.header[i]) not in _FOLDS
        and _flag_name(table.header[i]) not in split_names
        and _are_flags(table, i)
    ]
    if len(flags) > 1:
        return tuple(flags), True
    if others and labelled:
        name = as_word(next((table.header[i] for i in others if table.header[i]), "NAME"))
        raise SourceError(
            f"It is not clear which column of {str(table.path)!r} is the label. Its columns: "
            f"{names_shown(table.header)}. Choose one, such as --label-column {name}, or give --label-column none if "
            "the images have no labels."
        )
    return (), False


def _are_different(table: Table, column: int) -> bool:
    """Whether no cell of the first rows is there twice, as in a column with names or numbers of images."""
    cells = [row[column].strip() for row in table.sample]
    return len(set(cells)) == len(cells)


def _are_numbers(table: Table, column: int) -> bool:
    """Whether a column has a number of its own in each of the first rows."""
    cells = {row[column].strip() for row in table.sample}
    return len(cells) == len(table.sample) and all(map(str.isdecimal, cells))


def _flag_name(name: str) -> str:
    return re.sub(r"^is[\W_]*", "", name, flags=re.IGNORECASE).casefold()


def _are_flags(table: Table, column: int) -> bool:
    return all(flag(row[column]) is not None for row in table.sample)
