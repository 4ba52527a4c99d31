"""Which base, which layer, which head: many heads on the images that caches share, in one table."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from featcache.cache import FeatureCache
from featcache.display import frame
from featcache.errors import FeatcacheError, HeadError, OptionError
from featcache.files.publishing import csv_text
from featcache.heads import HEADS, Head, own_name
from featcache.heads.rows import Bools, Ints
from featcache.heads.showing import left_out_text
from featcache.options import CompareOptions, Progress, takes
from featcache.recipe import canonical_json
from featcache.sources import Digests, Words
from featcache.system.memory import available
from featcache.system.progress import shown
from featcache.system.versions import versions
from featcache.training import search, showing
from featcache.training.examples import (
    FOLDS,
    Examples,
    evaluation_examples,
    nothing_counts,
    packed,
    probabilities,
    scores,
    training_examples,
)
from featcache.training.metrics import absent_classes
from featcache.training.parallel import Failure, check_jobs, cores, run_all
from featcache.training.results import described_estimator, keep, kept
from featcache.training.significance import clearly_lower, holm, mcnemar, paired_difference
from featcache.training.single import Plan, announce, check_memory, check_plan, prepare, train

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

SLOW = ("svm", "knn")
"""Heads that take minutes on many images: beyond `SLOW_ROWS`, only if they are named."""
SLOW_ROWS = 20_000

SIMPLE = ("centroid", "ridge", "logreg", "linear-svm", "knn", "svm", "dense")
"""Heads, the simplest first; estimators of the user's come last."""

_SCORES = ("accuracy", "accuracy_ci95", "n", "macro_f1", "log_loss", "ece")
_CHOICE = ("fit_seconds", "difference", "difference_ci95", "as_good", "p_value", "distinguishable", "selected_on")
_COLUMNS = ("cache", "layer", "clf", "params", *_SCORES, *_CHOICE)


@dataclass(frozen=True, repr=False)
class Comparison:
    """What `compare` found.

    Attributes
    ----------
    leaderboard : list of dict
        The most accurate first; of equals, the one with the lower log loss. Each has ``cache``, ``layer``, ``clf``,
        ``params``, ``accuracy`` with its 95 % interval and n, ``macro_f1``, ``log_loss``, ``ece``,
        ``copies_left_out`` and ``group_members_left_out`` (images that do not count), ``fit_seconds``, ``difference``
        of its accuracy to that of the best one on the same images, with its 95 % interval, ``as_good`` (it is not
        lower by more than one standard error of that difference), ``p_value`` (McNemar's test against the best,
        adjusted by Holm's method), ``distinguishable`` from the best at 5 %,
        ``selected_on`` and, with tuning, ``sweep``.
    failed : list of dict
        ``cache``, ``layer``, ``clf`` and ``error`` of heads that could not be trained.
    best : dict
        The first of the leaderboard, with its metrics on test images, if there are any, in ``test``.
    images : int
        Images that all caches share.
    """

    leaderboard: list[dict[str, Any]]
    failed: list[dict[str, str]]
    best: dict[str, Any]
    images: int

    def __repr__(self) -> str:
        return showing.comparison_line(self)

    def __str__(self) -> str:
        return showing.comparison_text(self)

    def _repr_html_(self) -> str:
        """Return what a notebook shows of the comparison."""
        return showing.comparison_html(self)

    def to_frame(self) -> pd.DataFrame:
        """Return the leaderboard as a pandas frame with the columns of `to_csv`; OptionError without pandas."""
        return frame(self.leaderboard, _COLUMNS)

    @property
    def as_good(self) -> list[dict[str, Any]]:
        """The heads within one standard error of the best one, without it."""
        return [row for row in self.leaderboard[1:] if row["as_good"]]

    @property
    def simplest(self) -> dict[str, Any]:
        """The simplest of the best head and those that are as good; of equally simple ones the first."""
        return min([self.leaderboard[0], *self.as_good], key=lambda row: _complexity(row["clf"]))

    def to_dict(self) -> dict[str, Any]:
        """Return everything, fit for JSON."""
        return dataclasses.asdict(self)

    def to_csv(self) -> str:
        """Return the leaderboard as CSV, parameters and intervals as JSON in their cells."""
        rows = [
            [json.dumps(row[key]) if isinstance(row[key], dict | list) else row[key] for key in _COLUMNS]
            for row in self.leaderboard
        ]
        return csv_text([_COLUMNS, *rows])


def _complexity(clf: str) -> int:
    return SIMPLE.index(clf) if clf in SIMPLE else len(SIMPLE)


@dataclass(frozen=True)
class _Task:
    """One head of the table."""

    cache: FeatureCache = field(repr=False)
    plan: Plan
    tune: bool
    cv: int | None
    of: dict[str, Any] | None
    """What decides its result; None if no text says it, so that the result is not kept."""


@dataclass(frozen=True)
class _Work:
    """A task as a process gets it."""

    plan: Plan
    tune: bool
    cv: int | None
    train: Examples
    others: dict[str, Examples]


@takes(CompareOptions)
def compare(options: CompareOptions) -> Comparison:
    """Train and score heads on every layer of one or several caches.

    `clf` may also be a classifier or pipeline of scikit-learn, a list of these and of names, or a mapping from names to
    them, such as ``{"forest": RandomForestClassifier()}``; see `featcache.fit_head`.

    The images that all caches share are compared, with the labels, splits and groups of the first. Heads are ranked
    by their accuracy on validation, or with `cv` on held-out folds of the training images; so they are, on 5 folds,
    where no validation image counts in scores. Test images are scored for the best one alone. Results are kept in
    ``<cache>/results`` and used again while the cache's rows, labels and splits, and the head's parameters, stay what
    they are.

    Returns
    -------
    Comparison

    Raises
    ------
    OptionError
        If a name is wrong, or there is nothing to rank by.
    HeadError
        If the caches share no images, there is nothing to train on, or no head can be trained.
    """
    clf, layers, cv = options.clf, options.layers, options.cv
    heads = None if clf is None else _named(clf)
    check_jobs(options.jobs)
    search.check_protocols(cv=cv)
    for name, own in ({"ridge": None} if heads is None else heads).items():
        plan = Plan(name, "", [], {}, options.calibrate, options.seed, own)
        check_plan(plan)
        if options.tune:
            search.check_tunable(plan)
    if heads == {} or layers == []:
        raise OptionError("The list of heads or of layers is empty. Name at least one, or None for all.")
    opened = _joined(_opened(options.caches))
    first = opened[0]
    if cv is None and "validation" not in first.splits:
        raise OptionError(
            f"No validation images to rank by in {str(first.path)!r}: it has {first.splits}. Extract with "
            "`validation_split`, or rank by folds with `cv`."
        )
    if cv is None and (why := nothing_counts(first, "validation")) is not None:
        cv = FOLDS
        log.warning("%s", why)
        log.warning("heads are ranked on %d folds of the training images instead; a group is in one fold only", cv)
    for split in sorted(set(first.splits) & ({"validation", "test"} if cv is None else {"test"})):
        _warn_of_split(first, split)
    heads = heads or dict.fromkeys(_heads(first))
    rows = {cache.path: rows_digest(cache) for cache in opened}
    tasks = [
        task
        for cache, layer in _distinct(_pairs(opened, layers), rows)
        for task in _tasks(cache, rows[cache.path], layer, heads, replace(options, cv=cv))
    ]
    with shown(options.progress, "training heads", "heads") as progress:
        found = _run(tasks, jobs=options.jobs, fresh=options.fresh, progress=progress)
    return _ranked(tasks, found, len(first), fresh=options.fresh)


def _warn_of_split(cache: FeatureCache, split: str) -> None:
    """Say which images of a split are not scored, and which classes the others lack."""
    copies, members = cache.left_out(split)
    counted = cache.label_indices(split)[~(copies | members)]
    texts = [left_out_text(split, int(copies.sum()), int(members.sum()), len(copies))]
    texts += [absent_classes(split, counted, cache.class_names)] if len(counted) else []
    for text in texts:
        if text is not None:
            log.warning("%s", text)


def _joined(caches: list[FeatureCache]) -> list[FeatureCache]:
    """Return the caches with the listing of the first, as far as all have features of it."""
    if not caches:
        raise OptionError("No cache was given. Name at least one.")
    first, *others = caches
    if not others:
        return caches
    in_all = np.ones(len(first), bool)
    for cache in others:
        in_all &= Digests(cache.usable.digests).find(first.usable.digests) >= 0
    shared = first.usable.take(np.flatnonzero(in_all))
    paths = ", ".join(repr(str(cache.path)) for cache in caches)
    if not len(shared):
        raise HeadError(
            f"The caches share no image, so their heads cannot be compared: {paths}. Name caches of the same images."
        )
    if len(shared) < max(len(cache) for cache in caches):
        log.info("%d images are in all of %s and are compared", len(shared), paths)
    labels, known = shared.labels.among(names := shared.labels.names), Digests(shared.digests)
    for cache in others:
        at = known.find(cache.usable.digests)
        theirs = cache.usable.labels.among(names)
        theirs[(theirs < 0) & (cache.usable.labels.codes >= 0)] = -2  # a class that the first has not
        differ = int((labels[at[at >= 0]] != theirs[at >= 0]).sum())
        if differ:
            text = "%d images have another label in %s than in %s, whose labels count"
            log.warning(text, differ, cache.path, first.path)
        for what in ("splits", "groups"):
            differ = _differing(getattr(shared, what), getattr(cache.usable, what), at)
            if differ:
                text = "%d images have another %s in %s than in %s, whose %s count"
                log.warning(text, differ, what.removesuffix("s"), cache.path, first.path, what)
    return [cache.with_listing(shared) for cache in caches]


def _differing(ours: Words, theirs: Words, at: Ints) -> int:
    """Return how many images another cache gives another word than the first does, at these places of the first."""
    there = at >= 0
    own, other = ours.among(names := ours.names)[at[there]], theirs.among(names)[there]
    other[(other < 0) & (theirs.codes[there] >= 0)] = -2  # a word that the first has not
    return int((own != other).sum())


def _opened(caches: Any) -> list[FeatureCache]:
    """Return the caches, each once, and say which are not finished."""
    given = [caches] if isinstance(caches, FeatureCache | str | os.PathLike) else list(caches)
    opened = [one if isinstance(one, FeatureCache) else FeatureCache(one) for one in given]
    distinct = list({cache.path.resolve(): cache for cache in opened}.values())
    for cache in distinct:
        if cache.missing:
            text = "%d of %d images of %s have no features yet: run extract again to compute them"
            log.warning(text, cache.missing, len(cache.entries), cache.path)
    return distinct


def _heads(cache: FeatureCache) -> list[str]:
    if cache.splits.get("train", 0) * (1 + cache.views) <= SLOW_ROWS:
        return list(HEADS)
    log.info("more than %d training rows: %s only if named, as they take minutes", SLOW_ROWS, " and ".join(SLOW))
    return [name for name in HEADS if name not in SLOW]


def _pairs(caches: list[FeatureCache], layers: Sequence[str] | None) -> list[tuple[FeatureCache, str]]:
    if layers is None:
        return [(cache, layer) for cache in caches for layer in cache.layers]
    for layer in layers:
        if not any(layer in cache.layers for cache in caches):
            caches[0].layer_name(layer)
    return [(cache, layer) for cache in caches for layer in cache.layers if layer in layers]


def _distinct(pairs: list[tuple[FeatureCache, str]], rows: Mapping[Path, str]) -> list[tuple[FeatureCache, str]]:
    """Return the layers without those whose features another cache has, too: the same recipe, images and views."""
    known: dict[tuple[str, str], FeatureCache] = {}
    for cache, layer in pairs:
        same = rows[cache.path] if cache.recipe.spec is None else str(cache.path)  # a spec is a name, no proof
        first = known.setdefault((same, layer), cache)
        if first is not cache:
            log.info("%s of %s is %s's, too, and is compared once", layer, cache.path, first.path)
    return [(cache, layer) for (_, layer), cache in known.items()]


def _named(clf: Any) -> dict[str, Any]:
    """Return the estimators of heads by name, None for featcache's own heads."""
    if isinstance(clf, Mapping):
        for name, own in clf.items():
            if not isinstance(name, str) or isinstance(own, str):
                raise OptionError(
                    f"A mapping given as `clf` has an estimator, or None for a head of featcache, under each name. "
                    f"Received: {name!r}: {own!r}."
                )
        return dict(clf)
    listed = list(clf) if isinstance(clf, Sequence) and not isinstance(clf, str) else [clf]
    heads: dict[str, Any] = {}
    for one in listed:
        name, own = (one, None) if isinstance(one, str) else (own_name(one), one)
        if own is not None and name in heads:
            raise OptionError(f"Two estimators are named {name!r}. Give a mapping: {{'first': …, 'second': …}}.")
        heads[name] = own
    return heads


def _tasks(
    cache: FeatureCache, rows: str, layer: str, heads: Mapping[str, Any], options: CompareOptions
) -> Iterator[_Task]:
    tune, cv = options.tune, options.cv
    for name, own in heads.items():
        plan = Plan(name, layer, cache.class_names, {}, options.calibrate, options.seed, own)
        settings = {key: value for key, value in vars(plan).items() if key != "own"} | {"tune": tune, "cv": cv}
        described = {"rows": rows, "layer": layer, "settings": settings, "versions": versions()}
        if own is None:
            yield _Task(cache, plan, tune, cv, described)
        else:
            text = described_estimator(own)
            of = None if text is None else {**described, "settings": {**settings, "estimator": text}}
            yield _Task(cache, plan, tune, cv, of)


def rows_digest(cache: FeatureCache) -> str:
    """Return a digest of everything about the rows that decides a result, but no path."""
    found = hashlib.sha256(f"{cache.recipe.fingerprint} {cache.views} {cache.augmentation}\n".encode())
    entries = cache.usable
    found.update(np.ascontiguousarray(entries.digests).data)
    for words in (entries.labels, entries.splits, entries.groups):
        found.update(canonical_json(words.names).encode() + words.codes.astype("<i4").tobytes())
    return found.hexdigest()


def _run(tasks: list[_Task], *, jobs: int | None, fresh: bool, progress: Progress | None) -> list[Any]:
    """Return the result of each task, kept or computed; a layer at a time, so that one is laid out at a time."""
    found: list[Any] = [None if fresh or task.of is None else kept(task.cache.path, task.of) for task in tasks]
    layers: dict[tuple[Path, str], list[int]] = {}
    for i, task in enumerate(tasks):
        if found[i] is None:
            layers.setdefault((task.cache.path, task.plan.layer), []).append(i)

    def take(i: int, result: Any) -> None:
        found[i] = result
        if not isinstance(result, Failure) and (of := tasks[i].of) is not None:
            keep(tasks[i].cache.path, of, result)
        if progress is not None:
            progress(len(found) - found.count(None), len(found))

    for numbers in layers.values():
        first = tasks[numbers[0]]
        try:
            with contextlib.ExitStack() as stack:
                laid_out = _laid_out(first.cache, first.plan.layer, stack)
                works = {i: _Work(tasks[i].plan, tasks[i].tune, tasks[i].cv, *laid_out) for i in numbers}
                sound = [i for i in numbers if not _refused(works[i], i, take)]
                workers = _affordable([works[i] for i in sound], min(jobs or cores(), max(len(sound), 1)))
                run_all(
                    _result,
                    [works[i] for i in sound],
                    jobs=workers,
                    done=lambda number, result, sound=sound: take(sound[number], result),  # type: ignore[misc]
                )
        except FeatcacheError as error:  # its features cannot be read or laid out
            for i in numbers:
                if found[i] is None:
                    take(i, Failure(str(error)))
    return found


def _laid_out(cache: FeatureCache, layer: str, stack: contextlib.ExitStack) -> tuple[Examples, dict[str, Examples]]:
    """Return a layer's training rows, and those of validation, as files that all processes map."""
    ready = stack.enter_context(packed(training_examples(cache, layer), cache.path))
    others = {
        split: stack.enter_context(packed(evaluation_examples(cache, split, layer), cache.path))
        for split in cache.splits
        if split != "train"
    }
    return ready, others


def _refused(work: _Work, number: int, take: Callable[[int, Any], None]) -> bool:
    """Say whether memory does not suffice for a head, and take that as its result."""
    try:
        check_memory(work.plan, work.train)
        announce(work.plan, work.train)
    except HeadError as error:
        take(number, Failure(str(error)))
        return True
    return False


def _affordable(works: list[_Work], workers: int) -> int:
    """Return how many of the heads memory can hold at a time."""
    free = available()
    largest = max((check_memory(work.plan, work.train) for work in works), default=0)
    return workers if free is None or not largest else max(1, min(workers, free // largest))


def _result(work: _Work) -> dict[str, Any]:
    """Train and score one head."""
    prepare(work.plan)
    tuned = search.trained(work.plan, work.train, tuned=work.tune)
    if work.cv is not None:
        metrics, right = search.cross_validate(work.plan, work.train, work.cv, tuned=work.tune)
    else:
        metrics, right = _scored(tuned.head, work.others["validation"])
    row: dict[str, Any] = {
        "params": tuned.head.card["params"],
        "fit_seconds": tuned.head.card["fit_seconds"],
        "sweep": tuned.sweep,
        "selected_on": "validation" if work.cv is None else "cross-validation",
        "metrics": metrics,
        "right": _packed_bits(right),
    }
    for heavy in ("confusion", "per_class"):  # k x k numbers that the table has no use for
        del row["metrics"][heavy]
    return row


def _on_test(task: _Task, params: dict[str, Any], *, fresh: bool) -> dict[str, Any] | None:
    """Return the metrics on test images of the head that was ranked first; None if there are none to score."""
    if "test" not in task.cache.splits:
        return None
    of = None if task.of is None else {**task.of, "on": "test"}
    known = None if fresh or of is None else kept(task.cache.path, of)
    if known is None:
        with contextlib.ExitStack() as stack:
            train, others = _laid_out(task.cache, task.plan.layer, stack)
            work = _Work(replace(task.plan, params=params), False, None, train, {"test": others["test"]})
            (found,) = run_all(_test_metrics, [work])
        if isinstance(found, Failure):
            raise HeadError(found.reason)
        known = {"test": found}
        if of is not None:
            keep(task.cache.path, of, known)
    return cast("dict[str, Any] | None", known["test"])


def _test_metrics(work: _Work) -> dict[str, Any] | None:
    head = train(work.plan, work.train)
    test = work.others["test"]
    return scores(test, probabilities(head, test.rows), head.class_names)


def _scored(head: Head, examples: Examples) -> tuple[dict[str, Any], Bools]:
    shares = probabilities(head, examples.rows)
    metrics = scores(examples, shares, head.class_names)
    assert metrics is not None  # else folds are scored
    right = (shares.argmax(axis=1) == examples.labels)[np.argsort(examples.images)]  # in the order of all caches
    return metrics, right[examples.scored[np.argsort(examples.images)]]


def _packed_bits(right: Bools) -> dict[str, Any]:
    return {"n": len(right), "bits": np.packbits(right).tobytes().hex()}


def _unpacked(packed_bits: Mapping[str, Any]) -> Bools:
    bits = np.frombuffer(bytes.fromhex(packed_bits["bits"]), np.uint8)
    return np.unpackbits(bits, count=packed_bits["n"]).astype(bool)


def _ranked(tasks: list[_Task], found: list[Any], images: int, *, fresh: bool) -> Comparison:
    pairs = list(zip(tasks, found, strict=True))
    failed = [
        {"cache": str(task.cache.path), "layer": task.plan.layer, "clf": task.plan.clf, "error": result.reason}
        for task, result in pairs
        if isinstance(result, Failure)
    ]
    good = [(task, result) for task, result in pairs if not isinstance(result, Failure)]
    if not good:
        raise HeadError(f"No head could be trained. The first error was: {failed[0]['error']}")
    good.sort(key=lambda pair: (-pair[1]["metrics"]["accuracy"], pair[1]["metrics"]["log_loss"]))
    right = [_unpacked(result["right"]) for _, result in good]
    p_values = [None, *holm([mcnemar(right[0], other) for other in right[1:]])]
    board = [
        _row(task, result, p, paired_difference(right[0], own))
        for (task, result), p, own in zip(good, p_values, right, strict=True)
    ]
    on_test = _on_test(good[0][0], good[0][1]["params"], fresh=fresh)
    best = board[0] if on_test is None else {**board[0], "test": on_test}
    return Comparison(board, failed, best, images)


def _row(task: _Task, result: Mapping[str, Any], p_value: float | None, paired: tuple[float, float]) -> dict[str, Any]:
    metrics, (difference, error) = result["metrics"], paired
    return {
        "cache": str(task.cache.path),
        "layer": task.plan.layer,
        "clf": task.plan.clf,
        "params": result["params"],
        **{key: metrics[key] for key in (*_SCORES, "copies_left_out", "group_members_left_out")},
        "fit_seconds": result["fit_seconds"],
        "difference": difference,
        "difference_ci95": [difference - 1.96 * error, difference + 1.96 * error],
        "as_good": not clearly_lower(difference, error),
        "p_value": p_value,
        "distinguishable": p_value is not None and p_value < 0.05,
        "selected_on": result["selected_on"],
        "sweep": result["sweep"],
    }
