from pathlib import Path

import pytest

from featcache.errors import SourceError
from featcache.sources import SourceOptions
from featcache.sources.tables.roles import Columns, open_columns


def columns(folder: Path, text: str, **options: str) -> Columns:
    """Return what the columns of a table beside 0.png to 3.png mean."""
    for i in range(4):
        (folder / f"{i}.png").write_bytes(b"x")
    (folder / "t.csv").write_text(text)
    return open_columns(folder / "t.csv", SourceOptions(**options))[1]


def rows(*cells: str) -> str:
    """Return four rows, each the number of its image after these."""
    return "".join(",".join(cell.format(i) for cell in cells) + "\n" for i in range(4))


@pytest.mark.parametrize(
    ("header", "cells", "image"),
    [
        ("path,image_id", ("{}.png", "{}"), 0),
        ("image_id,path", ("{}", "{}.png"), 1),
        ("image_id,path", ("{}", "gone/{}.png"), 0),
        ("id,filename", ("17{}", "{}.png"), 1),
        ("filename,url", ("{}.png", "http://x/{}.png"), 0),
        ("image,name", ("{}.png", "Bob"), 0),
        ("thing,label", ("{}.png", "{}"), 0),
        ("thing,label", ("{}", "{}"), 0),
    ],
)
def test_the_column_of_the_images(tmp_path: Path, header: str, cells: tuple[str, ...], image: int) -> None:
    """Of the columns that may name images, those whose files exist come first, then the surest name."""
    assert columns(tmp_path, f"{header}\n{rows(*cells)}", label_column="none").image == image


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("path,file", ("{}.png", "3.png")),
        ("image,img", ("{}.png", "3")),
        ("path,id", ("gone/9{}.png", "{}")),
        ("left,right", ("{}.png", "3.png")),
        ("one,two", ("x{}.png", "{}y")),
    ],
)
def test_images_that_could_be_several(tmp_path: Path, header: str, cells: tuple[str, ...]) -> None:
    """Columns that name different images, and none that does, are asked about; all columns are shown."""
    with pytest.raises(SourceError, match="--image-column") as caught:
        columns(tmp_path, f"{header}\n{rows(*cells)}", label_column="none")
    assert all(repr(name) in str(caught.value) for name in header.split(","))


@pytest.mark.parametrize(
    ("header", "cells", "labels"),
    [
        ("path,Target", ("{}.png", "x"), (1,)),
        ("path,label,species", ("{}.png", "x", "y"), (1, 2)),
        ("path,tags,label", ("{}.png", "x", "y"), (2,)),
        ("path,tags", ("{}.png", "x"), (1,)),
        ("path,id", ("{}.png", "{}"), ()),
        ("path,Unnamed: 3", ("{}.png", "{}"), ()),
        ("path,,", ("{}.png", "", ""), ()),
    ],
)
def test_the_column_of_the_labels(tmp_path: Path, header: str, cells: tuple[str, ...], labels: tuple[int, ...]) -> None:
    """Labels are in columns of such a name; numbers of rows and empty columns are none."""
    found = columns(tmp_path, f"{header}\n{rows(*cells)}")
    assert (found.labels, found.one_hot) == (labels, False)


@pytest.mark.parametrize("header", ["path,text", "path,name", "path,width,height", "path,y,split", "path,has_cactus"])
def test_a_label_that_cannot_be_told_is_asked_about(tmp_path: Path, header: str) -> None:
    """Other columns beside the images are no labels and not left out without a word."""
    cells = ("{}.png", "1{}", *["train"] * (header.count(",") - 1))
    with pytest.raises(SourceError, match=r"is the label.*--label-column") as caught:
        columns(tmp_path, f"{header}\n{rows(*cells)}")
    assert all(repr(name) in str(caught.value) for name in header.split(","))


@pytest.mark.parametrize("cells", [("x", "y"), ("7", "7"), ("1.5", "2.5")])
def test_a_column_without_name_may_be_the_label(tmp_path: Path, cells: tuple[str, str]) -> None:
    """A column named as those with the numbers of the rows, which has something else, is asked about."""
    for name in ("", "Unnamed: 1"):
        with pytest.raises(SourceError, match="is the label"):
            columns(tmp_path, f"path,{name}\n0.png,{cells[0]}\n1.png,{cells[1]}\n")


def test_one_hot_columns(tmp_path: Path) -> None:
    """Columns of 0 and 1 are classes where no column is the label; what says the split is none of them."""
    text = "path,cat,dog,age,is_test\n0.png,1,0,7,0\n1.png,0.0,1.0,8,1\n"
    found = columns(tmp_path, text)
    assert (found.labels, found.one_hot) == ((1, 2), True)
    assert columns(tmp_path, text.replace("age", "label")).labels == (3,)
    with pytest.raises(SourceError, match="is the label"):
        columns(tmp_path, "path,is_train,is_test\n0.png,1,0\n1.png,0,1\n")


@pytest.mark.parametrize(
    ("header", "cell", "split"),
    [
        ("path,label,split", "what", 2),
        ("path,label,Subset", "train", 2),
        ("path,label,set", "A", None),
        ("path,label,dataset", "HAM", None),
        ("path,label,fold", "1", None),
    ],
)
def test_the_column_of_the_splits(tmp_path: Path, header: str, cell: str, split: int | None) -> None:
    """A split is in the column of that name, or of another one that has names of splits; a fold is none."""
    assert columns(tmp_path, f"{header}\n{rows('{}.png', 'x', cell)}").split == split


@pytest.mark.parametrize("name", ["is_valid", "IsTest", "train"])
def test_a_split_told_by_flags_is_said(tmp_path: Path, caplog, name: str) -> None:
    """A column that says by 0 and 1 whether an image is in a split is not read, which is said."""
    assert columns(tmp_path, f"path,label,{name}\n0.png,a,0\n1.png,b,1\n").split is None
    assert f"{name!r} is not read: a split is told by one column of names" in caplog.text


@pytest.mark.parametrize(
    ("header", "group"),
    [
        ("path,label,group", 2),
        ("path,label,Patient-ID", 2),
        ("path,label,patient", 2),
        ("path,label,lesion_id", None),
        ("path,label,subject", None),
        ("patient_id,group,path,label", 1),
    ],
)
def test_the_column_of_the_groups(tmp_path: Path, header: str, group: int | None) -> None:
    """A group is in the column of that name, or of patients; others are not guessed."""
    cells = ["{}.png" if name == "path" else "x" for name in header.split(",")]
    assert columns(tmp_path, f"{header}\n{rows(*cells)}").group == group


@pytest.mark.parametrize("name", ["type", "train_or_test"])
def test_a_column_of_nothing_but_splits(tmp_path: Path, caplog, name: str) -> None:
    """A column of any name that has names of splits, and nothing else in the whole table, is the split."""
    rows = [f"{i % 4}.png,a,{'train' if i < 300 else 'val'}\n" for i in range(400)]
    assert columns(tmp_path, f"path,label,{name}\n{''.join(rows)}").split == 2
    assert f"the splits are read from '{name}'" in caplog.text
    assert columns(tmp_path, f"path,label,{name}\n{''.join(rows)}", split_column="none").split is None
    for last in ("3.png,a,bus\n", ""):
        assert columns(tmp_path, f"path,label,{name}\n{''.join([*rows[:300], last])}").split is None


@pytest.mark.parametrize("role", ["label", "split", "group"])
def test_none_says_nothing_about_the_header(tmp_path: Path, role: str) -> None:
    """That a column is none does not make the first image of a table without header its header."""
    found = columns(tmp_path, rows("{}.png", "x"), **{f"{role}_column": "none"})
    assert (found.headless, found.labels) == (True, () if role == "label" else (1,))


def test_a_column_of_ids_may_be_the_label(tmp_path: Path) -> None:
    """A column named as those of the images whose cells are there several times is asked about."""
    with pytest.raises(SourceError, match=r"is the label.*--label-column Id"):
        columns(tmp_path, "Image,Id\n0.png,w1\n1.png,w1\n2.png,w2\n")


def test_folds_and_decimal_commas_in_one_hot_columns(tmp_path: Path) -> None:
    """The number of a fold is no class, and 1,0 is 1."""
    assert columns(tmp_path, "path,fold,cat,dog\n0.png,1,0,1\n1.png,0,1,0\n").labels == (2, 3)
    found = columns(tmp_path, "path;cat;dog\n0.png;0,0;1,0\n1.png;1,0;0,0\n")
    assert (found.labels, found.one_hot) == ((1, 2), True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# CLASS SPECIES\n#all\nx 1 1\n", r"comments \(#\): delete them"),
        ('"image_id,breed"\n"x.jpg,pug"\n', "in quotes as a whole: remove the quotes"),
        ("patient,Target\nx,1\n", "DICOM .* not read"),
    ],
)
def test_why_no_image_was_found(tmp_path: Path, text: str, said: str) -> None:
    """Comments, quoted lines and DICOM files are named as the cause."""
    if "DICOM" in said:
        (tmp_path / "scans").mkdir()
        (tmp_path / "scans" / "x.dcm").write_bytes(b"x")
    with pytest.raises(SourceError, match=said):
        columns(tmp_path, text)


def test_two_kinds_of_groups_are_asked_about(tmp_path: Path) -> None:
    """Patients in two columns are asked about, and none of them may be named."""
    text = "path,label,patient,subject_id\n" + rows("{}.png", "x", "1", "2")
    with pytest.raises(SourceError, match=r"'patient', 'subject_id'.*--group-column"):
        columns(tmp_path, text)
    assert columns(tmp_path, text, group_column="none").group is None


def test_long_rows_are_looked_at_whole(tmp_path: Path) -> None:
    """A table whose rows are longer than the first piece that is read is still told by its rows."""
    with pytest.raises(SourceError, match="is the label"):
        columns(tmp_path, "path,pixels\n" + rows("{}.png", "12 " * 30_000))
