import json
from pathlib import Path

import pytest

from featcache.errors import SourceError
from featcache.sources import Source, SourceOptions, open_source


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
        ("train/1.jpg", "b", "train"), ("train/0.jpg", "a", "train"),
        ("validation/1.jpg", "b", "validation"), ("validation/0.jpg", "a", "validation"),
        ("test/0.jpg", None, "test"), ("test/1.jpg", None, "test"),
    ]  # fmt: skip
    assert "test has no table: its images have no labels" in caplog.text


def test_own_names_of_splits(tmp_path: Path) -> None:
    """Folders with tables may have any names that splits says."""
    root = folder(tmp_path, {"one/metadata.csv": CSV, "two/metadata.csv": CSV},
                  *(f"{name}/{i}.jpg" for name in ("one", "two") for i in range(2)))  # fmt: skip
    found = listed(open_source(root, options=SourceOptions(splits={"train": "two", "test": "one"})))
    assert [(path, split) for path, _, split in found] == [
        ("two/1.jpg", "train"), ("two/0.jpg", "train"), ("one/1.jpg", "test"), ("one/0.jpg", "test")
    ]  # fmt: skip


def test_tables_named_as_splits(tmp_path: Path) -> None:
    """train.csv and test.csv of a competition give the splits; the example of an answer is not read."""
    tables = {"train.csv": "id,breed\n0,a\n1,b\n", "test.csv": "id\n2\n", "sample_submission.csv": "id,breed\n2,a\n"}
    source = open_source(folder(tmp_path, tables, "train/0.jpg", "train/1.jpg", "test/2.jpg"))
    assert listed(source) == [
        ("train/0.jpg", "a", "train"),
        ("train/1.jpg", "b", "train"),
        ("test/2.jpg", None, "test"),
    ]


def test_images_in_no_table_are_said(tmp_path: Path, caplog) -> None:
    """Images that no table lists are left out with a warning that counts them."""
    open_source(folder(tmp_path, {"metadata.csv": CSV}, *(f"{i}.jpg" for i in range(5)), "LICENSE"))
    assert "3 images are in no table and are left out, such as '2.jpg'" in caplog.text


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
            "'notes.csv' beside the images .* lists none of them.*--exclude",
        ),
        ({"labels.csv": "path,a,b\n0.jpg,x,y\n"}, ["0.jpg"], "is the label.*--label-column"),
        ({"metadata.csv": "file_name,text\n0.jpg,x\n"}, ["0.jpg"], "is the label.*--label-column"),
        (
            {"labels.csv": CSV},
            ["all/0.jpg", "all/1.jpg"],
            "labels.csv' lists images that are in folders.*as the source",
        ),
        ({"train/metadata.csv": CSV}, ["train/0.jpg", "train/1.jpg", "other/2.jpg"], "and others: 'other'"),
        ({"train/metadata.csv": CSV}, ["train/0.jpg", "train/1.jpg", "test/a/2.jpg"], "and others: 'test'"),
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
