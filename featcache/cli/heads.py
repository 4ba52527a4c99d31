"""``fit-head`` and ``compare``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featcache.cli.app import Outcome, accuracy_interval, command, metrics_table, printable, progress
from featcache.display import text_table
from featcache.errors import OptionError
from featcache.options import CompareOptions, FitHeadOptions, command_line, subset

if TYPE_CHECKING:
    from featcache.heads import Head
    from featcache.training import Comparison


@command("fit-head", example="featcache fit-head --clf logreg --set C=0.1")
def fit_head(options: FitHeadOptions) -> Outcome:
    """Train a head on a cache and score it. On every split; with folds and few images of each class, too."""
    from featcache.training import fit_head as run

    head = run(**vars(options))
    keys = "base params calibration metrics fit_seconds tuning cross_validation fewshot"
    data = {"head": str(head.path), "cache": str(options.cache), "clf": head.clf, "layer": head.layer}
    return Outcome(data | {key: head.card[key] for key in keys.split() if key in head.card}, _story(head))


def _story(head: Head) -> str:
    card = head.card
    chosen = "".join(f", {name}={_short(value)}" for name, value in card["params"].items())
    lines = [f"{head.clf} on {head.layer}{chosen}, fitted in {card['fit_seconds']:.2f} s"]
    if card.get("tuning"):
        lines.append(_sweep(card["tuning"]))
    lines.append(metrics_table(head.metrics))
    if "cross_validation" in card:
        found = card["cross_validation"]
        shown = [f"{value:.4f}" for value in found["accuracy_folds"][:10]]
        spread = ", ".join([*shown, "…"] if found["folds"] > len(shown) else shown)
        lines.append(
            f"{found['folds']} folds of the training images: {found['accuracy']:.4f} ({accuracy_interval(found)}, "
            f"n={found['n']}); each: {spread}"
        )
    for row in card.get("fewshot", []):
        lines.append(
            f"{row['shots']} of each class: {row['accuracy']:.4f} on validation, standard deviation "
            f"{row['accuracy_sd']:.4f} over {len(row['accuracies'])} draws"
        )
    size = _bytes_of_base(head)
    carried = f", which carries its base ({size / 1e6:.1f} MB)" if size else ""
    return "\n".join([*lines, printable(str(head.path)) + carried])


def _bytes_of_base(head: Head) -> int:
    """Return the size of the base in a head's folder, 0 if there is none."""
    return sum(file.stat().st_size for file in (head.path or Path()).glob("base/*")) if head.card["base"] else 0


def _sweep(sweep: list[dict[str, Any]]) -> str:
    """Return one line per parameters that were tried."""
    rows = [["tried", "folds' score"]]
    for one in sweep:
        value = one.get("accuracy", one.get("squared_error"))
        what = "accuracy" if "accuracy" in one else "squared error"
        rows.append([_params(one["params"]), "failed" if value is None else f"{what} {value:.4f}"])
    return text_table(rows)


def _params(params: dict[str, Any]) -> str:
    return " ".join(f"{name}={_short(value)}" for name, value in params.items())


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@command("compare", example="featcache compare cache/photos-vgg19-1a2b3c4d --layer all --clf logreg --clf ridge --tune")
def compare(options: CompareOptions, out: Path | None = None) -> Outcome:
    """Rank heads, layers and bases. Trains heads on every layer of one or several caches.

    out: Write the table to a .csv or .json file, too.
    """
    from featcache.training import compare as run

    if out is not None and out.suffix not in (".csv", ".json"):
        raise OptionError(f"Expected --out FILE.csv or FILE.json. Received: {str(out)!r}.")
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
    return Outcome(data, _leaderboard(found, options))


def _leaderboard(found: Comparison, options: CompareOptions) -> str:
    """Return the table, what it means, and what to do next."""
    several = len({row["cache"] for row in found.leaderboard}) > 1
    caches = ["cache"] if several else []
    rows = [["", *caches, "layer", "head", "parameters", "accuracy", "95 %", "log loss", "ECE", "fit"]]
    for place, row in enumerate(found.leaderboard, 1):
        mark = "" if place == 1 or row["distinguishable"] else "="
        cache = [Path(row["cache"]).name] if several else []
        names = map(printable, [*cache, row["layer"], row["clf"], _params(row["params"])])
        accuracy, *losses = [f"{row[name]:.4f}" for name in ("accuracy", "log_loss", "ece")]
        seconds = f"{row['fit_seconds']:.2f} s"
        rows.append([f"{place}{mark}", *names, accuracy, accuracy_interval(row), *losses, seconds])
    best = found.best
    single = len({row["layer"] for row in found.leaderboard}) == 1
    equal = [row["clf"] if single else f"{row['clf']} on {row['layer']}" for row in found.indistinguishable]
    ranked = f"ranked by {best['selected_on']}, n={best['n']}"
    if equal:
        ranked += f"; = not distinguishable from the best (McNemar, Holm, 5 %): {printable(', '.join(equal))}"
    lines = [text_table(rows, right=set(range(len(rows[0]) - 5, len(rows[0])))), ranked]
    lines += [f"failed: {one['clf']} on {one['layer']}: {printable(one['error'])}" for one in found.failed]
    if best.get("test"):
        test = best["test"]
        lines.append(f"best on test, scored once: {test['accuracy']:.4f} ({accuracy_interval(test)}, n={test['n']})")
    chosen = {name: best[name] for name in ("cache", "clf", "layer", "params")}
    head = subset(options, FitHeadOptions, **chosen, cv=None, tune=False, jobs=1)
    lines.append(f"next: {printable(command_line('fit-head', head))}")
    return "\n".join(lines)
