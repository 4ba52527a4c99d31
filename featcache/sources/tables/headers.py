"""What a table's header may say: names of columns by their meaning, and which column means what."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from featcache.errors import SourceError
from featcache.sources.messages import shown
from featcache.sources.names import each_word
from featcache.sources.tables.lookup import Finder
from featcache.sources.tables.rows import Table, squashed

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

SPLITS = (
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

_INDEX = re.compile(r"(unnamed[\s:_]*\d*|index|rownames|\.\.\.1|x\.?\d*|#)?", re.IGNORECASE)
"""Names of columns that programs write with the numbers of the rows."""

MEANT = LABEL_NAMES.union(SPLITS[0], *GROUPS)
"""Names of columns that mean something else than images."""

_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "0,0": False, "1,0": True, "false": False, "true": True}
FOLDS = frozenset({"fold", "folds", "kfold", "cvfold", "foldid"})
"""Names of columns with the numbers of parts for cross-validation: no split, and no class."""


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


def is_row_number(name: str) -> bool:
    """Whether a column has a name that programs give to the numbers of the rows."""
    return _INDEX.fullmatch(name) is not None


def ask(table: Table, what: str, columns: Iterable[int], role: str) -> SourceError:
    """Return the error that asks which of some columns has a role."""
    names = shown((table.header[i] for i in columns), 20)
    return SourceError(f"{str(table.path)!r}: {what}: {names}. Choose one with --{role}-column.")


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
