import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image, write_image
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import ImageError, OptionError, SourceError
from featcache.sources import (
    Item,
    SplitPolicy,
    class_names,
    digest,
    files_source,
    folder_name,
    open_source,
)


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
    """Trains and buses are classes, not splits."""
    for folder in ("train", "bus"):
        write_image(tmp_path / folder / "1.png", random_image(0))
    assert class_names(open_source(tmp_path).items) == ["bus", "train"]


def test_stray_folder_beside_splits(tmp_path: Path) -> None:
    """A folder that is no split beside splits is an error that names what is there."""
    for folder in ("train", "validation", "extra"):
        write_image(tmp_path / folder / "cats" / "1.png", random_image(0))
    with pytest.raises(SourceError, match="extra, train, validation"):
        open_source(tmp_path)


def test_two_folders_of_one_split(tmp_path: Path) -> None:
    """val beside validation is an error: nobody knows which is meant."""
    for folder in ("train", "validation", "val"):
        write_image(tmp_path / folder / "cats" / "1.png", random_image(0))
    with pytest.raises(SourceError, match="one folder each"):
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


def test_digits() -> None:
    """The embedded set has 1,797 images of ten classes, in 0…255."""
    source = open_source("digits")
    assert len(source.items) == 1797
    assert class_names(source.items) == [str(i) for i in range(10)]
    pixels = source.read(source.items[0])
    assert pixels.shape == (8, 8)
    assert pixels.max() == 239  # 15 of 16


def test_digest_of_a_file_is_sha256sum() -> None:
    """A stranger can find an image's row with sha256sum."""
    assert digest(b"abc") == hashlib.sha256(b"abc").digest()


def test_digest_of_an_array_covers_shape_and_type() -> None:
    """Equal bytes of another shape or type are another image."""
    a = np.zeros((2, 3), np.uint8)
    assert digest(a) == hashlib.sha256(b"|u1 2,3\n" + bytes(6)).digest()
    assert len({digest(a), digest(a.reshape(3, 2)), digest(a.astype(np.int8))}) == 3
    assert digest(np.arange(6).reshape(2, 3).T) == digest(np.ascontiguousarray(np.arange(6).reshape(2, 3).T))


def test_files_source_keeps_the_order_given(photos: Path) -> None:
    """Files come as they were named, folders in alphanumeric order, each once."""
    one = photos / "light" / "l3.png"
    source = files_source([one, photos / "dark", one])
    assert [Path(item.path).name for item in source.items] == ["l3.png", *(f"d{i}.png" for i in range(6))]
    assert all(source.read(item) for item in source.items)


def test_files_source_names_what_is_missing(tmp_path: Path) -> None:
    """A path that does not exist is an error."""
    with pytest.raises(SourceError, match=r"nowhere\.png"):
        files_source([tmp_path / "nowhere.png"])


ITEM = Item("a", "x", None, 1, 1)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 9))
def test_split_depends_on_content_and_seed_alone(identity: bytes, seed: int) -> None:
    """An image's side does not change with its name, its label or its neighbours."""
    policy = SplitPolicy(0.3, seed=seed)
    assert policy.split_of(ITEM, identity) == policy.split_of(Item("z", "y", None, 9, 9), identity)


def test_split_has_the_size_asked_for() -> None:
    """Of many images the wanted part is validation, and of that the wanted part test."""
    policy = SplitPolicy(0.3, ("validation", 0.5))
    found = [policy.split_of(ITEM, hashlib.sha256(bytes([i % 256, i // 256])).digest()) for i in range(4000)]
    assert abs(found.count("validation") / 4000 - 0.15) < 0.02
    assert abs(found.count("test") / 4000 - 0.15) < 0.02


def test_larger_split_keeps_what_was_in_it() -> None:
    """Raising the part moves images into validation, none out of it."""
    many = [hashlib.sha256(bytes([i])).digest() for i in range(256)]
    small = {d for d in many if SplitPolicy(0.2).split_of(ITEM, d) == "validation"}
    large = {d for d in many if SplitPolicy(0.4).split_of(ITEM, d) == "validation"}
    assert small < large


def test_split_default_follows_the_source(photos: Path, split_photos: Path) -> None:
    """A fifth is validation where the source brings no split; nothing is moved where it does."""
    assert SplitPolicy().settled(open_source(photos)).validation_split == 0.2
    assert SplitPolicy().settled(open_source(split_photos)).validation_split == 0.0
    with pytest.raises(OptionError, match="has a validation set"):
        SplitPolicy(0.1).settled(open_source(split_photos))


@pytest.mark.parametrize("options", [{"validation_split": 1.0}, {"validation_split": -0.1},
                                     {"test_from": ("train", 0)}, {"test_from": ("dogs", 0.5)}])  # fmt: skip
def test_impossible_policies(options: dict[str, object]) -> None:
    """Parts are between 0 and 1, of a split there is."""
    with pytest.raises(OptionError):
        SplitPolicy(**options)


@given(st.text())
def test_folder_names_are_harmless(name: str) -> None:
    """No name leads out of its folder or hides."""
    made = folder_name(name)
    assert made
    assert "/" not in made
    assert not made.startswith(".")
