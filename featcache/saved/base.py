"""A base in a folder: ``base.keras``, the cut network with its weights, and ``base.json``, which says what it is.

A cache has one for all of its heads, and a model's folder may carry one, so that a copy of it works on another
machine. Nothing here needs Keras: whether a folder is sound is a matter of checksums. The recipe names the base by
the digests of its architecture and weights, so the folder is never trusted: who loads the network computes them anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from featcache.errors import one_line
from featcache.files.publishing import draft_of, link_or_copy, publish_json, swap_folder
from featcache.files.reading import open_plain, read_json, trouble
from featcache.files.values import record, whole
from featcache.recipe import Recipe
from featcache.saved.cards import BASE
from featcache.saved.model_folder import card_digest, file_record

NAME = "base"
"""Name of the folder in a cache or in a model's folder."""

CARD, MODEL = "base.json", "base.keras"

FORMAT = 1


def read_card(folder: Path) -> dict[str, Any]:
    """Return what a base's folder says of itself, its checksum found right.

    Raise `ValueError`, whose message is the reason alone, or `OSError` if the reason says nothing of the file.
    """
    try:
        card: dict[str, Any] = read_json(folder / CARD)
        record({"format": whole()})(card, "")
        stated = card.pop("sha256", None)
        if card["format"] != FORMAT:
            raise ValueError(f"it has format {card['format']}, this version reads {FORMAT}")
        if stated != card_digest(card):
            raise ValueError("it does not have its checksum")
        BASE(card, "")
    except FileNotFoundError:
        raise ValueError(f"{CARD} is missing") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and trouble(error) is not None:
            raise
        raise ValueError(f"{CARD} is damaged: {one_line(error)}") from None
    return card


def problem(folder: Path, recipe: Recipe) -> str | None:
    """Return what is wrong with the base in a folder, None if it is whole and the one that a recipe names."""
    try:
        card = read_card(folder)
        for field in ("architecture", "weights"):
            if card[field] != getattr(recipe, field):
                return f"it is another base: {field} {str(card[field])[:12]}, not {getattr(recipe, field)[:12]}"
    except ValueError as error:
        return str(error)
    try:
        with open_plain(folder / MODEL, size=card["model"]["size"]) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != card["model"]["sha256"]:
                return f"{MODEL} does not have its checksum"
    except FileNotFoundError:
        return f"{MODEL} is missing"
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and trouble(error) is not None:
            raise
        return f"{MODEL} is damaged: {one_line(error)}"
    return None


def fill(folder: Path, about: Mapping[str, Any], save: Callable[[Path], Any]) -> None:
    """Make a folder, let `save` write the network into the path it is given, and write the card last."""
    folder.mkdir(parents=True)
    save(folder / MODEL)
    card = {"format": FORMAT, **about, "model": file_record(folder / MODEL)}
    publish_json(folder / CARD, {**card, "sha256": card_digest(card)})


def write(folder: Path, recipe: Recipe, about: Mapping[str, Any], save: Callable[[Path], Any]) -> None:
    """Publish a base's folder whole, in the place of one that is damaged.

    Of two processes that do so at once, one is too late and leaves the other's.
    """
    with draft_of(folder) as draft:
        fill(draft, about, save)
        try:
            swap_folder(draft, folder)
        except OSError:
            if problem(folder, recipe) is not None:
                raise


def copy(source: Path, target: Path) -> None:
    """Make `target` a copy of a base's folder; on one file system it takes no space, as nothing changes these files."""
    target.mkdir()
    for name in (MODEL, CARD):
        link_or_copy(source / name, target / name)
