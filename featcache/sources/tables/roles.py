"""Which column of a table has which role: by the option that names one, else by its name and by what it holds."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from featcache.errors import OptionError, SourceError, nearest
from featcache.sources.messages import quoted, shown
from featcache.sources.names import IMAGE_NAME, each_word, known_splits
from featcache.sources.options import SourceOptions
from featcache.sources.source import SPLITS
from featcache.sources.tables.lookup import Finder, has_dicom
from featcache.sources.tables.rows import Table, distinct, open_table, squashed

log = logging.getLogger(__name__)

IMAGES = (
    each_word(
        """path file filename filepath imagepath imgpath imagefile imagefilename imagefilepath imagename imgname imgfile
        relativepath relpath fname filenames files paths"""
    ),
    each_word("image images img photo picture"),
    each_word("imageid imgid photoid fileid imageindex id uuid key"),
    ("name",),
)
"""Names of the column with the images, as `squashed` gives them, the surest first."""
LABELS = (
    each_word(
        """label labels class classes classname classlabel labelname category categoryname target targetname species
        breed variety cultivar diagnosis dx disease finding findinglabels emotion expression groundtruth classid labelid
        categoryid targetid classindex classidx labelindex labelidx"""
    ),
    ("tag", "tags", "condition"),
)
"""Names of the column with the classes, the surer ones first."""
SPLIT_NAMES = (
    each_word("split splits datasplit datasetsplit splitname"),
    each_word(
        """set subset usage partition phase dataset conjunto subconjunto particion partición partição particao divisão
        divisao teilmenge aufteilung datensatz ensemble jeu sousensemble insieme sottoinsieme partizione suddivisione"""
    ),
)
"""Names of the column with the splits; the latter if it has names of splits. A fold is no split."""
GROUPS = (each_word("group groups groupid groupname"), each_word("patient patientid subjectid participantid"))
"""Names of the column with the groups, the surest first."""
_GROUPED = each_word(
    """subject person individual lesion case study series session scene video clip sequence track animal specimen plant
    slide identity sample burst donor mouse seq sourcevideo originalimage parent scan pid user camera eye volunteer wsi
    recording sourceimage tileof"""
)
MAYBE_GROUPS = frozenset(word + end for word in _GROUPED for end in ("", "id", "no", "nr", "number", "name"))
"""Names of columns that may tell which images belong together, and may be anything else."""
WANTED = sum(IMAGES, ())
SURE_IMAGES = frozenset(WANTED) - {"id", "uuid", "key", "name"}
"""Names of columns that are of images, and of nothing else that has a name or a number."""
LABEL_NAMES = frozenset(sum(LABELS, ()))
DICOM = "The files here are DICOM (.dcm), which is not read: save the images as PNG."
NO_COLUMN = "none"
"""What an option says if there is no such column."""
ROW_NUMBER = re.compile(r"(unnamed[\s:_]*\d*|index|rownames|\.\.\.1|x\.?\d*|#)?", re.IGNORECASE)
"""Names of columns that programs write with the numbers of the rows."""
MEANT = LABEL_NAMES.union(SPLIT_NAMES[0], *GROUPS)
"""Names of columns that mean something else than images."""
_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "0,0": False, "1,0": True, "false": False, "true": True}
FOLDS = frozenset({"fold", "folds", "kfold", "cvfold", "foldid"})
"""Names of columns with the numbers of parts for cross-validation: no split, and no class."""
_LOOKED_AT = 50  # columns of other names that are tried as the images
_FEW = 8  # words in a column that may be those of splits
_TOLD = frozenset(SPLIT_NAMES[1]) - {"dataset", "usage", "phase", "datensatz", "jeu"}
"""Names of columns that hardly mean anything but a split."""


@dataclass(frozen=True)
class Columns:
    """Which columns mean what; `finder` finds the files that the cells of `image` mean.

    Of several `labels` one has to be chosen, or each is a class (`one_hot`); a `headless` table's first row is an
    image.
    """

    finder: Finder
    image: int
    labels: tuple[int, ...] = ()
    one_hot: bool = False
    split: int | None = None
    group: int | None = None
    headless: bool = False


def flag(cell: str) -> bool | None:
    """Return what a cell says that is 0 or 1, None for all others."""
    return _FLAGS.get(cell.strip().lower())


def ask(table: Table, what: str, columns: Iterable[int], role: str) -> SourceError:
    """Return the error that asks which of some columns has a role."""
    return SourceError(f"{str(table.path)!r}: {what}: {table.names(columns)}. Choose one with --{role}-column.")


def named(table: Table, names: Sequence[str], taken: Iterable[int] = ()) -> list[int]:
    """Return the columns of some names; raise `SourceError` if one is there twice."""
    columns = [i for i, name in enumerate(table.header) if squashed(name) in names and i not in taken]
    exact = [table.header[i] for i in columns]
    twice = [name for name in exact if exact.count(name) > 1]
    if twice:
        raise SourceError(f"{str(table.path)!r} has several columns named {twice[0]!r}. Rename all but one.")
    return columns


def flag_name(name: str) -> str:
    """Return what a column is about that says yes or no: ``is_test`` is test."""
    return re.sub(r"^is[\W_]*", "", name, flags=re.IGNORECASE).casefold()


def are_flags(table: Table, column: int) -> bool:
    """Whether a column has nothing but 0 and 1 in the first rows."""
    return all(flag(row[column]) is not None for row in table.sample)


def open_columns(path: Path, options: SourceOptions, *, labelled: bool = True) -> tuple[Table, Columns]:
    """Return a table and what its columns mean; without `labelled`, columns that may be labels are not asked about."""
    table = open_table(path, [*WANTED, *map(squashed, filter(None, [options.image_column]))])
    images = None if options.images is None else str(options.images)
    folder = str(path.absolute().parent)
    if images is not None and not Path(images).is_dir():
        raise OptionError(
            f"images (--images) is not a folder: {images!r}. Give the one that has the images of {str(path)!r}."
        )

    def finder(column: int, first: Iterable[str] = ()) -> Finder:
        return Finder(folder, images, [*first, *(row[column] for row in table.sample)])

    names = {role: getattr(options, f"{role}_column") for role in ("image", "label", "split", "group")}
    if table.delimiter is not None and set(names.values()) <= {None, NO_COLUMN}:
        headless = _headless(table, finder)
        if headless is not None:
            return table, headless if options.label_column is None else replace(headless, labels=())
    given = {role: _given(table, role, name) for role, name in names.items()}
    image, split, group = given["image"], given["split"], given["group"]
    taken = {column for column in given.values() if column is not None}
    if image is None:
        image, found = _image(table, finder, taken)
    else:
        found = finder(image)
        _check_place(table, found, image)
    taken.add(image)
    if options.split_column is None:
        split = _split(table, options, taken, labelled)
    if options.group_column is None:
        group = _group(table, taken)
    taken |= {column for column in (split, group) if column is not None}
    if labelled and split is None and group is None and options.group_column is None:
        _warn_of_groups(table, taken)
    if given["label"] is not None:
        _warn_of_others(table, given["label"], taken)
        return table, Columns(found, image, (given["label"],), split=split, group=group)
    if options.label_column is not None:
        return table, Columns(found, image, split=split, group=group)
    labels, one_hot = _labels(table, taken, labelled)
    return table, Columns(found, image, labels, one_hot, split, group)


def _given(table: Table, role: str, name: str | None) -> int | None:
    """Return the column of a name that was given for a role; None if it is no column's, or none was given."""
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
        f"{str(table.path)!r} has no column {name!r} for {role}_column, but {table.names()} "
        f"({nearest(name, table.header)})."
    )


def _headless(table: Table, finder: Callable[..., Finder]) -> Columns | None:
    """Return the columns of a table whose first row is an image; None if it is a header."""
    known = {*WANTED, *MEANT}
    if any(squashed(name) in WANTED for name in table.header) or len(table.header) > 9:
        return None
    files = []
    for column, name in enumerate(table.header):
        if squashed(name) not in known and not ROW_NUMBER.fullmatch(name):
            found = finder(column, [name])
            if IMAGE_NAME.search(name) or any(found.found([name])):
                files.append((column, found))
    if not files:
        return None
    if len(files) > 1 or len(table.header) > 2:
        raise SourceError(
            f"{str(table.path)!r} has no line that names its {len(table.header)} columns: its first line is "
            f"{table.names()}. Add such a line at the top, for example path,label."
        )
    [(column, found)] = files
    _check_place(table, found, column)
    return Columns(found, column, tuple(i for i in range(len(table.header)) if i != column), headless=True)


def _group(table: Table, taken: set[int]) -> int | None:
    for names in GROUPS:
        found = named(table, names, taken)
        if len(found) > 1:
            raise ask(table, "several columns could be the group", found, "group")
        if found:
            return found[0]
    return None


def _labels(table: Table, taken: set[int], labelled: bool) -> tuple[tuple[int, ...], bool]:
    """Return the columns that may be the classes, and whether each is a class of its own."""
    for names in LABELS:
        if found := named(table, names, taken):
            return tuple(found), False
    skipped = {name for names in IMAGES[:3] for name in names}
    others = []
    for i, name in enumerate(table.header):
        cells = table.cells(i)
        different = len(set(cells)) == len(cells)  # as names and numbers of images are
        numbered = ROW_NUMBER.fullmatch(name) and different and all(map(str.isdecimal, cells))
        if i not in taken and any(cells) and not numbered and not (squashed(name) in skipped and different):
            others.append(i)
    splits = known_splits({flag_name(table.header[i]) for i in others})
    flags = [i for i in others if flag_name(table.header[i]) not in splits]
    flags = [i for i in flags if squashed(table.header[i]) not in FOLDS and are_flags(table, i)]
    if len(flags) > 1:
        return tuple(flags), True
    if others and labelled:
        name = quoted(next((table.header[i] for i in others if table.header[i]), "NAME"))
        raise SourceError(
            f"It is not clear which column of {str(table.path)!r} is the label. Its columns: "
            f"{table.names()}. Choose one, such as --label-column {name}, or give --label-column none if "
            "the images have no labels."
        )
    return (), False


def _warn_of_groups(table: Table, taken: set[int]) -> None:
    """Say which column may tell what belongs together, as it has the name of that and each of it several times."""
    for column, name in enumerate(table.header):
        cells = list(filter(None, table.cells(column)))
        if column not in taken and squashed(name) in MAYBE_GROUPS and 2 < len(set(cells)) < len(cells):
            advice = f"If they belong together: --group-column {quoted(name)}"
            said = "may be in several splits, as that column is not read"
            log.warning("%s: images of one %r %s. %s", table.path, name, said, advice)
            return


def _warn_of_others(table: Table, label: int, taken: set[int]) -> None:
    """Say so if the column that was named as the label is one of several that are a class each."""
    flags = [i for i in range(len(table.header)) if i == label or i not in taken]
    flags = [i for i in flags if squashed(table.header[i]) not in FOLDS and are_flags(table, i)]
    one = all(sum(flag(row[i]) or 0 for i in flags) == 1 for row in table.sample)
    if table.sample and label in flags and len(flags) > 1 and one:
        names, cell = table.names(flags), table.sample[0][label].strip()
        log.warning(
            f"{table.path}: {table.header[label]!r} is one of the columns {names} with a single 1 in each row: the "
            f"classes are what stands in it, such as {cell!r}. If each column is a class, leave out --label-column"
        )


def _image(table: Table, finder: Callable[..., Finder], taken: set[int]) -> tuple[int, Finder]:
    """Return the column of the images: cells that are files which exist come first, then the surer names."""
    candidates = [(tier, i) for tier, names in enumerate(IMAGES) for i in named(table, names, taken)]
    finders = {i: finder(i) for _, i in candidates}
    hits = [one for one in candidates if finders[one[1]].hits] or [one for one in candidates if finders[one[1]].among]
    if candidates:
        tier, image = (hits or candidates)[0]
        others = [i for other, i in candidates if other == tier and i != image]
        if hits:
            stems = list(map(_stem, finders[image].found([row[image] for row in table.sample])))
            rivals = [i for other, i in candidates if other < tier or (i in others and (other, i) in hits)]
            others = [i for i in rivals if _differ([_stem(cell.replace("\\", "/")) for cell in table.cells(i)], stems)]
        if others:
            what = "several columns could" if hits else "no file was found for the columns that could"
            raise ask(table, f"{what} name the images", [image, *others], "image")
        _check_place(table, finders[image], image)
        return image, finders[image]
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
        f"{table.names()}. {_cause(table)}"
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
            f"{cell!r}: {shown(finder.among, 20)}. Give one of them with --images, or a folder above them to search "
            "them all."
        )
    if not finder.hits and finder.elsewhere:
        raise SourceError(
            f"The paths in {str(table.path)!r} are from another machine, such as {cell!r}. Give the folder that has "
            "the images here with --images."
        )


def _stem(path: str) -> str:
    return unicodedata.normalize("NFC", IMAGE_NAME.sub("", PurePosixPath(path).name))


def _differ(one: list[str], other: list[str]) -> bool:
    return any(a and b and a != b for a, b in zip(one, other, strict=True))


def _split(table: Table, options: SourceOptions, taken: set[int], labelled: bool) -> int | None:
    """Return the column of the splits; without `labelled` nothing is said of columns that may be it."""
    found = named(table, SPLIT_NAMES[0], taken)
    if not found:
        for column in named(table, SPLIT_NAMES[1], taken):
            if options.known_splits(distinct(table.cells(column))):
                found.append(column)
    if not found and options.split_column is None:
        found = [i for i in range(len(table.header)) if _has_only_splits(table, i, taken)]
        if len(found) == 1 and labelled:
            said = "as it holds nothing else. If it is no split, give --split-column none"
            log.warning("%s: the splits are read from %r, %s", table.path, table.header[found[0]], said)
    if len(found) > 1:
        raise ask(table, "several columns could be the split", found, "split")
    if not found and labelled:
        _check_others(table, options, taken)
    return found[0] if found else None


def _check_others(table: Table, options: SourceOptions, taken: set[int]) -> None:
    """Refuse a column most of whose words are splits; say that others are not read which may be one."""
    for column, name in enumerate(table.header):
        if column in taken or squashed(name) in MEANT.union(WANTED):
            continue
        cells = sorted(distinct(table.cells(column)))
        known = known_splits(cells)
        told = len(set(known.values())) > 1 and 2 * len(known) >= len(cells)
        words = _words(table, column, cells, known)
        if told and len(cells) <= _FEW:
            raise SourceError(
                f"{str(table.path)!r}: the column {name!r} has names of splits ({shown(known, 20)}) and others. If "
                f"it is the split: {words}. If it is none: --split-column none."
            )
        if squashed(name) in _TOLD and 1 < len(cells) <= _FEW and not options.splits:
            said = f"{shown(cells, 20)}. If it is the split: {words}"
            log.warning("%s: %r is not read, as its words are no names of splits: %s", table.path, name, said)
    flags = [i for i, name in enumerate(table.header) if i not in taken and known_splits([flag_name(name)])]
    if flags := [i for i in flags if table.sample and are_flags(table, i)]:
        names = table.names(flags)
        log.warning(
            f"{table.path}: {names} is not read: a split is told by one column of names, such as train and test"
        )


def _words(table: Table, column: int, cells: Sequence[str], known: Mapping[str, str]) -> str:
    """Return options that say that a column is the split, and what its unknown words may mean."""
    others = [cell for cell in cells if cell not in known]
    free = [split for split in SPLITS if split not in known.values()] or ["test"]
    if not known and len(others) == 2:
        free = ["train", "test"]
    free += free[-1:] * len(others)
    pairs = [f"--split {quoted(f'{split}={cell}')}" for cell, split in zip(others, free, strict=False)]
    return " ".join([f"--split-column {quoted(table.header[column])}", *pairs])


def _has_only_splits(table: Table, column: int, taken: set[int]) -> bool:
    """Whether a column of another name has nothing but names of splits, and several of them."""
    if column in taken or squashed(table.header[column]) in MEANT.union(WANTED):
        return False
    first = distinct(table.cells(column))
    if not first or known_splits(first).keys() != set(first):
        return False
    cells = table.words(column)
    known = known_splits(cells)
    return known.keys() == set(cells) and len(set(known.values())) > 1
