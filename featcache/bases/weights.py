"""Weights: from a file by layer name, or drawn from a seed."""

from __future__ import annotations

import contextlib
import io
import random
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.bases.cutting import leaves, snake_case
from featcache.errors import WeightsError, one_line


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make fresh weights depend on the seed alone: Keras draws each initialiser's seed from `random.randint`.

    Other threads (a dask worker's, for one) draw at the same time, and must not draw from the same numbers.
    """
    here, own, shared = threading.get_ident(), random.Random(seed), random.randint

    def randint(a: int, b: int) -> int:
        return (own.randint if threading.get_ident() == here else shared)(a, b)

    random.randint = randint
    try:
        yield
    finally:
        random.randint = shared


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


def load_weights_by_name(model: Any, path: Path, names: Mapping[str, str]) -> None:
    """Load a weights file into a network, layer by layer name, all of it or not at all.

    Parameters
    ----------
    model : keras.Model
        Changed in place, once every layer with weights has been matched.
    path : Path
        Legacy ``.h5`` (weights or whole model), ``.weights.h5`` or ``.keras``.
    names : mapping
        Canonical name of every layer of the whole network, which may reach beyond `model`.

    Raises
    ------
    WeightsError
        If the file is Theano-ordered, or if for any layer with weights it has nothing, or tensors of
        another number or shape.
    """
    layers = [layer for layer in leaves(model) if layer.weights]
    twice = sorted(name for name, n in Counter(layer.name for layer in layers).items() if n > 1)
    if twice:
        raise WeightsError(
            f"Expected layers that a file can be matched with by name. Received: a base in which {_several(twice)} "
            "occurs more than once. Load its weights with Keras and save it as one .keras file."
        )
    with _open_weights(path) as file:
        stored = _stored_weights(file, path)
        missing, odd, plan = [], [], []
        for layer in layers:
            name = _name_in_file(layer, names, stored)
            tensors = stored.get(name)
            variables = list(layer.trainable_weights) + list(layer.non_trainable_weights)
            if not tensors:
                missing.append(name)
                continue
            have, want = [tuple(t.shape) for t in tensors], [tuple(v.shape) for v in variables]
            if have != want:
                odd.append(f"{name} has {have}, expected {want}")
            plan.append((variables, tensors))
        if len(missing) == len(layers) and layers:
            raise WeightsError(
                f"Expected weights for {_several(missing)}. Received: {str(path)!r}, which has none of these "
                f"{len(layers)} layers (it has {_several(list(stored), 6)}). Is it for another base?"
            )
        if missing:
            raise WeightsError(
                f"Expected weights for all {len(layers)} layers up to the cut. Received: {str(path)!r}, which "
                f"lacks {_several(missing)}. Cut before them with --layer, or take another file."
            )
        if odd:
            raise WeightsError(
                f"Expected weights of the base's shapes. Received: {str(path)!r}, where {_several(odd, 3)}. "
                "Is it for other settings of the base (--base-set)?"
            )
        values = [[np.asarray(tensor) for tensor in tensors] for _, tensors in plan]
    for (variables, _), arrays in zip(plan, values, strict=True):
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
    settle(model)


def settle(model: Any) -> None:
    """Let layers that keep statistics (`Normalization`) use those that were just put into their weights."""
    for layer in leaves(model):
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def _name_in_file(layer: Any, names: Mapping[str, str], stored: Mapping[str, Any]) -> str:
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
            (int(m[1] or 0), name) for name in stored if stored[name] and (m := numbered.fullmatch(name))
        )
        if len(matches) == sum(1 for name in names.values() if numbered.fullmatch(name)):
            return matches[int(own[1] or 0)][1]
    return canonical if canonical in stored else str(layer.name)


def _several(names: Sequence[str], most: int = 24) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextlib.contextmanager
def _open_weights(path: Path) -> Iterator[Any]:
    import h5py

    try:
        content: Any = path
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(content, "r") as file:
            yield file
    except WeightsError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"Expected a sound Keras weights file (.h5, .weights.h5 or .keras). Received: {str(path)!r}: "
            f"{one_line(error)}"
        ) from None


def _stored_weights(file: Any, path: Path) -> dict[str, list[Any]]:
    """Return the file's tensors (still on disk) by layer name; none for a name that several layers have."""
    import h5py

    root = file.get("model_weights", file)
    backend = root.attrs.get("backend", b"")
    backend = backend.decode() if isinstance(backend, bytes) else str(backend)
    if backend == "theano" or re.search(r"(^|_)th_(kernels|dim_ordering)", path.name):
        raise WeightsError(
            f"Expected kernels in TensorFlow's order. Received: {str(path)!r}, which was written by Theano: its "
            "kernels are flipped. Take the file with 'tf_kernels' in its name."
        )
    by_place: dict[tuple[str, str], list[Any]] = {}
    layers = _text_attribute(root, "layer_names")
    for layer in layers:
        for name in _text_attribute(root[layer], "weight_names"):
            tensor = root[layer][name]
            inner = name.rpartition("/")[0].rpartition("/")[2]
            if inner and inner != layer:  # layers of a nested model lie side by side in the outer one's group
                by_place.setdefault((layer, inner), []).append(tensor)
            else:
                by_place.setdefault(("", layer), []).append(tensor)

    def visit(place: str, group: Any) -> None:
        if isinstance(group, h5py.Group) and "vars" in group and len(group["vars"]):
            name = group["vars"].attrs.get("name", group.attrs.get("name"))
            if name is not None:
                name = name.decode() if isinstance(name, bytes) else str(name)
                by_place[place, name] = [group["vars"][str(i)] for i in range(len(group["vars"]))]

    if not layers:
        file.visititems(visit)
    stored: dict[str, list[Any]] = {}
    for (_, name), tensors in by_place.items():
        stored[name] = [] if name in stored else tensors
    return stored


def _text_attribute(group: Any, name: str) -> list[str]:
    """Return a list of names that Keras may have split over ``name0``, ``name1``, …"""
    parts = [name] if name in group.attrs else []
    while f"{name}{len(parts)}" in group.attrs:
        parts.append(f"{name}{len(parts)}")
    values = [value for part in parts for value in group.attrs[part]]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
