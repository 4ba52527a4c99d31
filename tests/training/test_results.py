from pathlib import Path

import pytest

from featcache.training.results import all_kept, keep, kept

A, B = {"layer": "a", "params": {"C": 0.1}}, {"layer": "b"}
RESULT = {"accuracy": 0.1 + 0.2, "params": {"alphas": [1.0, 10.0]}, "none": None}


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    """The same identity gives the same result, another none."""
    assert kept(tmp_path, A) is None
    keep(tmp_path, A, RESULT)
    assert kept(tmp_path, A) == RESULT
    assert kept(tmp_path, B) is None


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"result": {}, "sha256": "x"}', "\xff"])
def test_damaged_results_are_none(tmp_path: Path, content: str) -> None:
    """A file that is not as it was written is no result, whatever it holds."""
    keep(tmp_path, A, RESULT)
    file = next((tmp_path / "results").iterdir())
    changed = file.read_text().replace("0.3", "0.4")
    for text in (content, changed):
        file.write_bytes(text.encode("latin-1"))
        assert kept(tmp_path, A) is None


def test_results_of_another_identity_are_none(tmp_path: Path) -> None:
    """A result does not count under another name."""
    keep(tmp_path, A, RESULT)
    (file_a,) = (tmp_path / "results").iterdir()
    keep(tmp_path, B, {"accuracy": 0.5})
    (file_b,) = set((tmp_path / "results").iterdir()) - {file_a}
    file_a.rename(file_b)
    assert kept(tmp_path, B) is None


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    """A place that cannot be written to is no error."""
    (tmp_path / "results").write_text("a file")
    keep(tmp_path, A, RESULT)
    assert kept(tmp_path, A) is None


def test_everything_that_is_kept_can_be_listed(tmp_path: Path) -> None:
    """What decided each result comes with it; damaged files are left out."""
    assert list(all_kept(tmp_path)) == []
    keep(tmp_path, A, RESULT)
    keep(tmp_path, B, {"accuracy": 0.5})
    (tmp_path / "results" / "c.json").write_text("{")
    assert sorted(all_kept(tmp_path), key=lambda pair: pair[0]["layer"]) == [(A, RESULT), (B, {"accuracy": 0.5})]


def test_a_comparison_without_its_counts_is_none(tmp_path: Path) -> None:
    """A kept result of `compare` has every number that a row of its table shows, or it is made again."""
    of = {"rows": "r", "layer": "a", "settings": {"clf": "ridge"}, "versions": {}}
    metrics = {
        "n": 1,
        "accuracy": 1.0,
        "accuracy_ci95": [0.2, 1.0],
        "macro_f1": 1.0,
        "log_loss": 0.1,
        "ece": 0.1,
        "copies_left_out": 0,
        "group_members_left_out": 0,
    }
    result = {
        "params": {},
        "fit_seconds": 0.1,
        "selected_on": "validation",
        "metrics": metrics,
        "sweep": [],
        "right": {"n": 1, "bits": "80"},
    }
    keep(tmp_path, of, result)
    assert kept(tmp_path, of) == result
    for name in metrics:
        keep(tmp_path, of, {**result, "metrics": {key: value for key, value in metrics.items() if key != name}})
        assert kept(tmp_path, of) is None, name
