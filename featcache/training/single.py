"""Train one head on examples, after seeing to it that memory suffices."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featcache.errors import HeadError, OptionError, one_line
from featcache.heads import HEADS, STREAMING, Head, build, fit, kind_of, memory_needed
from featcache.heads.folds import joined
from featcache.heads.store import check_trusted
from featcache.system.memory import available
from featcache.system.startup import import_tensorflow
from featcache.system.status import doing
from featcache.training.examples import Examples

log = logging.getLogger(__name__)

_LARGE = 10**8
_FEW = 20


@dataclass(frozen=True)
class Plan:
    """A head to be trained: a name of `HEADS`, the layer whose features it takes, and what labels index.

    `own` is an estimator of the user's, whose name `clf` then is.
    """

    clf: str
    layer: str
    class_names: list[str]
    params: Mapping[str, Any] = field(default_factory=dict)
    calibrate: str = "temperature"
    seed: int = 0
    own: Any = field(default=None, repr=False)

    @property
    def head(self) -> Any:
        """The name or the estimator, as the functions of `featcache.heads` take it."""
        return self.clf if self.own is None else self.own


def check_plan(plan: Plan) -> None:
    """Raise OptionError if a name is wrong, or a number cannot be."""
    build(plan.head, plan.params, calibrate=plan.calibrate)
    if plan.own is not None and plan.clf in HEADS:
        raise OptionError(f"{plan.clf!r} is the name of a head of featcache. Give your estimator another one.")
    if plan.seed < 0:
        raise OptionError(f"`seed` must be 0 or more. Received: {plan.seed}.")


def check_fitted(plan: Plan, examples: Examples) -> None:
    """Raise HeadError if the user's own estimator, once fitted, holds what could not be loaded again.

    That is seen on a few rows of each class, so that nobody trains for hours in vain.
    """
    few = np.concatenate([np.flatnonzero(examples.labels == label)[:_FEW] for label in np.unique(examples.labels)[:5]])
    estimator = build(plan.head, plan.params, seed=plan.seed, calibrate="none")
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # so few rows may not do for it
        warnings.simplefilter("ignore")
        estimator.fit(examples.rows.take(np.sort(few))[:], examples.labels[np.sort(few)])
    check_trusted(estimator, plan.clf)


def train(plan: Plan, examples: Examples) -> Head:
    """Train a head; HeadError says that it needs more memory than there is, or cannot be trained on these rows.

    Its card has ``fit_seconds``, and ``params``, with which the same head can be made again.
    """
    estimator = build(plan.head, plan.params, seed=plan.seed, calibrate=plan.calibrate)
    check_memory(plan, examples)
    prepare(plan)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with doing(f"training {plan.clf}"):
            fit(estimator, examples.rows, examples.labels, joined(examples.rows, examples.groups))
    seconds = time.perf_counter() - start
    for text in {" ".join(str(one.message).split())[:160] for one in caught if _worth_saying(one)}:
        log.warning("%s: %s", plan.clf, text)
    params = {**plan.params, **getattr(estimator.estimator_, "chosen_", {})}
    card = {"params": params, "fit_seconds": seconds}
    if plan.own is not None:
        card["estimator"] = one_line(repr(estimator.estimator))
    return Head(plan.clf, estimator, plan.class_names, plan.layer, card)


def prepare(plan: Plan) -> None:
    """Import what a head needs, which takes time and memory that are no part of fitting it."""
    build(plan.head, plan.params, calibrate=plan.calibrate)
    if plan.clf == "dense":
        import_tensorflow()


def check_memory(plan: Plan, examples: Examples) -> int:
    """Return how many bytes a head needs, or raise HeadError if there are fewer."""
    n, d = examples.rows.shape
    classes = len(plan.class_names)
    needed, free = memory_needed(plan.head, n, d, plan.params, classes=classes), available()
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
    if not kind_of(plan.head).streams:
        level = logging.INFO if n * d * 4 >= _LARGE else logging.DEBUG
        log.log(level, "%s holds X in memory: %s", plan.clf, _size(n, d))


def _size(n: int, d: int) -> str:
    return f"{n:,} x {d:,} features are {n * d * 4 / 1e9:,.2f} GB as float32"


def _worth_saying(one: warnings.WarningMessage) -> bool:
    text = str(one.message)
    return "onverge" in text or "calibrated" in text or "not selected" in text
