from pathlib import Path

import pytest

from featcache.errors import SourceError
from featcache.sources import Items, SourceOptions
from featcache.sources.opening import open_source


def items(folder: Path, header: str, rows: list[str], **options: str) -> Items:
    """Return what a table lists whose first column is added: the names of files that exist."""
    for i in range(len(rows)):
        (folder / f"{i}.png").write_bytes(b"x")
    text = "\n".join([f"path,{header}", *(f"{i}.png,{row}" for i, row in enumerate(rows))])
    (folder / "t.csv").write_text(text)
    return Items.of(open_source(folder / "t.csv", options=SourceOptions(**options)).items)


@pytest.mark.parametrize(
    "labels",
    [["1.5", "2", "3"], ["0.25"] * 4, ["-3.1e4", "7"], ["1,5", "2,5"], ["1.5", "2.5", "unknown"]],
)
def test_measurements_are_no_classes(tmp_path: Path, labels: list[str]) -> None:
    """Numbers with a part after the point are refused, also from a column that was named."""
    with pytest.raises(SourceError, match=r"'label' are measurements, such as .* not supported yet.*--label-column"):
        items(tmp_path, "label", [f'"{label}"' for label in labels])
    with pytest.raises(SourceError, match="'age' are measurements"):
        items(tmp_path, "age", [f'"{label}"' for label in labels], label_column="age")


@pytest.mark.parametrize(
    "labels",
    [["0", "1", "1"], ["1.0", "2.0"], ["v1.5", "v2"], ["a", "1.5", "b"], ["-1", "1"], [str(i) for i in range(19)]],
)
def test_class_numbers_are_classes(tmp_path: Path, labels: list[str]) -> None:
    """Whole numbers, and text with numbers in it, are classes as they are written."""
    assert list(items(tmp_path, "label", labels).labels) == labels


def test_a_number_of_its_own_for_each_image_is_no_class(tmp_path: Path) -> None:
    """Where most images have a number of their own it is no class; of texts that is said."""
    with pytest.raises(SourceError, match="'label' are 40 different numbers for 40 images, not classes"):
        items(tmp_path, "label", [str(i) for i in range(40)])


def test_a_number_of_its_own_is_believed_where_the_column_says_so(tmp_path: Path, caplog) -> None:
    """In a small table, numbers that are all different are classes with a warning, and none without a header."""
    assert len(items(tmp_path, "label", ["3", "1", "2"]).labels.names) == 3
    assert "'label' are a different number for each image" in caplog.text
    (tmp_path / "t.txt").write_text("7 0.png\n8 1.png\n9 2.png\n")
    with pytest.raises(SourceError, match=r"are a different number for each image, not classes.*--label-column none"):
        open_source(tmp_path / "t.txt")
    (tmp_path / "t.txt").write_text("7 0.png\n8 1.png\n7 2.png\n")
    assert Items.of(open_source(tmp_path / "t.txt").items).labels.names == ["7", "8"]


def test_many_classes_are_said(tmp_path: Path, caplog) -> None:
    """Texts that are nearly all different are classes, with a warning."""
    assert len(items(tmp_path, "label", [f"caption {i}" for i in range(40)]).labels.names) == 40
    assert "'label' are 40 different classes for 40 images" in caplog.text


@pytest.mark.parametrize(
    "labels",
    [
        ["a|b", "a", "b"],
        ["a;b", "c;a", "a"],
        ["\"['a', 'b']\"", "\"['a']\""],
        ['"cat, dog"', "dog", "cat"],
        ["Effusion/Mass", "Mass", "Effusion"],
    ],
)
def test_label_sets_are_refused(tmp_path: Path, labels: list[str]) -> None:
    """Labels made of others are not classes of their own."""
    with pytest.raises(SourceError, match=r"several labels per image, .* not supported yet"):
        items(tmp_path, "label", labels)


@pytest.mark.parametrize("column", ["tags", "labels"])
def test_words_may_be_labels(tmp_path: Path, caplog, column: str) -> None:
    """Labels with spaces between are refused in a column of tags; where that is less clear, it is said."""
    rows = ["haze primary", "clear primary", "haze", "primary"]
    with pytest.raises(SourceError, match="several labels per image, such as 'haze primary'"):
        items(tmp_path, column, rows)
    assert len(items(tmp_path, "label", rows).labels.names) == 4
    assert "'haze primary' is counted as a class of its own, and its words are classes, too" in caplog.text
    rows = ["haze primary", "clear primary", "haze water", "clear water", "haze road", "clear road"]
    assert len(items(tmp_path, column, rows).labels.names) == 6
    assert "may be several labels per image, such as 'clear primary'" in caplog.text


@pytest.mark.parametrize("labels", [["n/a", "n", "a"], ["1/2", "1", "2"], ["and/or", "and"], ["red wine", "wine"]])
def test_marks_in_names_are_no_sets(tmp_path: Path, caplog, labels: list[str]) -> None:
    """A slash or a space in a name whose parts are not all classes, and fractions, make no set."""
    assert items(tmp_path, "label", labels).labels.names == sorted(labels)
    assert "its words" not in caplog.text


def test_a_bar_in_a_name_is_no_set(tmp_path: Path) -> None:
    """A class whose name has a bar or a semicolon is one, if its parts are no classes."""
    assert items(tmp_path, "label", ["x|y", "z", "[w]"]).labels.names == ["[w]", "x|y", "z"]


@pytest.mark.parametrize(
    "name",
    [
        "nan",
        "NA",
        "None",
        "N/A",
        "?",
        "#N/A",
        "#NV",
        "-1",
        "TODO",
        "unknown",
        "-",
        "--",
        "tbd",
        "Unlabeled",
        "not labelled",
        "???",
        "n.a.",
    ],
)
def test_what_may_stand_for_no_label_is_said(tmp_path: Path, caplog, name: str) -> None:
    """A class whose name programs write for a missing value is a class, with a warning."""
    assert items(tmp_path, "label", ["a", name, name]).labels.names == sorted(["a", name])
    assert f"2 images have the label {name!r}: it counts as a class" in caplog.text


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["1,0", "1,1", "0,1"], r"1 with several 1s \(line 3\)"),
        (["1,0", "0,0", "0,1"], r"1 without a 1 \(line 3\)"),
        ([*["1,0", "0,1"] * 150, "2,0", "1,x"], r"1 without a 1 \(line 302\); 1 with neither 0 nor 1 \(line 303\)"),
    ],
)
def test_one_hot_rows(tmp_path: Path, rows: list[str], said: str) -> None:
    """Columns of classes with several or no 1 in a row, be it the last one, are refused with what is not possible."""
    with pytest.raises(SourceError, match=f"'cat', 'dog' .*{said}.*Several labels per image are not supported yet"):
        items(tmp_path, "cat,dog", rows)


def test_rows_without_a_label_are_counted(tmp_path: Path, caplog) -> None:
    """Cells of labels that are empty, even a single one, are said with their number."""
    assert list(items(tmp_path, "label", ["a", "b", " ", "a"]).labels) == ["a", "b", None, "a"]
    assert "1 of 4 images has no label, as its cell in 'label' is empty" in caplog.text
    items(tmp_path, "label", ["a", "", " ", "a"])
    assert "2 of 4 images have no label, as their cells in 'label' are empty" in caplog.text


@pytest.mark.parametrize("cell", ["\"['{}']\"", '"[""{}""]"', "['{}']", "[ '{}' ]"])
def test_a_list_of_one_label_is_that_label(tmp_path: Path, caplog, cell: str) -> None:
    """What Python writes for a list of one name is the name, and several are refused."""
    assert list(items(tmp_path, "label", [cell.format(name) for name in ("a", "b c", "a")]).labels) == ["a", "b c", "a"]
    assert list(items(tmp_path, "label", ["[3]", "[4]", "[3]"]).labels) == ["3", "4", "3"]
    with pytest.raises(SourceError, match="several labels per image"):
        items(tmp_path, "label", ["\"['a', 'b']\"", "['a']", "['b']"])


def test_a_class_of_several_columns_is_not_the_label(tmp_path: Path, caplog) -> None:
    """A column that is one of several classes and is named as the label gives classes 0 and 1, which is said."""
    rows = ["1,0,0", "0,1,0", "0,0,1"]
    assert items(tmp_path, "MEL,NV,BCC", rows, label_column="MEL").labels.names == ["0", "1"]
    assert "'MEL' is one of the columns 'MEL', 'NV', 'BCC' with a single 1 in each row" in caplog.text
    assert "--label-column" in caplog.text
    caplog.clear()
    assert items(tmp_path, "MEL,age", ["1,0", "0,0", "0,1"], label_column="MEL").labels.names == ["0", "1"]
    assert not caplog.records


def test_one_hot_rows_without_labels(tmp_path: Path, caplog) -> None:
    """A row with nothing in the columns of classes has no label; that columns are classes is said."""
    with caplog.at_level("INFO"):
        assert list(items(tmp_path, "cat,dog", [*["1,0", "0,1"] * 110, ","]).labels)[-2:] == ["dog", None]
    assert "the classes are the columns 'cat', 'dog'" in caplog.text


@pytest.mark.parametrize(
    ("header", "rows", "labels"),
    [
        ("label,class_name", ["0,a", "1,b", "0,a"], ["a", "b", "a"]),
        ("class,label_id", ["a,0", "b,1", "a,0"], ["a", "b", "a"]),
        ("label,class_id", ["3,0", "4,1", "3,0"], ["3", "4", "3"]),
        ("label,class,target", ["0,x,7", "1,y,8", "0,x,7"], ["x", "y", "x"]),
    ],
)
def test_two_names_of_the_same_classes(tmp_path: Path, header: str, rows: list[str], labels: list[str]) -> None:
    """Of columns that name the same classes the one with text counts."""
    assert list(items(tmp_path, header, rows).labels) == labels


@pytest.mark.parametrize("rows", [["0,a", "1,b", "0,b"], ["0,a", "0,b", "0,a"], ["0,a", "1,b"], ["0,a", "1,b", "0,"]])
def test_two_kinds_of_classes_are_asked_about(tmp_path: Path, rows: list[str]) -> None:
    """Columns that do not name the same classes in every row, or never the same one twice, are asked about."""
    with pytest.raises(SourceError, match=r"different classes: 'label', 'class_name'.*--label-column"):
        items(tmp_path, "label,class_name", rows)
    assert items(tmp_path, "label,class_name", rows, label_column="class_name").labels.names == ["a", "b"]


@pytest.mark.parametrize("numbers", [["1", "1.0"], ["01", "1"], ["0", "00"], ["2,0", "2"], ["non-food", "non_food"]])
def test_classes_that_look_alike_are_said(tmp_path: Path, caplog, numbers: list[str]) -> None:
    """One number in two spellings, and names that differ in a dash, are two classes with a warning."""
    assert len(items(tmp_path, "label", [f'"{name}"' for name in [*numbers, "x"]]).labels.names) == 3
    assert "look alike are kept apart: " + ", ".join(map(ascii, sorted(numbers))) in caplog.text


@pytest.mark.parametrize("names", [["-1", "1"], ["1", "10"], ["1.5", "15", "x", "y"], ["0", "o"], ["a-b", "ab"]])
def test_other_names_do_not_look_alike(tmp_path: Path, caplog, names: list[str]) -> None:
    """A sign, a zero at the end and a point in the middle make another number."""
    items(tmp_path, "label", names)
    assert "look alike" not in caplog.text


def test_groups_that_are_the_classes_are_refused(tmp_path: Path) -> None:
    """A column of groups that says the same as the labels is refused, unless it was named or there are splits."""
    rows = ["a,1", "b,2", "a,1", "b,2"]
    with pytest.raises(SourceError, match=r"'group' are the same as the classes.*--group-column"):
        items(tmp_path, "label,group", rows)
    assert items(tmp_path, "label,group", rows, group_column="none").groups.names == []
    assert items(tmp_path, "label,group", rows, group_column="group").groups.names == ["1", "2"]
    assert items(tmp_path, "label,group,split", [f"{row},train" for row in rows]).groups.names == ["1", "2"]
    assert items(tmp_path, "label,group", [*rows, "a,3"]).groups.names == ["1", "2", "3"]


def test_a_rare_name_that_is_nearly_another_is_said(tmp_path: Path, caplog) -> None:
    """A class of few images whose name differs from that of a large one by a letter may be a slip of the pen."""
    items(tmp_path, "label", [*["melanoma"] * 6, "melanom", *["nevus"] * 6])
    assert "'melanom' (1 image) may be 'melanoma' (6 images)" in caplog.text
    caplog.clear()
    items(tmp_path, "label", [*["gray fox"] * 6, *["gray box"] * 5, "cat1234", *["cat1235"] * 9, "men", *["hen"] * 9])
    assert not caplog.records


def test_numbers_with_gaps_may_be_measurements(tmp_path: Path, caplog) -> None:
    """Ages are classes like any whole number, with a warning; numbers of classes without gaps have none."""
    items(tmp_path, "label", [str(20 + i % 40 * 2) for i in range(120)])
    assert "'label' are 40 whole numbers from 20 to 98 with gaps: each is a class" in caplog.text
    caplog.clear()
    for first in (0, 1):
        items(tmp_path, "label", [str(first + i % 40) for i in range(120)])
    assert not caplog.records


def test_labels_that_contradict_folders_are_said(tmp_path: Path, caplog) -> None:
    """Where folders are named as the labels and some images lie in another one's, nobody knows which is right."""
    for name in ("cat/0", "cat/1", "dog/2", "dog/3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.png").write_bytes(b"x")
    (tmp_path / "t.csv").write_text("path,label\ncat/0.png,cat\ncat/1.png,dog\ndog/2.png,dog\ndog/3.png,dog\n")
    assert list(open_source(tmp_path / "t.csv").items.labels) == ["cat", "dog", "dog", "dog"]
    assert "1 image has another label than the folder it lies in, such as 'cat/1.png', which is 'dog'" in caplog.text
    (tmp_path / "t.csv").write_text("path,label\ncat/0.png,dog\ndog/2.png,cat\n")
    open_source(tmp_path / "t.csv")
    assert "2 images have another label than the folder" in caplog.text


def test_labels_with_known_words_are_said(tmp_path: Path, caplog) -> None:
    """In a column of labels, a text with a word that is a label by itself may be several."""
    items(tmp_path, "labels", ["healthy", "scab frog_eye complex", "scab", "healthy"])
    assert "may be several labels per image, such as 'scab frog_eye complex'" in caplog.text


@pytest.mark.parametrize(
    "column",
    [
        "lesion_id",
        "subject",
        "Video",
        "case no",
        "animal_id",
        "scene",
        "source_video",
        "seq_id",
        "original_image",
        "parent",
        "slide",
        "scan",
        "pid",
        "user",
        "camera_id",
        "eye",
        "WSI",
        "recording",
        "source_image",
    ],
)
def test_what_may_be_groups_is_offered(tmp_path: Path, caplog, column: str) -> None:
    """A column of subjects that have several images each is not read as groups without being named, which is said."""
    rows = ["a,s1", "a,s1", "b,s2", "b,s2", "b,s3"]
    assert items(tmp_path, f"label,{column}", rows).groups.names == []
    assert f"images of one {column!r} may be in several splits" in caplog.text
    assert f"--group-column {column}" in caplog.text.replace("'", "")
    caplog.clear()
    items(tmp_path, f"label,{column}", [f"a,s{i}" for i in range(5)])
    items(tmp_path, f"label,{column},split", [f"{row},train" for row in rows])
    assert items(tmp_path, f"label,{column}", rows, group_column=column).groups.names == ["s1", "s2", "s3"]
    items(tmp_path, f"label,{column}", rows, group_column="none")
    assert not caplog.records


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (['"{""choices"":[""cat"",""dog""]}"', "cat", "dog"], r"several labels per image, such as .*choices"),
        (['"{""choices"":[""cat"",""dog""]}"'] * 2, r"several labels per image, such as .*choices"),
        (['"{""cat"":1,""dog"":0}"', '"{""cat"":0,""dog"":1}"'], r"objects of JSON, such as .*cat"),
        (['"{""class"": ""cat""}"', "dog"], r"objects of JSON, such as .*class"),
    ],
)
def test_labels_inside_of_objects_are_refused(tmp_path: Path, cells: list[str], said: str) -> None:
    """What labelling tools write into a cell as an object of JSON is never a class by its text."""
    with pytest.raises(SourceError, match=f"the labels in 'choice' are {said}"):
        items(tmp_path, "choice", cells, label_column="choice")


@pytest.mark.parametrize("cell", ["{}", "[]", "{ }"])
def test_an_empty_object_is_no_label(tmp_path: Path, caplog, cell: str) -> None:
    """An object or list with nothing in it means that there is no label, and is counted so."""
    assert list(items(tmp_path, "label", ["cat", cell, "dog"]).labels) == ["cat", None, "dog"]
    assert "1 of 3 images has no label" in caplog.text


def test_braces_in_names_are_no_objects(tmp_path: Path, caplog) -> None:
    """A name of a class may have braces."""
    assert list(items(tmp_path, "label", ["{a}", "{b", "c}"]).labels) == ["{a}", "{b", "c}"]
    assert not caplog.records
