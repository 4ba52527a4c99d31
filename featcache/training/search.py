"""Protocols that train more than one head: tuning, cross-validation, few images."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from featcache.errors import HeadError, OptionError
from featcache.heads import Head, kind_of, parameters
from featcache.heads.folds import grouped_folds
from featcache.heads.rows import Bools, Float32s, Ints
from featcache.training.examples import Examples, probabilities, scores
from featcache.training.parallel import Failure, run_all
from featcache.training.single import Plan, train

TUNE_FOLDS = 5
_TUNING = "Tuning", ", or leave out `tune`"
MOST_FOLDS = 100_000
KNN_NEIGHBORS = 10
FINER = (10**-0.5, 10**0.5)
"""What the best penalty of the grid is multiplied by to search around it."""


@dataclass(frozen=True)
class Tuned:
    """A head that was trained on all training rows, with its parameters and what was tried on folds of these rows.

    Each of `sweep` has ``params``, ``accuracy`` (mean over the folds) and ``accuracy_folds``; of ridge, which searches
    its penalty itself, ``params`` and ``squared_error``.
    """

    head: Head
    plan: Plan
    sweep: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Trial:
    """A head to train on some rows and to score on others."""

    plan: Plan
    train: Examples
    test: Examples
    tune: bool = False


Done = Callable[[int, Any], None]
"""What is called with the number and the result of each fit."""


def _nothing(number: int, result: Any) -> None:
    pass


def fits(plan: Plan, *, tuned: bool) -> int:
    """Return how many fits of a search `Done` is called for."""
    kind = kind_of(plan.clf) if plan.own is None else None
    if not tuned or kind is None or plan.clf in ("ridge", "logreg", "linear-svm"):
        return 0
    axes = {name: values for name, values in kind.grid.items() if name not in plan.params}
    finer = len(FINER) if kind.penalty in axes else 0
    return TUNE_FOLDS * (math.prod(map(len, axes.values())) + finer) if axes else 0


def check_tunable(plan: Plan) -> None:
    """Raise OptionError if there is no grid to search."""
    if plan.own is not None:
        raise OptionError(
            f"`tune` has no grid for {plan.clf}, an estimator of your own. Give GridSearchCV(estimator, grid) as `clf` "
            "instead."
        )


def tune(plan: Plan, examples: Examples, *, jobs: int = 1, done: Done = _nothing) -> Tuned:
    """Train a head with the best parameters of its grid, chosen on folds of the training images alone.

    Parameters that the plan sets are not searched. HeadError says that nothing that was tried can be trained.
    """
    check_tunable(plan)
    kind = kind_of(plan.clf)
    if plan.clf == "ridge":
        return _tune_ridge(plan, examples)
    if plan.clf in ("logreg", "linear-svm"):  # which choose their penalty by themselves
        if plan.params.get("C") is None:
            _used_folds(examples, TUNE_FOLDS, plan.seed, *_TUNING)
        head = train(plan, examples)
        names = ("accuracy", "log_loss")
        tried = [
            {"params": {"C": one["C"]}, **{name: one[name] for name in names}}
            for one in head.estimator.estimator_.path_
        ]
        return Tuned(head, replace(plan, params=head.card["params"]), tried)
    axes = {name: values for name, values in kind.grid.items() if name not in plan.params}
    candidates = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    sweep = _tried(plan, candidates, examples, jobs, done) if axes else []
    if kind.penalty in axes and kind.penalty is not None:
        best = _best(sweep)["params"]
        finer = [{**best, kind.penalty: best[kind.penalty] * factor} for factor in FINER]
        sweep += _tried(plan, finer, examples, jobs, done)
    chosen = replace(plan, params={**plan.params, **(_best(sweep)["params"] if sweep else {})})
    return Tuned(train(chosen, examples), chosen, sweep)


def trained(plan: Plan, examples: Examples, *, tuned: bool, jobs: int = 1, done: Done = _nothing) -> Tuned:
    """Train a head, tuned or as it is planned."""
    return tune(plan, examples, jobs=jobs, done=done) if tuned else Tuned(train(plan, examples), plan)


def cross_validate(
    plan: Plan, examples: Examples, folds: int, *, tuned: bool = False, jobs: int = 1, done: Done = _nothing
) -> tuple[dict[str, Any], Bools]:
    """Score a head on folds of the training images, stratified and by group.

    Augmented views are trained on with the image they are of, and never scored. If `tuned`, the parameters are searched
    within each fold's training rows. Returned are metrics of all held-out predictions together with ``folds`` and
    ``accuracy_folds``, and whether each scored image's class was found (m,), in the source's order.
    """
    check_protocols(cv=folds)
    fold, used = _used_folds(examples, folds, plan.seed, "Cross-validation", "")
    trials = [_trial(plan, examples, fold, number, tuned) for number in used]
    found = run_all(_shares, trials, jobs=jobs, done=done)
    held = np.concatenate([np.flatnonzero((fold == number) & examples.scored) for number in used])
    shares = np.concatenate([_sound(one) for one in found])
    metrics = scores(examples.take(held), shares, plan.class_names)
    assert metrics is not None
    right = shares.argmax(axis=1) == examples.labels[held]
    ends = np.cumsum([len(trial.test) for trial in trials])[:-1]
    by_fold = [float(part.mean()) for part in np.split(right, ends)]
    return {**metrics, "folds": len(used), "accuracy_folds": by_fold}, right[np.argsort(examples.images[held])]


def few_shot(
    plan: Plan,
    examples: Examples,
    validation: Examples,
    shots: Sequence[int],
    tries: int,
    *,
    jobs: int = 1,
    done: Done = _nothing,
) -> list[dict[str, Any]]:
    """Score a head that was trained on a few images of each class, drawn `tries` times for each of `shots`.

    Drawn are distinct images of different groups, with their views; what is scored is `validation`. Each result has
    ``shots``, ``accuracy`` (mean), ``accuracy_sd`` (over the tries, 0 for one) and ``accuracies``. It raises
    OptionError if a class has too few images.
    """
    check_protocols(shots=shots, tries=tries)
    trials = []
    for count, i in itertools.product(shots, range(tries)):
        drawn = examples.take(_drawn(examples, count, np.random.default_rng([plan.seed, count, i])))
        trials.append(_Trial(_of_few(plan, len(drawn)), drawn, validation))
    accuracies = [_sound(one) for one in run_all(_accuracy, trials, jobs=jobs, done=done)]
    result = []
    for i, count in enumerate(shots):
        own = accuracies[i * tries : (i + 1) * tries]
        spread = statistics.stdev(own) if tries > 1 else 0.0
        result.append({"shots": count, "accuracy": statistics.fmean(own), "accuracy_sd": spread, "accuracies": own})
    return result


def check_protocols(*, cv: int | None = None, shots: Sequence[int] = (), tries: int = 1) -> None:
    """Raise OptionError if there can be no such folds or draws."""
    if cv is not None and not 2 <= cv <= MOST_FOLDS:
        raise OptionError(f"Cross-validation needs at least 2 folds and at most {MOST_FOLDS:,}. Received: `cv`={cv}.")
    if tries < 1 or min(shots, default=1) < 1:
        raise OptionError(f"`fewshot` and `tries` must be 1 or more. Received: {list(shots)} and {tries}.")


def check_shots(examples: Examples, shots: Sequence[int]) -> None:
    """Raise OptionError if a class has too few images to draw."""
    for count in shots:
        _drawn(examples, count, np.random.default_rng(0))


def _of_few(plan: Plan, rows: int) -> Plan:
    """Return a head that trains on so few rows: it holds none out, and has no more neighbours than there are."""
    params = dict(plan.params)
    if "validation_fraction" in parameters(plan.head):
        params["validation_fraction"] = 0.0
    if plan.clf == "knn":
        params["n_neighbors"] = min(int(params.get("n_neighbors", KNN_NEIGHBORS)), rows)
    return replace(plan, params=params, calibrate="none")


def _folds(examples: Examples, count: int, seed: int) -> Ints:
    """Return the fold of each row, decided by the images alone: the same whatever the layer, base or views."""
    own = np.flatnonzero(examples.scored)
    own = own[np.argsort(examples.images[own])]
    fold = grouped_folds(examples.labels[own], examples.groups[own], count, seed=seed)
    groups, member = np.unique(examples.groups, return_inverse=True)
    of_group = np.full(len(groups), -1)
    of_group[np.searchsorted(groups, examples.groups[own])] = fold
    result: Ints = of_group[member]
    return result


def _drawn(examples: Examples, count: int, rng: np.random.Generator) -> Ints:
    """Return the rows of `count` images of each class, of different groups, with their views."""
    images: list[int] = []
    for label in np.unique(examples.labels):
        own = rng.permutation(np.flatnonzero((examples.labels == label) & examples.scored))
        _, first = np.unique(examples.groups[own], return_index=True)
        if len(first) < count:
            raise OptionError(
                f"`fewshot` asks for {count} images of each class, but one class has only {len(first)} different "
                "training images. Ask for fewer."
            )
        images += examples.images[own[np.sort(first)[:count]]].tolist()
    return np.flatnonzero(np.isin(examples.images, images))


def _trial(plan: Plan, examples: Examples, fold: Ints, number: int, tuned: bool = False) -> _Trial:
    return _Trial(plan, examples.take(fold != number), examples.take((fold == number) & examples.scored), tuned)


def _shares(trial: _Trial) -> Float32s:
    return probabilities(trained(trial.plan, trial.train, tuned=trial.tune).head, trial.test.rows)


def _accuracy(trial: _Trial) -> float:
    kept = trial.test.take(trial.test.scored)
    return float((_shares(replace(trial, test=kept)).argmax(axis=1) == kept.labels).mean())


def _sound(found: Any) -> Any:
    if isinstance(found, Failure):
        raise HeadError(found.reason)
    return found


def _tried(
    plan: Plan, candidates: list[dict[str, Any]], examples: Examples, jobs: int, done: Done
) -> list[dict[str, Any]]:
    """Return each candidate with its accuracy on folds of the training images."""
    fold, used = _used_folds(examples, TUNE_FOLDS, plan.seed, *_TUNING)
    trials = [
        _trial(replace(plan, params={**plan.params, **params}, calibrate="none"), examples, fold, number)
        for params in candidates
        for number in used
    ]
    found = run_all(_accuracy, trials, jobs=jobs, done=done)
    rows = []
    for i, params in enumerate(candidates):
        own = found[i * len(used) : (i + 1) * len(used)]
        failed = next((one.reason for one in own if isinstance(one, Failure)), None)
        mean = None if failed is not None else statistics.fmean(own)
        rows.append({"params": params, "accuracy": mean, "accuracy_folds": [] if failed else own, "error": failed})
    return rows


def _used_folds(examples: Examples, count: int, seed: int, what: str, instead: str) -> tuple[Ints, list[int]]:
    """Return the fold of each row, and which folds have rows; at least two have."""
    fold = _folds(examples, count, seed)
    used = [number for number in range(count) if (fold == number).any()]
    if len(used) < 2:
        raise HeadError(
            f"{what} needs at least 2 different images of a class, but no class has them. Add images{instead}."
        )
    return fold, used


def _best(sweep: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the most accurate of a sweep; of equals the first, which fits the training data least closely."""
    sound = [row for row in sweep if row["accuracy"] is not None]
    if not sound:
        raise HeadError(f"No parameters of the grid could be trained. The first error was: {sweep[0]['error']}")
    return max(sound, key=lambda row: float(row["accuracy"]))


def _tune_ridge(plan: Plan, examples: Examples) -> Tuned:
    """Let ridge choose among its penalties, then among those around the best: it holds out folds by itself."""
    if "alphas" in plan.params:
        return Tuned(train(plan, examples), plan)
    _used_folds(examples, TUNE_FOLDS, plan.seed, *_TUNING)
    coarse = replace(plan, params={**plan.params, "alphas": kind_of("ridge").grid["alphas"]})
    first = train(coarse, examples).estimator.estimator_
    finer = tuple(sorted(first.alpha_ * factor for factor in (10**-0.5, 10**-0.25, 1, 10**0.25, 10**0.5)))
    chosen = replace(plan, params={**plan.params, "alphas": finer})
    head = train(chosen, examples)
    second = head.estimator.estimator_
    tried = [*zip(coarse.params["alphas"], first.errors_, strict=True), *zip(finer, second.errors_, strict=True)]
    sweep = [{"params": {"alpha": float(alpha)}, "squared_error": float(error)} for alpha, error in tried]
    return Tuned(head, chosen, sweep)
