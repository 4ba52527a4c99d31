"""``fit-head``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featcache.cli.app import Outcome, command, log, metrics_table, printable, settings


@command("fit-head", example="featcache fit-head --clf logreg --set C=0.1")
def fit_head(
    cache: Annotated[Path | None, typer.Argument(help="A cache. Default: the newest under cache/.")] = None,
    clf: Annotated[str, typer.Option(help="logreg, linear-svm, svm or dense.")] = "logreg",
    layer: Annotated[str | None, typer.Option(help="Which features. Default: the deepest layer.")] = None,
    assignments: Annotated[list[str] | None, typer.Option(
        "--set", metavar="KEY=VALUE", help="A parameter of the head, such as C=0.1 or hidden=1024,1024."
    )] = None,
    seed: Annotated[int, typer.Option(help="For everything random.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The head's folder. Default: <cache>/heads/<clf>-<layer>.")] = None,
    assert_accuracy: Annotated[float | None, typer.Option(
        min=0, max=1, help="Exit 4, and write no head, below this accuracy on validation."
    )] = None,
) -> Outcome:  # fmt: skip
    """Train one head on cached features and score it on every split."""
    from featcache.train import fit_head as run

    chosen = cache or newest()
    head = run(
        chosen,
        clf,
        layer=layer,
        params=settings(assignments, "--set"),
        seed=seed,
        out=out,
        assert_accuracy=assert_accuracy,
    )
    data = {
        "head": str(head.path),
        "cache": str(chosen),
        "clf": head.clf,
        "layer": head.layer,
        "params": head.card["params"],
        "metrics": head.metrics,
        "fit_seconds": head.card["fit_seconds"],
    }
    text = (
        f"{head.clf} on {head.layer}, fitted in {head.card['fit_seconds']:.2f} s\n"
        f"{metrics_table(head.metrics)}\n{printable(str(head.path))}"
    )
    return Outcome(data, text)


def newest() -> Path:
    """Return the newest cache under ``cache/`` and say which it is."""
    from featcache.cache.reader import newest_cache

    found = newest_cache(Path("cache"))
    log.info("using %s, the newest cache", found)
    return found
