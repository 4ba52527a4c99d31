import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from featcache.recipe import Recipe
from featcache.saved import base as base_folder
from featcache.saved.model_folder import card_digest

RECIPE = Recipe("a" * 64, "b" * 64, ("top",), "avg", (8, 8), "stretch", "bilinear", "none", "float32")
ABOUT = {"name": "net", "architecture": "a" * 64, "weights": "b" * 64, "layers": ["top"]}


def made(folder: Path, content: bytes = b"network") -> Path:
    """Publish a base whose file has this content."""
    base_folder.write(folder, RECIPE, ABOUT, lambda path: path.write_bytes(content))
    return folder


def test_what_was_written_is_sound(tmp_path: Path) -> None:
    """A folder that was written is whole, and the card says what it was given; nothing lies beside it."""
    folder = made(tmp_path / "base")
    assert base_folder.problem(folder, RECIPE) is None
    assert base_folder.read_card(folder)["layers"] == ["top"]
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("name", [base_folder.CARD, base_folder.MODEL])
def test_every_changed_byte_is_found(tmp_path: Path, name: str) -> None:
    """One flipped bit anywhere in card or network is a problem, as is a missing byte or file."""
    folder = made(tmp_path / "base")
    file = folder / name
    content = file.read_bytes()
    for i in range(0, len(content), 7):
        file.write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        said = base_folder.problem(folder, RECIPE)
        same = name == base_folder.CARD and json.loads(content) == readable(file)  # white space of the card
        assert (said is None) == same, (i, said)
    file.write_bytes(content[:-3])
    assert base_folder.problem(folder, RECIPE) is not None
    file.unlink()
    assert f"{name} is missing" == base_folder.problem(folder, RECIPE)


def readable(file: Path) -> object:
    try:
        return json.loads(file.read_bytes())
    except ValueError:
        return None


@pytest.mark.parametrize("content", ["[]", "{", "null", '{"format": 1}', "[" * 100_000, '"x"', "\xff", '{"format": 9}'])
def test_hostile_cards_are_problems(tmp_path: Path, content: str) -> None:
    """Whatever lies where the card should be is a problem in one line, not an error."""
    folder = made(tmp_path / "base")
    (folder / base_folder.CARD).write_bytes(content.encode("latin-1"))
    said = base_folder.problem(folder, RECIPE)
    assert said is not None
    assert "\n" not in said


def test_cards_that_lack_what_matters(tmp_path: Path) -> None:
    """A card with a right checksum and without what it must say is a problem, too."""
    folder = made(tmp_path / "base")
    for card in ({"format": 1}, {"format": 1, **ABOUT}, {"format": 1, **ABOUT, "model": 7}):
        (folder / base_folder.CARD).write_text(json.dumps({**card, "sha256": card_digest(card)}))
        assert "damaged" in str(base_folder.problem(folder, RECIPE))


def test_another_base_is_named(tmp_path: Path) -> None:
    """A sound base that a recipe does not name says how it differs."""
    folder = made(tmp_path / "base")
    assert "another base: weights" in str(base_folder.problem(folder, replace(RECIPE, weights="c" * 64)))
    assert "another base: architecture" in str(base_folder.problem(folder, replace(RECIPE, architecture="c" * 64)))


def test_a_damaged_one_is_replaced_and_a_failure_changes_nothing(tmp_path: Path) -> None:
    """Writing replaces what is damaged; where it fails the old one stays and nothing lies beside it."""
    folder = made(tmp_path / "base")
    (folder / base_folder.MODEL).write_bytes(b"netw0rk")
    assert base_folder.problem(folder, RECIPE) is not None
    made(folder, b"other bytes")
    assert base_folder.problem(folder, RECIPE) is None

    def full(path: Path) -> None:
        path.write_bytes(b"oth")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        base_folder.write(folder, RECIPE, ABOUT, full)
    assert (folder / base_folder.MODEL).read_bytes() == b"other bytes"
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_the_second_of_two_writers_leaves_the_first_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that finds another's base in its way takes that, if it is sound; else it says so."""

    def late(draft: Path, target: Path) -> None:
        draft.rename(target)  # as if it had come between

    def save(path: Path) -> None:
        path.write_bytes(b"late")
        made(tmp_path / "base", b"first")
        monkeypatch.setattr(base_folder, "swap_folder", late)

    base_folder.write(tmp_path / "base", RECIPE, ABOUT, save)
    assert (tmp_path / "base" / base_folder.MODEL).read_bytes() == b"first"
    (tmp_path / "base" / base_folder.MODEL).write_bytes(b"f1rst")
    with pytest.raises(OSError):
        base_folder.write(tmp_path / "base", RECIPE, ABOUT, lambda path: path.write_bytes(b"late"))


def test_a_copy_takes_no_space_on_one_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another name of the same bytes, which outlives the first; across file systems it is a copy."""
    folder = made(tmp_path / "base")
    base_folder.copy(folder, tmp_path / "a")
    assert (tmp_path / "a" / base_folder.MODEL).samefile(folder / base_folder.MODEL)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    base_folder.copy(folder, tmp_path / "b")
    assert not (tmp_path / "b" / base_folder.MODEL).samefile(folder / base_folder.MODEL)
    for file in folder.iterdir():
        file.unlink()
    assert base_folder.problem(tmp_path / "a", RECIPE) is None
    assert base_folder.problem(tmp_path / "b", RECIPE) is None
