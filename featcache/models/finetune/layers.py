"""Which layers of a base train."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from featcache.bases import canonical_names
from featcache.errors import OptionError, nearest


@dataclass(frozen=True)
class Unfreezing:
    """Where a base begins to train; exactly one is given, see `featcache.fine_tune`.

    `from_index` counts the base's ``layers``, which begin with its input layer, as Keras does. `reinitialise` is all
    of it, from fresh weights.
    """

    from_layer: str | None = None
    from_index: int | None = None
    last: int | None = None
    all_layers: bool = False
    reinitialise: bool = False

    def __post_init__(self) -> None:
        values = {
            "`from_layer`": self.from_layer,
            "`from_index`": self.from_index,
            "`last`": self.last,
            "`all_layers`": self.all_layers or None,
            "`reinitialise`": self.reinitialise or None,
        }
        given = [name for name, value in values.items() if value is not None]
        if len(given) != 1:
            raise OptionError(
                f"Choose one of {', '.join(values)}, which say what trains beside the head. Received: "
                f"{' and '.join(given) or 'none of them'}. `dry_run` shows the layers."
            )
        for name, number, least in (("`from_index`", self.from_index, 0), ("`last`", self.last, 1)):
            if number is not None and number < least:
                raise OptionError(f"{name} must be {least} or more. Received: {number}.")


def unfreeze(network: Any, which: Unfreezing, *, numbered_anew: bool) -> None:
    """Make the layers of a base train that are asked for, and no others.

    `numbered_anew` says whether a name means the layer's canonical name first (as of applications), not the one it has
    here. It raises OptionError if there is no such layer, or no layer that could train.
    """
    if which.from_layer is not None:
        _from_name(network, which.from_layer, numbered_anew)
    else:
        count = len(network.layers)
        first = which.from_index or (0 if which.last is None else max(0, count - which.last))
        if first >= count:
            raise OptionError(
                f"`from_index` must be below {count}, the number of the base's layers. Received: {first}."
            )
        _from_index(network, first)
    if not network.trainable_variables:
        raise OptionError(
            "None of these layers has weights that could train. Begin at an earlier layer: `dry_run` shows them."
        )


def _from_index(network: Any, first: int) -> None:
    network.trainable = True
    for layer in network.layers[:first]:
        layer.trainable = False


def _from_name(network: Any, address: str, numbered_anew: bool) -> None:
    name, _, inner = address.partition("/")
    canonical = canonical_names(network)
    index = {layer.name: i for i, layer in enumerate(network.layers)}
    shown = {canonical[own]: i for own, i in index.items()}
    known = {**index, **shown} if numbered_anew else {**shown, **index}
    if name not in known:  # a base that ends inside a nested model has that model's layers for its own
        name, inner = address.rpartition("/")[2], ""
    if name not in known:
        raise OptionError(f"The base has no layer {address!r} ({nearest(name, shown if numbered_anew else index)}).")
    _from_index(network, known[name])
    if inner:
        nested = network.layers[known[name]]
        if not hasattr(nested, "layers"):
            raise OptionError(f"The base has no layer {address!r}: {name!r} contains no layers.")
        _from_name(nested, inner, numbered_anew)


def layer_table(network: Any, *, numbered_anew: bool) -> list[dict[str, Any]]:
    """Return index, name, type, parameters and whether it trains of every layer of a base."""
    canonical = canonical_names(network)
    return [
        {
            "index": index,
            "name": canonical[layer.name] if numbered_anew else layer.name,
            "type": type(layer).__name__,
            "parameters": _values(layer.weights),
            "trainable": bool(layer.trainable_variables),
        }
        for index, layer in enumerate(network.layers)
    ]


def counts(model: Any) -> tuple[int, int, int]:
    """Return how many values of a model train, how many do not, and their sum."""
    trainable, fixed = _values(model.trainable_weights), _values(model.non_trainable_weights)
    return trainable, fixed, trainable + fixed


def _values(weights: Any) -> int:
    return sum(math.prod(int(n) for n in weight.shape) for weight in weights)
