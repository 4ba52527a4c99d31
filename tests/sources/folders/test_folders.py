import logging
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import predicted_mean, random_image, write_image

from featcache.errors import HeadError, ImageError, OptionError, SourceError
from featcache.sources import class_names
from featcache.sources import source as source_module
from featcache.sources.folders.folders import files_source
from featcache.sources.opening import open_source
from featcache.training import fit_head


def test_class_folders_in_alphanumeric_order(tmp_path: Path) -> None:
    """Items come class by class and path by path, as Keras orders them; subfolders belong to the class."""
    for name in ("b/2.png", "b/10.png", "B/x.png", "a/sub/1.png", "a/z.png"):
        write_image(tmp_path / name, random_image(0))
    source = open_source(tmp_path)
    assert [item.path for item in source.items] == ["B/x.png", "a/z.png", "a/sub/1.png", "b/10.png", "b/2.png"]
    assert [item.label for item in source.items] == ["B", "a", "a", "b", "b"]
    assert {item.split for item in source.items} == {None}


@pytest.mark.parametrize("validation", ["validation", "val", "valid"])
def test_split_folders(tmp_path: Path, validation: str) -> None:
    """train, validation (val, valid) and test folders are splits, in this order."""
    for folder in ("test", validation, "train"):
        write_image(tmp_path / folder / "cats" / "1.png", random_image(0))
    assert [item.split for item in open_source(tmp_path).items] == ["train", "validation", "test"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    """Trains and buses are classes for who says so, and nobody else."""
    for folder in ("train", "bus"):
        write_image(tmp_path / folder / "1.png", random_image(0))
    with pytest.raises(SourceError, match="--classes bus,train"):
        open_source(tmp_path)
    assert class_names(open_source(tmp_path, classes=["bus", "train"]).items) == ["bus", "train"]


def test_stray_folder_beside_splits(tmp_path: Path) -> None:
    """A folder that is no split beside splits is an error that names what is there."""
    for folder in ("train", "validation", "extra"):
        write_image(tmp_path / folder / "cats" / "1.png", random_image(0))
    with pytest.raises(SourceError, match=r"\('train', 'validation'\).*\('extra'\).*--exclude extra"):
        open_source(tmp_path)


def test_two_folders_of_one_split(tmp_path: Path) -> None:
    """val beside validation is an error: nobody knows which is meant."""
    for folder in ("train", "validation", "val"):
        write_image(tmp_path / folder / "cats" / "1.png", random_image(0))
    with pytest.raises(SourceError, match="more than one validation folder: 'val', 'validation'"):
        open_source(tmp_path)


def test_files_beside_class_folders(tmp_path: Path) -> None:
    """A file that is in no class is an error, not silently left out."""
    write_image(tmp_path / "cats" / "1.png", random_image(0))
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(SourceError, match=r"readme\.txt"):
        open_source(tmp_path)


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    """What systems leave behind is not listed."""
    write_image(tmp_path / "cats" / "1.png", random_image(0))
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / "cats" / "Thumbs.db").write_text("x")
    assert len(open_source(tmp_path).items) == 1


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_no_images(tmp_path: Path, make: object) -> None:
    """A source that is missing, empty or a file is one clear error."""
    make(tmp_path / "photos")
    with pytest.raises(SourceError, match="photos"):
        open_source(tmp_path / "photos")


def test_class_subset(photos: Path) -> None:
    """`classes` keeps some; a wrong name gets the nearest."""
    assert class_names(open_source(photos, classes=["light"]).items) == ["light"]
    with pytest.raises(OptionError, match="nearest: light"):
        open_source(photos, classes=["lihgt"])


def test_links(tmp_path: Path) -> None:
    """Links are followed, loops are not, and a dangling link is listed with the reason when read."""
    write_image(tmp_path / "real" / "1.png", random_image(0))
    root = tmp_path / "photos"
    (root / "cats").mkdir(parents=True)
    (root / "cats" / "linked").symlink_to(tmp_path / "real")
    (root / "cats" / "loop").symlink_to(root / "cats")
    (root / "cats" / "gone.png").symlink_to(tmp_path / "nowhere")
    source = open_source(root)
    assert [item.path for item in source.items] == ["cats/gone.png", "cats/linked/1.png"]
    with pytest.raises(ImageError, match="cannot be read"):
        source.read(source.items[0])


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Any file name that the system allows can be listed and read."""
    folder = tmp_path / "cats"
    folder.mkdir()
    for name in (b"a\xff.png", b"new\nline.png", b'quote".png', "🐈.png".encode()):
        write_image(tmp_path / "1.png", random_image(0)).rename(os.fsdecode(os.fsencode(folder) + b"/" + name))
    source = open_source(tmp_path)
    assert len(source.items) == 4
    assert all(source.read(item) for item in source.items)


def test_empty_file_has_a_reason(tmp_path: Path) -> None:
    """A file of no bytes is named as such."""
    write_image(tmp_path / "cats" / "1.png", random_image(0))
    (tmp_path / "cats" / "1.png").write_bytes(b"")
    source = open_source(tmp_path)
    with pytest.raises(ImageError, match=r"^empty file$"):
        source.read(source.items[0])


def test_files_source_keeps_the_order_given(photos: Path) -> None:
    """Files come as they were named, and as often, folders in alphanumeric order."""
    one = photos / "light" / "l3.png"
    source = files_source([one, photos / "dark", one])
    assert [Path(item.path).name for item in source.items] == ["l3.png", *(f"d{i}.png" for i in range(6)), "l3.png"]
    assert all(source.read(item) for item in source.items)


def test_files_source_names_what_is_missing(tmp_path: Path) -> None:
    """A path that does not exist is an error."""
    with pytest.raises(SourceError, match=r"nowhere\.png"):
        files_source([tmp_path / "nowhere.png"])


def test_flat_folder_has_no_labels(extracting, tmp_path: Path) -> None:
    """A folder of nothing but images is a source without labels; features come, a head does not."""
    for i in range(3):
        write_image(tmp_path / "flat" / f"{i}.png", random_image(i))
    assert [(item.path, item.label) for item in open_source(tmp_path / "flat").items] == [
        (f"{i}.png", None) for i in range(3)
    ]
    cache = extracting(tmp_path / "flat", tmp_path / "c", validation_split=0)
    assert np.allclose(cache.features(), [predicted_mean(random_image(i)) for i in range(3)], rtol=1e-5)
    assert cache.label_indices().tolist() == [-1] * 3
    with pytest.raises(HeadError, match="3 of 3 images have no class"):
        fit_head(cache)


def test_split_without_labels(extracting, split_photos: Path, tmp_path: Path) -> None:
    """A test folder without class folders is listed; a head that would score it is refused, not misled."""
    write_image(split_photos / "test" / "1.png", random_image(1))
    assert open_source(split_photos).items[-1].label is None
    with pytest.raises(HeadError, match="1 of 51 images have no class"):
        fit_head(extracting(split_photos, tmp_path / "c"))


def test_link_to_itself(tmp_path: Path) -> None:
    """A link that leads to itself is listed, and reading it gives the reason."""
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "self").symlink_to("self")
    source = open_source(tmp_path)
    with pytest.raises(ImageError, match="cannot be read: Too many levels"):
        source.read(source.items[0])


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A named pipe among the images has its reason instead of blocking the run."""
    (tmp_path / "cats").mkdir()
    os.mkfifo(tmp_path / "cats" / "pipe.png")
    source = open_source(tmp_path)
    with pytest.raises(ImageError, match="not a regular file"):
        source.read(source.items[0])


def test_deep_folders(tmp_path: Path) -> None:
    """Folders nested deeper than Python's stack are listed."""
    here, deep = os.getcwd(), 1200  # noqa: PTH109
    try:
        os.chdir(tmp_path)
        for _ in range(deep):
            Path("d").mkdir()
            os.chdir("d")
        Path("1.png").write_bytes(b"x")
        assert open_source(tmp_path, classes=["d"]).items[0].path == "d/" * deep + "1.png"
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # pytest's own cleaning is recursive


def test_long_listing_shows_progress(photos: Path, caplog, monkeypatch) -> None:
    """A listing that takes long says how far it is; a short one says nothing."""
    with caplog.at_level(logging.INFO, "featcache"):
        open_source(photos)
        assert not caplog.records
        monkeypatch.setattr(source_module, "PROGRESS_SECONDS", 0)
        open_source(photos)
    assert f"listing {photos}: 12 so far" in caplog.text


def test_unreadable_folder(photos: Path, monkeypatch) -> None:
    """A folder that cannot be listed is named with the reason."""

    def refused(path: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(SourceError, match=r"photos.*Permission denied"):
        open_source(photos)


def test_splits_without_train(tmp_path: Path) -> None:
    """validation and test without train are not taken for classes."""
    for name in ("validation", "test"):
        write_image(tmp_path / name / "cats" / "1.png", random_image(0))
    with pytest.raises(SourceError, match="no train folder beside 'test', 'validation'"):
        open_source(tmp_path)


def test_empty_class_folder_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A class folder without a file is no class, and it is said."""
    write_image(tmp_path / "cats" / "1.png", random_image(0))
    (tmp_path / "dogs").mkdir()
    assert class_names(open_source(tmp_path).items) == ["cats"]
    assert "dogs has no file" in caplog.text


def test_no_classes_at_all(photos: Path) -> None:
    """An empty choice of classes is a mistake."""
    with pytest.raises(OptionError, match="at least one"):
        open_source(photos, classes=[])
