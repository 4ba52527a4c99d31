import base64
import io
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image, write_image
from PIL import Image

from featcache.images.augmentation import Augmentation
from featcache.images.decoding import PixelSpec, load
from featcache.insight.report.pictures import MOST_BYTES, Pictures, encoded
from featcache.sources import digest
from featcache.sources.opening import open_source


def opened(uri: str | None) -> Image.Image:
    assert uri is not None
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize("shape", [(500, 375, 3), (96, 96, 3), (400, 30, 3), (1, 3000, 3), (300, 300, 1)])
def test_pictures_are_small_whatever_they_show(shape: tuple[int, ...]) -> None:
    """Even noise, which no format compresses, stays below the limit, in the image's own proportions."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    uri = encoded(pixels, 96)
    assert len(base64.b64decode(uri.partition(",")[2])) <= MOST_BYTES
    width, height = opened(uri).size
    assert max(width, height) == 96
    assert width == pytest.approx(max(1, 96 * shape[1] / max(shape[:2])), abs=1)


def test_tiny_images_keep_their_pixels() -> None:
    """An image of 8 pixels is enlarged twelve times without smoothing."""
    pixels = random_image(1)
    shown = np.asarray(opened(encoded(pixels, 96)).convert("RGB"))
    assert (shown == pixels.repeat(12, axis=0).repeat(12, axis=1)).all()


def test_what_cannot_be_shown_is_counted(photos: Path) -> None:
    """Images that are gone or damaged since have no picture, and a reason; the others have theirs."""
    source = open_source(photos)
    (photos / "dark" / "d0.png").unlink()
    (photos / "dark" / "d1.png").write_bytes(b"no image")
    names = ["dark/d0.png", "dark/d1.png", "dark/d2.png", "never/was.png"]
    pictures = Pictures(source)
    pictures.find(names)
    shown = pictures.of(names)
    assert [shown[name] is None for name in names] == [True, True, False, True]
    assert set(pictures.missing) == {names[0], names[1], names[3]}


def test_no_source_no_pictures() -> None:
    """Without the source every picture is missing, and none is an error."""
    pictures = Pictures(None)
    pictures.find(["a"])
    assert pictures.of(["a"]) == {"a": None}
    assert set(pictures.missing) == {"a"}


def test_views_are_those_of_the_extraction(tmp_path: Path) -> None:
    """What is shown as a view is what the base got: the policy on the image's digest."""
    path = write_image(tmp_path / "s" / "a" / "x.png", random_image(3))
    write_image(tmp_path / "s" / "b" / "y.png", random_image(4))
    policy, spec = Augmentation(flip=True, rotation=0.2), PixelSpec(16, 16, 3)
    pictures = Pictures(open_source(tmp_path / "s"))
    pictures.find(["a/x.png"])
    shown = pictures.as_seen("a/x.png", spec, policy, 2)
    pixels = load(path.read_bytes(), spec)
    for view, uri in enumerate(shown):
        expected = policy.apply(pixels, digest(path.read_bytes()), view) if view else pixels
        got = np.asarray(opened(uri).convert("RGB"))[3::6, 3::6]
        assert (got == np.clip(expected, 0, 255).astype(np.uint8)).all()
    assert len(shown) == 3
