import re
from pathlib import Path

import numpy as np
import pytest
from conftest import predicted_mean, random_image, write_image

from featcache.errors import ImageError, SourceError
from featcache.sources import class_names
from featcache.sources.opening import open_source
from featcache.sources.pairs import images_of


def test_paths_bytes_and_arrays(extracting, tmp_path: Path) -> None:
    """A generator of pairs goes the same way as files, whatever its images are."""
    files = [write_image(tmp_path / f"{i}.png", random_image(i)) for i in range(4)]
    images = [files[0], str(files[1]), files[2].read_bytes(), random_image(3), bytearray(files[0].read_bytes())]
    cache = extracting(((image, label) for image, label in zip(images, "ababa", strict=True)), tmp_path / "c")
    assert np.allclose(cache.features(), [predicted_mean(random_image(i)) for i in (0, 1, 2, 3, 0)], rtol=1e-5)
    assert cache.paths() == [str(files[0]), str(files[1]), "000002", "000003", "000004"]
    assert cache.label_indices().tolist() == [0, 1, 0, 1, 0]
    assert cache.report.computed == 4
    pairs = list(zip(images, "ababa", strict=True))
    assert extracting(pairs, tmp_path / "c").report.computed == 0


def test_other_pixels_in_the_same_place_are_seen(extracting, tmp_path: Path) -> None:
    """What lies in memory has no time stamp; it is its content that says whether it has changed."""
    extracting([(random_image(0), "a"), (random_image(1), "b")], tmp_path / "c")
    cache = extracting([(random_image(0), "a"), (random_image(2), "b")], tmp_path / "c")
    assert cache.report.computed == 1
    assert np.allclose(cache.features(), [predicted_mean(random_image(i)) for i in (0, 2)], rtol=1e-5)


def test_labels() -> None:
    """Labels are text, integers of any kind, or none."""
    image = random_image(0)
    pairs = [(image, label) for label in ("x", np.str_("y"), 3, np.int64(4), b"z", None)]
    assert [item.label for item in open_source(pairs).items] == ["x", "y", "3", "4", "z", None]
    assert class_names(open_source(pairs, classes=["3"]).items) == ["3"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "is empty"),
        ([("a.png", "x"), ("b.png", "x")], "2 missing files"),
        (["a.png"], "str at position 0"),
        ((np.zeros((3, 8, 8)), [1, 2, 3]), "zip"),
        ([(b"x", 1.5)], "float 1.5 at position 0"),
        ([(None, "x")], "NoneType at position 0"),
        (3, "int"),
    ],
)
def test_what_is_no_list_of_pairs(given: object, said: str) -> None:
    """Anything else is an error that says what came, and where."""
    with pytest.raises(SourceError, match=said):
        open_source(given)


def test_a_path_named_twice(tmp_path: Path) -> None:
    """One file under two labels is a mistake that is named."""
    path = write_image(tmp_path / "1.png", random_image(0))
    with pytest.raises(SourceError, match="1 path named twice"):
        open_source([(path, "a"), (path, "b")])


def test_empty_bytes_have_a_reason() -> None:
    """An image of no bytes is named as such when it is read."""
    source = open_source([(b"", "a")])
    with pytest.raises(ImageError, match="empty file"):
        source.read(source.items[0])


def test_an_array_that_could_be_one_image_or_several(caplog: pytest.LogCaptureFixture) -> None:
    """Where channels may come first, it is said that grey images are taken; two channels are refused."""
    assert len(images_of(np.zeros((5, 9, 8)))) == 5
    assert caplog.text == ""
    assert len(images_of(np.zeros((3, 9, 8)))) == 3
    assert "np.moveaxis(image, 0, -1)" in caplog.text
    with pytest.raises(SourceError, match=re.escape("(9, 8, 2)")):
        images_of(np.zeros((9, 8, 2)))


def test_arrays_of_one_image_or_several() -> None:
    """An array is one image, or a list of them along its first axis; the keys of a mapping are no images."""
    counts = {(9, 8): 1, (9, 8, 3): 1, (3, 9, 1): 1, (5, 9, 8): 5, (1, 9, 8): 1, (3, 9, 8, 3): 3}
    for shape, count in counts.items():
        assert len(images_of(np.zeros(shape))) == count, shape
    with pytest.raises(SourceError, match="dict"):
        images_of({"a.jpg": 1})
