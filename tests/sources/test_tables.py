import codecs
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import predicted_mean, random_image, write_image
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.errors import OptionError, SourceError
from featcache.sources import SplitPolicy, open_source


def table(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    """Write a table beside images 0.png to 3.png."""
    for i in range(4):
        write_image(folder / f"{i}.png", random_image(i))
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def test_rows_match_images(extracting, tmp_path: Path) -> None:
    """A table's rows are the images its paths name, with its labels, splits and groups, in its order."""
    path = table(tmp_path / "t", "path,label,split,group\n2.png,b,train,g\n0.png,a,val,\n3.png,b,TEST,g\n1.png,a,,\n")
    cache = extracting(path, tmp_path / "c")
    assert np.allclose(cache.features(), [predicted_mean(random_image(i)) for i in (2, 0, 3, 1)], rtol=1e-5)
    found = [(entry.path, entry.label, entry.split, entry.group) for entry in cache.entries]
    assert found == [("2.png", "b", "train", "g"), ("0.png", "a", "validation", None), ("3.png", "b", "test", "g"),
                     ("1.png", "a", "train", None)]  # fmt: skip
    assert cache.source == {"name": "t", "location": str(path)}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", ":"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimiters(tmp_path: Path, delimiter: str, end: str) -> None:
    """Any usual delimiter and line end is found, and columns may come in any order beside others."""
    rows = [["Label", "weight", "path"], ["a", "1", "0.png"], ["b", "2", "1.png"]]
    path = table(tmp_path, end.join(delimiter.join(row) for row in rows))
    assert [(item.path, item.label) for item in open_source(path).items] == [("0.png", "a"), ("1.png", "b")]


@pytest.mark.parametrize("text", ["path\n0.png\n1.png\n", '"path"\n"0.png"\n"1.png"', "path,group\n0.png,g\n1.png,g\n"])
def test_without_labels(tmp_path: Path, text: str) -> None:
    """A table without a label column lists images without labels."""
    assert [(i.path, i.label) for i in open_source(table(tmp_path, text)).items] == [("0.png", None), ("1.png", None)]


def test_byte_order_mark_quotes_and_newlines(tmp_path: Path) -> None:
    """A byte order mark, spaces after commas, and names with newlines, quotes, commas or odd bytes are read."""
    names = [b"new\nline.png", b'quote".png', b"comma,.png", b"odd\xff.png", "🐈.png".encode()]
    for name in names:
        write_image(tmp_path / "1.png", random_image(0)).rename(tmp_path / os.fsdecode(name))
    rows = b"".join(b'"' + name.replace(b'"', b'""') + b'", cat\n' for name in names)
    source = open_source(table(tmp_path, codecs.BOM_UTF8 + b"path, label\n" + rows))
    assert [os.fsencode(item.path) for item in source.items] == names
    assert {item.label for item in source.items} == {"cat"}
    assert all(source.read(item) for item in source.items)


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    """Missing files, bad splits, paths named twice and short rows are counted in one line with their lines."""
    rows = ["0.png,a,train", "./0.png,a,train", "1.png,a,tset", "2.png,a", "\"no\nwhere.png\",a,test", ",a,test",
            *(f"x{i}.png,a,test" for i in range(9))]  # fmt: skip
    with pytest.raises(SourceError) as caught:
        open_source(table(tmp_path, "path,label,split\n" + "\n".join(rows)))
    text = str(caught.value)
    assert "\n" not in text
    assert "1 paths named twice (line 3: './0.png')" in text
    assert "(line 4: 'tset')" in text
    assert "1 rows without 3 fields (line 5: 2)" in text
    assert "11 missing files (line 6: 'no\\nwhere.png', line 8: '', line 9: 'x0.png', …)" in text


@pytest.mark.parametrize("header", ["file,label", "", "path,label,path", "\n"])
def test_bad_header(tmp_path: Path, header: str) -> None:
    """A header without the column path, or with one twice, is an error that shows it."""
    with pytest.raises(SourceError, match=r"Expected a header with path.*t\.csv"):
        open_source(table(tmp_path, f"{header}\n0.png,a\n"))


def test_no_rows(tmp_path: Path) -> None:
    """A table of a header alone is an error."""
    with pytest.raises(SourceError, match="has no rows"):
        open_source(table(tmp_path, "path,label\n"))


def test_damaged_quotes(tmp_path: Path) -> None:
    """A quote that is never closed is an error, not one long name."""
    with pytest.raises(SourceError, match=r"readable table.*t\.csv"):
        open_source(table(tmp_path, 'path,label\n"0.png,a\n1.png,b\n'))


@pytest.mark.parametrize("name", ["../outside.png", "/dev/zero", "sub"])
def test_paths_elsewhere(tmp_path: Path, name: str) -> None:
    """Absolute paths and .. are read; what is no regular file is missing."""
    write_image(tmp_path / "outside.png", random_image(0))
    (tmp_path / "t" / "sub").mkdir(parents=True)
    path = table(tmp_path / "t", f"path,label\n{tmp_path / 'outside.png'},a\n{name},a\n")
    if name == "../outside.png":
        source = open_source(path)
        assert source.read(source.items[0]) == source.read(source.items[1])
    else:
        with pytest.raises(SourceError, match="1 missing files"):
            open_source(path)


def test_groups_stay_together(extracting, tmp_path: Path) -> None:
    """Where the split is ours, the images of a group are on one side of it."""
    rows = "".join(f"{i}.png,{'ab'[i % 2]},{i // 4}\n" for i in range(40))
    for i in range(40):
        write_image(tmp_path / "t" / f"{i}.png", random_image(i))
    (tmp_path / "t" / "t.csv").write_text("path,label,group\n" + rows)
    cache = extracting(tmp_path / "t" / "t.csv", tmp_path / "c", validation_split=0.3, test_split=0.3)
    sides = {entry.group: entry.split for entry in cache.entries}
    assert all(entry.split == sides[entry.group] for entry in cache.entries)
    assert len(set(sides.values())) == 3


def test_own_splits_are_respected(tmp_path: Path) -> None:
    """A table with validation rows refuses another validation split."""
    source = open_source(table(tmp_path, "path,label,split\n0.png,a,train\n1.png,a,valid\n"))
    with pytest.raises(OptionError, match="has a validation set"):
        SplitPolicy(0.2).settled(source)


def test_relabelling_computes_nothing(extracting, tmp_path: Path) -> None:
    """Other labels in the table, and a moved table, need no new features."""
    path = table(tmp_path / "t", "path,label\n0.png,a\n1.png,b\n2.png,a\n3.png,b\n")
    extracting(path, tmp_path / "c")
    path.write_text("path,label\n3.png,x\n0.png,y\n1.png,x\n2.png,y\n")
    cache = extracting(path, tmp_path / "c")
    assert (cache.report.computed, cache.class_names) == (0, ["x", "y"])
    assert extracting(path.rename(path.with_name("other.csv")), tmp_path / "c").report.computed == 0


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda t: ("path,label\n" + t).encode())))
def test_any_bytes_are_a_table_or_an_error(tmp_path_factory, content: bytes) -> None:
    """Whatever the file holds, there is a listing or one line that names it."""
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    (folder / "t.csv").write_bytes(content)
    try:
        open_source(folder / "t.csv")
    except SourceError as error:
        assert "t.csv" in str(error)
        assert "\n" not in str(error)
