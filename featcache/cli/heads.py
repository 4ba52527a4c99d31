"""``fit-head`` and ``compare``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featcache.cli.app import Outcome, command, printable, progress
from featcache.errors import OptionError
from featcache.options import CompareOptions, FitHeadOptions, command_line, subset

if TYPE_CHECKING:
    from featcache.training import Comparison


@command("fit-head", example="featcache fit-head --clf logreg --set C=0.1")
def fit_head(options: FitHeadOptions) -> Outcome:
    """Train a head on a cache and score it. On every split; with folds and few images of each class, too."""
    from featcache.training import fit_head as run

    with progress(f"training {options.clf}", "fits") as shown:
        head = run(**vars(replace(options, progress=shown)))
    keys = "base params calibration metrics fit_seconds tuning cross_validation fewshot"
    data = {"head": str(head.path), "cache": str(options.cache), "clf": head.clf, "layer": head.layer}
    return Outcome(data | {key: head.card[key] for key in keys.split() if key in head.card}, str(head))


@command("compare", example="featcache compare cache/photos-vgg19-1a2b3c4d --layer all --clf logreg --clf ridge --tune")
def compare(options: CompareOptions, out: Path | None = None, top: Annotated[int, typer.Option(min=0)] = 10) -> Outcome:
    """Rank heads, layers and bases. Trains heads on every layer of one or several caches.

    out: Write the table to a .csv or .json file, too.
    top: How many heads to show; 0 shows all.
    """
    from featcache.training import compare as run
    from featcache.training.showing import comparison_text

    if out is not None and out.suffix not in (".csv", ".json"):
        raise OptionError(f"--out must be a .csv or .json file. Received: {str(out)!r}.")
    if "all" in (options.layers or ()):
        options = replace(options, layers=None)
    with progress("training heads", "heads") as shown:
        found = run(**vars(replace(options, progress=shown)))
    if out is not None:
        from featcache.files.publishing import publish

        out.parent.mkdir(parents=True, exist_ok=True)
        text = found.to_csv() if out.suffix == ".csv" else json.dumps(found.to_dict(), indent=2) + "\n"
        publish(out, text.encode("utf-8", "surrogateescape"))
    data = {**found.to_dict(), "out": None if out is None else str(out)}
    return Outcome(
        data, f"{comparison_text(found, top, all_rows='--top 0, --json or --out')}\nnext: {_next(found, options)}"
    )


def _next(found: Comparison, options: CompareOptions) -> str:
    """Return the command that trains the best head and keeps it."""
    chosen = {name: found.best[name] for name in ("cache", "clf", "layer", "params")}
    head = subset(options, FitHeadOptions, **chosen, cv=None, tune=False, jobs=1)
    return printable(command_line("fit-head", head))
