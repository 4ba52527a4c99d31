import os
import unicodedata
from pathlib import Path

import pytest

from featcache.errors import OptionError, SourceError
from featcache.sources import SourceOptions
from featcache.sources.opening import open_source
from featcache.sources.tables.lookup import MISSING, NO_ZEROS, SEVERAL, Finder


def files(folder: Path, *names: str) -> Path:
    """Make files that are not empty."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def found(folder: Path, cells: list[str], images: Path | str | None = None) -> list[str]:
    """Return the paths that cells mean, or in words what is wrong."""
    finder = Finder(str(folder), None if images is None else str(images), cells)
    return [one if isinstance(one := finder.find(cell), str) else one[0] for cell in cells]


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def decomposed(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("a.png", "a.png"),
        ("a.png", " a.png\t"),
        (" a.png ", " a.png "),
        ("a.JPG", "a"),
        ("a.b.jpeg", "a.b"),
        ("x/y/a.png", "x\\y\\a.png"),
        ("x/a.png", "x\\a"),
        ("a\\b.png", "a\\b.png"),
        ("a", "a"),
        ("notes.txt", "notes.txt"),
        (composed("é.png"), decomposed("é.png")),
        (decomposed("é.png"), composed("é.png")),
        (decomposed("ü/é.png"), composed("ü\\é")),
        (os.fsdecode(b"\xff.png"), os.fsdecode(b"\xff.png")),
        ("Ä.png", os.fsdecode("Ä.png".encode("cp1252"))),
    ],
)
def test_spellings(tmp_path: Path, name: str, cell: str) -> None:
    """A cell means the file whose name it is, white space, slashes, extension, Unicode form and code page aside."""
    assert found(files(tmp_path, name), [cell]) == [name]


def test_the_exact_name_comes_first(tmp_path: Path) -> None:
    """A file whose name is just what the cell says is taken before those that are like it."""
    names = ["a", "a.png", " b.png", "b.png", "x\\c.png", "x/c.png", composed("é.png"), decomposed("é.png")]
    assert found(files(tmp_path, *names), names) == names


@pytest.mark.parametrize(
    ("names", "cell", "said"),
    [
        (["a.png", "a.jpg"], "a", SEVERAL),
        ([composed("éü") + ".png", decomposed("éü") + ".png"], "é" + decomposed("ü"), SEVERAL),
        (["a.txt"], "a", MISSING),
        (["a.jpg.png"], "a.jpg", MISSING),
        (["a.PNG"], "a.png", MISSING),
        (["a.png/b.png"], "a.png", MISSING),
        (["0007.png"], "7", NO_ZEROS),
        (["0007.png"], "8", MISSING),
        (["a.png"], "", MISSING),
        (["a.png"], "\0", MISSING),
        (["a.png"], "²", MISSING),
        (["a.png"], "x" * 5000, MISSING),
        (["a.png"], "\ud800", MISSING),
    ],
)
def test_nothing_is_guessed(tmp_path: Path, names: list[str], cell: str, said: str) -> None:
    """What fits several files or none is not found, and is told apart."""
    assert found(files(tmp_path, *names), [cell]) == [said]


def test_the_folder_beside_the_table_is_found(tmp_path: Path) -> None:
    """Where one folder below the table's has files of these names, the images are there; of two, none is chosen."""
    files(tmp_path, "train/a.jpg", "train/b.jpg", "test/c.jpg", "old/deep/d.jpg")
    assert found(tmp_path, ["a", "b"]) == ["train/a.jpg", "train/b.jpg"]
    assert found(tmp_path, ["d.jpg"]) == ["old/deep/d.jpg"]
    assert found(files(tmp_path, "masks/a.png"), ["a", "b"]) == [MISSING, MISSING]
    assert Finder(str(tmp_path), None, ["a", "b"]).among == ["masks", "train"]


@pytest.mark.parametrize(
    "cell", ["{}", "x/{}", "C:\\me\\pictures\\x\\{}", "\\\\server\\share\\x\\{}", "/home/me/x/{}", "https://a.b/x/{}"]
)
@pytest.mark.parametrize("ending", [".jpg", ""])
def test_paths_of_other_machines(tmp_path: Path, cell: str, ending: str) -> None:
    """With the folder of the images, what comes before it in paths, whatever that is, does not matter."""
    files(tmp_path / "here" / "x", "1.jpg", "2.jpg")
    (tmp_path / "tables").mkdir()
    cells = [cell.format(f"{i}{ending}") for i in (1, 2)]
    paths = found(tmp_path / "tables", cells, tmp_path / "here" / "x")
    assert paths == [str(tmp_path / "here" / "x" / f"{i}.jpg") for i in (1, 2)]
    assert found(tmp_path, cells, tmp_path / "here" / "x") == ["here/x/1.jpg", "here/x/2.jpg"]


def test_folders_in_paths_of_other_machines_count(tmp_path: Path) -> None:
    """A folder that the images' own has is not dropped from some paths and kept in others."""
    files(tmp_path, "cat/1.jpg", "2.jpg")
    cells = ["D:\\set\\cat\\1.jpg", "D:\\set\\dog\\2.jpg"]
    assert found(tmp_path, cells, tmp_path) == ["cat/1.jpg", MISSING]


def test_images_in_several_folders(tmp_path: Path) -> None:
    """Names without folder are looked for in all folders below the one given; what is there twice is not found."""
    files(tmp_path, "all/part1/a.jpg", "all/part2/x/b.jpg", "all/part1/c.jpg", "all/part2/c.jpg")
    assert found(tmp_path, ["a", "b.jpg", "c", "d"], tmp_path / "all") == [
        "all/part1/a.jpg",
        "all/part2/x/b.jpg",
        SEVERAL,
        MISSING,
    ]


def test_a_wrong_place_is_an_error(tmp_path: Path) -> None:
    """Paths of another machine, images in two folders and a folder that is not there are asked about in one line."""
    files(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "t.csv").write_text("path,label\nC:\\x\\1.jpg,q\n")
    with pytest.raises(SourceError, match=r"from another machine, such as 'C:.*--images"):
        open_source(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("id,label\n1,q\n")
    with pytest.raises(SourceError, match=r"'1': 'a', 'b'.*--images"):
        open_source(tmp_path / "t.csv")
    with pytest.raises(OptionError, match=r"--images.*is not a folder: '.*nowhere'"):
        open_source(tmp_path / "t.csv", options=SourceOptions(images=tmp_path / "nowhere"))


def test_paths_from_the_working_folder(tmp_path: Path, monkeypatch) -> None:
    """Paths that are right from the working folder only are an error that says which option makes them so."""
    files(tmp_path, "set/a.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "t.csv").write_text("path,label\nset/a.png,q\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"relative to the working folder: add --images \."):
        open_source("lists/t.csv")
    items = open_source("lists/t.csv", options=SourceOptions(images=".")).items
    assert [item.path for item in items] == [str(tmp_path / "set/a.png")]


def test_one_file_by_two_names_is_named_twice(tmp_path: Path) -> None:
    """A file that two rows name in different ways counts as named twice."""
    files(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text("path,label\na.png,q\na,r\n")
    with pytest.raises(SourceError, match="1 path named twice"):
        open_source(tmp_path / "t.csv")
