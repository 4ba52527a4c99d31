import json
import logging
import sys
from pathlib import Path

import pytest

from featcache import charts

HEAD = {"loss": [1.0, 0.5], "accuracy": [0.5, 0.75], "val_loss": [1.1, 0.6], "val_accuracy": [0.5, 0.7]}
TUNE = {"epoch": [3, 4], "loss": [0.4, 0.3], "accuracy": [0.8, 0.9], "val_loss": [0.5, 0.4], "val_accuracy": [0.8, 0.9]}


def test_both_phases_with_a_line_between_them(tmp_path: Path) -> None:
    """Every value of both phases is in the chart, a rule stands where the second begins, and the PNG is a picture."""
    chart = charts.curves({"head": HEAD, "fine-tune": TUNE}, "by hand")
    assert chart is not None
    lines, rule = chart["hconcat"][0]["layer"]
    assert rule["mark"]["type"] == "rule"
    assert rule["data"]["values"] == [{"epoch": 2.5, "phase": "fine-tune"}]
    values = lines["data"]["values"]
    assert len(values) == 16
    assert chart["title"] == {"text": "head | fine-tune", "subtitle": "by hand"}
    assert {one["epoch"] for one in values if one["phase"] == "head"} == {1, 2}
    specification, picture = charts.draw(chart, tmp_path / "curves")
    assert json.loads(specification.read_text()) == chart
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_phase_has_no_line() -> None:
    """A head without epochs leaves the second phase alone."""
    chart = charts.curves({"head": {}, "fine-tune": TUNE})
    assert chart is not None
    assert len(chart["hconcat"][0]["layer"]) == 1


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


def test_one_panel_is_the_same_as_in_the_pair() -> None:
    """What a page shows as two charts is what the picture shows as one."""
    both = charts.curves({"head": HEAD, "fine-tune": TUNE})
    panels = [charts.curve({"head": HEAD, "fine-tune": TUNE}, measure) for measure in ("accuracy", "loss")]
    assert both is not None
    assert [panel["layer"] for panel in panels if panel is not None] == [one["layer"] for one in both["hconcat"]]
    assert charts.curve({"head": {}}, "loss") is None


def test_a_confusion_matrix_has_counts_and_parts_of_rows() -> None:
    """Each cell has its count and its part of the true class; an empty class has parts of 0."""
    chart = charts.confusion([[8, 2], [0, 0]], ["a", "b"])
    cells = {(one["true"], one["predicted"]): (one["count"], one["part"]) for one in chart["data"]["values"]}
    assert cells == {("a", "a"): (8, 0.8), ("a", "b"): (2, 0.2), ("b", "a"): (0, 0), ("b", "b"): (0, 0)}
    assert [layer["mark"]["type"] for layer in chart["layer"]] == ["rect", "text"]
    many = charts.confusion([[1] * 16] * 16, [str(i) for i in range(16)])
    assert [layer["mark"]["type"] for layer in many["layer"]] == ["rect"]
    assert charts.png(many).startswith(b"\x89PNG")


def test_a_map_keeps_its_points_and_shows_their_pictures() -> None:
    """The points are in the chart as they are, coloured by what is chosen, with their image in the tooltip."""
    points = [{"x": 1.0, "y": 2.0, "image": "data:,", "file": "f", "class": "c", "split": "train", "wrong": True}]
    chart = charts.scatter(points, ["class", "split"], ("", "second"))
    assert chart["data"]["values"] == points
    shown = [one["field"] for one in chart["encoding"]["tooltip"]]
    assert shown == ["image", "file", "class", "split"]
    assert chart["encoding"]["x"]["title"] is None
    assert chart["params"][0]["bind"]["options"] == ["class", "split"]


def test_calibration_and_depth_are_pictures() -> None:
    """Both can be drawn, from one value on."""
    one = {"confidence": 0.97, "accuracy": 1.0, "n": 3, "low": 0.4, "high": 1.0}
    assert charts.reliability([one])["layer"][0]["data"]["values"][0] == {"confidence": 0.9, "accuracy": 0.9}
    row = {"layer": "a", "head": "ridge", "accuracy": 0.5, "low": 0.4, "high": 0.6, "best": True}
    for chart in (charts.reliability([one]), charts.depth([row], ["a"])):
        assert charts.png(chart).startswith(b"\x89PNG")
