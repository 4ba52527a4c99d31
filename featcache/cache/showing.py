"""How a cache is shown: a line, a table for a notebook, a frame of its images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featcache.display import frame, html_table, plural
from featcache.recipe import fitting
from featcache.sources import SPLITS

if TYPE_CHECKING:
    import pandas as pd

    from featcache.cache.reader import FeatureCache


def one_line(cache: FeatureCache) -> str:
    """Return what a cache holds: images of each split, classes, layers."""
    return f"{_images(cache)}, {plural(len(cache.class_names), 'class')}; {_layers(cache)}"


def as_html(cache: FeatureCache) -> str:
    """Return what a notebook shows of a cache."""
    recipe, classes = cache.recipe, cache.class_names
    size = "x".join(map(str, recipe.image_size))
    pixels = f"features from elsewhere: {recipe.spec}" if recipe.spec is not None else f"{size}, {fitting(recipe)}"
    rows = [
        ["", ""],
        ["source", cache.source["location"] or "unknown"],
        ["images", _images(cache)],
        ["classes", f"{len(classes)}: {', '.join(classes[:12])}{', …' if len(classes) > 12 else ''}"],
        ["layers", _layers(cache)],
        ["rows", f"{cache.rows}, {cache.missing} missing; {len(cache.skipped)} images skipped"],
        ["pixels", pixels],
    ]
    return html_table(rows, caption=str(cache.path))


def _images(cache: FeatureCache) -> str:
    return ", ".join(f"{n} {split}" for split, n in cache.splits.items()) or "no images"


def _layers(cache: FeatureCache) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in cache.layers.items()) or "no layers"


def as_frame(cache: FeatureCache, split: str | None) -> pd.DataFrame:
    """Return the images of a split as a pandas frame."""
    images = cache.numbers(split)[0]
    splits = np.array([*SPLITS, None], object)[cache.usable.splits.among(SPLITS)[images]]
    columns = {
        "path": cache.paths(split),
        "split": splits,
        "label": cache.labels(split),
        "group": cache.groups(split),
        "digest": [digest.hex() for digest in cache.digests(split)],
    }
    return frame(columns, list(columns))
