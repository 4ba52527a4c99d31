import json
import logging
import sys
from pathlib import Path

import pytest

from featcache import charts

HEAD = {"loss": [1.0, 0.5], "accuracy": [0.5, 0.75], "val_loss": [1.1, 0.6], "val_accuracy": [0.5, 0.7]}
TUNE = {"epoch": [2, 3], "loss": [0.4, 0.3], "accuracy": [0.8, 0.9], "val_loss": [0.5, 0.4], "val_accuracy": [0.8, 0.9]}


def test_both_phases_with_a_line_between_them(tmp_path: Path) -> None:
    """Every value of both phases is in the chart, a rule stands where the second begins, and the PNG is a picture."""
    chart = charts.curves({"head": HEAD, "fine-tune": TUNE}, "by hand")
    assert chart is not None
    lines, rule = chart["hconcat"][0]["layer"]
    assert rule["mark"]["type"] == "rule"
    assert rule["data"]["values"] == [{"epoch": 1.5, "phase": "fine-tune"}]
    values = lines["data"]["values"]
    assert len(values) == 16
    assert chart["title"] == {"text": "head | fine-tune", "subtitle": "by hand"}
    assert {one["epoch"] for one in values if one["phase"] == "head"} == {0, 1}
    specification, picture = charts.draw(chart, tmp_path / "curves")
    assert json.loads(specification.read_text()) == chart
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_phase_has_no_line() -> None:
    """A head without epochs leaves the second phase alone."""
    chart = charts.curves({"head": {}, "fine-tune": TUNE})
    assert chart is not None
    assert chart["hconcat"][0]["layer"][1]["data"]["values"] == []


def test_nothing_to_draw(tmp_path: Path) -> None:
    """Without any epoch there is no chart and no file."""
    assert charts.curves({"head": {}}) is None
    assert charts.draw(None, tmp_path / "curves") == []


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where Vega-Altair is not installed, it is said, and there is no chart."""
    monkeypatch.setitem(sys.modules, "altair", None)
    with caplog.at_level(logging.WARNING):
        assert charts.curves({"fine-tune": TUNE}) is None
    assert "featcache[report]" in caplog.text
