"""Fit one head on a cache, score it, save it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featcache.base_finding import Bundle
from featcache.cache import FeatureCache
from featcache.cache.writer import versions
from featcache.errors import GateError, HeadError, OptionError
from featcache.heads import Head
from featcache.heads.store import FOLDER
from featcache.metrics import absent_classes
from featcache.sources import folder_name
from featcache.train import search
from featcache.train.examples import (
    FOLDS,
    Examples,
    evaluation_examples,
    nothing_counts,
    packed,
    probabilities,
    scores,
    trained_on,
    training_examples,
)
from featcache.train.parallel import check_jobs
from featcache.train.single import Plan, announce, check_plan

log = logging.getLogger(__name__)


def fit_head(
    cache: FeatureCache | str | os.PathLike[str],
    clf: str = "logreg",
    *,
    layer: str | None = None,
    params: Mapping[str, Any] | None = None,
    calibrate: str = "temperature",
    tune: bool = False,
    cv: int | None = None,
    fewshot: Sequence[int] = (),
    tries: int = 5,
    seed: int = 0,
    jobs: int = 1,
    out: str | os.PathLike[str] | None = None,
    bundle: bool = True,
    assert_accuracy: float | None = None,
) -> Head:
    """Train one head on a cache's training rows, score it on every split and save it.

    Parameters
    ----------
    cache : FeatureCache or path
        Where the features are.
    clf : str
        Which head, see `featcache.heads.build`.
    layer : str, optional
        Which features; default: the deepest layer.
    params : mapping, optional
        The head's parameters.
    calibrate : {"temperature", "sigmoid", "isotonic", "none"}
        How scores become probabilities, see `featcache.heads.calibration.CalibratedHead`.
    tune : bool
        Search the parameters of the head's grid on folds of the training images, and train with the best.
    cv : int, optional
        Also score the head on so many folds of the training images, stratified and by group. Default: none, but 5
        where no validation image counts in scores (test image, where there is no validation).
    fewshot : sequence of int
        Also score heads trained on so many images of each class, with the parameters that are set, not tuned ones.
    tries : int
        How often those are drawn.
    seed : int
        For everything random.
    jobs : int
        Processes for `tune`, `cv` and `fewshot`.
    out : path, optional
        The head's folder; default: ``<cache>/heads/<clf>-<layer>``. A head that is there is replaced; files of
        others are kept.
    bundle : bool
        Whether a folder outside of the cache carries a copy of the base, so that it works anywhere; the heads in a
        cache share the cache's. Where the cache has no copy, the base is loaded from where it came from.
    assert_accuracy : float, optional
        Accuracy to reach on validation (test, where there is no validation; folds, where neither can be scored), or
        no head is written.

    Returns
    -------
    Head
        Saved in ``head.path``. Its card has ``metrics`` by split, and ``tuning``, ``cross_validation`` and
        ``fewshot`` where they were asked for.

    Raises
    ------
    OptionError, HeadError, CacheError
        If a name is wrong, there is too little to train on, memory or disk do not suffice, or a file cannot be used.
    BaseError
        If the folder is to carry its base, and that is neither in the cache nor where it came from.
    GateError
        If `assert_accuracy` was not reached.
    """
    opened = cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
    if opened.missing:
        log.warning("%d of %d images have no features yet: run extract again to go on with them",
                    opened.missing, len(opened.entries))  # fmt: skip
    chosen = opened.layer_name(layer)
    plan = Plan(clf, chosen, opened.class_names, dict(params or {}), calibrate, seed)
    target = Path(out) if out is not None else opened.path / "heads" / folder_name(f"{clf}-{chosen}")
    check_plan(plan)
    check_jobs(jobs)
    inside = target.parent.resolve() == (opened.path / "heads").resolve()
    bundled = bundle and not inside and opened.recipe.spec is None
    FOLDER.check_target(target, base=bundled)
    search.check_protocols(cv=cv, shots=fewshot, tries=tries)
    examples = training_examples(opened, chosen)
    if fewshot:
        search.check_shots(examples, fewshot)
        if "validation" not in opened.splits:
            raise OptionError(
                f"`fewshot` needs validation images, but {str(opened.path)!r} has only {opened.splits}. Extract "
                "with `validation_split`."
            )
        if (why := nothing_counts(opened, "validation")) is not None:
            raise OptionError(f"`fewshot` needs validation images that count, but {why}. Use `cv` instead.")
    write_base = Bundle(opened.path, opened.recipe, opened.description.get("request")) if bundled else None
    announce(plan, examples)
    folds = cv if cv is not None else _folds_instead(opened)
    several = tune or folds is not None or bool(fewshot)
    with packed(examples, opened.path) if several else contextlib.nullcontext(examples) as ready:
        tuned, protocols = _trained(
            plan, ready, opened, tune=tune, cv=folds, must=cv is not None, fewshot=fewshot, tries=tries, jobs=jobs
        )
    head, estimator = tuned.head, tuned.head.estimator
    head.trained_on = trained_on(opened)
    head.card |= {
        "all_params": {key: value for key, value in _inner(estimator).get_params().items() if _plain(value)}
        | head.card["params"],
        "calibration": {"method": calibrate, "temperature": estimator.temperature_},
        "metrics": score(head, opened),
        **protocols,
        "seed": seed,
        "layer_index": list(opened.layers).index(chosen),
        "history": getattr(estimator.estimator_, "history_", {}),
        "cache": str(opened.path.absolute()),
        "source": opened.source,
        "listing": opened.listing_options,
        "recipe": opened.recipe.to_dict(),
        "request": opened.description.get("request"),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    if assert_accuracy is not None:
        _check_gate(head, assert_accuracy)
    head.save(target, write_base=write_base)
    return head


def _trained(
    plan: Plan, examples: Examples, cache: FeatureCache, *, tune: bool, cv: int | None, must: bool,
    fewshot: Sequence[int], tries: int, jobs: int,
) -> tuple[search.Tuned, dict[str, Any]]:  # fmt: skip
    """Return the head trained on all training rows, and what the protocols found; `must`: folds were asked for."""
    found: dict[str, Any] = {}
    if cv is not None:
        try:
            found["cross_validation"] = search.cross_validate(plan, examples, cv, tuned=tune, jobs=jobs)[0]
        except HeadError as error:
            if must:
                raise
            log.warning("there is no score on folds either: %s", error)
    tuned = search.trained(plan, examples, tuned=tune, jobs=jobs)
    if tune:
        found["tuning"] = tuned.sweep
    if fewshot:
        with packed(evaluation_examples(cache, "validation", plan.layer), cache.path) as validation:
            found["fewshot"] = search.few_shot(plan, examples, validation, fewshot, tries, jobs=jobs)
    return tuned, found


def _folds_instead(cache: FeatureCache) -> int | None:
    """Say which splits have no image that counts; return how many folds the head is scored on instead, if any."""
    evaluated = [split for split in ("validation", "test") if split in cache.splits]
    reasons = {split: why for split in evaluated if (why := nothing_counts(cache, split)) is not None}
    for why in reasons.values():
        log.warning("%s", why)
    if not evaluated or evaluated[0] not in reasons:
        return None
    log.warning("the head is scored on %d folds of the training images instead; no group is divided there", FOLDS)
    return FOLDS


def score(head: Head, cache: FeatureCache) -> dict[str, Any]:
    """Return a head's metrics on each split of a cache that has an image which counts.

    Copies of training images in another split are left out and counted as ``copies_left_out``, images of groups that
    train has images of as ``group_members_left_out``.
    """
    result = {}
    for split in cache.splits:
        examples = evaluation_examples(cache, split, head.layer)
        found = scores(examples, probabilities(head, examples.rows), head.class_names)
        if found is not None:
            result[split] = found
            if (absent := absent_classes(split, examples.labels[examples.scored], head.class_names)) is not None:
                log.warning("%s", absent)
    return result


def _inner(estimator: Any) -> Any:
    """Return the estimator whose parameters were set, behind its scaler."""
    return estimator.estimator.steps[-1][1] if hasattr(estimator.estimator, "steps") else estimator.estimator


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | tuple | list)


def _check_gate(head: Head, wanted: float) -> None:
    known = {**head.metrics, "folds of the training images": head.card.get("cross_validation")}
    split = next((split for split in ("validation", "test", *known) if split != "train" and known.get(split)), None)
    if split is None:
        raise HeadError(
            "`assert_accuracy` needs validation or test images, but there are none. Extract with `validation_split`."
        )
    reached = known[split]["accuracy"]
    if reached < wanted:
        low, high = known[split]["accuracy_ci95"]
        raise GateError(
            f"The accuracy on {split} is {reached:.4f} (95 % interval {low:.4f} to {high:.4f}, "
            f"n={known[split]['n']}), below the {wanted:g} asked for. No head was written."
        )
