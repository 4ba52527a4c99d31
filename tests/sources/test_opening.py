import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image, write_image

from featcache.errors import SourceError
from featcache.sources.opening import open_images, open_source


@pytest.fixture
def places(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with photos/, t.csv, set.tar, tars/ and set.npz, as the working directory."""
    names = sorted(str(path.relative_to(tmp_path)) for path in photos.rglob("*.png"))
    (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{name},\n" for name in names[:3]))
    (tmp_path / "tars").mkdir()
    for tar in (tmp_path / "set.tar", tmp_path / "tars" / "a-0.tar"):
        with tarfile.open(tar, "w") as file:
            for name in names[3:5]:
                file.add(tmp_path / name, name)
    (tmp_path / "tars" / "index.json").write_text("{}")
    np.savez(tmp_path / "set.npz", images=np.stack([random_image(1), random_image(2)]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_kind_of_source_is_opened_for_prediction(places: Path) -> None:
    """Tables, tar files, folders of these and arrays are opened, a folder of images is all files below it."""
    counts = {name: len(open_images(name).items) for name in ("photos", "t.csv", "set.tar", "tars", "set.npz")}
    assert counts == {"photos": 12, "t.csv": 3, "set.tar": 2, "tars": 2, "set.npz": 2}
    assert len(open_images("digits").items) == 1797
    assert len(open_images([]).items) == 0


def test_several_arguments_keep_their_order(places: Path) -> None:
    """Several sources follow each other; every image is read from its own, and its path says which that is."""
    source = open_images(["photos/dark/d0.png", "t.csv", "set.npz", "photos/light", "set.tar"])
    paths = [item.path for item in source.items]
    assert paths[:5] == ["photos/dark/d0.png", *(f"t.csv/photos/dark/d{i}.png" for i in range(3)), "set.npz/000000"]
    assert paths[6] == "photos/light/l0.png"
    assert paths[-1] == "set.tar/photos/dark/d4.png"
    files = [name for name in paths if "npz" not in name]
    for item in source.items:
        if item.path in files:
            name = item.path.removeprefix("t.csv/").removeprefix("set.tar/")
            assert source.read(item) == Path(name).read_bytes()
    assert np.array_equal(source.read(source.items[5]), random_image(2))


def test_images_beside_a_tar_are_not_overlooked(places: Path) -> None:
    """A folder that holds images is a folder of images, whatever else lies in it."""
    write_image(places / "tars" / "one.png", random_image(5))
    assert [item.path for item in open_images("tars").items] == ["tars/a-0.tar", "tars/one.png"]
    shutil.copy("set.tar", "photos/dark")
    assert len(open_images("photos").items) == 13


def test_what_does_not_exist_is_named(places: Path) -> None:
    """A path that leads nowhere is an error, whatever its ending."""
    for name in ("nowhere", "nowhere.csv", "nowhere.tar"):
        with pytest.raises(SourceError, match=name):
            open_images(["photos", name])


def test_what_folders_mean_does_not_matter_for_prediction(places: Path) -> None:
    """A tar whose folders could mean two things has images that can be predicted all the same."""
    for name in ("train/a.png", "predictions/b.png"):
        write_image(places / name, random_image(0))
    with tarfile.open("odd.tar", "w") as file:
        for name in ("train", "predictions"):
            file.add(name)
    with pytest.raises(SourceError, match="--exclude predictions"):
        open_source("odd.tar")
    assert [(item.path, item.label) for item in open_images("odd.tar").items] == [
        ("train/a.png", None),
        ("predictions/b.png", None),
    ]
