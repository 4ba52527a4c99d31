import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from featcache.files import TEMPORARY, csv_text, publish, publish_json


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


@given(st.lists(st.lists(st.text("ab,\"\r\n '=;", max_size=4), min_size=2, max_size=2), max_size=5))
@example([["a\rb", ""], ["\n", "\r\n"]])
def test_csv_reads_back(rows: list[list[str]]) -> None:
    """Cells come back as they were, whatever line breaks and quotes are in them."""
    assert list(csv.reader(io.StringIO(csv_text(rows), newline=""), strict=True)) == rows
