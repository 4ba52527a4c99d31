"""The caches in a folder, and what tells them apart."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from featcache.cache.reader import FeatureCache
from featcache.errors import CacheError, FeatcacheError

log = logging.getLogger(__name__)


def list_caches(folder: str | os.PathLike[str] = "cache") -> list[FeatureCache]:
    """Open the caches in a folder, by name; what cannot be opened is said in a warning and left out.

    Parameters
    ----------
    folder : path
        Where they are; a cache itself is also possible.

    Returns
    -------
    list of FeatureCache

    Raises
    ------
    CacheError
        If there is no such folder, or no cache in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise CacheError(f"There is no folder {str(root)!r}. Name the one that has the caches.")
    caches = []
    for path in sorted({described.parent for described in [*root.glob("recipe.json"), *root.glob("*/recipe.json")]}):
        try:
            caches.append(FeatureCache(path))
        except FeatcacheError as error:
            log.warning("%s", error)
    if not caches:
        raise CacheError(f"There is no cache in {str(root)!r}. Run `featcache extract` first, or name another folder.")
    return caches


def differing(caches: Sequence[FeatureCache]) -> list[dict[str, str]]:
    """Return for each cache its base, and those words of its recipe that are not alike in all of them."""
    words = []
    for cache in caches:
        spec = cache.recipe.spec
        said = cache.recipe.words(cache.description.get("request"))
        said["base"] = said["base"] if spec is None else f"features from elsewhere {json.dumps(spec)}"
        del said["architecture"], said["spec"], said["format"]
        words.append({**said, "base": said["base"] or "a model in memory"})
    alike = {name for name in words[0] if len({said[name] for said in words}) == 1} - {"base"}
    return [{name: text for name, text in said.items() if name not in alike} for said in words]
