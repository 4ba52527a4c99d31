"""Advice for a cache: evidence is gathered, weighed, and turned into the next command."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from featcache.cache import FeatureCache
from featcache.insight.advice.decisions import (
    LARGE,
    MATTERS,
    Advice,
    Way,
    case,
    data_way,
    similarity,
    why_not_enough,
)
from featcache.insight.advice.evidence import Depth, Evidence, LayerScore, depth, gather
from featcache.insight.commands import compare_command, extract_command, fine_tune_command, fit_head_command
from featcache.system.progress import shown

AUGMENT = "rotation=0.05,zoom=0.1,shift=0.1"
"""What hardly ever changes a class; a flip may."""
VIEWS = 4


def advise(
    cache: FeatureCache | str | os.PathLike[str],
    *,
    seed: int = 0,
    progress: bool | Callable[[int, int], None] = True,
) -> Advice:
    """Say what to do next: more data, another layer, augmentation or fine-tuning.

    Ridge heads are trained on every layer, and on 10 to 100 % of the training images of the best one, five times
    each; they are scored on validation, or on groups held out of train. Test is never looked at.

    Parameters
    ----------
    cache : FeatureCache or path
        With labels for all its images.
    seed : int
        For draws and resamples.
    progress : bool or callable
        Show a bar, or call a function with (heads trained, heads to train).

    Returns
    -------
    Advice
        A recommendation with its reasons, the next command, and what is not known.

    Raises
    ------
    OptionError
        If train has fewer than two classes.
    HeadError
        If there are no training images, or an image has no class.
    """
    cache = cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
    with shown(progress, "training heads", "heads") as show:
        evidence = gather(cache, seed=seed, progress=show)
    extrapolation = evidence.curve.extrapolated(seed=seed) if evidence.curve is not None else []
    amount = "large" if min(evidence.images_per_class.values()) >= LARGE else "small"
    base, doubt = depth(cache), why_not_enough(evidence)
    domain, why = similarity(evidence, last=not base.after(evidence.layers[-1].layer))
    if doubt:
        domain = "unknown"
    ways = (
        data_way(evidence, extrapolation, doubt),
        _layer_way(cache, base, evidence, domain),
        _augmentation_way(cache, evidence),
        _fine_tuning_way(cache, base, evidence, amount, domain, doubt),
    )
    recommendation, reasons, command = _recommended(cache, evidence, amount, domain, why, doubt, ways)
    curve = tuple(evidence.curve.points()) if evidence.curve is not None else ()
    return Advice(
        cache=str(cache.path),
        amount=amount,
        similarity=domain,
        enough=doubt is None,
        recommendation=recommendation,
        reasons=tuple(reasons),
        command=command,
        ways=ways,
        layers=tuple(_shown(one) for one in evidence.layers),
        curve=curve,
        extrapolation=tuple(extrapolation),
        held_out={"images": evidence.held_out, "from": evidence.held_out_from, "chance": evidence.chance},
        images_per_class=evidence.images_per_class,
        notes=tuple(evidence.notes),
    )


def _shown(one: LayerScore) -> dict[str, Any]:
    return {"layer": one.layer, "accuracy": one.accuracy, "accuracy_ci95": list(one.accuracy_ci95)}


def _recommended(
    cache: FeatureCache,
    evidence: Evidence,
    amount: str,
    domain: str,
    why: str,
    doubt: str | None,
    ways: tuple[Way, ...],
) -> tuple[str, list[str], str | None]:
    """Return a sentence, its reasons and a command."""
    data, layer, _, tuning = ways
    best = evidence.layers[evidence.best]
    least = min(evidence.images_per_class.values())
    reasons = [f"{least} different training images in the smallest of {len(evidence.images_per_class)} classes", why]
    if doubt:
        reasons = [doubt, *reasons[:1]]
        what = "not enough data to tell: label more images, for validation first; folds use what there is meanwhile"
        return what, reasons, fit_head_command(cache, best.layer, "logreg", cv=5)
    reasons += [case(amount, domain), data.reason]
    compare = compare_command(cache, best.layer)
    if 1 - best.accuracy_ci95[0] <= MATTERS:
        return f"done: a head on {best.layer} has less than 1 % errors", reasons, compare
    if domain == "different" and amount == "small":
        what = f"train heads on {best.layer}, an earlier layer; more data before anything else"
        return what, reasons, compare
    if layer.expected == "unknown" and domain == "unknown" and layer.command:
        return "find out which depth suits these images", [*reasons, layer.reason], layer.command
    if layer.expected == "helps" and layer.command:
        return "cut deeper", [*reasons, layer.reason], layer.command
    if amount == "large" and tuning.command:
        return "fine-tune, starting from a head", [*reasons, tuning.reason], tuning.command
    if data.expected == "helps":
        return f"collect more images; a head on {best.layer} is the model meanwhile", reasons, compare
    what = f"take a head on {best.layer}: what else could help is not shown by the data there is"
    return what, reasons, compare


def _layer_way(cache: FeatureCache, base: Depth, evidence: Evidence, domain: str) -> Way:
    """Return what a deeper or an earlier layer can be expected to bring."""
    best, deepest = evidence.layers[evidence.best], evidence.layers[-1]
    if domain == "different":
        reason = f"{best.layer} has {100 * (best.accuracy - deepest.accuracy):.1f} points more than {deepest.layer}"
        return Way("layer", "helps", reason, compare_command(cache, best.layer))
    deeper = base.after(deepest.layer)
    if best is deepest and deeper:
        expected = "helps" if _rising(evidence) else "unknown"
        trend = "accuracy rises with depth" if expected == "helps" else "what they bring is not known"
        lacking = base.lacking & set(deeper)
        without = f" ({', '.join(sorted(lacking))} need other weights than the file's)" if lacking else ""
        command = extract_command(cache, layers=deeper, **({"weights": "imagenet"} if lacking else {}))
        reason = f"the base goes on after {deepest.layer}: {', '.join(deeper)}{without}; {trend}"
        return Way("layer", expected, reason, command)
    if len(evidence.layers) == 1:
        earlier = base.before(deepest.layer)[-3:]
        command = extract_command(cache, layers=[*earlier, deepest.layer]) if earlier else None
        return Way("layer", "unknown", f"{best.layer} is the only layer here; earlier ones were not tried", command)
    if best is deepest:
        ends = "and the base ends there" if base.ends else "and whether the base goes on is not known"
        return Way("layer", "no", f"of {len(evidence.layers)} layers {best.layer} is the best, {ends}")
    return Way("layer", "no", f"{best.layer} and {deepest.layer} cannot be told apart")


def _rising(evidence: Evidence) -> bool:
    """Whether the deepest layer is better than the one before it by more than chance allows."""
    from featcache.training.significance import mcnemar

    if len(evidence.layers) < 2:
        return False
    before, last = evidence.layers[-2:]
    return last.accuracy > before.accuracy and mcnemar(before.right, last.right) <= 0.05


def _augmentation_way(cache: FeatureCache, evidence: Evidence) -> Way:
    """Return what augmented views bring, if the cache has some, or how to know."""
    best = evidence.layers[evidence.best]
    if evidence.without_views is not None:
        from featcache.training.significance import mcnemar

        gain = best.accuracy - evidence.without_views.accuracy
        p_value = mcnemar(best.right, evidence.without_views.right)
        expected = "unknown" if p_value > 0.05 else "helps" if gain > 0 else "no"
        test = f"McNemar p = {p_value:.2g}, n={evidence.held_out}"
        return Way("augmentation", expected, f"{cache.views} views bring {100 * gain:+.1f} points ({test})")
    reason = (
        "cached features do not show it before there are views; it helps most where images are few (add flip where a "
        "mirror image has the same class), and costs an extraction of each view"
    )
    return Way("augmentation", "unknown", reason, extract_command(cache, views=VIEWS, augment=AUGMENT))


def _fine_tuning_way(
    cache: FeatureCache, base: Depth, evidence: Evidence, amount: str, domain: str, doubt: str | None
) -> Way:
    """Return what fine-tuning can be expected to bring."""
    if amount == "small" or doubt:
        expected = "unknown" if doubt else "no"
        reason = (
            f"with fewer than {LARGE} images of a class it mostly learns the training images by heart (a rule of "
            "thumb, not measured here)"
        )
        return Way("fine-tuning", expected, reason)
    best = evidence.layers[evidence.best]
    earlier = base.before(best.layer)
    start = earlier[-1] if earlier and domain == "similar" else None
    reason = (
        f"{LARGE} and more images of each class make it worth a try (a rule of thumb); features of a frozen base do "
        "not show what it brings, and fine-tune keeps the head where it does not help"
    )
    return Way("fine-tuning", "unknown", reason, fine_tune_command(cache, best.layer, start))
