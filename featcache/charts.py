"""Charts: a Vega-Lite specification as JSON, and its picture as PNG, drawn without a network or a browser."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.files import publish

log = logging.getLogger(__name__)

_MEASURES = {"accuracy": ("accuracy", "training"), "val_accuracy": ("accuracy", "validation"),
             "loss": ("loss", "training"), "val_loss": ("loss", "validation")}  # fmt: skip


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

    Parameters
    ----------
    phases : mapping
        Histories by name, in their order: ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy`` by epoch;
        ``epoch`` numbers them, by default from 0. Phases without epochs are left out.
    note : str
        What a reader must know, below the title.

    Returns
    -------
    dict or None
        A Vega-Lite specification; None where there is nothing to draw, or nothing to draw with.
    """
    rows: list[dict[str, Any]] = []
    starts: list[dict[str, Any]] = []
    for phase, history in phases.items():
        epochs = history.get("epoch", range(len(history.get("loss", []))))
        if len(epochs):
            starts.append({"epoch": epochs[0] - 0.5, "phase": phase})
        rows += [
            {"epoch": epoch, "phase": phase, "measure": measure, "of": of, "value": value}
            for name, (measure, of) in _MEASURES.items()
            for epoch, value in zip(epochs, history.get(name, []), strict=False)
        ]
    if not rows or not installed():
        return None
    import altair as alt

    x = alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d"))
    lines = alt.Chart(alt.InlineData(values=rows)).mark_line(point=True).encode(
        x=x, y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
        color=alt.Color("of:N", title=None), detail="phase:N",
    )  # fmt: skip
    rules = alt.Chart(alt.InlineData(values=starts[1:])).mark_rule(strokeDash=[4, 4]).encode(x="epoch:Q")
    panels = [
        alt.layer(lines.transform_filter(f"datum.measure == '{measure}'"), rules).properties(
            title=measure, width=360, height=240
        )
        for measure in ("accuracy", "loss")
    ]
    title = alt.TitleParams(" | ".join(start["phase"] for start in starts), subtitle=note)
    with alt.data_transformers.enable("default", consolidate_datasets=False):  # data beside the marks of it
        specification: dict[str, Any] = alt.hconcat(*panels).properties(title=title).to_dict()
    return specification


def draw(chart: dict[str, Any] | None, path: Path) -> list[Path]:
    """Write a chart as ``<path>.json`` and ``<path>.png``, and return both paths; none for no chart."""
    if chart is None:
        return []
    import vl_convert

    files = [path.with_name(path.name + suffix) for suffix in (".json", ".png")]
    publish(files[0], (json.dumps(chart, indent=1) + "\n").encode())
    publish(files[1], vl_convert.vegalite_to_png(chart, scale=2))
    return files
