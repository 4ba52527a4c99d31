import csv
import io
import os
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from featcache.files import publishing as files
from featcache.files.publishing import TEMPORARY, csv_text, link_or_copy, publish, publish_json, swap_folder


def test_publish_replaces_whole(tmp_path: Path) -> None:
    """A published file has the new content and leaves no temporary file."""
    target = tmp_path / "a"
    publish(target, b"old")
    publish(target, b"new")
    assert target.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_failed_check_keeps_the_old_file(tmp_path: Path) -> None:
    """If the check of the temporary file raises, the old file stays and nothing else is left."""
    target = tmp_path / "a"
    publish(target, b"old")

    def refuse(path: Path) -> None:
        assert path.name.startswith(TEMPORARY)
        assert path.read_bytes() == b"new"
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        publish(target, b"new", check=refuse)
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_publish_into_a_missing_folder_is_an_oserror(tmp_path: Path) -> None:
    """A folder that does not exist is an OSError, for the caller to explain."""
    with pytest.raises(OSError):
        publish_json(tmp_path / "no" / "a.json", {})


def test_content_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced, checked, renamed, and then its folder synced, in this order."""
    steps: list[str] = []
    sync, rename = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (steps.append("sync"), sync(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (steps.append("rename"), rename(self, to))[1])
    publish(tmp_path / "a", b"x", check=lambda _: steps.append("check"))
    assert steps == ["sync", "check", "rename", "sync"]


def folders(root: Path) -> tuple[Path, Path]:
    """Make a draft and a target with one file each."""
    for name in ("draft", "target"):
        (root / name).mkdir()
        (root / name / name).write_text(name)
    return root / "draft", root / "target"


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_takes_anothers_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool) -> None:
    """The new folder is there, the old one gone, whether the system can exchange two names or not."""
    draft, target = folders(tmp_path)
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    swap_folder(draft, target)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert [path.name for path in target.iterdir()] == ["draft"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux exchanges two names in one step")
def test_a_folder_is_never_missing_while_it_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is renamed away first: stopped right after the exchange, the new one is in place, the old one beside."""
    draft, target = folders(tmp_path)
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("was renamed"))

    def stop(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "sync_folder", stop)
    with pytest.raises(KeyboardInterrupt):
        swap_folder(draft, target)
    assert (target / "draft").exists()
    assert (draft / "target").exists()


def test_killed_between_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old folder is beside its place then, under a name that nothing takes for litter."""
    draft, target = folders(tmp_path)
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    rename = Path.rename

    def killed(path: Path, to: Path) -> Path:
        if path.name == "draft" or to.name == "target":
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        swap_folder(draft, target)
    (old,) = (path for path in tmp_path.iterdir() if path != draft)
    assert old.name.startswith("target.old-")
    assert (old / "target").read_text() == "target"


@pytest.mark.parametrize("exchanges", [True, False])
def test_what_cannot_be_rescued_is_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """If what is new in the old folder cannot be taken over, that folder stays beside, and a message names it."""
    draft, target = folders(tmp_path)
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        swap_folder(draft, target, rescue=full)
    assert (target / "draft").exists()
    (old,) = (path for path in tmp_path.iterdir() if path != target)
    assert (old / "target").read_text() == "target"
    assert str(old) in caplog.text


def test_a_second_name_or_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one file system a file gets another name; where that is refused it is copied; a link stays a link."""
    (tmp_path / "a").write_text("content")
    (tmp_path / "link").symlink_to("a")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").samefile(tmp_path / "a")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    for i in range(2):
        link_or_copy(tmp_path / "link", tmp_path / f"link{i}")
        link_or_copy(tmp_path / "a", tmp_path / f"c{i}")
        assert (tmp_path / f"link{i}").is_symlink()
        assert (tmp_path / f"c{i}").read_text() == "content"
        monkeypatch.setattr(os, "link", refuse)
    assert not (tmp_path / "c1").samefile(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="cross-device"):  # a copy would wait for a writer
        link_or_copy(tmp_path / "pipe", tmp_path / "pipe2")


@given(st.lists(st.lists(st.text("ab,\"\r\n '=;", max_size=4), min_size=2, max_size=2), max_size=5))
@example([["a\rb", ""], ["\n", "\r\n"]])
def test_csv_reads_back(rows: list[list[str]]) -> None:
    """Cells come back as they were, whatever line breaks and quotes are in them."""
    assert list(csv.reader(io.StringIO(csv_text(rows), newline=""), strict=True)) == rows
