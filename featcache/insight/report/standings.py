"""What is known about accuracy in a cache: what `compare` kept, and the heads and models that were saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featcache.cache import FeatureCache
from featcache.insight.report.subject import Subject, cards, scored_on
from featcache.training.comparison import rows_digest
from featcache.training.results import all_kept


@dataclass(frozen=True)
class Standing:
    """One head's result.

    Attributes
    ----------
    clf, layer : str
    params : mapping
        That were set or found.
    metrics : mapping
        At least ``accuracy``, ``accuracy_ci95`` and ``n``.
    fit_seconds : float or None
    origin : str
        ``compare``, or the name of the saved head's folder and whether the report is about it.
    measured_on : str
        ``validation`` or ``folds of train``.
    """

    clf: str
    layer: str
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]
    fit_seconds: float | None
    origin: str
    measured_on: str


@dataclass(frozen=True)
class Standings:
    """All of a cache's, the most accurate first.

    Attributes
    ----------
    rows : list of Standing
    stale : int
        Kept results that are of other images, labels or splits than the cache has now.
    """

    rows: list[Standing]
    stale: int


def standings(cache: FeatureCache, subject: Subject) -> Standings:
    """Return what is known of a cache's heads and of the subject; results of other rows than it has now are counted."""
    rows, stale = [], 0
    kept = list(all_kept(cache.path))
    now = rows_digest(cache) if kept else ""
    for of, result in kept:
        settings = of.get("settings")
        if settings is None:  # no result of `compare`
            continue
        if of.get("rows") != now:
            stale += "on" not in of
        elif "on" not in of:
            on = "validation" if result["selected_on"] == "validation" else "folds of train"
            rows.append(
                Standing(settings["clf"], of["layer"], result["params"], result["metrics"], result["fit_seconds"],
                         "compare", on)
            )  # fmt: skip
    saved = {folder.resolve(): card for folder, card in cards(cache)}
    own = None if subject.model is None or subject.model.path is None else subject.model.path.resolve()
    if own is not None:
        saved[own] = subject.card
    for folder, card in saved.items():
        found, on = scored_on(card)
        if found and card.get("recipe") == cache.recipe.to_dict():
            head = card.get("head") or {}
            clf = card["clf"] if "clf" in card else f"fine-tuned {head.get('clf', '')}".strip()
            params = card.get("params", head.get("params", {}))
            seconds = card.get("fit_seconds", card.get("seconds"))
            layer = card.get("layer", head.get("layer", ""))
            name = f"{folder.name}, this one" if folder == own else folder.name
            rows.append(Standing(clf, layer, params, found, seconds, name, on))
    rows.sort(key=lambda row: (-row.metrics["accuracy"], row.metrics.get("log_loss", 0.0)))
    return Standings(rows, stale)
