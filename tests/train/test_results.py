from pathlib import Path

import pytest

from featcache.train.results import keep, kept

RESULT = {"accuracy": 0.1 + 0.2, "params": {"alphas": [1.0, 10.0]}, "none": None}


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    """The same identity gives the same result, another none."""
    assert kept(tmp_path, "a") is None
    keep(tmp_path, "a", RESULT)
    assert kept(tmp_path, "a") == RESULT
    assert kept(tmp_path, "b") is None


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"result": {}, "sha256": "x"}', "\xff"])
def test_damaged_results_are_none(tmp_path: Path, content: str) -> None:
    """A file that is not as it was written is no result, whatever it holds."""
    keep(tmp_path, "a", RESULT)
    file = next((tmp_path / "results").iterdir())
    changed = file.read_text().replace("0.3", "0.4")
    for text in (content, changed):
        file.write_bytes(text.encode("latin-1"))
        assert kept(tmp_path, "a") is None


def test_results_of_another_identity_are_none(tmp_path: Path) -> None:
    """A result does not count under another name."""
    keep(tmp_path, "a", RESULT)
    (tmp_path / "results" / "a.json").rename(tmp_path / "results" / "b.json")
    assert kept(tmp_path, "b") is None


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    """A place that cannot be written to is no error."""
    (tmp_path / "results").write_text("a file")
    keep(tmp_path, "a", RESULT)
    assert kept(tmp_path, "a") is None
