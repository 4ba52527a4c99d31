"""Charts: Vega-Lite specifications, and their pictures as PNG, drawn without a network or a browser."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.files.publishing import publish

log = logging.getLogger(__name__)

_MEASURES = {
    "accuracy": ("accuracy", "training"),
    "val_accuracy": ("accuracy", "validation"),
    "loss": ("loss", "training"),
    "val_loss": ("loss", "validation"),
}

BLUE, INK = "#2f6fb5", "#555"
_NUMBERED = 15
"""Up to so many classes a confusion matrix has room for numbers."""


def installed() -> bool:
    """Return whether charts can be drawn; if not, say how they could."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError:
        log.warning("no charts without Vega-Altair: pip install 'featcache[report]'")
        return False
    return True


def curves(phases: Mapping[str, Mapping[str, Sequence[float]]], note: str = "") -> dict[str, Any] | None:
    """Return a chart of accuracy and loss by epoch, with a vertical line where a phase begins.

    Histories by name, in their order, have ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` by epoch;
    ``epoch`` numbers them, by default from 0. Phases without epochs are left out. `note` stands below the title.
    Returned is a Vega-Lite specification; None where there is nothing to draw, or nothing to draw with.
    """
    rows, starts = _epochs(phases)
    if not rows or not installed():
        return None
    import altair as alt

    panels = [_curve(rows, starts, measure) for measure in ("accuracy", "loss")]
    title = alt.TitleParams(" | ".join(start["phase"] for start in starts), subtitle=note)
    return _specification(alt.hconcat(*panels).properties(title=title))


def curve(phases: Mapping[str, Mapping[str, Sequence[float]]], measure: str) -> dict[str, Any] | None:
    """Return one of the two panels of `curves`, ``accuracy`` or ``loss``; None if no phase has an epoch."""
    rows, starts = _epochs(phases)
    return _specification(_curve(rows, starts, measure)) if rows else None


def _epochs(
    phases: Mapping[str, Mapping[str, Sequence[float]]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a row for each value of each epoch, and where each phase begins."""
    rows: list[dict[str, Any]] = []
    starts: list[dict[str, Any]] = []
    for phase, history in phases.items():
        epochs = history.get("epoch", range(1, len(history.get("loss", [])) + 1))
        if len(epochs):
            starts.append({"epoch": epochs[0] - 0.5, "phase": phase})
        rows += [
            {"epoch": epoch, "phase": phase, "measure": measure, "of": of, "value": value}
            for name, (measure, of) in _MEASURES.items()
            for epoch, value in zip(epochs, history.get(name, []), strict=False)
        ]
    return rows, starts


def _curve(rows: list[dict[str, Any]], starts: list[dict[str, Any]], measure: str) -> Any:
    import altair as alt

    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d"))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False))
    colour = alt.Color("of:N", title=None, legend=alt.Legend(orient="bottom"))
    lines = (
        alt.Chart(alt.InlineData(values=rows)).mark_line(point=True).encode(x=x, y=y, color=colour, detail="phase:N")
    )
    lines = lines.transform_filter(f"datum.measure == '{measure}'")
    rules = alt.Chart(alt.InlineData(values=starts[1:])).mark_rule(strokeDash=[4, 4]).encode(x="epoch:Q")
    layers = [lines, rules] if starts[1:] else [lines]  # without data, Vega complains in the console
    return alt.layer(*layers).properties(title=measure, width=360, height=240)


def confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, Any]:
    """Return a chart of a confusion matrix (k, k): rows the true class, columns the predicted, shaded by part of a row.

    `names` are k, all different. There is a choice of counts or percent where there is room for numbers.
    """
    import altair as alt

    values = [
        {"true": names[i], "predicted": names[j], "count": int(count), "part": count / max(sum(row), 1)}
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
    ]
    shown = alt.param(name="shown", value="counts", bind=alt.binding_radio(options=["counts", "percent"], name="Show "))
    axes: dict[str, Any] = {"sort": list(names), "scale": alt.Scale(paddingInner=0.03)}
    angle = 0 if len(names) <= 6 else -50
    x = alt.X("predicted:N", title="predicted", axis=alt.Axis(orient="top", labelAngle=angle), **axes)
    tips = [alt.Tooltip(f"{name}:{kind}") for name, kind in (("true", "N"), ("predicted", "N"), ("count", "Q"))]
    tips.append(alt.Tooltip("part:Q", title="of the true class", format=".1%"))
    y = alt.Y("true:N", title="true", **axes)
    base = alt.Chart(alt.InlineData(values=values)).encode(x=x, y=y, tooltip=tips)
    cells = base.mark_rect(color=BLUE).encode(
        opacity=alt.Opacity("part:Q", scale=alt.Scale(domain=[0, 1], range=[0.06, 1]), legend=None)
    )
    side = max(30, min(56, 440 // len(names))) if len(names) <= _NUMBERED else 14
    layers = [cells]
    if len(names) <= _NUMBERED:
        text = base.mark_text(fontSize=13 if len(names) <= 6 else 11).encode(
            text=alt.Text("text:N"), color=alt.condition("datum.part > 0.5", alt.value("white"), alt.value(INK))
        )
        label = "shown == 'counts' ? format(datum.count, ',') : format(datum.part, '.1%')"
        layers.append(text.transform_calculate(text=label))
    chart = alt.layer(*layers).properties(title="Confusion matrix", width=side * len(names), height=side * len(names))
    return _specification(chart.add_params(shown) if len(layers) > 1 else chart)


def reliability(bins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a chart of a calibration curve: accuracy against confidence, with 95 % intervals.

    Each of `bins` has ``confidence``, ``accuracy``, ``n``, and its interval, ``low`` and ``high``.
    """
    import altair as alt

    start = int(min([0.9, *(one["confidence"] for one in bins)]) * 10) / 10
    scale, axis = alt.Scale(domain=[start, 1]), alt.Axis(format="%")
    x = alt.X("confidence:Q", title="probability of the predicted class", scale=scale, axis=axis)
    formats = {"confidence": ".1%", "accuracy": ".1%", "n": ","}
    tips = [alt.Tooltip(f"{name}:Q", format=text) for name, text in formats.items()]
    base = alt.Chart(alt.InlineData(values=list(bins))).encode(x=x, tooltip=tips)
    ends = [{"confidence": end, "accuracy": end} for end in (start, 1)]
    ideal = alt.Chart(alt.InlineData(values=ends)).mark_line(strokeDash=[4, 4], color=INK, opacity=0.5)
    y = alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    layers = [
        ideal.encode(x="confidence:Q", y=y),
        base.mark_rule(color=BLUE).encode(y=alt.Y("low:Q", title="accuracy"), y2="high:Q"),
        base.mark_line(color=BLUE, opacity=0.5).encode(y=y),
        base.mark_circle(color=BLUE, opacity=1).encode(
            y=y, size=alt.Size("n:Q", title="images", scale=alt.Scale(range=[30, 300]), legend=None)
        ),
    ]
    return _specification(alt.layer(*layers).properties(title="Calibration", width=480, height=320))


def depth(rows: Sequence[Mapping[str, Any]], layers: Sequence[str]) -> dict[str, Any]:
    """Return a chart of accuracy by layer: every head a dot, the best of each layer with its 95 % interval.

    Rows have ``layer``, ``head``, ``accuracy``, ``low``, ``high`` and ``best``, whether it is its layer's best; layers
    are in their order, the deepest last.
    """
    import altair as alt

    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        x=alt.X("layer:N", sort=list(layers), title="layer, the deepest last", axis=alt.Axis(labelAngle=0)),
        tooltip=[alt.Tooltip("layer:N"), alt.Tooltip("head:N"), alt.Tooltip("accuracy:Q", format=".1%")],
    )
    y = alt.Y("accuracy:Q", title="accuracy on validation", scale=alt.Scale(zero=False), axis=alt.Axis(format="%"))
    best = base.transform_filter("datum.best")
    marks = [
        base.mark_circle(color=INK, opacity=0.35, size=30).encode(y=y),
        best.mark_rule(color=BLUE).encode(y=alt.Y("low:Q", title="accuracy on validation"), y2="high:Q"),
        best.mark_line(color=BLUE, opacity=0.5).encode(y=y),
        best.mark_circle(color=BLUE, size=110, opacity=1).encode(y=y),
    ]
    return _specification(alt.layer(*marks).properties(title="Accuracy by layer", width=480, height=280))


def scatter(points: Sequence[Mapping[str, Any]], colours: Sequence[str], axes: tuple[str, str]) -> dict[str, Any]:
    """Return a map of points that show their image when the pointer is over them.

    Points have ``x``, ``y``, ``image`` (a data URI or None), ``file``, ``wrong`` (bool), and a text under each of
    `colours`, by which they may be coloured, by the first to begin with; more of them are shown in the tooltip, too.
    `axes` say what x and y are; empty where that means nothing.
    """
    import altair as alt

    by = alt.param(name="by", value=colours[0], bind=alt.binding_radio(options=list(colours), name="Colour by "))
    bare = alt.Axis(labels=False, ticks=False, domain=False, grid=False)
    hidden: dict[str, Any] = {"axis": bare, "scale": alt.Scale(zero=False)}
    names = [name for name in points[0] if name not in ("x", "y", "image", "wrong")] if points else []
    legend = alt.Legend(orient="bottom", columns=4, symbolLimit=16)
    shapes = alt.Scale(domain=[False, True], range=["circle", "cross"])
    chart = alt.Chart(alt.InlineData(values=[])).mark_point(filled=True, opacity=0.75, aria=False)
    chart = chart.encode(
        x=alt.X("x:Q", title=axes[0] or None, **hidden),
        y=alt.Y("y:Q", title=axes[1] or None, **hidden),
        color=alt.Color("group:N", title=None, legend=legend),
        shape=alt.Shape("wrong:N", legend=None, scale=shapes),
        size=alt.condition("datum.wrong", alt.value(130), alt.value(45)),
        tooltip=[alt.Tooltip(f"{name}:N") for name in ("image", *names)],
    )
    chart = chart.transform_calculate(group="datum[by]").add_params(by)
    specification = _specification(chart.properties(title="Map of the features", width=640, height=480))
    specification["data"]["values"] = list(points)  # Altair would check a thousand pictures against its schema
    return specification


def _specification(chart: Any) -> dict[str, Any]:
    import altair as alt

    with alt.data_transformers.enable("default", consolidate_datasets=False):  # data beside the marks of it
        specification: dict[str, Any] = chart.to_dict()
    return specification


def png(chart: dict[str, Any]) -> bytes:
    """Return a chart as a PNG picture on white."""
    import vl_convert

    content: bytes = vl_convert.vegalite_to_png(chart, scale=2)
    return content


def draw(chart: dict[str, Any] | None, path: Path) -> list[Path]:
    """Write a chart as ``<path>.json`` and ``<path>.png``, and return both paths; none for no chart."""
    if chart is None:
        return []
    files = [path.with_name(path.name + suffix) for suffix in (".json", ".png")]
    publish(files[0], (json.dumps(chart, indent=1) + "\n").encode())
    publish(files[1], png(chart))
    return files
