"""Command lines that can be pasted: how a cache was made, and what to run next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from featcache.cache import FeatureCache
from featcache.errors import FeatcacheError
from featcache.insight.provenance import options_of_cache
from featcache.options import CompareOptions, FineTuneOptions, FitHeadOptions, command_line
from featcache.recipe import Request


def fit_head_command(cache: FeatureCache, layer: str, clf: str, **more: Any) -> str:
    """Return the command that trains a head, with more of its options."""
    return command_line("fit-head", FitHeadOptions(str(cache.path), clf, layer=layer, **more))


def compare_command(cache: FeatureCache, layer: str | None) -> str:
    """Return the command that tunes and compares all heads, of one layer or of all."""
    return command_line("compare", CompareOptions(str(cache.path), tune=True, layers=[layer] if layer else None))


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


@dataclass(frozen=True)
class Depth:
    """Where a base can be cut or opened: one layer where each resolution ends.

    Attributes
    ----------
    ends : tuple of str
        In the network's order; empty where the base is not known.
    order : dict
        Place of every layer.
    lacking : frozenset of str
        Those of `ends` whose weights are not in the weights file.
    """

    ends: tuple[str, ...] = ()
    order: Mapping[str, int] = field(default_factory=dict)
    lacking: frozenset[str] = frozenset()

    def before(self, layer: str) -> list[str]:
        """Return the ends of resolutions before a layer."""
        place = self.order.get(layer, -1)
        return [end for end in self.ends if self.order[end] < place]

    def after(self, layer: str) -> list[str]:
        """Return the ends of resolutions after a layer."""
        place = self.order.get(layer, len(self.order))
        return [end for end in self.ends if self.order[end] > place]


def depth(cache: FeatureCache) -> Depth:
    """Return where a cache's base can be cut; nothing where it is not known any more."""
    described = cache.description.get("request")
    if described is None:
        return Depth()
    from featcache.bases import list_layers

    try:
        request = Request.from_dict(described)
        layers = list_layers(request)
    except FeatcacheError:
        return Depth()
    there, complete = _weighted(request), True
    ends, lacking = [], set()
    last = ""
    for one, following in zip(layers, [*layers[1:], None], strict=True):
        complete = complete and (there is None or not one.weight_shapes or one.address in there)
        if len(one.output_shape) != 3:
            continue
        last = last if "Padding" in one.type else one.address
        after = following.output_shape[0] if following is not None and len(following.output_shape) == 3 else None
        if last and (after is None or (one.output_shape[0] or 0) > 1.5 * (after or 0)):
            ends.append(last)
            lacking |= set() if complete else {last}
    order = {layer.address: place for place, layer in enumerate(layers)}
    return Depth(tuple(dict.fromkeys(ends)), order, frozenset(lacking))


def _weighted(request: Request) -> set[str] | None:
    """Return the layers whose weights are in the request's weights file, None if it names no readable one."""
    if request.weights in (None, "imagenet", "none"):
        return None
    import h5py

    try:
        with h5py.File(request.weights) as file:
            part = file.get("model_weights", file)
            names = [name.decode() if isinstance(name, bytes) else str(name) for name in part.attrs["layer_names"]]
            return {name for name in names if len(part[name].attrs.get("weight_names", ()))}
    except (OSError, KeyError, ValueError):
        return None


def fine_tune_command(cache: FeatureCache, layer: str, start: str | None) -> str | None:
    """Return the commands that train a head and fine-tune from it, from a layer on or all; None for other features."""
    if cache.description.get("request") is None:
        return None
    head = str(cache.path / "heads" / f"advised-{layer.replace('/', '-')}")
    tuning = FineTuneOptions(head, from_layer=start, all_layers=start is None)
    return f"{fit_head_command(cache, layer, 'logreg', out=head)} && {command_line('fine-tune', tuning)}"
