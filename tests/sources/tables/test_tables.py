import codecs
import csv
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import predicted_mean, random_image, write_image
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.errors import OptionError, SourceError
from featcache.sources import SourceOptions, SplitPolicy
from featcache.sources.opening import describe, open_images, open_source, reopen
from featcache.sources.tables.rows import SAMPLE_ROWS


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
    assert found == [
        ("2.png", "b", "train", "g"),
        ("0.png", "a", "validation", None),
        ("3.png", "b", "test", "g"),
        ("1.png", "a", "train", None),
    ]
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
    rows = [
        "0.png,a,train",
        "./0.png,a,train",
        "1.png,a,tset",
        "2.png,a",
        '"no\nwhere.png",a,test',
        ",a,test",
        *(f"x{i}.png,a,test" for i in range(9)),
    ]
    with pytest.raises(SourceError) as caught:
        open_source(table(tmp_path, "path,label,split\n" + "\n".join(rows)))
    text = str(caught.value)
    assert "\n" not in text
    assert "1 path named twice (line 3: './0.png')" in text
    assert "(line 4: 'tset')" in text
    assert "1 row without 3 fields (line 5: 2)" in text
    assert "11 missing files (line 6: 'no\\nwhere.png', line 8: '', line 9: 'x0.png', …)" in text


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("", "first line is empty"),
        ("\n", "first line is empty"),
        ("path,label,path", "several columns named 'path'"),
        ("path,label,label", "several columns named 'label'"),
        ("path,what", "is the label.*'path', 'what'.*--label-column what"),
        ("path,label,other", r"row without 3 fields \(line 2: 2"),
    ],
)
def test_bad_header(tmp_path: Path, header: str, said: str) -> None:
    """A header that is empty, names a column twice or does not tell the label is an error of one line."""
    with pytest.raises(SourceError, match=said) as caught:
        open_source(table(tmp_path, f"{header}\n0.png,a\n"))
    assert "t.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("header", ["path,label", "path", "path,what", "image,a,b"])
def test_no_rows(tmp_path: Path, header: str) -> None:
    """A table of a header alone is an error."""
    with pytest.raises(SourceError, match="has no rows"):
        open_source(table(tmp_path, f"{header}\n"))


def test_damaged_quotes(tmp_path: Path) -> None:
    """A quote that is never closed is an error, not one long name."""
    with pytest.raises(SourceError, match=r"t\.csv' cannot be read as a table"):
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
        with pytest.raises(SourceError, match="1 missing file "):
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


ROWS = [("0.png", "cat"), ("1.png", "dog"), ("2.png", "cat"), ("3.png", "dog")]
PLAIN = "".join(f"{path},{label}\n" for path, label in ROWS)
IDS = PLAIN.replace(".png", "")
KINDS = {
    "file": "file,label\n" + PLAIN,
    "upper case": "FILENAME,CLASS\n" + PLAIN,
    "spaces": "Image Path, Category \n" + PLAIN,
    "camel case": "fileName;classLabel\n" + PLAIN.replace(",", ";"),
    "image": "image,species\n" + PLAIN,
    "id with extension": "image_id,dx\n" + PLAIN,
    "Kaggle": "id,breed\n" + IDS,
    "name": "name,target\n" + PLAIN,
    "other order": "diagnosis,age,img\n" + "".join(f"{label},33,{path}\n" for path, label in ROWS),
    "pandas index": ",path,label\n" + "".join(f"{i},{path},{label}\n" for i, (path, label) in enumerate(ROWS)),
    "saved twice": "Unnamed: 0,path,label\n" + "".join(f"{i},{p},{c}\n" for i, (p, c) in enumerate(ROWS)),
    "id beside file": "image_id,filename,label\n" + "".join(f"{p[0]},{p},{c}\n" for p, c in ROWS),
    "row number as id": "id,path,label\n" + "".join(f"{i + 7},{p},{c}\n" for i, (p, c) in enumerate(ROWS)),
    "boxes": "Width;Roi.X1;ClassId;Path\n" + "".join(f"30;5;{c};{p}\n" for p, c in ROWS),
    "number and name": "path,label,class_name\n" + "".join(f"{p},{len(c) + ord(c[0])},{c}\n" for p, c in ROWS),
    "name and number": "path,category,label_id\n" + "".join(f"{p},{c},{ord(c[0])}\n" for p, c in ROWS),
    "one hot": "image,cat,dog\n" + "".join(f"{p[0]},{c == 'cat':d},{c == 'dog':d}\n" for p, c in ROWS),
    "one hot floats": "image,dog,cat,age\n" + "".join(f"{p[0]},{c == 'dog':.1f},{c == 'cat':.1f},4\n" for p, c in ROWS),
    "stripped": "path,label\n" + "".join(f" {p} ,\t{c} \n" for p, c in ROWS),
    "back-slashes": "path,label\n" + "".join(f".\\{p},{c}\n" for p, c in ROWS),
    "sep line": "sep=;\npath;label\n" + PLAIN.replace(",", ";"),
    "quoted": '"path","label"\n' + "".join(f'"{p}","{c}"\n' for p, c in ROWS),
    "empty last columns": "path,label,,\n" + "".join(f"{p},{c},,\n" for p, c in ROWS) + ",,,\n",
    "surplus commas": "path,label\n" + "".join(f"{p},{c},,\n" for p, c in ROWS),
    "old Mac": "path,label\r" + PLAIN.replace("\n", "\r"),
    "UTF-16": ("path\tlabel\n" + PLAIN.replace(",", "\t")).encode("utf-16"),
    "UTF-16 big endian": codecs.BOM_UTF16_BE + ("path,label\n" + PLAIN).encode("utf-16-be"),
    "byte order mark": codecs.BOM_UTF8 + ("path,label\n" + PLAIN).encode(),
    "no header": PLAIN,
    "no header, label first": "".join(f"{c};{p}\n" for p, c in ROWS),
    "no header, ids": IDS,
    "no header, spaces": "".join(f"{p} {c}\n" for p, c in ROWS),
    "fold": "path,label,fold\n" + "".join(f"{p},{c},{i % 2}\n" for i, (p, c) in enumerate(ROWS)),
    "column by what it holds": "slide,label\n" + PLAIN,
}
"""Tables that all say the same."""


@pytest.mark.parametrize("kind", KINDS)
def test_tables_as_people_have_them(tmp_path: Path, kind: str) -> None:
    """Each kind of table lists the images it names, with their labels, in its order, and no splits or groups."""
    items = open_source(table(tmp_path, KINDS[kind])).items
    assert [(os.path.normpath(item.path), item.label) for item in items] == ROWS
    assert all(item.split is None and item.group is None for item in items)


@pytest.mark.parametrize("kind", ["Kaggle", "camel case", "UTF-16", "no header", "sep line"])
def test_ending_does_not_matter(tmp_path: Path, kind: str) -> None:
    """A table is read as well under the names .tsv and .txt."""
    for name in ("t.tsv", "t.txt"):
        assert [item.label for item in open_source(table(tmp_path, KINDS[kind], name)).items] == [c for _, c in ROWS]


def test_json_lines(tmp_path: Path) -> None:
    """JSON lines are a table whose columns are the keys; other values, nested ones too, are not read."""
    lines = [{"file_name": p, "label": c, "split": "test", "objects": {"bbox": [[1, 2]]}} for p, c in ROWS]
    text = "\n\n".join(map(json.dumps, lines)) + "\n"
    items = open_source(table(tmp_path, text, "t.jsonl")).items
    assert [(item.path, item.label, item.split) for item in items] == [(p, c, "test") for p, c in ROWS]


def test_json_numbers_are_class_names(tmp_path: Path) -> None:
    """Integers are class names, null and a missing key mean no label."""
    text = '{"image": "0", "label": 7}\n{"image": "1", "label": null}\n{"image": "2"}\n'
    assert [item.label for item in open_source(table(tmp_path, text, "t.jsonl")).items] == ["7", None, None]


def test_json_truth_and_lists_of_one_are_labels(tmp_path: Path) -> None:
    """true and false are classes of these names, and a list of one label is the label; of none, no label."""
    text = '{"image": "0", "label": true}\n{"image": "1", "label": ["false"]}\n{"image": "2", "label": []}\n'
    items = open_source(table(tmp_path, text + '{"image": "3", "label": [7]}\n', "t.jsonl")).items
    assert [item.label for item in items] == ["true", "false", None, "7"]


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Of two values of one key nobody can say which is meant, so neither is taken."""
    lines = ['{"file_name": "0.png", "label": "a"}', '{"file_name": "1.png", "label": "a", "label": "b"}']
    with pytest.raises(SourceError, match=r"1 lines? that \w+ not a JSON object with each key once \(line 2"):
        open_source(table(tmp_path, "\n".join(lines), "t.jsonl"))


def test_what_is_wrong_with_json_lines_is_said_at_once(tmp_path: Path) -> None:
    """Lines that are no object, values that are several, and missing files are counted in one line."""
    lines = [
        '{"file_name": "0.png", "label": "a"}',
        "[1]",
        '{"file_name": "1.png"',
        '{"file_name": "x.png", "label": 1}',
        '{"file_name": "2.png", "label": ["a", "b"]}',
        '"\\ud800"',
        '{"file_name": "3.png", "label": "\\ud800"}',
    ]
    with pytest.raises(SourceError) as caught:
        open_source(table(tmp_path, "\n".join(lines), "t.jsonl"))
    text = str(caught.value)
    assert "4 lines that are not a JSON object with each key once (line 2: [1], line 3: " in text
    assert "1 row with a list or an object where one value is needed (line 5)" in text
    assert "1 missing file (line 4: 'x.png')" in text
    assert "\n" not in text


def test_late_keys_are_not_lost(tmp_path: Path) -> None:
    """A key that only rows beyond the first hundreds have is an error, as its values would be lost."""
    lines = [f'{{"path": "{i}.png"}}' for i in range(SAMPLE_ROWS + 1)] + ['{"path": "x.png", "label": "a"}']
    with pytest.raises(SourceError, match=r"column that the first rows do not have \(line 202: 'label'\)"):
        open_source(table(tmp_path, "\n".join(lines), "t.jsonl"))


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str, caplog) -> None:
    """Names of files and classes come out right, whatever the file's encoding; one that is a guess is said."""
    for name in ("Möwe.png", "ÅÄ.png"):
        write_image(tmp_path / name, random_image(0))
    text = "Datei;path;Straße\nx;Möwe.png;Größe\ny;ÅÄ.png;Café\n"
    items = open_source(table(tmp_path, text.encode(encoding)), options=SourceOptions(label_column="Straße")).items
    assert [(item.path, item.label) for item in items] == [("Möwe.png", "Größe"), ("ÅÄ.png", "Café")]
    assert ("cp1252" in caplog.text) == (encoding == "cp1252")


def test_one_hot_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Classes that are columns have the names that the header's bytes mean."""
    items = open_source(table(tmp_path, "path;Größe;Maß\n0.png;0;1\n1.png;1;0\n".encode("cp1252"))).items
    assert [item.label for item in items] == ["Maß", "Größe"]


def test_splits_and_groups_by_meaning(tmp_path: Path) -> None:
    """A column of split names and one of patients are taken for what they are, and that is said."""
    rows = "0.png,a,Train,p1\n1.png,b,train,p1\n2.png,a,VAL,p2\n3.png,b,test,\n"
    items = open_source(table(tmp_path, "file,class,Subset,Patient ID\n" + rows)).items
    assert [item.split for item in items] == ["train", "train", "validation", "test"]
    assert [item.group for item in items] == ["p1", "p1", "p2", None]


def test_what_columns_mean_is_said(tmp_path: Path, caplog) -> None:
    """One line says what the columns were taken for and which are not used; plain names need none."""
    with caplog.at_level("INFO"):
        open_source(table(tmp_path, "path,label,split,group\n0.png,a,train,\n"))
        assert not caplog.text
        open_source(table(tmp_path, "img,age,dx\n0.png,4,a\n"))
    assert "images from 'img', labels from 'dx'; not used: 'age'" in caplog.text


def test_own_names_of_splits(tmp_path: Path) -> None:
    """splits says what cells of the split column mean; one that no cell has is an error."""
    path = table(tmp_path, "path,label,part\n0.png,a,one\n1.png,b,two\n")
    given = {"split_column": "part", "splits": {"train": "one", "test": "two"}}
    assert [item.split for item in open_source(path, options=SourceOptions(**given)).items] == ["train", "test"]
    with pytest.raises(SourceError, match=r"2 unknown splits \(line 2: 'one'.*--split train=one"):
        open_source(path, options=SourceOptions(split_column="part"))
    with pytest.raises(OptionError, match=r"'three'.*not in the column 'part'.*'one', 'two'"):
        open_source(path, options=SourceOptions(split_column="part", splits={"train": "three"}))
    with pytest.raises(OptionError, match=r"is the split.*--split-column"):
        open_source(path, options=SourceOptions(splits={"train": "one"}, label_column="label"))


@pytest.mark.parametrize(
    ("cells", "advice"),
    [
        (["Training", "PublicTest", "PrivateTest"], "--split validation=PublicTest --split test=PrivateTest"),
        (["train", "val", "hidden test"], "--split 'test=hidden test'"),
        (["train", "hidden_test"], "--split test=hidden_test"),
        (["A", "B"], "--split train=A --split validation=B"),
        (["my-test", "B"], "--split validation=my-test --split train=B"),
    ],
)
def test_advice_about_splits(tmp_path: Path, cells: list[str], advice: str) -> None:
    """The example of --split names the unknown cells, each with a split that is missing; no test set is train."""
    rows = "".join(f"{i}.png,a,{cell}\n" for i, cell in enumerate(cells))
    with pytest.raises(SourceError, match=re.escape(f"such as {advice}.")):
        open_source(table(tmp_path, f"path,label,split\n{rows}"))


def test_empty_cells_among_splits_are_said(tmp_path: Path, caplog) -> None:
    """Images whose cell in the split column is empty count as train, with a warning."""
    items = open_source(table(tmp_path, "path,label,split\n0.png,a,train\n1.png,b,\n2.png,a,test\n3.png,b,\n")).items
    assert [item.split for item in items] == ["train", None, "test", None]
    assert "2 images have an empty cell in 'split' and count as train" in caplog.text


PARTS = {
    "table": ("0.png", "1.png"),
    "beside": ("a/train/0.png", "b/test/0.png"),
    "one": ("train/0.png", "train/x/1.png"),
    "class": ("train/0.png", "bus/0.png"),
    "others": ("train/0.png", "test/0.png", "more/0.png"),
    "top": ("x/train/0.png", "x/test/0.png"),
    "deep": ("train/a/0.png", "val/a/0.png", "val/b/0.png"),
}


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("above", ["", "/"])
def test_splits_in_paths(tmp_path: Path, caplog, kind: str, above: str) -> None:
    """Images whose paths all have the folder of a split at the same place are in that split; else it is said or no."""
    start = f"{tmp_path}/" if above else ""
    for name in PARTS[kind]:
        write_image(tmp_path / name, random_image(0))
    path = table(tmp_path, "path,label\n" + "".join(f"{start}{name},a\n" for name in PARTS[kind]))
    splits = [item.split for item in open_source(path).items]
    wanted = {"top": ["train", "test"], "deep": ["train", "validation", "validation"]}
    assert splits == wanted.get(kind, [None] * len(PARTS[kind]))
    assert ("no split is read from them" in caplog.text) == (kind == "others")
    assert ("the splits are read from the folders" in caplog.text) == (kind in wanted)
    caplog.clear()
    assert len(open_images(path).items) == len(PARTS[kind])
    assert not caplog.text


@pytest.mark.parametrize(("kinds", "said"), [("ab01", "'0', '1'"), ("abxy", "'x', 'y'")])
def test_splits_without_a_common_class(tmp_path: Path, kinds: str, said: str) -> None:
    """A validation set whose classes are none of train's is refused; what has no split is train."""
    splits = ["train", "", "val", "val"]
    rows = [f"{i}.png,{kinds[i]},{splits[i]}" for i in range(4)]
    path = table(tmp_path, "path,label,split\n" + "\n".join(rows))
    with pytest.raises(SourceError, match=rf"classes of validation \({said}\) are not those of train \('a', 'b'\)"):
        open_source(path)
    path.write_text(path.read_text().replace(f"{kinds[2]},val", "a,val"))
    assert len(open_source(path).items) == 4


@pytest.mark.parametrize("labels", [None, "", "none"])
def test_images_without_labels_are_said(tmp_path: Path, labels: str | None, caplog) -> None:
    """A table of images alone, with empty labels, or whose label column is none, is read with a warning."""
    path = table(tmp_path, "path\n0.png\n" if labels is None else "path,label,w\n0.png,,5\n")
    assert [i.label for i in open_source(path, options=SourceOptions(label_column=labels or None)).items] == [None]
    assert "no image has a label" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "path,what,ever\n0.png,1,x\n1.png,2,y\n",
        "path,label\n0.png,1.5\n1.png,2.5\n",
        "path,a,b\n0.png,1,1\n1.png,0,1\n",
        "path,label,class\n0.png,a,b\n1.png,a,c\n",
    ],
)
def test_labels_do_not_matter_for_predictions(tmp_path: Path, text: str) -> None:
    """Images to be predicted may come from a table whose labels are no classes or cannot be told."""
    path = table(tmp_path, text)
    assert [item.path for item in open_images(path).items] == ["0.png", "1.png"]
    with pytest.raises(SourceError):
        open_source(path)


def test_a_column_by_its_option(tmp_path: Path) -> None:
    """Options name columns in any case; one that is not there is an error with those that are."""
    rows = "0.png,3.png,a,x,g\n1.png,2.png,b,y,g\n"
    path = table(tmp_path, "left,right,kind,label,camera\n" + rows)
    options = SourceOptions(image_column="Right", label_column="kind", group_column="camera")
    found = [(item.path, item.label, item.group) for item in open_source(path, options=options).items]
    assert found == [("3.png", "a", "g"), ("2.png", "b", "g")]
    with pytest.raises(SourceError, match=r"'left', 'right'.*--image-column"):
        open_source(path)
    with pytest.raises(OptionError, match=r"no column 'rigth' for image_column, but 'left', 'right'"):
        open_source(path, options=SourceOptions(image_column="rigth"))


def test_rows_of_a_line_that_is_no_header_are_not_lost(tmp_path: Path) -> None:
    """Without a header, more columns than file and label are asked about, and a missing first file is said."""
    with pytest.raises(SourceError, match="no line that names its 3 columns"):
        open_source(table(tmp_path, "0.png,a,train\n1.png,b,test\n"))
    with pytest.raises(SourceError, match=r"1 missing file \(line 1: 'x.png'\)"):
        open_source(table(tmp_path, "x.png,a\n1.png,b\n"))


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\0\0\0\rIHDR", "path,label\n0.png,a\n".encode("utf-16-le")])
def test_files_that_are_no_text(tmp_path: Path, content: bytes) -> None:
    """An image named .csv, and UTF-16 that does not say so, are errors that say what was found."""
    with pytest.raises(SourceError, match="is not a table: it has zero bytes"):
        open_source(table(tmp_path, content))


def test_options_are_kept_with_the_source(tmp_path: Path) -> None:
    """A table that needed options is opened the same again."""
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "t.csv"
    table(tmp_path, "")
    path.write_text("a,b\n/home/x/pictures/0.png,q\n/home/x/pictures/1.png,r\n")
    source = open_source(path, options=SourceOptions(images=tmp_path, image_column="a", label_column="b"))
    again = reopen(json.loads(json.dumps(describe(source))))
    assert list(again.items) == list(source.items)
    assert source.read(source.items[0]) == (tmp_path / "0.png").read_bytes()


def test_names_with_line_breaks_are_shown_on_one_line(tmp_path: Path) -> None:
    """Columns and splits whose names have line breaks do not break the line of the error."""
    for text in ('path,"a\nb"\n0.png,x\n', 'path,label,split\n0.png,x,"a\nb"\n'):
        with pytest.raises(SourceError, match=r"a\\nb") as caught:
            open_source(table(tmp_path, text))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("start", ["C:\\pictures\\", "https://x.org/pictures/"])
def test_a_colon_in_paths_divides_nothing(tmp_path: Path, start: str) -> None:
    """A list of paths that have a colon is one column, and what is before the colon no class."""
    path = table(tmp_path, "".join(f"{start}{i}.png\n" for i in range(4)))
    items = open_source(path, options=SourceOptions(images=tmp_path)).items
    assert [(item.path, item.label) for item in items] == [(f"{i}.png", None) for i in range(4)]


ODD = st.text(st.characters(exclude_characters="/\0\\", exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(ODD, ODD), min_size=1, max_size=5, unique_by=lambda row: row[0]), st.sampled_from(",;\t|"))
def test_odd_names_come_back(tmp_path_factory, rows: list[tuple[str, str]], delimiter: str) -> None:
    """Any name of a file and of a class comes back as it was written, white space around a class aside."""
    folder = tmp_path_factory.mktemp("odd")
    names = [name for name, _ in rows if name.strip() not in ("", ".", "..") and len(name.encode()) < 200]
    for name in names:
        (folder / name).write_bytes(b"x")
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([("path", "label"), *((name, label) for name, label in rows if name in names)])
    (folder.parent / f"{folder.name}.csv").write_bytes(text.getvalue().encode())
    if not names:
        return
    try:
        found = open_source(folder.parent / f"{folder.name}.csv", options=SourceOptions(images=folder)).items
    except SourceError as error:
        assert "several labels per image" in str(error) or "measurements" in str(error)
        return
    assert [item.path.partition("/")[2] for item in found] == names
    assert [item.label or "" for item in found] == [label.strip() for name, label in rows if name in names]


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=100).map(lambda text: ("path,label\n" + text).encode()),
        st.text('"\r\n,;\tsep=0.pngi d\\/:éé', max_size=60).map(str.encode),
    ),
    st.sampled_from(["t.csv", "t.jsonl", "metadata.csv"]),
)
def test_any_bytes_are_a_table_or_an_error(tmp_path_factory, content: bytes, name: str) -> None:
    """Whatever the file holds, there is a listing or one line that names it."""
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    (folder / "0.png").write_bytes(b"x")
    (folder / name).write_bytes(content)
    try:
        assert open_source(folder / name).items
    except SourceError as error:
        assert name in str(error)
        assert "\n" not in str(error)


@pytest.mark.parametrize("options", [{}, {"label_column": "label"}, {"split_column": "none", "label_column": "notes"}])
@pytest.mark.parametrize("rows", ["0.png,cat\n", "0.png\n1.png,cat\n"])
def test_rows_that_are_all_too_short_are_refused(tmp_path: Path, rows: str, options: dict[str, str]) -> None:
    """Where no row has all the cells of the header, that is said, also if the columns are named."""
    with pytest.raises(SourceError, match=r"rows? without 3 fields"):
        open_source(table(tmp_path, f"image,label,notes\n{rows}"), options=SourceOptions(**options))
