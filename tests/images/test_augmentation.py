import dataclasses

import numpy as np
import pytest
from conftest import random_image
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import OptionError
from featcache.images.augmentation import Augmentation, warped

IMAGE = random_image(0, 16).astype(np.float32)
KEY = b"k" * 32


def test_same_image_view_and_seed_give_the_same_pixels() -> None:
    """A view depends on digest, number and seed alone; each of them matters."""
    policy = Augmentation(flip=True, rotation=0.1, zoom=0.2, shift=0.2, brightness=0.1, contrast=0.1, crop=0.2)
    first = policy.apply(IMAGE, KEY, 1)
    assert np.array_equal(policy.apply(IMAGE, KEY, 1), first)
    other_seed = Augmentation(**{**policy.__dict__, "seed": 1})
    for other in (policy.apply(IMAGE, KEY, 2), policy.apply(IMAGE, b"o" * 32, 1), other_seed.apply(IMAGE, KEY, 1)):
        assert not np.allclose(other, first)


def test_source_pixels_are_left_alone() -> None:
    """Making a view does not change the image it is made of."""
    before = IMAGE.copy()
    Augmentation(flip=True, brightness=0.5, contrast=0.5).apply(IMAGE, KEY, 1)
    assert np.array_equal(IMAGE, before)


def test_flip_mirrors_half_of_the_views() -> None:
    """A flipped view is the mirrored image, exactly; about every other view is."""
    policy = Augmentation(flip=True)
    views = [policy.apply(IMAGE, KEY, view) for view in range(1, 101)]
    mirrored = [np.allclose(view, IMAGE[:, ::-1], atol=1e-3) for view in views]
    plain = [np.allclose(view, IMAGE, atol=1e-3) for view in views]
    assert all(a != b for a, b in zip(mirrored, plain, strict=True))
    assert 30 < sum(mirrored) < 70


def test_warp_quarter_turn_and_shift() -> None:
    """A quarter turn equals NumPy's, a whole shift moves pixels, and the edges fill as asked."""
    centre = (16 - 1) / 2
    quarter = np.array([[0, -1, 2 * centre], [1, 0, 0], [0, 0, 1]])
    assert np.allclose(warped(IMAGE, quarter, "nearest"), np.rot90(IMAGE), atol=1e-3)
    right = np.array([[1.0, 0, -3], [0, 1, 0], [0, 0, 1]])
    for fill, edge in (
        ("constant", np.zeros_like(IMAGE[:, :3])),
        ("nearest", np.repeat(IMAGE[:, :1], 3, 1)),
        ("reflect", IMAGE[:, 2::-1]),
    ):
        moved = warped(IMAGE, right, fill)
        assert np.allclose(moved[:, 3:], IMAGE[:, :-3], atol=1e-3)
        assert np.allclose(moved[:, :3], edge, atol=1e-3), fill


def test_brightness_and_contrast_are_keras_operations() -> None:
    """Brightness adds, contrast stretches about each channel's mean, and values stay in 0…255."""
    grey = np.full((4, 4, 3), 100, np.float32)
    bright = Augmentation(brightness=0.2).apply(grey, KEY, 1)
    assert np.ptp(bright) == 0
    assert 49 <= bright[0, 0, 0] <= 151
    middling = IMAGE * 0.2 + 100
    stretched = Augmentation(contrast=0.5).apply(middling, KEY, 1)
    assert np.allclose(stretched.mean(axis=(0, 1)), middling.mean(axis=(0, 1)), atol=1e-2)
    ratio = stretched.std(axis=(0, 1)) / middling.std(axis=(0, 1))
    assert np.allclose(ratio, ratio[0], rtol=1e-3)
    assert 0.5 <= ratio[0] <= 1.5


@given(st.integers(1, 10**6), st.binary(min_size=32, max_size=32))
def test_crop_stays_inside(view: int, key: bytes) -> None:
    """A cropped view shows nothing from beyond the edges."""
    policy = Augmentation(crop=0.6, fill="constant")
    assert policy.apply(np.full((8, 8, 1), 200, np.float32), key, view).min() > 199.9


@pytest.mark.parametrize(
    "text", ["", "spin=0.2", "rotation=2", "rotation", "rotation=x", "flip=0.5", "zoom=-1", "crop=1"]
)
def test_wrong_policies(text: str) -> None:
    """Names and ranges are checked, with what is possible."""
    with pytest.raises(OptionError, match=text.split("=")[0] or "is empty"):
        Augmentation.parse(text)
    with pytest.raises(OptionError, match="fill"):
        Augmentation.parse("flip", fill="wrap")


def test_parse_and_fingerprint() -> None:
    """The text means the policy; policy, fill and seed decide the fingerprint."""
    parsed = Augmentation.parse("flip, rotation=0.2", fill="reflect", seed=3)
    assert parsed == Augmentation(flip=True, rotation=0.2, fill="reflect", seed=3)
    others = [Augmentation(flip=True, rotation=0.2, fill="reflect"), Augmentation(flip=True, rotation=0.2, seed=3)]
    assert len({policy.fingerprint for policy in [parsed, *others]}) == 3


def test_a_kept_augmentation_that_is_none() -> None:
    """What a manifest keeps is read back, and nonsense is an error of one line."""
    policy = Augmentation(flip=True, rotation=0.1, seed=3)
    assert Augmentation.from_dict(dataclasses.asdict(policy)) == policy
    for nonsense in ({"flip": 1}, {"rotation": "x"}, {"nonsense": 1}, {}, {"flip": True, "fill": ["x"]}):
        with pytest.raises(OptionError):
            Augmentation.from_dict(nonsense)
