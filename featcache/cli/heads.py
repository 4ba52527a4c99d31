"""``fit-head`` and ``compare``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.cli.app import Outcome, command, metrics_table, printable, progress, table
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
    data: dict[str, Any] = {
        "head": str(head.path),
        "cache": str(options.cache),
        "clf": head.clf,
        "layer": head.layer,
        "base": head.card["base"],
    }
    for key in ("params", "calibration", "metrics", "fit_seconds", "tuning", "cross_validation", "fewshot"):
        if key in head.card:
            data[key] = head.card[key]
    return Outcome(data, _story(head))


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
            f"{found['folds']} folds of the training images: {found['accuracy']:.4f} "
            f"({found['accuracy_ci95'][0]:.4f}-{found['accuracy_ci95'][1]:.4f}, n={found['n']}); each: {spread}"
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
    return table(rows)


def _params(params: dict[str, Any]) -> str:
    return " ".join(f"{name}={_short(value)}" for name, value in params.items())


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@command("compare", example="featcache compare cache/photos-vgg19-1a2b3c4d --layer all --clf logreg --clf ridge --tune")
def compare(
    options: CompareOptions,
    out: Annotated[Path | None, typer.Option(help="Write the table to a .csv or .json file, too.")] = None,
) -> Outcome:
    """Rank heads, layers and bases. Trains heads on every layer of one or several caches."""
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
    return Outcome(
        {**found.to_dict(), "out": None if out is None else str(out)},
        _leaderboard(found, options),
    )


def _leaderboard(found: Comparison, options: CompareOptions) -> str:
    """Return the table, what it means, and what to do next."""
    several = len({row["cache"] for row in found.leaderboard}) > 1
    rows = [["", *(["cache"] if several else []), "layer", "head", "parameters", "accuracy", "95 %", "log loss",
             "ECE", "fit"]]  # fmt: skip
    for place, row in enumerate(found.leaderboard, 1):
        mark = "" if place == 1 or row["distinguishable"] else "="
        rows.append([
            f"{place}{mark}", *([printable(Path(row["cache"]).name)] if several else []), printable(row["layer"]),
            row["clf"], printable(_params(row["params"])), f"{row['accuracy']:.4f}",
            "{:.4f}-{:.4f}".format(*row["accuracy_ci95"]),
            f"{row['log_loss']:.4f}", f"{row['ece']:.4f}",
            f"{row['fit_seconds']:.2f} s",
        ])  # fmt: skip
    best = found.best
    single = len({row["layer"] for row in found.leaderboard}) == 1
    equal = [row["clf"] if single else f"{row['clf']} on {row['layer']}" for row in found.indistinguishable]
    lines = [
        table(rows, right=set(range(len(rows[0]) - 5, len(rows[0])))),
        f"ranked by {best['selected_on']}, n={best['n']}"
        + (
            f"; = not distinguishable from the best (McNemar, Holm, 5 %): {printable(', '.join(equal))}"
            if equal
            else ""
        ),
    ]
    lines += [f"failed: {one['clf']} on {one['layer']}: {printable(one['error'])}" for one in found.failed]
    if best.get("test"):
        test = best["test"]
        interval = "{:.4f}-{:.4f}".format(*test["accuracy_ci95"])
        lines.append(f"best on test, scored once: {test['accuracy']:.4f} ({interval}, n={test['n']})")
    head = subset(
        options, FitHeadOptions, cache=best["cache"], clf=best["clf"], layer=best["layer"], params=best["params"],
        cv=None, tune=False, jobs=1,
    )  # fmt: skip
    lines.append(f"next: {printable(command_line('fit-head', head))}")
    return "\n".join(lines)
