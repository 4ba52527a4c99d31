"""The options that something was made with, from what it keeps of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featcache.cache import FeatureCache
from featcache.images.augmentation import spec
from featcache.options import BaseOptions, ExtractOptions, FineTuneOptions, FitHeadOptions, ReadingOptions, subset
from featcache.recipe import Request
from featcache.sources import SourceOptions


def extract_options(
    request: Mapping[str, Any],
    listing: Mapping[str, Any],
    source: Mapping[str, Any],
    *,
    views: int = 0,
    policy: Mapping[str, Any] | None = None,
    cache: str,
) -> ExtractOptions:
    """Return the options that a cache was extracted with.

    Parameters
    ----------
    request, listing, source : mapping
        What a cache, or the card of a head, keeps of them.
    views : int
        Augmented views of each training image.
    policy : mapping, optional
        How those were made.
    cache : str
        The cache's folder.

    Raises
    ------
    OptionError
        If these are not what this version writes.
    """
    asked = Request.from_dict(request)
    augmented = {"views": views, "augment": spec(policy), "fill": policy["fill"]} if views and policy else {}
    share = listing.get("test_from")
    return ExtractOptions(
        source.get("location") or "SOURCE",
        **_of(asked, BaseOptions),
        **_of(SourceOptions.from_dict(source.get("options", {})), ReadingOptions),
        classes=listing.get("classes"),
        validation_split=listing.get("validation_split"),
        test_split=listing.get("test_split"),
        test_from=None if share is None else (share[0], share[1]),
        seed=listing.get("seed") or asked.seed,
        **augmented,
        cache=cache,
    )


def options_of_cache(cache: FeatureCache) -> ExtractOptions | None:
    """Return the options that a cache was extracted with; None if no command makes it again."""
    request = cache.description.get("request")
    if request is None or not cache.source["location"]:
        return None
    return extract_options(
        request, cache.listing_options, cache.source, views=cache.views, policy=cache.augmentation_policy,
        cache=str(cache.path),
    )  # fmt: skip


def fit_head_options(card: Mapping[str, Any], *, cache: str, out: str) -> FitHeadOptions:
    """Return the options that a head was trained with, from its card."""
    return FitHeadOptions(
        cache,
        card.get("clf", "dense"),
        layer=card.get("layer"),
        params={name: value for name, value in (card.get("params") or {}).items() if value is not None},
        calibrate=card.get("calibration", {}).get("method") or "temperature",
        seed=card.get("seed") or 0,
        out=out,
    )


def fine_tune_options(options: Mapping[str, Any], *, head: str, out: str) -> FineTuneOptions:
    """Return the options that a model was fine-tuned with, from those on its card."""
    policy = options.get("augmentation")
    augmented = {"augment": spec(policy), "fill": policy["fill"]} if policy else {}
    known = {name: value for name, value in options.items() if name != "augmentation"}
    return FineTuneOptions(head, out=out, **known, **augmented)


def _of(options: Any, kind: type[Any]) -> dict[str, Any]:
    """Return those of some options that another list has, by name."""
    return dict(vars(subset(options, kind)))
