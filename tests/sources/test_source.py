import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featcache.sources import digest, folder_name


def test_digest_of_a_file_is_sha256sum() -> None:
    """A stranger can find an image's row with sha256sum."""
    assert digest(b"abc") == hashlib.sha256(b"abc").digest()


def test_digest_of_an_array_covers_shape_and_type() -> None:
    """Equal bytes of another shape or type are another image."""
    a = np.zeros((2, 3), np.uint8)
    assert digest(a) == hashlib.sha256(b"|u1 2,3\n" + bytes(6)).digest()
    assert len({digest(a), digest(a.reshape(3, 2)), digest(a.astype(np.int8))}) == 3
    assert digest(np.arange(6).reshape(2, 3).T) == digest(np.ascontiguousarray(np.arange(6).reshape(2, 3).T))


@given(st.text())
def test_folder_names_are_harmless(name: str) -> None:
    """No name leads out of its folder or hides."""
    made = folder_name(name)
    assert made
    assert "/" not in made
    assert not made.startswith(".")


def test_folder_names_stay_readable() -> None:
    """A letter loses its accent, whichever way that is written; what is no letter of ours is a dash."""
    assert [folder_name(name) for name in ("\u00e9t\u00e9 2024", "e\u0301te\u0301 2024")] == ["ete-2024"] * 2
    assert [folder_name(name) for name in ("a/../b", "\u732b", "..")] == ["a-..-b", "source", "source"]
