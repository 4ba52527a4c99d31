"""One way to open whatever lies in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from featcache.cache import FeatureCache
from featcache.errors import HeadError
from featcache.heads import Head
from featcache.models.classifier import ImageClassifier
from featcache.models.folder import is_model


def load(path: str | os.PathLike[str]) -> FeatureCache | Head | ImageClassifier:
    """Open a cache, a head or a fine-tuned model.

    Parameters
    ----------
    path : path
        Its folder. `ImageClassifier.load` makes a classifier of images of a head.

    Returns
    -------
    FeatureCache, Head or ImageClassifier
        A fine-tuned model is a classifier of images.

    Raises
    ------
    HeadError
        If the folder holds none of these, or its head or model is damaged.
    CacheError
        If its cache cannot be opened, or is damaged (`CacheDamagedError`).
    """
    folder = Path(path)
    if is_model(folder):
        return ImageClassifier.load(folder)
    if (folder / "head.json").exists():
        return Head.load(folder)
    if (folder / "recipe.json").exists() or (folder / "manifest.sqlite").exists():
        return FeatureCache(folder)
    what = "has none of head.json, model.json and recipe.json" if folder.is_dir() else "is no folder"
    raise HeadError(f"{str(folder)!r} {what}. Name the folder of a cache, a head or a fine-tuned model.")
