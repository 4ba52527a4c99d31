from pathlib import Path

import pytest
from test_branches import build

from featcache.sources import SourceOptions
from featcache.sources.opening import open_source


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ([f"person{i}_virus_{k}.jpeg" for i in range(2) for k in range(2)], "person0"),
        ([f"patient{i:03}_slice{k}.png" for i in range(2) for k in range(3)], "patient000"),
        ([f"scan_video-{i}.{k}.png" for i in range(2) for k in range(3)], "scan_video-0"),
        ([f"slide{i}_x{k}_y0.png" for i in range(3) for k in range(3)], "slide0"),
        ([f"{i:05}_{k:05}.ppm" for i in range(3) for k in range(6)], "00000"),
        ([f"x{i}.mp4-{k:04}.jpg" for i in range(2) for k in range(3)], "x0.mp4"),
        ([f"IMG_2024010{i}_120000_BURST{k:03}.jpg" for i in range(1, 3) for k in range(3)], "IMG_20240101_120000"),
    ],
)
def test_series_in_names_of_files_are_said(tmp_path: Path, caplog, names: list[str], first: str) -> None:
    """Names of files that hold a patient, a slide, a video or a burst several times each are a warning."""
    open_source(build(tmp_path, " ".join([*(f"a/{name}" for name in names), "b/1.jpg"])))
    assert f"by their names, several files are of one patient, video or the like, such as 'a/{first}' " in caplog.text
    caplog.clear()
    files = [f"train/a/{name}" for name in names]
    open_source(build(tmp_path / "set", " ".join([*files, "train/b/1.jpg", "val/a/1.jpg"])))
    assert "by their names" not in caplog.text


@pytest.mark.parametrize(
    "names",
    [
        [f"{i:05}_{k:05}.ppm" for i in range(9) for k in range(2)],
        [f"202401{i:02}_12000{k}.jpg" for i in range(1, 4) for k in range(9)],
        [f"case_{i}.png" for i in range(9)],
        [f"person{i}_photo.png" for i in range(9)],
        [f"showcase_{i}_{k}.png" for i in range(3) for k in range(3)],
        [f"img_{i}_{k}.png" for i in range(3) for k in range(3)],
        ["case1_1.png", "case1_2.png", "x.png"],
    ],
)
def test_other_names_are_no_series(tmp_path: Path, caplog, names: list[str]) -> None:
    """Dates, plain numbers, one image of each patient, and words within others say nothing."""
    open_source(build(tmp_path, " ".join([*(f"a/{name}" for name in names), "b/1.jpg"])))
    assert not caplog.records


def test_the_name_of_the_class_before_numbers_is_no_series(tmp_path: Path, caplog) -> None:
    """Images of plants that are called so are not several of one plant."""
    names = [f"plant/plant_{i}_{k}.png" for i in range(3) for k in range(3)]
    open_source(build(tmp_path, " ".join([*names, "b/1.jpg"])))
    assert not caplog.records


def test_splits_in_names_of_files_are_said(tmp_path: Path, caplog) -> None:
    """Where most names begin with that of a split, a warning says that these splits are not used."""
    names = [f"{split}_{i}.png" for split in ("train", "test", "Val") for i in range(3)]
    open_source(build(tmp_path / "set", " ".join([*(f"a/{name}" for name in names), "b/train_9.png", "b/x.png"])))
    said = "names of files begin with those of splits (test, train, val), which are not used: make a table with the "
    assert said + "columns path, label and split" in caplog.text
    caplog.clear()
    table = tmp_path / "set" / "t.csv"
    table.write_text("path,label\n" + "".join(f"a/{name},{name[-5]}\n" for name in names))
    open_source(table)
    assert said in caplog.text
    caplog.clear()
    open_source(table, options=SourceOptions(split_column="none"))
    assert not caplog.records


@pytest.mark.parametrize(
    "names",
    [
        "a/train_1.png b/train_2.png",
        "a/train_1.png a/test_2.png b/3.png b/4.png b/5.png",
        "a/trainer_1.png b/testament_1.png",
        "train/a/train_1.png test/a/test_1.png",
    ],
)
def test_names_of_one_split_or_few_files_are_not_said(tmp_path: Path, caplog, names: str) -> None:
    """One split, names of few files, other words, and splits that are used give no warning."""
    open_source(build(tmp_path, names))
    assert not caplog.records
