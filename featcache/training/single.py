"""Train one head on examples, after seeing to it that memory suffices."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featcache.errors import HeadError, OptionError
from featcache.heads import STREAMING, Head, build, fit, kind_of, memory_needed
from featcache.system.memory import available
from featcache.system.startup import import_tensorflow
from featcache.training.examples import Examples

log = logging.getLogger(__name__)

_LARGE = 10**8


@dataclass(frozen=True)
class Plan:
    """A head to be trained: a name of `HEADS`, the layer whose features it takes, and what labels index."""

    clf: str
    layer: str
    class_names: list[str]
    params: Mapping[str, Any] = field(default_factory=dict)
    calibrate: str = "temperature"
    seed: int = 0


def check_plan(plan: Plan) -> None:
    """Raise OptionError if a name is wrong, or a number cannot be."""
    build(plan.clf, plan.params, calibrate=plan.calibrate)
    if plan.seed < 0:
        raise OptionError(f"Expected a seed of 0 or more. Received: {plan.seed}.")


def train(plan: Plan, examples: Examples) -> Head:
    """Train a head; HeadError says that it needs more memory than there is, or cannot be trained on these rows.

    Its card has ``fit_seconds``, and ``params``, with which the same head can be made again.
    """
    estimator = build(plan.clf, plan.params, seed=plan.seed, calibrate=plan.calibrate)
    check_memory(plan, examples)
    prepare(plan)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(estimator, examples.rows, examples.labels, examples.groups)
    seconds = time.perf_counter() - start
    for text in {" ".join(str(one.message).split())[:160] for one in caught if _worth_saying(one)}:
        log.warning("%s: %s", plan.clf, text)
    params = dict(plan.params)
    if plan.clf == "ridge":  # its own choice, which makes the same head again
        params["alphas"] = estimator.estimator_.alpha_
    return Head(plan.clf, estimator, plan.class_names, plan.layer, {"params": params, "fit_seconds": seconds})


def prepare(plan: Plan) -> None:
    """Import what a head needs, which takes time and memory that are no part of fitting it."""
    build(plan.clf, plan.params, calibrate=plan.calibrate)
    if plan.clf == "dense":
        import_tensorflow()


def check_memory(plan: Plan, examples: Examples) -> int:
    """Return how many bytes a head needs, or raise HeadError if there are fewer."""
    n, d = examples.rows.shape
    classes = len(plan.class_names)
    needed, free = memory_needed(plan.clf, n, d, plan.params, classes=classes), available()
    if free is not None and needed > free:
        fitting = [name for name in STREAMING if memory_needed(name, n, d, classes=classes) <= free]
        advice = f"Take a head that reads them in blocks: {', '.join(fitting)}." if fitting else "Extract fewer values."
        raise HeadError(
            f"Not enough memory for {plan.clf}: {_size(n, d)} need {needed / 1e9:,.1f} GB, and "
            f"{free / 1e9:,.1f} GB are free. {advice}"
        )
    return needed


def announce(plan: Plan, examples: Examples) -> None:
    """Say how large X is, if a head holds it in memory."""
    n, d = examples.rows.shape
    if not kind_of(plan.clf).streams:
        level = logging.INFO if n * d * 4 >= _LARGE else logging.DEBUG
        log.log(level, "%s holds X in memory: %s", plan.clf, _size(n, d))


def _size(n: int, d: int) -> str:
    return f"{n:,} x {d:,} features are {n * d * 4 / 1e9:,.2f} GB as float32"


def _worth_saying(one: warnings.WarningMessage) -> bool:
    text = str(one.message)
    return "onverge" in text or "calibrated" in text or "not selected" in text
