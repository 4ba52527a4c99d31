"""Linear heads beside scikit-learn's solvers, to the same optimum: seconds, objective, accuracy on other rows.

The features are like pooled ones: correlated, few directions with much variance, cut off at 0. Both sides get the same
standardised rows in memory, and their fits take turns in this process.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keeping import RESULTS, keep
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from featcache.heads.linear import LogisticHead, SquaredHingeHead
from featcache.heads.rows import Rows


def features(n: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised rows of correlated features, and their classes."""
    rng = np.random.default_rng(0)
    spread = (1 / np.arange(1, width + 1) ** 0.7).astype(np.float32)
    turn = rng.normal(size=(width, width)).astype(np.float32) * spread
    turn = turn @ rng.normal(size=(width, width)).astype(np.float32) / np.sqrt(width)
    means = 0.8 * rng.normal(size=(classes, width)).astype(np.float32)
    y = rng.integers(0, classes, n)
    X = np.maximum((rng.normal(size=(n, width)).astype(np.float32) + 0.12 * means[y]) @ turn, 0)
    mean, spread = X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
    return ((X - mean) / spread).astype(np.float32), y


def objective(X: np.ndarray, y: np.ndarray, coef: np.ndarray, intercept: np.ndarray, C: float, loss: str) -> float:
    """Return what is minimised, over C n, from its definition, in float64."""
    scores = np.concatenate([X[a : a + 4096].astype(np.float64) @ coef.T + intercept for a in range(0, len(X), 4096)])
    if loss == "softmax":
        mean = -float(log_softmax(scores, axis=1)[np.arange(len(y)), y].mean())
    else:
        signs = np.where(np.eye(scores.shape[1])[y], 1, -1)
        mean = float((np.maximum(0, 1 - signs * scores) ** 2).sum(axis=1).mean())
    return mean + float((coef.astype(np.float64) ** 2).sum()) / (2 * C * len(y))


def timed(fit: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a fit takes, and what it fitted."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = fit()
    return time.perf_counter() - start, model


def rivals(n: int, width: int, classes: int, loss: str, Cs: Sequence[float], repeat: int, long: float) -> list[Any]:
    """Fit both sides with each C in turn; what takes longer than `long` seconds once only."""
    X, y = features(n + n // 4, width, classes)
    V, v, X, y = X[n:], y[n:], X[:n], y[:n]
    ours: Any = LogisticHead if loss == "softmax" else SquaredHingeHead
    plain: Any = LogisticRegression if loss == "softmax" else LinearSVC
    found = []
    for C in Cs:
        sides: dict[str, Callable[[], Any]] = {
            "ours": lambda C=C: ours(C=C).fit(Rows(X), y),
            "scikit-learn": lambda C=C: plain(C=C, max_iter=1000).fit(X, y),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        models = {}
        for _ in range(repeat):
            for name, fit in sides.items():
                if not seconds[name] or seconds[name][0] < long:
                    taken, models[name] = timed(fit)
                    seconds[name].append(taken)
        row: dict[str, Any] = {"rows": n, "loss": loss, "C": C, "seconds": seconds}
        for name, model in models.items():
            coef, intercept = (np.asarray(value, np.float64) for value in (model.coef_, model.intercept_))
            row[f"objective {name}"] = objective(X, y, coef, intercept, C, loss)
            row[f"accuracy {name}"] = float(((V @ coef.T + intercept).argmax(axis=1) == v).mean())
        found.append(row)
        print(line(row), flush=True)
    return found


def line(row: dict[str, Any]) -> str:
    """Return a row as text."""
    middle = {name: statistics.median(values) for name, values in row["seconds"].items()}
    parts = [f"{row['rows']:>7,} {row['loss']:13} C={row['C']:<7g}"]
    for name, values in row["seconds"].items():
        parts.append(
            f"{name} {middle[name]:7.2f} s ({min(values):.2f} to {max(values):.2f}, n={len(values)}), objective "
            f"{row[f'objective {name}']:.7f}, accuracy {row[f'accuracy {name}']:.4f}"
        )
    return " | ".join([*parts, f"{middle['scikit-learn'] / middle['ours']:.1f} times as fast"])


def chosen(n: int, width: int, classes: int, repeat: int) -> dict[str, Any]:
    """Time a fit with a given C, and one that chooses it, in turn."""
    X, y = features(n, width, classes)
    found: dict[str, Any] = {"rows": n, "classes": classes, "given": [], "chosen": []}
    for _ in range(repeat):
        found["given"].append(timed(lambda: LogisticHead(C=0.01).fit(Rows(X), y))[0])
        taken, head = timed(lambda: LogisticHead().fit(Rows(X), y))
        found["chosen"].append(taken)
        found["C"], found["tried"] = head.C_, len(head.path_)
    given, whole = (statistics.median(found[name]) for name in ("given", "chosen"))
    spread = f"{min(found['chosen']):.2f} to {max(found['chosen']):.2f}, n={repeat}"
    print(
        f"{n:>7,} rows, {classes} classes: C given {given:.2f} s, chosen on five folds among {found['tried']} "
        f"values {whole:.2f} s ({spread}), {whole / given:.1f} fits",
        flush=True,
    )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, and keep the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[8_000, 40_000])
    parser.add_argument("--svm-rows", type=int, nargs="+", default=[8_000])
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--C", type=float, nargs="+", default=[1.0, 0.01])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--long", type=float, default=30.0, help="seconds; what takes longer is fitted once")
    parser.add_argument("--chosen", type=int, nargs="+", default=[10_000, 40_000], help="rows to choose C on")
    parser.add_argument("--to", type=Path, default=RESULTS / "linear.json")
    options = parser.parse_args(arguments)
    shape = (options.width, options.classes)
    result: dict[str, Any] = {"width": options.width, "classes": options.classes, "fits": [], "chosen": []}
    for loss, sizes in (("softmax", options.rows), ("squared_hinge", options.svm_rows)):
        for n in sizes:
            result["fits"] += rivals(n, *shape, loss, options.C, options.repeat, options.long)
    for n in options.chosen:
        for classes in dict.fromkeys((2, options.classes)):
            result["chosen"].append(chosen(n, options.width, classes, options.repeat))
    keep(options.to, result, "numpy", "scipy", "scikit-learn")


if __name__ == "__main__":
    main()
