"""What a cache says of itself in ``recipe.json``: recipe, fingerprint, request and versions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from featcache.errors import CacheDamagedError, CacheError, mending, one_line
from featcache.files.reading import read_json, trouble
from featcache.files.values import mapping_of, maybe, record, sha256, text, whole
from featcache.recipe import FORMAT_VERSION, RECIPE, Recipe, request_kind

_DESCRIPTION = record(
    {"recipe": RECIPE},
    {
        "format": whole(),
        "fingerprint": sha256,
        "request": maybe(request_kind),
        "written": text,
        "versions": mapping_of(text),
    },
)

_ASKED = frozenset({"pooling", "resize", "interpolation", "dtype", "precision", "runtime", "decode"})
"""What a recipe takes from the request as it is."""


def read_description(folder: Path) -> dict[str, Any]:
    """Return what ``recipe.json`` of a cache says: recipe, fingerprint, request, versions."""
    path = folder / "recipe.json"
    try:
        value: dict[str, Any] = read_json(path)
        _DESCRIPTION(value, "")
        asked, recipe = value.get("request") or {}, value["recipe"]
        for name in _ASKED & asked.keys() & recipe.keys():
            if asked[name] != recipe[name]:
                raise ValueError(f"request.{name} is {asked[name]!r}, and recipe.{name} is {recipe[name]!r}")
    except FileNotFoundError:
        raise CacheError(
            f"There is no cache in {str(folder)!r}: it has no recipe.json. Run `featcache extract` first."
        ) from None
    except (OSError, ValueError) as error:
        if (reason := trouble(error)) is not None:
            raise CacheError(f"The recipe {str(path)!r} cannot be read: {reason}") from None
        raise CacheDamagedError(
            f"The recipe {str(path)!r} is damaged: {one_line(error)}. Run {mending(folder)}."
        ) from None
    return value


def check_recipe(path: Path, theirs: Recipe, recipe: Recipe, *, asked: tuple[Any, Any] = (None, None)) -> None:
    """Raise `CacheError`, naming what differs, if a cache has another recipe; `asked` has the requests of both."""
    if theirs != recipe:
        differences = "; ".join(theirs.differences(recipe, *asked))
        raise CacheError(f"The cache {str(path)!r} has another recipe: {differences}. Choose another `cache`.")


def describe(recipe: Recipe, request: Mapping[str, Any] | None, versions: Mapping[str, str]) -> dict[str, Any]:
    """Return what ``recipe.json`` says."""
    return {
        "format": FORMAT_VERSION,
        "fingerprint": recipe.fingerprint,
        "recipe": recipe.to_dict(),
        "request": request,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": dict(versions),
    }
