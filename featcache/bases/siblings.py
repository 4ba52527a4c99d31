"""Weights files of a sibling network, such as VGG19's for VGG16: they hold every layer of the base, and more."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from featcache.bases.cutting import snake_case
from featcache.bases.keras_applications import application_in
from featcache.bases.weights_files import StoredWeights, readable_config
from featcache.errors import WeightsError, one_line


def check_no_sibling(
    names: Collection[str], kinds: Collection[str], base: str, stored: StoredWeights, path: Path
) -> None:
    """Raise `WeightsError` if a file has layers that belong to a base and that the base lacks.

    These are layers that come before one of the base's in the same model and, for Keras' applications, layers whose
    names continue a row of the base's: `block3_conv4`, where the base ends block 3 with `block3_conv3`. A top, and
    layers that somebody added behind the base, are none.

    Parameters
    ----------
    names : collection of str
        The whole base's layers with weights, as the file calls them.
    kinds : collection of str
        Class names of the base's layers: `conv2d_7` says nothing about what a layer is.
    base : str
        Name of the base's network.
    stored : StoredWeights
    path : Path
    """
    own = {name: layer for name, layer in stored.layers.items() if name in names and layer.tensors}
    last: dict[str, int] = {}
    for layer in own.values():
        last[layer.group] = max(layer.rank, last.get(layer.group, -1))
    rows = {row for name in names if (row := _row(name))} if application_in(base) else set()
    automatic = {snake_case(kind) for kind in kinds}
    surplus = [
        name
        for name, layer in sorted(stored.layers.items(), key=lambda found: (found[1].group, found[1].rank))
        if layer.tensors and name not in names and re.sub(r"_\d+$", "", name) not in automatic
        if layer.rank < last.get(layer.group, -1) or _row(name) in rows
    ]  # fmt: skip
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
