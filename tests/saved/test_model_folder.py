import json
import os
from pathlib import Path

import pytest

from featcache.errors import HeadError
from featcache.files import publishing as files
from featcache.files.values import anything
from featcache.saved import model_folder
from featcache.saved.model_folder import ModelFolder

KIND = ModelFolder("thing", "thing.json", "thing.bin", 3, anything, frozenset({"notes.txt"}))


def written(folder: Path, **card: object) -> Path:
    """Write a thing and return its folder."""
    return KIND.write(folder, lambda path: path.write_bytes(b"weights"), card, [b"b" * 32, b"a" * 32])[0]


def test_what_was_written_reads_back(tmp_path: Path) -> None:
    """Card, model and training images come back, and the digest is the one that writing returned."""
    folder, digest = KIND.write(tmp_path / "t", lambda path: path.write_bytes(b"weights"), {"ö": 0.1}, [b"b" * 32])
    found = KIND.read(folder)
    assert (found.card["ö"], found.model, found.trained_on, found.digest) == (0.1, b"weights", {b"b" * 32}, digest)
    assert {path.name for path in tmp_path.iterdir()} == {"t"}


def test_the_digest_names_card_and_model(tmp_path: Path) -> None:
    """Another card or another model is another digest; who wrote it where does not matter."""
    digests = {
        KIND.write(tmp_path / str(i), lambda path, m=model: path.write_bytes(m), {"x": x}, [])[1]
        for i, (x, model) in enumerate([(1, b"m"), (2, b"m"), (1, b"n"), (1, b"m")])
    }
    assert len(digests) == 3


@pytest.mark.parametrize("name", ["thing.json", "thing.bin"])
def test_a_changed_file_is_refused(tmp_path: Path, name: str) -> None:
    """One other byte in card or model is found, whatever it means."""
    file = written(tmp_path / "t", key="value") / name
    file.write_bytes(file.read_bytes().replace(b"value", b"valve").replace(b"weights", b"weighty"))
    with pytest.raises(HeadError, match=rf"{name}.*changed after"):
        KIND.read(tmp_path / "t")


def test_another_format_is_named(tmp_path: Path) -> None:
    """A card of another version says which."""
    folder = written(tmp_path / "t")
    card = json.loads((folder / "thing.json").read_text())
    (folder / "thing.json").write_text(json.dumps({**card, "format": 4}))
    with pytest.raises(HeadError, match=r"has format 4, and this version reads format 3"):
        KIND.read(folder)


def test_a_model_elsewhere_is_not_read(tmp_path: Path) -> None:
    """A card that names another file is refused, even if it is signed."""
    other = ModelFolder("thing", "thing.json", "other.bin", 3, anything)
    folder, _ = other.write(tmp_path / "t", lambda path: path.write_bytes(b"weights"), {}, [])
    (folder / "thing.bin").write_bytes(b"weights")
    with pytest.raises(HeadError, match="changed after"):
        KIND.read(folder)


def test_only_its_own_files_are_replaced(tmp_path: Path) -> None:
    """A thing takes the place of a thing, and what others put beside it stays; other folders are left alone."""
    folder = written(tmp_path / "t", key=1)
    (folder / "notes.txt").write_text("of the old one")  # of this kind's own names
    (folder / "report.html").write_text("a page")
    (folder / "more" / "empty").mkdir(parents=True)
    (folder / "more" / "thesis").write_text("years of work")
    (folder / "link").symlink_to("more")
    assert KIND.read(written(folder, key=2)).card["key"] == 2
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert kept == {
        "thing.json",
        "thing.bin",
        "trained_on.bin",
        "report.html",
        "more",
        "more/empty",
        "more/thesis",
        "link",
    }
    assert (folder / "more" / "thesis").read_text() == "years of work"
    assert (folder / "link").is_symlink()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis").write_text("years of work")
    (other / "thing.json").write_text("{}")
    with pytest.raises(HeadError, match="other files, such as 'thesis'"):
        written(other)
    assert (other / "thesis").read_text() == "years of work"
    assert {path.name for path in tmp_path.iterdir()} == {"t", "other"}


@pytest.mark.parametrize("name", ["thing.json", "thing.bin", "trained_on.bin", "notes.txt", "base", "t"])
def test_a_file_of_its_own_names_is_not_its_own(tmp_path: Path, name: str) -> None:
    """Without a card of ours, a file called as ours are is somebody's: alone in the folder, or in its place."""
    folder = tmp_path / "t"
    if name != "t":
        folder.mkdir()
    file = folder if name == "t" else folder / name
    file.write_text("years of work")
    with pytest.raises(HeadError, match=r"Choose another --out\.$") as caught:
        written(folder)
    assert "\n" not in str(caught.value)
    assert file.read_text() == "years of work"


def test_what_a_kill_left_is_not_in_the_way(tmp_path: Path) -> None:
    """A folder with a temporary file of ours alone is as good as empty."""
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / ".tmp-12ab").touch()
    assert KIND.read(written(tmp_path / "t", key=1)).card["key"] == 1


def test_rights_stay(tmp_path: Path) -> None:
    """The new folder, and folders in it, have the mode that the old ones had."""
    folder = written(tmp_path / "t")
    (folder / "more" / "inner").mkdir(parents=True)
    modes = {folder: 0o2750, folder / "more": 0o711, folder / "more" / "inner": 0o500}
    for path, mode in modes.items():
        path.chmod(mode)
    written(folder, key=2)
    assert {path: path.stat().st_mode & 0o7777 for path in modes} == modes


@pytest.mark.parametrize("exchanges", [True, False])
def test_files_that_come_while_it_is_exchanged_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    """What somebody adds after the others' files were carried over, and before the exchange, stays."""
    folder = written(tmp_path / "t")
    (folder / "more").mkdir()
    (folder / "more" / "old").write_text("old")
    swap = model_folder.swap_folder

    def late(*arguments: object, **options: object) -> None:
        (folder / "late").write_text("late")
        (folder / "more" / "late").write_text("late")
        swap(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(model_folder, "swap_folder", late)
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    assert KIND.read(written(folder, key=2)).card["key"] == 2
    others = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert {"late": "late", "more/late": "late", "more/old": "old"}.items() <= others.items()
    assert {path.name for path in tmp_path.iterdir()} == {"t"}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_is_replaced_while_it_is_exchanged_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nobody can say which of two files is meant, both stay: the new one in the old folder, which is named."""
    folder = written(tmp_path / "t")
    (folder / "notes").write_text("old")
    swap = model_folder.swap_folder

    def late(*arguments: object, **options: object) -> None:
        (folder / "draft").write_text("newer")
        (folder / "draft").rename(folder / "notes")
        swap(*arguments, **options)  # type: ignore[arg-type]

    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
        assert KIND.read(written(folder, key=1)).card["key"] == 1
    monkeypatch.setattr(model_folder, "swap_folder", late)
    with pytest.raises(HeadError, match="'notes' was replaced at the same time"):
        written(folder, key=2)
    assert KIND.read(folder).card["key"] == 2
    assert (folder / "notes").read_text() == "old"
    (kept,) = tmp_path.glob("t.old-*")
    assert (kept / "notes").read_text() == "newer"
    assert str(kept) in caplog.text


def test_a_base_goes_with_its_folder(tmp_path: Path) -> None:
    """A base is replaced or dropped with the thing that carries it; files of others in its folder stay."""

    def write_base(folder: Path) -> None:
        folder.mkdir()
        for name in ("base.json", "base.keras"):
            (folder / name).write_text("new")

    def write(base: bool) -> Path:
        return KIND.write(tmp_path / "t", lambda path: path.write_bytes(b"w"), {}, [], write_base if base else None)[0]

    folder = write(True)
    assert KIND.read(folder).card["base"] is True
    (folder / "base" / "base.keras").write_text("old")
    (folder / "base" / "base.keras.12ab.openvino").write_text("made of the old one")
    (folder / "base" / "mine").write_text("x")
    assert {path.name for path in (write(True) / "base").iterdir()} == {"base.json", "base.keras", "mine"}
    assert (folder / "base" / "base.keras").read_text() == "new"
    assert {path.name for path in (write(False) / "base").iterdir()} == {"mine"}
    with pytest.raises(HeadError, match=r"is in the way of the thing's base.*--no-bundle"):
        write(True)
    assert {path.name for path in (folder / "base").iterdir()} == {"mine"}


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    """What a link leads to is replaced, not the link."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "t").symlink_to("elsewhere")
    assert KIND.read(written(tmp_path / "t", key=1)).card["key"] == 1
    assert (tmp_path / "t").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"t", "elsewhere"}


def test_a_failure_leaves_the_old_one(tmp_path: Path) -> None:
    """If the model cannot be written, the folder that was there stays and nothing lies beside it."""

    def full(path: Path) -> None:
        path.write_bytes(b"wei")
        raise OSError(28, "No space left on device")

    folder = written(tmp_path / "t", key=1)
    with pytest.raises(HeadError, match="No space left on device"):
        KIND.write(folder, full, {}, [])
    assert KIND.read(folder).card["key"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {"t"}


def test_a_failure_between_two_renames_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two names cannot be exchanged and the new folder cannot take the place, the old one is put back."""
    folder = written(tmp_path / "t", key=1)
    (folder / "mine").write_text("x")
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name.startswith(".tmp-"):
            raise OSError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(HeadError, match="Permission denied"):
        written(folder, key=2)
    assert KIND.read(folder).card["key"] == 1
    assert (folder / "mine").read_text() == "x"
    assert {path.name for path in tmp_path.iterdir()} == {"t"}


def test_a_folder_that_is_none_is_answered_with_one_that_is(tmp_path: Path) -> None:
    """Whoever names a cache, or a folder that is not there, hears which folder is meant."""
    with pytest.raises(HeadError, match=r"does not exist\. Name one that fit-head"):
        KIND.read(tmp_path / "t")
    (tmp_path / "c").mkdir()
    with pytest.raises(HeadError, match=r"has no thing\.json\. Name one that fit-head"):
        KIND.read(tmp_path / "c")
    (tmp_path / "c" / "recipe.json").touch()
    with pytest.raises(HeadError, match="cache without heads: run fit-head"):
        KIND.read(tmp_path / "c")
    (tmp_path / "c" / "heads" / "ridge-top").mkdir(parents=True)
    (tmp_path / "c" / "heads" / "ridge-top" / "head.json").touch()
    with pytest.raises(HeadError, match=r"name one of its heads, such as '.*ridge-top'"):
        KIND.read(tmp_path / "c")
