"""Where a base is: kept in a model's folder or a cache, found again by its digest, and whose weights it has."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.bases import Base, custom_layers, load_base
from featcache.errors import BaseError, WeightsError, one_line
from featcache.recipe import Recipe, Request
from featcache.saved import base as base_folder
from featcache.sources import digest
from featcache.system.startup import import_tensorflow
from featcache.system.versions import version

log = logging.getLogger(__name__)

_LICENCES = {  # of the originals that keras.applications ported its weights from: beginnings of names
    "CC BY 4.0": ("vgg",),
    "MIT": ("resnet", "xception", "convnext"),
    "Apache 2.0": ("inception", "mobilenet", "nasnet", "efficientnet"),
    "BSD 3-Clause": ("densenet",),
}

DRAWN = "weights: drawn at random, then trained on the classifier's own images"


@dataclass(frozen=True)
class FoundBase:
    """A base, how images reach it (files of the request may be gone), and the file it was kept in, if it was."""

    base: Base
    request: Request
    file: Path | None = None


def base_folders(folder: Path | None, card: Mapping[str, Any]) -> list[Path]:
    """Return where the base of a model may be kept: in its own folder, in the cache around it, in its cache."""
    around = [] if folder is None else [folder, *folder.absolute().parents[1:2]]
    cache = card.get("cache")
    kept = [place / base_folder.NAME for place in [*around, *([Path(cache)] if isinstance(cache, str) else [])]]
    return list(dict.fromkeys(kept))


_ADVICE = "Name its weights with --weights FILE, or its model file with --base FILE."


def find_base(recipe: Recipe, request: Request | None, folders: Sequence[Path], *, advice: str = _ADVICE) -> FoundBase:
    """Return the base that a recipe names: from the first folder that has it whole, else from its original place.

    `request` says where that was (None: a model in memory). From a folder the base has the recipe's digests; from
    elsewhere the caller compares them.
    """
    for folder in folders:
        if not (folder / base_folder.CARD).exists():
            continue
        wrong = base_folder.problem(folder, recipe)
        if wrong is None:
            try:
                base = _loaded(folder, recipe)
            except BaseError as error:
                wrong = str(error)
            else:
                file = folder / base_folder.MODEL
                return FoundBase(base, request_for(recipe, file) if request is None else request, file)
        log.warning("the base in %s is not used: %s", folder, wrong)
    searched = " or ".join(repr(str(folder)) for folder in folders)
    missing = f"The base is not available: there is no sound copy in {searched}" if folders else ""
    if request is None:
        raise BaseError(f"{missing or 'The base is not available'}, and it was a model in memory. {advice}")
    try:
        request.to_dict()  # names a file that is gone before anything is loaded
        return FoundBase(load_base(request), request)
    except BaseError as error:
        if not missing:
            raise
        raise type(error)(f"{missing}, and it cannot be loaded from where it came: {error} {advice}") from None


def keep_base(folder: Path, base: Base, recipe: Recipe, request: Request) -> None:
    """Keep a base in a folder, unless it is there whole; where that is not possible, say so and go on."""
    wrong = base_folder.problem(folder, recipe)
    if wrong is None:
        return
    if folder.exists():
        log.warning("the base in %s is made again: %s", folder, wrong)
    try:
        _check(base, folder.parent)
        base_folder.write(folder, recipe, _about(base, request), base.model.save)
    except (OSError, BaseError, ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        log.warning(
            "the cache keeps no copy of the base, so its heads need the base where it is now: %s", one_line(error)
        )


class Bundle:
    """The base of a cache, ready to be put into a model's folder; `BaseError` or `WeightsError` if it is gone."""

    def __init__(self, cache: Path, recipe: Recipe, request: Mapping[str, Any] | None) -> None:
        kept = cache / base_folder.NAME
        self._kept = kept if base_folder.problem(kept, recipe) is None else None
        if self._kept is not None:
            return
        advice = "Put it back, or leave the base out of the head's folder with --no-bundle."
        asked = None if request is None else Request.from_dict(request)
        self._found = found = find_base(recipe, asked, [kept], advice=advice)
        try:
            _check(found.base, cache)
        except BaseError as error:
            raise BaseError(f"The head's folder cannot carry its base: {error}. {advice}") from None
        for field in ("architecture", "weights"):
            if getattr(found.base, field) != getattr(recipe, field):
                raise WeightsError(
                    f"The base is not available: there is no sound copy in {str(kept)!r}, and where it came from there "
                    f"is another one now, of other {field}. {advice}"
                )

    def __call__(self, folder: Path) -> None:
        """Make the base's folder."""
        if self._kept is not None:
            base_folder.copy(self._kept, folder)
        else:
            base_folder.fill(folder, _about(self._found.base, self._found.request), self._found.base.model.save)


def licence(request: Request | None) -> str:
    """Say whose weights a base has, and what is known of their licence."""
    if request is None:
        return "licence of the weights: not known, as nothing is recorded of where the base came from"
    if request.weights is None:
        return DRAWN
    file = weights_file(request)
    if file is not None:
        return f"licence of the weights: that of {file.name}, which is yours to check"
    name = request.base_name
    stated = next((text for text, families in _LICENCES.items() if name.startswith(families)), None)
    original = f"; their originals were published under {stated}, as far as known" if stated else ""
    return (
        f"weights: ImageNet weights of keras.applications ({name}){original}; see "
        "https://keras.io/api/applications/ and the terms of ImageNet"
    )


def weights_file(request: Request) -> Path | None:
    """Return the file of the user's that a base has its weights from, None if there is none."""
    file = request.base if request.is_file and request.weights == "imagenet" else request.weights
    return None if file in (None, "imagenet") else Path(str(file))


def _about(base: Base, request: Request) -> dict[str, Any]:
    """Return what the card of a base's folder says: what it is, and where its weights are from."""
    named = None if request.in_memory else request
    file = None if named is None else weights_file(named)
    return {
        **{field: getattr(base, field) for field in ("name", "architecture", "weights", "layers", "parameters")},
        "source": {
            "application": None if named is None or named.is_file else named.base_name,
            "settings": {} if named is None else dict(named.base_params),
            "weights": "a model in memory" if named is None else "a file" if file else named.weights or "none",
            "file": None if file is None else {"name": file.name, "sha256": digest(file.read_bytes()).hex()},
            "seed": named.seed if named is not None and named.weights is None else None,
            "licence": licence(named),
        },
        "keras": version("keras"),
    }


def _check(base: Base, folder: Path) -> None:
    """Raise if a base cannot be kept: another process could not load it, or there is no room."""
    own = custom_layers(base.model)
    if own:
        raise BaseError(f"it has layers that another process cannot load: {', '.join(own)}")
    needed, free = int(4.2 * base.parameters) + 2**20, shutil.disk_usage(folder).free
    if needed > free:  # a full disk is not left to HDF5
        raise BaseError(f"it takes {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free in {str(folder)!r}")


def _loaded(folder: Path, recipe: Recipe) -> Base:
    """Return the base in a folder, its digests computed again."""
    import_tensorflow()
    import keras

    try:
        card = base_folder.read_card(folder)
        name, layers = str(card["name"]), tuple(map(str, card["layers"]))
        model = keras.models.load_model(folder / base_folder.MODEL, compile=False)
        model.trainable = False
        base = Base.of(name, model, layers, recipe.layers, recipe.preprocess)
        fits = (base.height, base.width) == recipe.image_size
        fits = fits and len(layers) == len(recipe.layers) == len(model.outputs)
    except Exception as error:  # Keras fails in many ways
        raise BaseError(f"Keras cannot load it: {one_line(error)[:200]}") from None
    if (base.architecture, base.weights) != (recipe.architecture, recipe.weights) or not fits:
        raise BaseError(
            "the loaded base is not the one that base.json describes; another version of Keras may have written it"
        )
    return base


def request_for(recipe: Recipe, base: Any) -> Request:
    """Return how images reach a base, a file or a model in memory, of which only the recipe is known."""
    fields = "layers pooling image_size resize interpolation preprocess dtype precision runtime"
    given: dict[str, Any] = {field: getattr(recipe, field) for field in fields.split()}
    crop = recipe.crop if recipe.crop < 1 else None
    return Request(base=base, fast_decode=recipe.decode == "reduced", canonical=True, crop=crop, **given)
