"""Command lines that can be pasted: how something was made, from what it keeps of that, and what to run next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from featcache.cache import FeatureCache
from featcache.images.augmentation import spec
from featcache.options import (
    BaseOptions,
    CompareOptions,
    ExtractOptions,
    FineTuneOptions,
    FitHeadOptions,
    ReadingOptions,
    command_line,
    subset,
)
from featcache.recipe import Request
from featcache.sources import SourceOptions

if TYPE_CHECKING:
    from featcache.insight.report.subject import Subject


def extract_options(
    request: Mapping[str, Any],
    listing: Mapping[str, Any],
    source: Mapping[str, Any],
    *,
    views: int = 0,
    policy: Mapping[str, Any] | None = None,
    cache: str,
) -> ExtractOptions:
    """Return the options of an extraction from what a cache, or the card of a head, keeps of them.

    `policy` is how the augmented views were made, `cache` the cache's folder. OptionError if this version does not
    write such a request.
    """
    asked = Request.from_dict(request)
    share = listing.get("test_from")
    return ExtractOptions(
        source.get("location") or "SOURCE",
        **vars(subset(asked, BaseOptions)),
        **vars(subset(SourceOptions.from_dict(source.get("options", {})), ReadingOptions)),
        classes=listing.get("classes"),
        validation_split=listing.get("validation_split"),
        test_split=listing.get("test_split"),
        test_from=None if share is None else (share[0], share[1]),
        seed=listing.get("seed") or asked.seed,
        **({"views": views, **_augmented(policy)} if views and policy else {}),
        cache=cache,
    )


def _augmented(policy: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"augment": spec(policy), "fill": policy["fill"]} if policy else {}


def options_of_cache(cache: FeatureCache) -> ExtractOptions | None:
    """Return the options that a cache was extracted with; None if no command makes it again."""
    request = cache.description.get("request")
    if request is None or not cache.source["location"]:
        return None
    made: dict[str, Any] = {"views": cache.views, "policy": cache.augmentation_policy, "cache": str(cache.path)}
    return extract_options(request, cache.listing_options, cache.source, **made)


def extract_command(cache: FeatureCache, *, layers: Sequence[str] | None = None, **more: Any) -> str | None:
    """Return the command that extracts a cache again, with more of its options; or one of other layers beside it.

    None if nobody knows how it was made.
    """
    options = options_of_cache(cache)
    if options is None:
        return None
    if layers is not None:
        more |= {"layers": layers, "cache": f"{cache.path}-layers"}
    return command_line("extract", replace(options, **more))


def fit_head_command(cache: FeatureCache, layer: str, clf: str, **more: Any) -> str:
    """Return the command that trains a head, with more of its options."""
    return command_line("fit-head", FitHeadOptions(str(cache.path), clf, layer=layer, **more))


def compare_command(cache: FeatureCache, layer: str) -> str:
    """Return the command that tunes and compares all heads of one layer."""
    return command_line("compare", CompareOptions(str(cache.path), tune=True, layers=[layer]))


def fine_tune_command(cache: FeatureCache, layer: str, start: str | None) -> str | None:
    """Return the commands that train a head and fine-tune from it, from a layer on or all; None for other features."""
    if cache.description.get("request") is None:
        return None
    head = str(cache.path / "heads" / f"advised-{layer.replace('/', '-')}")
    tuning = FineTuneOptions(head, from_layer=start, all_layers=start is None)
    return f"{fit_head_command(cache, layer, 'logreg', out=head)} && {command_line('fine-tune', tuning)}"


def commands(subject: Subject, *, audited: bool = False) -> list[str]:
    """Return the commands that make again what a report is about, comments where none does."""
    lines, card, folder = _extracted(subject), subject.card, _folder(subject)
    if subject.clf == "fine-tuned" and card:
        head = card.get("head") or {}
        place = head.get("path") or "HEAD"
        options = dict(card.get("options", {}))
        tuning = FineTuneOptions(
            place, out=str(subject.path), **_augmented(options.pop("augmentation", None)), **options
        )
        lines += [_fitted(head, folder, place), command_line("fine-tune", tuning)]
    elif subject.model is not None:
        lines.append(_fitted(card | {"clf": subject.clf}, folder, str(subject.model.path)))
    if subject.is_cache:
        lines.append(shlex.join(["featcache", "compare", folder]))
    if subject.model is not None:
        lines.append(shlex.join(["featcache", "evaluate", str(subject.model.path)]))
    return [*lines, shlex.join(["featcache", "report", str(subject.path), *(["--audit"] if audited else [])])]


def after_audit(subject: Subject, layer: str, *, files: bool) -> list[str]:
    """Return what to do about the findings of an audit of a layer's features, with comments.

    `files`: whether images are files, of which a cleaned source can be made.
    """
    cache = subject.cache
    assert cache is not None
    chosen = ["--layer", layer] if layer != cache.layer_name(None) else []
    audit = ["featcache", "audit", str(cache.path)]
    lines = ["# All findings as a table:", shlex.join([*audit, *chosen, "--out", "findings.csv"])]
    if not files:
        return [*lines, "# A source without what you drop can be made of folders and tables, where they lie."]
    lines += [
        "# Write drop into its column action, or relabel and the class into new_label, save it as drop.csv, then:",
        shlex.join([*audit, "--apply", "drop.csv", "--out", "cleaned.csv"]),
    ]
    if subject.request is not None:
        lines += ["# No feature is computed again:", *_extracted(subject, "cleaned.csv")]
    return lines


def _extracted(subject: Subject, cleaned: str | None = None) -> list[str]:
    """Return how the cache was made; or is made of a table instead, which has the splits already."""
    if subject.recipe is not None and subject.recipe.spec is not None:
        return ["# The features came from elsewhere: FeatureCache.from_arrays(…)"]
    if subject.request is None:
        return ["# The base was a model in memory: featcache.extract(source, base=model, …)"]
    cache = subject.cache
    views: dict[str, Any] = {} if cache is None else {"views": cache.views, "policy": cache.augmentation_policy}
    options = extract_options(subject.request, subject.listing, subject.source, **views, cache=_folder(subject))
    if cleaned is not None:
        splits: dict[str, Any] = dict.fromkeys(("validation_split", "test_split", "test_from"))
        options = replace(options, source=cleaned, **vars(ReadingOptions()), **splits)
    return [command_line("extract", options)]


def _fitted(card: Mapping[str, Any], cache: str, out: str) -> str:
    """Return the command that trained a head, from its card."""
    options = FitHeadOptions(
        cache,
        card.get("clf", "dense"),
        layer=card.get("layer"),
        params={name: value for name, value in (card.get("params") or {}).items() if value is not None},
        calibrate=card.get("calibration", {}).get("method") or "temperature",
        seed=card.get("seed") or 0,
        out=out,
    )
    return command_line("fit-head", options)


def _folder(subject: Subject) -> str:
    return str(subject.card.get("cache", "CACHE") if subject.cache is None else subject.cache.path)
