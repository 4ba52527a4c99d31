"""Weights: from a file by layer name, or drawn from a seed."""

from __future__ import annotations

import contextlib
import random
import re
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.bases.cutting import leaves, places, snake_case
from featcache.bases.keras_applications import application_in
from featcache.bases.weights_files import (
    StoredLayer,
    StoredWeights,
    bare_name,
    readable_config,
    stored_weights,
    values_of,
)
from featcache.errors import WeightsError, one_line

_OLD_NAMES = {  # of Keras 1 and 2
    "kernel": ("W", "depthwise_kernel"),
    "bias": ("b",),
    "moving_mean": ("running_mean",),
    "moving_variance": ("running_std",),  # holds a variance all the same
}
_NEW_NAMES = ["gamma", "beta", "mean", "variance", "count", "pointwise_kernel", "recurrent_kernel", "alpha", "scale"]
_KNOWN_NAMES = {*_OLD_NAMES}.union(_NEW_NAMES, *_OLD_NAMES.values())
_one_seed_at_a_time = threading.Lock()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make fresh weights depend on the seed alone: the seeds of Keras' initialisers are drawn from it meanwhile.

    Initialisers that other threads make draw from Python's generator, which nobody else sees replaced.
    """
    from keras.src.random import seed_generator

    here, own = threading.get_ident(), random.Random(seed)

    def randint(a: int, b: int) -> int:
        return (own if threading.get_ident() == here else random).randint(a, b)

    with _one_seed_at_a_time:
        seed_generator.python_random = SimpleNamespace(randint=randint)
        try:
            yield
        finally:
            seed_generator.python_random = random


def fresh_weights(model: Any, seed: int) -> list[npt.NDArray[Any]]:
    """Return weights for a network as its initialisers draw them from a seed.

    Layers that only scale their inputs (`Normalization`) keep the statistics that they have.
    """
    import keras

    with seeded(seed):
        fresh = keras.models.clone_model(model)
    for ours, theirs in zip(leaves(fresh), leaves(model), strict=True):
        if isinstance(theirs, keras.layers.Normalization):
            ours.set_weights(theirs.get_weights())
    weights: list[npt.NDArray[Any]] = fresh.get_weights()
    return weights


def load_weights_by_name(model: Any, path: Path, names: Mapping[str, str], whole: Any) -> None:
    """Load a weights file into a network, layer by layer name, all of it or not at all: then it is a `WeightsError`.

    `names` has the canonical name of every layer of the `whole` network, which may reach beyond `model`.
    """
    layers = [layer for layer in leaves(model) if layer.weights]
    twice = sorted(name for name, n in Counter(layer.name for layer in layers).items() if n > 1)
    if twice:
        raise WeightsError(
            f"Weights cannot be loaded by name: {_several(twice)} occurs more than once in the base. "
            "Load its weights with Keras and save it as one .keras file."
        )
    with stored_weights(path) as stored:
        found = _names_in_file(layers, stored, names, whole, path)
        if not (stored.by_place or set(found).isdisjoint(stored.layers)):
            every = list(leaves(whole))
            in_file = {_name_in_file(layer, names, stored.layers) for layer in every if layer.weights}
            _check_no_sibling(in_file, {type(layer).__name__ for layer in every}, whole.name, stored, path)
        plan = _planned(layers, found, stored, path)
        values = [(variable, values_of(tensor, path)) for variable, tensor in plan]
    for variable, value in values:
        if variable.name in ("moving_variance", "variance") and np.any(value < 0):
            raise WeightsError(
                f"{str(path)!r} has negative values for {variable.path}: its tensors are in another order than Keras' "
                "own. Load it with the program that wrote it, and save the model with Keras."
            )
    for variable, value in values:
        variable.assign(value)
    settle(model)


def normalization_statistics(layer: Any, path: Path, names: Mapping[str, str], whole: Any) -> list[npt.NDArray[Any]]:
    """Return mean and variance that a file has for a Normalization layer; an empty list where it has none."""
    with stored_weights(path) as stored:
        (name,) = _names_in_file([layer], stored, names, whole, path)
        found = stored.layers.get(name)
        tensors = None if found is None else _in_order(_bare_names(layer, layer.weights), found)
        return [values_of(tensor, path) for tensor in (tensors or [])[:2]]


def differing(layers: Iterable[Any], path: Path) -> list[str]:
    """Return the names of layers whose values are others than those a legacy file has under their tensors' names."""
    wrong = []
    with stored_weights(path) as stored:
        for layer in layers:
            found = stored.layers.get(layer.name)
            variables = _variables(layer)
            if not (variables and found and found.tensors):
                continue
            tensors = _in_order(_bare_names(layer, variables), found)
            pairs = zip(variables, tensors or [], strict=tensors is not None)
            if not all(
                np.array_equal(v.numpy(), values_of(t, path).astype(v.numpy().dtype), equal_nan=True) for v, t in pairs
            ):
                wrong.append(str(layer.name))
    return wrong


def _planned(layers: Sequence[Any], names: Sequence[str], stored: StoredWeights, path: Path) -> list[tuple[Any, Any]]:
    """Return each variable of a network with its tensor in the file."""
    missing: list[str] = []
    odd: list[str] = []
    plan: list[tuple[Any, Any]] = []
    for layer, name in zip(layers, names, strict=True):
        found = stored.layers.get(name)
        if found is None or not found.tensors:
            missing.append(name)
            continue
        variables = _variables(layer)
        expected = _bare_names(layer, variables)
        tensors = _in_order(expected, found)
        have = [tuple(t.shape) for t in (tensors or found.tensors)]
        want = [tuple(v.shape) for v in variables]
        if have != want:
            odd.append(f"{name} has {have}, expected {want}")
        elif tensors is None:
            odd.append(f"{name} has {', '.join(found.names)}, expected {', '.join(expected)}")
        else:
            plan += zip(variables, tensors, strict=True)
    if len(missing) == len(layers) and layers:
        raise WeightsError(
            f"{str(path)!r} has no weights for {_several(missing)}, nor for any other of the base's "
            f"{len(layers)} layers (it has {_several(list(stored.layers), 6)}). Is it for another base? If Keras can "
            "load it into this one, save it again from there (model.save('model.keras')): its layers have other names."
        )
    if missing:
        raise WeightsError(
            f"{str(path)!r} has no weights for {_several(missing)}, of the {len(layers)} layers up to the "
            "cut. Cut at an earlier layer (`layers`), or use another file."
        )
    if odd:
        raise WeightsError(
            f"The weights in {str(path)!r} do not fit the base: {_several(odd, 3)}. "
            "They may be for other settings of the base (`base_params`)."
        )
    return plan


def _variables(layer: Any) -> list[Any]:
    """Return a layer's variables in the order in which Keras has always saved them."""
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def _bare_names(layer: Any, variables: Iterable[Any]) -> list[str]:
    return [bare_name(variable.path, layer.name) for variable in variables]


def _in_order(expected: Sequence[str], found: StoredLayer) -> list[Any] | None:
    """Return a layer's tensors in the order of its variables: by name, else as they lie.

    None where the names contradict, or where they say nothing and shapes cannot tell the tensors apart either.
    """
    if len(expected) != len(found.tensors):
        return None
    if not any(found.names):
        return found.tensors  # Keras 3 numbers them, in the order of the variables
    by_name = dict(zip(found.names, found.tensors, strict=True))
    spelled = [[old for old in (name, *_OLD_NAMES.get(name, ())) if old in by_name] for name in expected]
    if all(len(names) == 1 for names in spelled) and len({names[0] for names in spelled}) == len(found.tensors):
        return [by_name[names[0]] for names in spelled]
    shapes = {tuple(tensor.shape) for tensor in found.tensors}
    if _KNOWN_NAMES.isdisjoint(found.names) and len(shapes) == len(found.tensors):
        return found.tensors
    return None


def _names_in_file(
    layers: Sequence[Any], stored: StoredWeights, names: Mapping[str, str], whole: Any, path: Path
) -> list[str]:
    """Return the names under which a file has layers."""
    if not stored.by_place:
        return [_name_in_file(layer, names, stored.layers) for layer in layers]
    place = places(whole)
    here = Counter(_kind(place[layer.name]) for layer in leaves(whole) if layer.weights)
    there = Counter(map(_kind, stored.layers))
    for kind in sorted({_kind(place[layer.name]) for layer in layers}):
        if there[kind] not in (here[kind], 0):
            raise WeightsError(
                f"{str(path)!r} was written by an early Keras 3, which did not store the names of layers. It has "
                f"{there[kind]} {kind.rpartition('/')[2]} layers and the base has {here[kind]}, so they cannot be "
                "matched. Build the base as it was (--base-set include_top=true), or save the weights with Keras 3.5."
            )
    return [place[layer.name] for layer in layers]


def _kind(place: str) -> str:
    return re.sub(r"_\d+$", "", place)


def settle(model: Any) -> None:
    """Let layers that keep statistics (`Normalization`) use those that were just put into their weights."""
    for layer in leaves(model):
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def _name_in_file(layer: Any, names: Mapping[str, str], stored: Mapping[str, StoredLayer]) -> str:
    """Return the name under which a file has a layer.

    Automatic numbers depend on what else the writing process had built (and started at 1 in Keras 2):
    where the file has as many of a kind as the network, they are matched in order.
    """
    kind = snake_case(type(layer).__name__)
    numbered = re.compile(rf"{re.escape(kind)}(?:_(\d+))?")
    canonical = names.get(layer.name, layer.name)
    own = numbered.fullmatch(canonical)
    if own and numbered.fullmatch(layer.name):
        matches: list[tuple[int, str]] = sorted(
            (int(m[1] or 0), name) for name in stored if stored[name].tensors and (m := numbered.fullmatch(name))
        )
        if len(matches) == sum(1 for name in names.values() if numbered.fullmatch(name)):
            return matches[int(own[1] or 0)][1]
    return canonical if canonical in stored else str(layer.name)


def _several(names: Sequence[str], most: int = 24) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return " ".join(", ".join(names[:most]).split()) + more


def _check_no_sibling(
    names: Collection[str], kinds: Collection[str], base: str, stored: StoredWeights, path: Path
) -> None:
    """Raise `WeightsError` if a file has layers that belong to a base and that the base lacks.

    These are layers that come before one of the base's in the same model and, for Keras' applications, layers whose
    names continue a row of the base's: `block3_conv4`, where the base ends block 3 with `block3_conv3`. A top, and
    layers that somebody added behind the base, are none.
    """
    last: dict[str, int] = {}
    for name, layer in stored.layers.items():
        if name in names and layer.tensors:
            last[layer.group] = max(layer.rank, last.get(layer.group, -1))
    rows = {row for name in names if (row := _row(name))} if application_in(base) else set()
    automatic = {snake_case(kind) for kind in kinds}

    def is_surplus(name: str) -> bool:
        layer = stored.layers[name]
        if not layer.tensors or name in names or _kind(name) in automatic:
            return False
        return layer.rank < last.get(layer.group, -1) or _row(name) in rows

    in_order = sorted(stored.layers, key=lambda name: (stored.layers[name].group, stored.layers[name].rank))
    surplus = list(filter(is_surplus, in_order))
    if surplus:
        shown = one_line(", ".join(surplus[:3])) + (f" and {len(surplus) - 3} more" if len(surplus) > 3 else "")
        raise WeightsError(
            f"{str(path)!r} has layers that the base {base!r} lacks: {shown}. {_whose(stored, base, path)}"
        )


def _row(name: str) -> tuple[str, str] | None:
    """Return what the names of one block's layers have in common: their text, and the block's number."""
    numbers = re.findall(r"\d+", name)
    return (re.sub(r"\d+", "#", name), numbers[0]) if len(numbers) > 1 else None


def _whose(stored: StoredWeights, base: str, path: Path) -> str:
    """Return which base a file may be for, and what to do."""
    named = re.findall(r'"name": "([^"]*)"', readable_config(path) or "")
    for name in [*named, *(layer.group for layer in stored.layers.values())]:
        application = application_in(name)
        if application not in (None, application_in(base)):
            return f"The model in it is called {one_line(name)!r}: use --base {str(application).lower()}."
    return "It may be for another base: name that one with --base, or take another file."
