"""What the cards of heads, models and bases may say, and what results that are kept may be, as kinds of values."""

from __future__ import annotations

from typing import Any

from featcache.errors import OptionError
from featcache.files.values import (
    anything,
    list_of,
    mapping_of,
    matching,
    maybe,
    measured,
    number,
    one_of,
    path,
    record,
    row,
    sha256,
    text,
    truth,
    whole,
)
from featcache.options import Interpolation, Resize
from featcache.recipe import RECIPE, choices, request_kind
from featcache.sources import SourceOptions, SplitPolicy


def _source_options(value: Any, name: str) -> None:
    try:
        SourceOptions.from_dict(value)
    except OptionError as error:
        raise ValueError(f"{name}: {error}") from None


def listing(value: Any, name: str) -> None:
    """How a source was listed: classes and what `SplitPolicy.from_listing` takes."""
    _LISTING(value, name)
    try:
        SplitPolicy.from_listing(value)
    except (OptionError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None


_LISTING = record(
    {},
    {
        "classes": maybe(list_of(text)),
        "validation_split": maybe(number(0, 1)),
        "test_split": maybe(number(0, 1)),
        "test_from": maybe(row(text, number(0, 1))),
        "seed": whole(-(2**63)),
        "cutoffs": mapping_of(row(number(), number(), number())),
        "shared": list_of(sha256),
    },
)
_RANKED = {
    "macro_f1": number(0, 1),
    "log_loss": maybe(measured),
    "ece": maybe(measured),
    "copies_left_out": whole(),
    "group_members_left_out": whole(),
}
_RANGE = row(number(0, 1), number(0, 1))
SOURCE = record({"name": text, "location": path}, {"options": _source_options})
METRICS = record(
    {"n": whole(), "accuracy": number(0, 1), "accuracy_ci95": _RANGE},
    {
        **_RANKED,
        "macro_f1_ci95": maybe(_RANGE),
        "per_class": mapping_of(mapping_of(measured)),
        "confusion": list_of(list_of(whole())),
    },
)
_SCORES = mapping_of(maybe(METRICS))
HISTORY = mapping_of(list_of(measured))
_COMMON = {
    "metrics": _SCORES,
    "recipe": RECIPE,
    "request": maybe(request_kind),
    "source": SOURCE,
    "listing": listing,
    "cache": path,
    "base": truth,
    "seed": whole(-(2**63)),
    "versions": mapping_of(text),
    "written": text,
}
HEAD = record(
    {"clf": text, "layer": text, "class_names": list_of(text, least=2, distinct=True)},
    {
        **_COMMON,
        "estimator": text,
        "params": mapping_of(anything),
        "all_params": mapping_of(anything),
        "calibration": record({}, {"method": text}),
        "fit_seconds": number(0),
        "layer_index": whole(0, 2**16),
        "history": HISTORY,
    },
)
_RESIZE, _INTERPOLATION = one_of(*choices(Resize)), one_of(*choices(Interpolation))
_PIXELS = row(whole(1, 16_384), whole(1, 16_384), whole(1, 4), _RESIZE, _INTERPOLATION, anything, number(1e-6, 1))
MODEL = record(
    {
        "class_names": list_of(text, least=2, distinct=True),
        "trained_classes": list_of(whole(), least=2, distinct=True),
        "pixels": _PIXELS,
    },
    {
        **_COMMON,
        "head": record({}, {"clf": text, "layer": text, "params": mapping_of(anything)}),
        "before": _SCORES,
        "after": _SCORES,
        "history": record({}, {"head": HISTORY, "fine_tune": HISTORY}),
        "options": mapping_of(anything),
        "kept": text,
        "stopped": maybe(record({"reason": text, "epoch": whole()})),
        "seconds": number(0),
    },
)
BASE = record(
    {
        "name": text,
        "architecture": text,
        "weights": text,
        "layers": list_of(text, least=1),
        "model": record({"size": whole(1), "sha256": sha256}),
    }
)

_SETTINGS = record({"rows": text, "layer": text, "settings": record({"clf": text})})
_TEST = record({"test": maybe(METRICS)})
_COMPARED = record(
    {
        "params": mapping_of(anything),
        "fit_seconds": number(0),
        "selected_on": text,
        "metrics": METRICS,
        "sweep": list_of(anything),
        "right": record({"n": whole(0, 2**40), "bits": matching("([0-9a-f]{2})*", "bits in hexadecimal")}),
    }
)


def check_result(of: Any, result: Any) -> None:
    """Raise `ValueError` if a result of `compare` that was kept is none."""
    _SETTINGS(of, "of")
    if "on" in of:
        _TEST(result, "result")
    else:
        _COMPARED(result, "result")
        record(_RANKED)(result["metrics"], "result.metrics")
        if len(result["right"]["bits"]) // 2 != -(-result["right"]["n"] // 8):
            raise ValueError("result.right does not have one bit for each image")
