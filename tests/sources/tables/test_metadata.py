import json
from pathlib import Path

import pytest

from featcache.errors import SourceError
from featcache.sources import Source, SourceOptions
from featcache.sources.opening import open_source


def folder(root: Path, tables: dict[str, str], *images: str) -> Path:
    """Make a folder of images and tables."""
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    for name, text in tables.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def listed(source: Source) -> list[tuple[str, str | None, str | None]]:
    """Return path, label and split of each image."""
    return [(item.path, item.label, item.split) for item in source.items]


JSONL = '{"file_name": "1.jpg", "label": "b"}\n{"file_name": "0.jpg", "label": "a"}\n'
CSV = "file_name,label\n1.jpg,b\n0.jpg,a\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [("metadata.csv", CSV), ("metadata.jsonl", JSONL), ("labels.csv", CSV), ("train.tsv", CSV.replace(",", "\t"))],
)
def test_a_table_beside_the_images(tmp_path: Path, name: str, text: str) -> None:
    """A table in a folder of images that lists them gives labels and order, and is no image."""
    source = open_source(folder(tmp_path / "set", {name: text}, "0.jpg", "1.jpg"))
    assert listed(source) == [("1.jpg", "b", None), ("0.jpg", "a", None)]
    assert (source.name, source.location) == ("set", str(tmp_path / "set"))
    assert source.read(source.items[0]) == b"x"


def test_images_below_the_table(tmp_path: Path) -> None:
    """metadata.csv may name images in folders below, and their splits."""
    text = "file_name,label,split\ntrain/0.jpg,a,train\ntest/0.jpg,b,test\n"
    source = open_source(folder(tmp_path, {"metadata.csv": text}, "train/0.jpg", "test/0.jpg"))
    assert listed(source) == [("train/0.jpg", "a", "train"), ("test/0.jpg", "b", "test")]


def test_a_table_in_each_split(tmp_path: Path, caplog) -> None:
    """Folders of splits have tables of their own; one without has images without labels, which is said."""
    tables = {"train/metadata.jsonl": JSONL, "validation/labels.csv": CSV}
    images = [f"{split}/{i}.jpg" for split in ("train", "validation", "test") for i in range(2)]
    found = listed(open_source(folder(tmp_path, tables, *images)))
    assert found == [
        ("train/1.jpg", "b", "train"),
        ("train/0.jpg", "a", "train"),
        ("validation/1.jpg", "b", "validation"),
        ("validation/0.jpg", "a", "validation"),
        ("test/0.jpg", None, "test"),
        ("test/1.jpg", None, "test"),
    ]
    assert "test has no table: its images have no labels" in caplog.text


def test_own_names_of_splits(tmp_path: Path) -> None:
    """Folders with tables may have any names that splits says."""
    root = folder(
        tmp_path,
        {"one/metadata.csv": CSV, "two/metadata.csv": CSV},
        *(f"{name}/{i}.jpg" for name in ("one", "two") for i in range(2)),
    )
    found = listed(open_source(root, options=SourceOptions(splits={"train": "two", "test": "one"})))
    assert [(path, split) for path, _, split in found] == [
        ("two/1.jpg", "train"),
        ("two/0.jpg", "train"),
        ("one/1.jpg", "test"),
        ("one/0.jpg", "test"),
    ]


def test_tables_named_as_splits(tmp_path: Path) -> None:
    """train.csv and test.csv of a competition give the splits; the example of an answer is not read."""
    tables = {"train.csv": "id,breed\n0,a\n1,b\n", "test.csv": "id\n2\n", "sample_submission.csv": "id,breed\n2,a\n"}
    source = open_source(folder(tmp_path, tables, "train/0.jpg", "train/1.jpg", "test/2.jpg"))
    assert listed(source) == [
        ("train/0.jpg", "a", "train"),
        ("train/1.jpg", "b", "train"),
        ("test/2.jpg", None, "test"),
    ]


@pytest.mark.parametrize("name", ["metadata.csv", "train.csv"])
def test_labels_that_are_not_the_folders_are_said(tmp_path: Path, caplog, name: str) -> None:
    """A table beside class folders has other classes than they: which of them are taken is a warning."""
    images = ["train/cat/0.jpg", "train/dog/1.jpg"]
    rows = "".join(f"{path},{label}\n" for path, label in zip(images, "xy", strict=True))
    assert [item.label for item in open_source(folder(tmp_path, {name: "path,label\n" + rows}, *images)).items] == [
        "x",
        "y",
    ]
    assert "the classes are from the table, not the folders: 'x', 'y', not 'cat', 'dog'" in caplog.text


def test_images_in_no_table_are_said(tmp_path: Path, caplog) -> None:
    """Images that no table lists are left out with a warning that counts them."""
    open_source(folder(tmp_path, {"metadata.csv": CSV}, *(f"{i}.jpg" for i in range(5)), "LICENSE"))
    assert "3 images are in no table and left out, such as '2.jpg'" in caplog.text


@pytest.mark.parametrize(
    ("tables", "images", "said"),
    [
        (
            {"metadata.csv": CSV, "metadata.jsonl": JSONL},
            ["0.jpg", "1.jpg"],
            "'metadata.csv', 'metadata.jsonl'.*Name one",
        ),
        ({"a.csv": CSV, "b.csv": CSV}, ["0.jpg", "1.jpg"], "Several tables .*'a.csv', 'b.csv'"),
        (
            {"notes.csv": "path,label\nx.jpg,a\n"},
            ["0.jpg"],
            "notes.csv' names images that are not there, such as 'x.jpg'.*--exclude notes.csv",
        ),
        ({"labels.csv": "path,a,b\n0.jpg,x,y\n"}, ["0.jpg"], "is the label.*--label-column"),
        ({"metadata.csv": "file_name,text\n0.jpg,x\n"}, ["0.jpg"], "is the label.*--label-column"),
        ({"notes.csv": "a,b\n1,2\n"}, ["0.jpg"], "notes.csv' names the images.*--exclude notes.csv"),
        (
            {"notes.csv": "a,b\n1,2\n", "log.csv": "epoch\n1\n"},
            ["0.jpg"],
            "'log.csv', 'notes.csv' beside the images .* lists none of them.*--exclude",
        ),
        (
            {"labels.csv": CSV},
            ["all/0.jpg", "all/1.jpg"],
            "labels.csv' lists images that are in folders.*as the source",
        ),
        ({"train/metadata.csv": CSV}, ["train/0.jpg", "train/1.jpg", "other/2.jpg"], "and other folders: 'other'"),
        ({"train/metadata.csv": CSV}, ["train/0.jpg", "train/1.jpg", "test/a/2.jpg"], "and other folders: 'test'"),
        (
            {"train/metadata.csv": "file_name,label,split\n0.jpg,a,test\n", "test/metadata.csv": CSV},
            ["train/0.jpg", "test/0.jpg", "test/1.jpg"],
            "says that '0.jpg' is in test, and its place that it is in train",
        ),
    ],
)
def test_what_could_mean_several_things_is_asked_about(
    tmp_path: Path, tables: dict[str, str], images: list[str], said: str
) -> None:
    """Tables that contradict each other, the folders or the images are an error of one line."""
    with pytest.raises(SourceError, match=said) as caught:
        open_source(folder(tmp_path, tables, *images))
    assert "\n" not in str(caught.value)


TRAIN, SPLIT_FOLDERS = "id,label\n0,a\n1,b\n", ["train/0.jpg", "train/1.jpg", "test/0.jpg"]


@pytest.mark.parametrize(
    ("tables", "labels"),
    [
        ({"trainLabels.csv": TRAIN}, ["a", "b", None]),
        ({"train.csv": TRAIN, "test.csv": "id\n0\n"}, ["a", "b", None]),
        ({"train_labels.csv": TRAIN, "test_labels.csv": "id,label\n0,b\n"}, ["a", "b", "b"]),
        ({"labels_train.csv": "path,label\ntrain/0.jpg,a\ntrain/1.jpg,b\n"}, ["a", "b", None]),
    ],
)
def test_a_table_named_as_a_split_is_of_the_folder_of_that_split(
    tmp_path: Path, tables: dict[str, str], labels: list[str | None]
) -> None:
    """Names of files are looked up in the folder of the table's split, where other folders have them, too."""
    source = open_source(folder(tmp_path, tables, *SPLIT_FOLDERS))
    splits = ["train", "train", "test"]
    assert listed(source) == [*zip(SPLIT_FOLDERS, labels, splits, strict=True)]


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"train.csv": TRAIN, "test.csv": "id,label\n0.jpeg,a\n"}, "test.csv' names images that are not there.*0.jpeg"),
        ({"train.csv": TRAIN, "test.csv": "id,label\n"}, "test.csv' lists no images.*--exclude test.csv"),
        ({"train.csv": TRAIN, "test.csv": "image,label\n/kaggle/0.jpg,a\n"}, "test.csv' are from another machine"),
        ({"train.csv": TRAIN, "val.csv": "id,label\n0,a\n"}, "several folders have files named .*--exclude val.csv"),
        ({"train.csv": TRAIN, "test.csv": "id,id,label\n0,1,a\n"}, "several columns named 'id'.*--exclude test.csv"),
        ({"train.csv": TRAIN, "list.csv": "path,label\ntest/9.jpg,a\n"}, "list.csv' names images that are not there"),
        ({"train.csv": TRAIN, "test.csv": "path\ntrain/0.jpg\n"}, "lists 'train/0.jpg', as another table does"),
        ({"photos.csv": "image_id,label\n0,a\n"}, "several folders have files named"),
        ({"notes.csv": "epoch,loss\n1,2\n"}, "have no labels, and 'notes.csv' is not read.*--exclude notes.csv"),
        ({"labels.xlsx": "PK"}, "have no labels, and 'labels.xlsx' is not read. Save it as a CSV"),
        ({"labels.txt": "train/0.jpg a\ntrain/1.jpg b\n"}, "have no labels, and 'labels.txt' lists them. Name that"),
    ],
)
def test_no_table_beside_splits_is_dropped(tmp_path: Path, tables: dict[str, str], said: str) -> None:
    """A table that is to list images and lists none, and one without which there are no labels, is an error."""
    with pytest.raises(SourceError, match=said) as caught:
        open_source(folder(tmp_path, tables, *SPLIT_FOLDERS))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["val.csv", "list.csv", "val_labels.csv"])
def test_a_table_beside_class_folders_of_splits_is_not_dropped(tmp_path: Path, name: str) -> None:
    """A table beside splits of class folders whose images are not there is an error, whatever its name."""
    with pytest.raises(SourceError, match=r"names images that are not there, such as 'x\.jpg'"):
        open_source(folder(tmp_path, {name: "path,label\nx.jpg,cat\n"}, "train/cat/0.jpg", "train/dog/1.jpg"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.txt", "x"),
        ("labels.json", "{}"),
        ("classes.csv", "id,name\n0,cat\n1,dog\n"),
        ("log.csv", "epoch\n1\n"),
        ("class_dict.csv", "class_index,class,height\n0,cat,8\n1,dog,8\n"),
    ],
)
def test_other_files_beside_splits_are_said(tmp_path: Path, caplog, name: str, text: str) -> None:
    """A list of the classes and any other file beside the folders of splits is not read, with a warning."""
    source = open_source(folder(tmp_path, {name: text, "README.md": "x"}, "train/cat/0.jpg", "train/dog/1.jpg"))
    assert [label for _, label, _ in listed(source)] == ["cat", "dog"]
    assert f"files beside the folders are not read: '{name}'" in caplog.text
    assert "README" not in caplog.text


def test_another_table_beside_the_used_one_is_said(tmp_path: Path, caplog) -> None:
    """A table that is about something else is not read, with a warning, wherever it lies."""
    tables = {"train/metadata.csv": CSV, "train/sizes.csv": "width,height\n1,2\n", "notes.csv": "a;b\n1;2\n"}
    assert len(open_source(folder(tmp_path, tables, "train/0.jpg", "train/1.jpg")).items) == 2
    assert "'notes.csv', 'train/sizes.csv' is not read" in caplog.text


def test_folders_of_splits_in_the_paths_of_a_table(tmp_path: Path, caplog) -> None:
    """metadata.csv above the folders of splits gives the labels, and the folders give the splits."""
    text = "file_name,label\ntrain/0.jpg,a\ntrain/1.jpg,b\ntest/0.jpg,a\n"
    root = folder(tmp_path, {"metadata.csv": text}, *SPLIT_FOLDERS)
    assert listed(open_source(root)) == [
        ("train/0.jpg", "a", "train"),
        ("train/1.jpg", "b", "train"),
        ("test/0.jpg", "a", "test"),
    ]
    assert "the splits are read from the folders of the paths: 'test', 'train'" in caplog.text
    assert {item.split for item in open_source(root, options=SourceOptions(split_column="none")).items} == {None}


@pytest.mark.parametrize("name", ["extra/2.jpg", "0/deep/2.jpg"])
def test_images_in_other_folders_are_said(tmp_path: Path, caplog, name: str) -> None:
    """Images that no table lists are counted in all folders below the table's, links to folders once."""
    root = folder(tmp_path, {"metadata.csv": CSV}, "0.jpg", "1.jpg", name)
    (root / "again").symlink_to(root)
    open_source(root)
    assert f"1 image is in no table and left out, such as '{name}'" in caplog.text


@pytest.mark.parametrize(
    "tables",
    [
        {"train/metadata.csv": CSV, "val/metadata.csv": "file_name,label\n0.jpg,0\n1.jpg,1\n"},
        {"train.csv": CSV, "val.csv": "file_name,label\n0.jpg,0\n1.jpg,1\n"},
        {"metadata.csv": "file_name,label\ntrain/0.jpg,a\ntrain/1.jpg,b\nval/0.jpg,0\nval/1.jpg,1\n"},
    ],
)
def test_splits_without_a_common_class_are_refused(tmp_path: Path, tables: dict[str, str]) -> None:
    """Tables whose classes are none of train's have other names for the same classes."""
    images = [f"{split}/{i}.jpg" for split in ("train", "val") for i in range(2)]
    with pytest.raises(SourceError, match=r"classes of validation \('0', '1'\) are not those of train \('a', 'b'\)"):
        open_source(folder(tmp_path, tables, *images))


def test_a_listed_folder_is_extracted(extracting, photos: Path, tmp_path: Path) -> None:
    """The cache of a folder with metadata.jsonl has the labels that it says."""
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    (tmp_path / "set").mkdir()
    lines = []
    for number, path in enumerate(files):
        path.rename(tmp_path / "set" / f"{number}{path.suffix}")
        lines.append(json.dumps({"file_name": f"{number}{path.suffix}", "label": path.parent.name, "extra": [1]}))
    (tmp_path / "set" / "metadata.jsonl").write_text("\n".join(lines))
    cache = extracting(tmp_path / "set", tmp_path / "c")
    assert [entry.label for entry in cache.entries] == [path.parent.name for path in files]
    assert cache.report.skipped == []
