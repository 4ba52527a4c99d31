"""Layers of a network: addresses, canonical names, and a network called layer by layer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from featcache.errors import BaseError, nearest, one_line


def is_graph(layer: Any) -> bool:
    """Whether a layer is a model whose layers can be called one by one."""
    import keras

    functional = isinstance(layer, keras.Model) and hasattr(layer, "operations")
    return functional or isinstance(layer, keras.Sequential)


class Call(NamedTuple):
    """What calling one layer of a network gave: `output` is None where that has no one meaning."""

    layer: Any
    output: Any


def traced(model: Any, wanted: Sequence[str] | None, shape: tuple[int, ...]) -> tuple[Any, dict[str, Call]]:
    """Call a network's layers anew on a fresh input and note every output under its address.

    A nested model is opened only where a wanted address leads into it (None: everywhere), because the
    tensors of its own graph are not those it has inside the outer one.
    """
    import keras

    pixels = keras.Input(shape, name="pixels")
    calls: dict[str, Call] = {}

    def run(graph: Any, tensor: Any, prefix: str) -> Any:
        outputs: dict[str, Any] = {}

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            address = prefix + layer.name
            opened = is_graph(layer) and (wanted is None or any(name.startswith(address + "/") for name in wanted))
            output = run(layer, args[0], address + "/") if opened else layer(*args, **kwargs)
            once = address not in calls and hasattr(output, "shape")
            calls[address] = Call(layer, output if once else None)
            outputs[layer.name] = output
            return output

        for layer in graph.layers:
            if isinstance(layer, keras.layers.InputLayer):
                calls[prefix + layer.name] = Call(layer, tensor)
                outputs[layer.name] = tensor
        if isinstance(graph, keras.Sequential):
            name = graph.inputs[0].name  # it keeps its InputLayer to itself
            calls[prefix + name] = Call(keras.layers.InputLayer(shape=tensor.shape[1:], name=name), tensor)
            for layer in graph.layers:
                tensor = call(layer, tensor)
            return tensor
        # Only its calls matter: the model that cloning returns may be rewired to inputs of its own.
        keras.models.clone_model(graph, input_tensors=tensor, clone_function=lambda layer: layer, call_function=call)
        results = [outputs[name] for name in graph.output_names]
        return results if len(results) > 1 else results[0]

    try:
        run(model, pixels, "")
    except Exception as error:
        raise BaseError(f"The base {model.name!r} cannot take images of {shape}: {one_line(error)}") from None
    return pixels, calls


def canonical_addresses(calls: Mapping[str, Call]) -> dict[str, str]:
    """Return each address with automatic numbers counted from the network's own start."""
    siblings: dict[tuple[str, str], list[tuple[int, str]]] = {}
    own: dict[str, str] = {}
    for address, called in calls.items():
        prefix, _, name = address.rpartition("/")
        kind = snake_case(type(called.layer).__name__)
        number = re.fullmatch(rf"{re.escape(kind)}(?:_(\d+))?", name)
        own[address] = name
        if number:
            siblings.setdefault((prefix, kind), []).append((int(number[1] or 0), address))
    for (_, kind), numbered in siblings.items():
        for rank, (_, address) in enumerate(sorted(numbered)):
            own[address] = f"{kind}_{rank}" if rank else kind

    def full(address: str) -> str:
        prefix = address.rpartition("/")[0]
        return f"{full(prefix)}/{own[address]}" if prefix else own[address]

    return {address: full(address) for address in calls}


def canonical_names(model: Any) -> dict[str, str]:
    """Return each layer of a network by name, with automatic numbers counted from its own start."""
    return canonical_addresses({layer.name: Call(layer, None) for layer in model.layers})


def places(model: Any, prefix: str = "") -> dict[str, str]:
    """Return the group in which Keras 3 saves each layer of a network: named by class and rank in that class."""
    found: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for layer in model.layers:
        kind = snake_case(type(layer).__name__)
        place = f"{prefix}layers/{kind}_{counts[kind]}" if counts[kind] else f"{prefix}layers/{kind}"
        counts[kind] += 1
        found[layer.name] = place
        if is_graph(layer):
            found |= places(layer, f"{place}/")
    return found


def snake_case(name: str) -> str:
    """Return a class name as Keras writes it in automatic layer names."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def resolve(
    wanted: Sequence[str],
    calls: Mapping[str, Call],
    shown: Mapping[str, str],
    canonical: Mapping[str, str],
    *,
    by_canonical_name: bool,
) -> list[str]:
    """Return the addresses that names mean, in the network's order, once each."""
    by_name = {name: address for address, name in canonical.items()}
    if not by_canonical_name:
        by_name |= {address: address for address in calls}
        by_name |= {name: address for address, name in shown.items()}
    chosen = set()
    for name in wanted or [shown[list(calls)[-1]]]:
        if name not in by_name:
            raise BaseError(f"The base has no layer {name!r} ({nearest(name, shown.values())}).")
        if calls[by_name[name]].output is None:
            raise BaseError(
                f"The layer {name!r} is used more than once, so it has no single output. Choose another layer."
            )
        chosen.add(by_name[name])
    return [address for address in calls if address in chosen]


def leaves(model: Any) -> Iterator[Any]:
    """Yield every layer of a network that is not itself a network."""
    for layer in model.layers:
        if is_graph(layer):
            yield from leaves(layer)
        else:
            yield layer


def custom_layers(model: Any) -> list[str]:
    """Return the kinds of a network's layers that are not Keras' own, or that safe mode refuses."""
    kinds = {type(layer) for layer in leaves(model)}
    return sorted(
        {kind.__name__ for kind in kinds if not kind.__module__.startswith("keras.") or kind.__name__ == "Lambda"}
    )
