import tarfile
from pathlib import Path

import pytest
from test_branches import build, paths, said

from featcache.errors import SourceError
from featcache.sources import SourceOptions
from featcache.sources.folders.folders import files_source
from featcache.sources.opening import open_source


def packed(root: Path, files: str) -> Path:
    """Make the same files in a tar beside a folder of them."""
    build(root / "set", files)
    with tarfile.open(root / "set.tar", "w") as tar:
        for path in paths(files):
            tar.add(root / "set" / path, path)
    return root / "set.tar"


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        (
            "cat/0.jpg cat/masks/0.png dog/1.jpg",
            "masks or labels inside of class folders: 'cat/masks' (1 image). Leave them out with --exclude masks",
        ),
        (
            "cat/0.jpg cat/annotations/0.png cat/annotations/1.png dog/1.jpg dog/Annotations/0.png",
            "'cat/annotations' (2 images), 'dog/Annotations' (1 image)",
        ),
        ("cat/0.jpg cat/Mask/0.png dog/1.jpg", "--exclude Mask"),
        ("cat/0.jpg cat/ground truth/0.png dog/1.jpg", "--exclude 'ground truth'"),
        (
            "cat/0.jpg cat/dog/1.jpg dog/2.jpg",
            "other classes inside of class folders: 'cat/dog' (1 image). Move or "
            "remove them, or leave them out with --exclude cat/dog",
        ),
        ("cat/0.jpg cat/Dog/x/1.jpg dog/2.jpg", "--exclude cat/Dog"),
        ("train/cat/0.jpg train/cat/dog/1.jpg train/dog/2.jpg", "--exclude train/cat/dog"),
        (
            "cat/0.jpg cat/train/1.jpg cat/test/2.jpg dog/3.jpg",
            "splits inside of class folders: 'cat/test' (1 image), "
            "'cat/train' (1 image). Make folders of splits with class folders in them",
        ),
        ("train/cat/0.jpg train/cat/val/1.jpg train/dog/2.jpg", "'train/cat/val'"),
    ],
)
def test_what_is_no_part_of_a_class_is_refused(tmp_path: Path, files: str, advice: str) -> None:
    """Masks, other classes and splits beside the images of a class are a refusal, on disk and in a tar."""
    classes = sorted({name.split("/")["train/" in files.split(" ")[0]] for name in paths(files)})
    for source in (packed(tmp_path, files), tmp_path / "set"):
        with pytest.raises(SourceError) as caught:
            open_source(source)
        assert advice in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(open_source(source, classes=classes).items) == len(paths(files))


def test_the_advice_about_folders_in_class_folders_works(tmp_path: Path, caplog) -> None:
    """What the refusals name to be left out leaves nothing to refuse or to say."""
    files = "cat/0.jpg cat/dog/1.jpg cat/masks/2.jpg dog/3.jpg"
    for source in (packed(tmp_path, files), tmp_path / "set"):
        assert len(open_source(source, options=SourceOptions(exclude=["masks", "cat/dog"])).items) == 2
    assert not caplog.records


def test_folders_beside_the_images_of_a_class_are_said(tmp_path: Path, caplog) -> None:
    """Folders of any other name in class folders belong to the class, and one line says how many images they have."""
    files = "cat/0.jpg cat/bad/1.jpg cat/bad/x/2.jpg dog/3.jpg dog/aug/4.jpg dog/Originals/5.jpg owl/only/6.jpg"
    for source in (packed(tmp_path, files), tmp_path / "set"):
        caplog.clear()
        assert said(open_source(source)) == "cat,dog,owl"
        [line] = [one.getMessage() for one in caplog.records if "(2 images)" in one.getMessage()]
        assert line.endswith(
            "images inside of folders of a class folder are of that class, too: 'cat/bad' (2 images), 'dog/Originals' "
            "(1 image), 'dog/aug' (1 image). Leave out those that are none with --exclude, such as --exclude cat/bad"
        )


def test_one_line_names_few_of_many_folders(tmp_path: Path, caplog) -> None:
    """However many folders there are in all splits, they are said in one line."""
    tops = [f"{split}/{name}" for split in ("train", "val") for name in "ab"]
    open_source(build(tmp_path, " ".join(f"{top}/0.jpg {top}/day{i}/1.jpg" for top in tops for i in range(3))))
    [line] = [one.getMessage() for one in caplog.records]
    assert "'train/a/day0' (1 image)" in line
    assert "and 7 more" in line


@pytest.mark.parametrize("target", ["..", "../..", "../../.."])
def test_a_link_to_a_folder_above_is_not_followed(tmp_path: Path, target: str) -> None:
    """A link in a class folder to what it lies in does not put the other classes into it."""
    root = build(tmp_path / "above" / "set", "cat/0.jpg dog/1.jpg dog/2.jpg")
    build(tmp_path, "above/3.jpg 4.jpg")
    (root / "cat" / "loop").symlink_to(target)
    assert [item.path for item in open_source(root).items] == ["cat/0.jpg", "dog/1.jpg", "dog/2.jpg"]
    assert [item.path for item in files_source([root / "cat"]).items] == [f"{root}/cat/0.jpg"]


def test_a_link_to_a_folder_above_a_split_is_not_followed(tmp_path: Path) -> None:
    """So it is inside of splits, and where the source itself is named by a link."""
    build(tmp_path / "set", "train/cat/0.jpg train/dog/1.jpg test/cat/2.jpg")
    (tmp_path / "set" / "train" / "cat" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert len(open_source(tmp_path / "link").items) == 3
