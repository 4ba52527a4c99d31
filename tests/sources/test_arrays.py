import gc
import io
import logging
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import predicted_mean, random_image
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featcache.errors import SourceError
from featcache.sources.arrays import ArraySource
from featcache.sources.opening import open_source

IMAGES = np.stack([random_image(i) for i in range(10)])
LABELS = np.arange(10) % 2


def resident() -> int:
    """Return this process's anonymous memory in bytes: mapped files do not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
        ("train_images", "train_labels", "validation_images", "validation_labels", "test_images", "test_labels"),
        ("X_train", "Y_train", "valid_images", "valid_labels", "X_test", "Y_test"),
    ],
)
def test_npz_with_splits(extracting, tmp_path: Path, save, keys: tuple[str, ...]) -> None:
    """Keras' keys and the longer ones give images, labels and splits, compressed or not."""
    values = [array for part in (slice(0, 5), slice(5, 8), slice(8, 10)) for array in (IMAGES[part], LABELS[part])]
    save(tmp_path / "set.npz", **dict(zip(keys, values, strict=True)), ids=np.arange(3))
    cache = extracting(tmp_path / "set.npz", tmp_path / "c")
    assert cache.splits == {"train": 5, "validation": 3, "test": 2}
    assert np.allclose(cache.features(), [predicted_mean(image) for image in IMAGES], rtol=1e-5)
    assert cache.label_indices().tolist() == LABELS.tolist()
    assert cache.paths("validation") == ["validation/000000", "validation/000001", "validation/000002"]
    assert cache.source == {"name": "set", "location": str(tmp_path / "set.npz")}
    assert extracting(tmp_path / "set.npz", tmp_path / "c").report.computed == 0


@pytest.mark.parametrize("keys", [("images", "labels"), ("X", "y"), ("x", "Y")])
def test_npz_without_splits(tmp_path: Path, keys: tuple[str, str]) -> None:
    """One array of images is a source without splits; labels may stand in a column, or be text."""
    for labels in (LABELS[:, None], LABELS.astype(str), LABELS.astype("S")):
        np.savez(tmp_path / "set.npz", **dict(zip(keys, (IMAGES, labels), strict=True)))
        items = open_source(tmp_path / "set.npz").items
        assert [item.label for item in items] == [str(label) for label in LABELS]
        assert items[3].path == "000003"
        assert {item.split for item in items} == {None}
        assert {item.size for item in items} == {IMAGES[0].nbytes}
        assert {item.mtime_ns for item in items} == {(tmp_path / "set.npz").stat().st_mtime_ns}


def test_without_labels(tmp_path: Path) -> None:
    """Images alone are images without labels."""
    np.savez(tmp_path / "set.npz", images=IMAGES)
    assert {item.label for item in open_source(tmp_path / "set.npz").items} == {None}


def test_folder_of_npy(extracting, tmp_path: Path) -> None:
    """A folder of .npy files is named as the keys are; class_names name the labels."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name, array in {
        "train_images": IMAGES[:8],
        "train_labels": LABELS[:8],
        "val_images": IMAGES[8:],
        "val_labels": LABELS[8:],
        "class_names": np.array(["zebra", "ant"]),
    }.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "readme.md").write_text("hello")
    cache = extracting(folder, tmp_path / "c")
    assert cache.splits == {"train": 8, "validation": 2}
    assert cache.class_names == ["ant", "zebra"]
    assert cache.label_indices("validation").tolist() == [1, 0]
    assert np.allclose(cache.features(), [predicted_mean(image) for image in IMAGES], rtol=1e-5)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [np.float16, np.float32, ">f8"])
def test_floats_and_grey(extracting, tmp_path: Path, kind, order: str) -> None:
    """Floats in 0…1 count as 0…255, grey is repeated, whatever the byte order and layout."""
    grey = np.asarray(IMAGES[..., 0] / 256, kind, order=order)
    np.savez(tmp_path / "set.npz", images=grey, labels=LABELS)
    cache = extracting(tmp_path / "set.npz", tmp_path / "c")
    expected = [predicted_mean(np.repeat(image[..., None].astype(np.float64) * 255, 3, axis=-1)) for image in grey]
    assert np.allclose(cache.features(), expected, rtol=1e-4)


def test_floats_beyond_one_have_a_reason(extracting, tmp_path: Path) -> None:
    """An image of floats in 0…255 is recorded with that reason."""
    np.savez(tmp_path / "set.npz", images=IMAGES.astype(np.float32), labels=LABELS)
    assert "use uint8" in extracting(tmp_path / "set.npz", tmp_path / "c").skipped[0]["reason"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_never_loaded_whole(tmp_path: Path, save, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing 96 MB of images and reading some takes a few of them in memory, and no file stays behind."""
    images = np.zeros((500, 256, 256, 3), np.uint8)
    images[499] = 7
    save(tmp_path / "set.npz", images=images, labels=np.zeros(500, int))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    del images
    gc.collect()
    before = resident()
    source = open_source(tmp_path / "set.npz")
    assert int(np.asarray(source.read(source.items[499])).max()) == 7
    assert resident() - before < 30e6
    assert list(temporary.iterdir()) == []


def test_prepended_archive(tmp_path: Path) -> None:
    """Members are found where they lie even if something stands before the archive."""
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=LABELS)
    (tmp_path / "set.npz").write_bytes(b"#!something\n" + (tmp_path / "set.npz").read_bytes())
    source = open_source(tmp_path / "set.npz")
    assert np.array_equal(source.read(source.items[4]), IMAGES[4])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"pictures": IMAGES}, r"named x_train.*It has: pictures"),
        ({}, "It has: none"),
        ({"y_train": LABELS, "x_test": IMAGES}, "It has: y_train, x_test"),
        ({"images": IMAGES, "x_train": IMAGES}, "named x_train"),
        ({"x_val": IMAGES, "val_images": IMAGES}, r"two arrays of validation images: x_val and val_images"),
        ({"images": IMAGES, "labels": LABELS[:5]}, r"labels in .*10 labels.*\(5,\)"),
        ({"images": IMAGES, "labels": np.eye(10)}, r"labels in .*shape \(10, 10\)"),
        ({"images": IMAGES, "labels": LABELS / 2}, r"labels in .*float64"),
        ({"images": IMAGES.astype(np.int64)}, r"images in .*int64"),
        ({"images": IMAGES[0]}, r"images in .*\(8, 8, 3\)|has no|one array"),
        ({"images": IMAGES[:0]}, r"images in .*shape \(0, 8, 8, 3\)"),
        ({"images": np.zeros((2, 8, 8, 5), np.uint8)}, r"images in .*\(2, 8, 8, 5\)"),
        ({"images": np.array([{}, {}])}, r"images in .*pickled"),
        ({"images": IMAGES, "labels": LABELS, "class_names": np.array(["a"])}, r"1 class_names.*0 to 1"),
        ({"images": IMAGES, "labels": LABELS - 1, "class_names": np.array(["a", "b"])}, "-1 to 0"),
        ({"images": IMAGES, "class_names": np.array([1, 2])}, "class_names in .*text"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    """An error names file, key, what was expected and what is there."""
    if arrays.get("images") is not None and arrays["images"].shape == (8, 8, 3):
        arrays = {**arrays, "labels": LABELS}  # eight grey images of 8x3: a shape that only the labels disprove
        said = r"labels in .*8 labels"
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(SourceError, match=said) as caught:
        open_source(tmp_path / "set.npz")
    assert "set.npz" in str(caught.value)


def test_no_room_to_unpack(tmp_path: Path, monkeypatch) -> None:
    """An archive that would not fit is refused before it fills the disk, with the sizes and the remedy."""
    np.savez_compressed(tmp_path / "set.npz", images=IMAGES, labels=LABELS)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(SourceError, match=r"images in .*TMPDIR"):
        open_source(tmp_path / "set.npz")


def npy(array: np.ndarray) -> bytes:
    held = io.BytesIO()
    np.save(held, array)
    return held.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        npy(IMAGES)[:-1],
        npy(IMAGES)[:40],
        npy(IMAGES).replace(b"(10, 8, 8, 3)", b"(99, 8, 8, 3)"),
        npy(IMAGES).replace(b"(10, 8, 8, 3)", b"(-1, 8, 8, 3)"),
        npy(IMAGES).replace(b"'|u1'", b"'|O'"),
        npy(IMAGES).replace(b"\x93NUMPY\x01", b"\x93NUMPY\x09"),
    ],
)
@pytest.mark.parametrize("packed", [None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_arrays(tmp_path: Path, content: bytes, packed: int | None) -> None:
    """An array that is cut off, lies about its size or holds objects is one line that names it."""
    if packed is None:
        (tmp_path / "images.npy").write_bytes(content)
    else:
        with zipfile.ZipFile(tmp_path / "set.npz", "w", packed) as archive:
            archive.writestr("images.npy", content)
    with pytest.raises(SourceError, match="images") as caught:
        open_source(tmp_path if packed is None else tmp_path / "set.npz")
    assert "\n" not in str(caught.value)


@example(True, 9436, b"\n")  # in the middle of a name
@settings(max_examples=200, deadline=None)
@given(st.booleans(), st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
def test_mutated_archives(tmp_path_factory, compressed: bool, place: int, mutation: bytes) -> None:
    """Bytes overwritten anywhere in an archive give a source or a SourceError, and reading its images works."""
    path = tmp_path_factory.getbasetemp() / "mutated.npz"
    (np.savez_compressed if compressed else np.savez)(path, images=IMAGES, labels=LABELS)
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place : place + len(mutation)] = mutation
    path.write_bytes(content)
    try:
        source = open_source(path)
    except SourceError as error:
        assert "\n" not in str(error)
    else:
        assert all(source.read(item).nbytes == item.size for item in source.items)


def test_lying_archive(tmp_path: Path) -> None:
    """A member whose local header leads beyond the file is an error."""
    np.savez(tmp_path / "set.npz", images=IMAGES)
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[28:30] = struct.pack("<H", 65535)
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(SourceError, match="images in"):
        open_source(tmp_path / "set.npz")


def test_changed_pixels_in_memory_are_seen(extracting, tmp_path: Path, caplog) -> None:
    """Other pixels under the same set's name are computed: what lies in memory is told by its content."""
    extracting(ArraySource("made", IMAGES[:4], list("abab")), tmp_path / "c")
    with caplog.at_level(logging.INFO, "featcache"):
        cache = extracting(ArraySource("made", IMAGES[1:5], list("abab")), tmp_path / "c")
    assert cache.report.computed == 1
    assert np.allclose(cache.features(), [predicted_mean(image) for image in IMAGES[1:5]], rtol=1e-5)


def test_names_from_an_archive_are_shown_on_one_line(tmp_path: Path) -> None:
    """A name with a line break does not break the message."""
    np.savez(tmp_path / "set.npz", **{"\nimages": IMAGES})
    with pytest.raises(SourceError, match=r"It has: '\\nimages'"):
        open_source(tmp_path / "set.npz")


@pytest.mark.parametrize(
    "keys",
    [
        "X_training y_training X_dev y_dev X_testing y_testing",
        "training_images training_labels valid_images valid_labels evaluation_images evaluation_labels",
    ],
)
def test_splits_as_public_sets_name_them(tmp_path: Path, keys: str) -> None:
    """Keys have the names of splits that folders may have."""
    images, labels = np.zeros((1, 8, 8), np.uint8), np.zeros(1, int)
    np.savez(tmp_path / "set.npz", **{key: images if "X" in key or "image" in key else labels for key in keys.split()})
    assert [item.split for item in open_source(tmp_path / "set.npz").items] == ["train", "validation", "test"]


def test_arrays_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Images under a name that means no split are left out with a word."""
    images, labels = np.zeros((1, 8, 8), np.uint8), np.zeros(1, int)
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, x_extra=images, class_names=np.array(["a"]))
    assert len(open_source(tmp_path / "set.npz").items) == 1
    assert "not read: x_extra" in caplog.text


def test_what_is_read_is_no_view_of_a_file_that_may_change(tmp_path: Path) -> None:
    """An image that was read stays what it is, whatever is written into the mapped file afterwards."""
    np.save(tmp_path / "X.npy", np.zeros((4, 8, 8, 3), np.uint8))
    np.save(tmp_path / "y.npy", np.array([0, 1, 0, 1]))
    source = open_source(tmp_path)
    image = source.read(source.items[2])
    np.lib.format.open_memmap(tmp_path / "X.npy", "r+")[:] = 255
    assert image.max() == 0
