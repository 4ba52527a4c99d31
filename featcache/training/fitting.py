"""Fit one head on a cache, score it, save it."""

from __future__ import annotations

import contextlib
import itertools
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featcache.bases.finding import Bundle
from featcache.cache import FeatureCache
from featcache.errors import GateError, HeadError, OptionError
from featcache.heads import Head, build, own_name
from featcache.heads.store import FOLDER, check_trusted
from featcache.options import FitHeadOptions, Progress, takes
from featcache.sources import folder_name
from featcache.system.progress import shown
from featcache.system.versions import versions
from featcache.training import search
from featcache.training.examples import (
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
from featcache.training.metrics import absent_classes
from featcache.training.parallel import check_jobs
from featcache.training.single import Plan, announce, check_fitted, check_plan

log = logging.getLogger(__name__)


@takes(FitHeadOptions)
def fit_head(options: FitHeadOptions) -> Head:
    """Train one head on a cache's training rows, score it on every split and save it.

    `clf` may also be any classifier or pipeline of scikit-learn: a clone of it is trained on features (n, d) and class
    numbers 0 to k - 1, calibrated and saved as the heads with names are. Its ``random_state``, where it is None, is
    `seed`, and `params` are set by its ``set_params``.

    Returns
    -------
    Head
        Saved in ``head.path``. Its card has ``metrics`` by split, and ``tuning``, ``cross_validation`` and
        ``fewshot`` where they were asked for.

    Raises
    ------
    OptionError, HeadError, CacheError
        If a name is wrong, an estimator is no classifier or could not be loaded again, there is too little to train
        on, memory or disk do not suffice, or a file cannot be used.
    BaseError
        If the folder is to carry its base, and that is neither in the cache nor where it came from.
    GateError
        If `assert_accuracy` was not reached.
    """
    opened = options.cache if isinstance(options.cache, FeatureCache) else FeatureCache(options.cache)
    if opened.missing:
        text = "%d of %d images have no features yet: run extract again to compute them"
        log.warning(text, opened.missing, len(opened.entries))
    chosen = opened.layer_name(options.layer)
    name, own = (options.clf, None) if isinstance(options.clf, str) else (own_name(options.clf), options.clf)
    given = dict(options.params or {})
    plan = Plan(name, chosen, opened.class_names, given, options.calibrate, options.seed, own)
    target = opened.path / "heads" / folder_name(f"{plan.clf}-{chosen}") if options.out is None else Path(options.out)
    check_plan(plan)
    if own is not None:
        check_trusted(build(own, given, calibrate=plan.calibrate), name)
    check_jobs(options.jobs)
    inside = target.parent.resolve() == (opened.path / "heads").resolve()
    bundled = options.bundle and not inside and opened.recipe.spec is None
    FOLDER.check_target(target, base=bundled)
    search.check_protocols(cv=options.cv, shots=options.fewshot, tries=options.tries)
    examples = training_examples(opened, chosen)
    if own is not None:
        check_fitted(plan, examples)
    if options.fewshot:
        search.check_shots(examples, options.fewshot)
        if "validation" not in opened.splits:
            raise OptionError(
                f"`fewshot` needs validation images, but {str(opened.path)!r} has only {opened.splits}. Extract "
                "with `validation_split`."
            )
        if (why := nothing_counts(opened, "validation")) is not None:
            raise OptionError(f"`fewshot` needs validation images that count, but {why}. Use `cv` instead.")
    write_base = Bundle(opened.path, opened.recipe, opened.description.get("request")) if bundled else None
    announce(plan, examples)
    folds = options.cv if options.cv is not None else _folds_instead(opened)
    several = options.tune or folds is not None or bool(options.fewshot)
    with packed(examples, opened.path) if several else contextlib.nullcontext(examples) as ready:
        total = search.fits(plan, tuned=options.tune) + (folds or 0) + len(options.fewshot) * options.tries
        with shown(options.progress, f"training {plan.clf}", "fits") as progress:
            tuned, protocols = _trained(plan, ready, opened, options, folds, _counter(progress, total))
    head, estimator = tuned.head, tuned.head.estimator
    head.trained_on = trained_on(opened)
    head.card |= {
        "all_params": {key: value for key, value in _inner(estimator).get_params().items() if _plain(value)}
        | head.card["params"],
        "calibration": {"method": options.calibrate, "temperature": estimator.temperature_},
        "metrics": score(head, opened),
        **protocols,
        "seed": options.seed,
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
    if options.assert_accuracy is not None:
        _check_gate(head, options.assert_accuracy)
    head.save(target, write_base=write_base)
    return head


def _counter(progress: Progress | None, total: int) -> search.Done:
    """Return what counts the fits of a search, of folds and of few images, and shows how many are done."""
    count = itertools.count(1)

    def done(number: int, result: Any) -> None:
        if progress is not None:
            progress(min(next(count), total), total)

    return done


def _trained(
    plan: Plan, examples: Examples, cache: FeatureCache, options: FitHeadOptions, cv: int | None, done: search.Done
) -> tuple[search.Tuned, dict[str, Any]]:
    """Return the head trained on all training rows, and what the protocols found."""
    jobs, found = options.jobs, dict[str, Any]()
    if cv is not None:
        try:
            found["cross_validation"] = search.cross_validate(
                plan, examples, cv, tuned=options.tune, jobs=jobs, done=done
            )[0]
        except HeadError as error:
            if options.cv is not None:
                raise
            log.warning("there is no score on folds either: %s", error)
    tuned = search.trained(plan, examples, tuned=options.tune, jobs=jobs, done=done)
    if options.tune:
        found["tuning"] = tuned.sweep
    if options.fewshot:
        with packed(evaluation_examples(cache, "validation", plan.layer), cache.path) as validation:
            found["fewshot"] = search.few_shot(
                plan, examples, validation, options.fewshot, options.tries, jobs=jobs, done=done
            )
    return tuned, found


def _folds_instead(cache: FeatureCache) -> int | None:
    """Say which splits have no image that counts; return how many folds the head is scored on instead, if any."""
    evaluated = [split for split in ("validation", "test") if split in cache.splits]
    reasons = {split: why for split in evaluated if (why := nothing_counts(cache, split)) is not None}
    for why in reasons.values():
        log.warning("%s", why)
    if not evaluated or evaluated[0] not in reasons:
        return None
    log.warning("the head is scored on %d folds of the training images instead; a group is in one fold only", FOLDS)
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
