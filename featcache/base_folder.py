"""A base in a folder: ``base.keras``, the cut network with its weights, and ``base.json``, which says what it is.

A cache has one for all of its heads, and a model's folder may carry one, so that a copy of it works on another
machine. Nothing here needs Keras: whether a folder is sound is a matter of checksums. The recipe names the base by
the digests of its architecture and weights, so the folder is never trusted: who loads the network computes them anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from featcache.files import TEMPORARY, link_or_copy, publish_json, swap_folder
from featcache.recipe import Recipe
from featcache.signed import card_digest

NAME = "base"
"""Name of the folder in a cache or in a model's folder."""

CARD, MODEL = "base.json", "base.keras"

FORMAT = 1


def read_card(folder: Path) -> dict[str, Any]:
    """Return what a base's folder says of itself, its checksum found right.

    Raises
    ------
    ValueError
        If it is missing or damaged, or has another format; the message is the reason alone.
    """
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text())
        stated = card.pop("sha256", None)
        if card.get("format") != FORMAT:
            raise ValueError(f"{CARD} has format {card.get('format')!r}, this version reads {FORMAT}")
        if stated != card_digest(card):
            raise ValueError(f"{CARD} does not have its checksum")
    except FileNotFoundError:
        raise ValueError(f"{CARD} is missing") from None
    except (OSError, TypeError, AttributeError, RecursionError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{CARD} cannot be read: {' '.join(str(error).split())[:200]}") from None
    return card


def problem(folder: Path, recipe: Recipe) -> str | None:
    """Return what is wrong with the base in a folder, None if it is whole and the one that a recipe names."""
    try:
        card = read_card(folder)
        for field in ("architecture", "weights"):
            if card[field] != getattr(recipe, field):
                return f"it is another base: {field} {str(card[field])[:12]}, not {getattr(recipe, field)[:12]}"
        stated, size = card["model"], (folder / MODEL).stat().st_size
        if size != stated["size"]:
            return f"{MODEL} has {size} bytes, not {stated['size']}"
        if _sha256(folder / MODEL) != stated["sha256"]:
            return f"{MODEL} does not have its checksum"
    except FileNotFoundError:
        return f"{MODEL} is missing"
    except OSError as error:
        return f"{MODEL} cannot be read: {error.strerror or error}"
    except (KeyError, TypeError) as error:
        return f"{CARD} is damaged: {error}"
    except ValueError as error:
        return str(error)
    return None


def fill(folder: Path, about: Mapping[str, Any], save: Callable[[Path], Any]) -> None:
    """Make a folder, let `save` write the network into the path it is given, and write the card last."""
    folder.mkdir(parents=True)
    save(folder / MODEL)
    with (folder / MODEL).open("rb") as file:
        os.fsync(file.fileno())
    model = {"file": MODEL, "size": (folder / MODEL).stat().st_size, "sha256": _sha256(folder / MODEL)}
    card = {"format": FORMAT, **about, "model": model}
    publish_json(folder / CARD, {**card, "sha256": card_digest(card)})


def write(folder: Path, recipe: Recipe, about: Mapping[str, Any], save: Callable[[Path], Any]) -> None:
    """Publish a base's folder whole, in the place of one that is damaged.

    Of two processes that do so at once, one is too late and leaves the other's.

    Raises
    ------
    OSError
        If it cannot be written; what was there stays.
    """
    draft = folder.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        fill(draft, about, save)
        try:
            swap_folder(draft, folder)
        except OSError:
            if problem(folder, recipe) is not None:
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def copy(source: Path, target: Path) -> None:
    """Make `target` a copy of a base's folder; on one file system it takes no space, as nothing changes these files."""
    target.mkdir()
    for name in (MODEL, CARD):
        link_or_copy(source / name, target / name)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
