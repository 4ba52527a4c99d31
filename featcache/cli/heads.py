"""``fit-head`` and ``compare``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.cli.app import Outcome, command, log, metrics_table, printable, progress, settings, table
from featcache.errors import OptionError

if TYPE_CHECKING:
    from featcache.heads import Head
    from featcache.train import Comparison

Calibrate = Annotated[str, typer.Option(
    help="How scores become probabilities: temperature, sigmoid, isotonic or none."
)]  # fmt: skip
Tune = Annotated[bool, typer.Option(
    "--tune", help="Search each head's parameters on folds of the training images."
)]  # fmt: skip
Seed = Annotated[int, typer.Option(help="For everything random.")]
HEADS = "logreg, linear-svm, svm, ridge, sgd, knn, centroid or dense"


@command("fit-head", example="featcache fit-head --clf logreg --set C=0.1")
def fit_head(
    cache: Annotated[Path | None, typer.Argument(help="A cache. Default: the newest under cache/.")] = None,
    clf: Annotated[str, typer.Option(help=f"{HEADS}.")] = "logreg",
    layer: Annotated[str | None, typer.Option(help="Which features. Default: the deepest layer.")] = None,
    assignments: Annotated[list[str] | None, typer.Option(
        "--set", metavar="KEY=VALUE", help="A parameter of the head, such as C=0.1 or hidden=1024,1024."
    )] = None,
    calibrate: Calibrate = "temperature",
    tune: Tune = False,
    cv: Annotated[int | None, typer.Option(
        metavar="K", help="Also score it on K folds of the training images, stratified and by group."
    )] = None,
    fewshot: Annotated[str | None, typer.Option(
        metavar="N,N...", help="Also score heads trained on N images of each class, such as 1,5,10."
    )] = None,
    tries: Annotated[int, typer.Option(min=1, help="How often those are drawn.")] = 5,
    seed: Seed = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes for --tune, --cv and --fewshot.")] = 1,
    out: Annotated[Path | None, typer.Option(help="The head's folder. Default: <cache>/heads/<clf>-<layer>.")] = None,
    no_bundle: Annotated[bool, typer.Option(
        "--no-bundle", help="Leave the base out of --out's folder, which then works only where the base is found."
    )] = False,
    assert_accuracy: Annotated[float | None, typer.Option(
        min=0, max=1, help="Exit 4, and write no head, below this accuracy on validation."
    )] = None,
) -> Outcome:  # fmt: skip
    """Train a head on a cache and score it. On every split; with folds and few images of each class, too."""
    from featcache.train import fit_head as run

    chosen = cache or newest()
    head = run(
        chosen,
        clf,
        layer=layer,
        params=settings(assignments, "--set"),
        calibrate=calibrate,
        tune=tune,
        cv=cv,
        fewshot=_shots(fewshot),
        tries=tries,
        seed=seed,
        jobs=jobs,
        out=out,
        bundle=not no_bundle,
        assert_accuracy=assert_accuracy,
    )
    data: dict[str, Any] = {
        "head": str(head.path),
        "cache": str(chosen),
        "clf": head.clf,
        "layer": head.layer,
        "base": head.card["base"],
    }
    for key in ("params", "calibration", "metrics", "fit_seconds", "tuning", "cross_validation", "fewshot"):
        if key in head.card:
            data[key] = head.card[key]
    return Outcome(data, _story(head))


def _shots(text: str | None) -> list[int]:
    try:
        return [int(part) for part in (text or "").split(",") if part.strip()]
    except ValueError:
        raise OptionError(f"Expected --fewshot with numbers of images, such as 1,5,10. Received: {text!r}.") from None


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


def _exact(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@command("compare", example="featcache compare cache/photos-vgg19-1a2b3c4d --layer all --clf logreg --clf ridge --tune")
def compare(
    caches: Annotated[list[Path] | None, typer.Argument(
        metavar="CACHE", help="Caches. Default: the newest under cache/."
    )] = None,
    clf: Annotated[list[str] | None, typer.Option(
        help=f"{HEADS}; repeat it. Default: all; beyond 20,000 training rows neither linear-svm, svm nor knn."
    )] = None,
    layer: Annotated[list[str] | None, typer.Option(help="Which features; repeat it. Default: all.")] = None,
    calibrate: Calibrate = "temperature",
    tune: Tune = False,
    cv: Annotated[int | None, typer.Option(
        metavar="K", help="Rank by K folds of the training images, not by validation."
    )] = None,
    seed: Seed = 0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one for each core.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train everything again, whatever is known.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the table to a .csv or .json file, too.")] = None,
) -> Outcome:  # fmt: skip
    """Rank heads, layers and bases. Trains heads on every layer of one or several caches."""
    from featcache.train import compare as run

    if out is not None and out.suffix not in (".csv", ".json"):
        raise OptionError(f"Expected --out FILE.csv or FILE.json. Received: {str(out)!r}.")
    chosen: list[Path] = list(caches) if caches else [newest()]
    layers = None if not layer or "all" in layer else layer
    with progress("training heads", "heads") as shown:
        found = run(chosen, clf or None, layers=layers, calibrate=calibrate, tune=tune, cv=cv, seed=seed, jobs=jobs,
                    fresh=fresh, progress=shown)  # fmt: skip
    if out is not None:
        from featcache.files import publish

        out.parent.mkdir(parents=True, exist_ok=True)
        text = found.to_csv() if out.suffix == ".csv" else json.dumps(found.to_dict(), indent=2) + "\n"
        publish(out, text.encode("utf-8", "surrogateescape"))
    return Outcome(
        {**found.to_dict(), "out": None if out is None else str(out)},
        _leaderboard(found, [*(["--calibrate", calibrate] if calibrate != "temperature" else []),
                             *(["--seed", str(seed)] if seed else [])]),
    )  # fmt: skip


def _leaderboard(found: Comparison, options: list[str]) -> str:
    """Return the table, what it means, and what to do next."""
    several = len({row["cache"] for row in found.leaderboard}) > 1
    rows = [["", *(["cache"] if several else []), "layer", "head", "parameters", "accuracy", "95 %", "log loss",
             "ECE", "LogME", "fit", "memory"]]  # fmt: skip
    for place, row in enumerate(found.leaderboard, 1):
        memory = "?" if row["peak_memory"] is None else f"{row['peak_memory'] / 1e6:,.0f} MB"
        mark = "" if place == 1 or row["distinguishable"] else "="
        rows.append([
            f"{place}{mark}", *([printable(Path(row["cache"]).name)] if several else []), printable(row["layer"]),
            row["clf"], printable(_params(row["params"])), f"{row['accuracy']:.4f}",
            "{:.4f}-{:.4f}".format(*row["accuracy_ci95"]),
            f"{row['log_loss']:.4f}", f"{row['ece']:.4f}",
            "?" if row["logme"] is None else f"{row['logme']:.4f}", f"{row['fit_seconds']:.2f} s", memory,
        ])  # fmt: skip
    best = found.best
    single = len({row["layer"] for row in found.leaderboard}) == 1
    equal = [row["clf"] if single else f"{row['clf']} on {row['layer']}" for row in found.indistinguishable]
    lines = [
        table(rows, right=set(range(len(rows[0]) - 7, len(rows[0])))),
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
    settings = [part for name, value in best["params"].items() for part in ("--set", f"{name}={_exact(value)}")]
    words = [best["cache"], "--layer", best["layer"], "--clf", best["clf"], *settings, *options]
    lines.append(f"next: featcache fit-head {printable(shlex.join(words))}")
    return "\n".join(lines)


def newest() -> Path:
    """Return the newest cache under ``cache/`` and say which it is."""
    from featcache.cache.reader import newest_cache

    found = newest_cache(Path("cache"))
    log.info("using %s, the newest cache", found)
    return found
