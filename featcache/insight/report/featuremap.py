"""A map of features: which images, and where each lies on a plane."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.cache import FeatureCache
from featcache.heads import Rows
from featcache.insight.report.answers import Answers

POINTS = 1000
_VALUES = 2**25  # float32 that are in memory at a time: 128 MiB
_LEAST_FOR_TSNE = 50


@dataclass(frozen=True)
class FeatureMap:
    """Where n images lie on a plane: indices into the cache's usable images, and `places`, shape (n, 2).

    Those answered wrongly come first, the most confident of them at the start. `axes` say what the two numbers are;
    they are empty where that means nothing. `method` is for people.
    """

    images: npt.NDArray[np.int64]
    places: npt.NDArray[np.float64]
    axes: tuple[str, str]
    method: str


def feature_map(
    cache: FeatureCache, layer: str, answers: Answers | None, *, method: str = "tsne", seed: int = 0
) -> FeatureMap | None:
    """Return a map of at most `POINTS` images, those answered wrongly first; None of fewer than three.

    Feature maps are averaged over their places. t-SNE (van der Maaten and Hinton 2008) starts from the first 50
    principal components.
    """
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    values = Rows(cache.features(layer=layer)).shape[1]
    images = _chosen(cache, answers, max(3, min(POINTS, _VALUES // values)), seed)
    if len(images) < 3:
        return None
    X = _features(cache, layer, images)
    components = min(50, *X.shape)
    reduced = PCA(components, random_state=seed).fit(X)
    places = reduced.transform(X)
    if method == "pca" or len(images) < _LEAST_FOR_TSNE:
        if components < 2:
            places = np.hstack([places, np.zeros((len(places), 1))])
        shares = [*map(float, reduced.explained_variance_ratio_[:2]), 0.0]
        axes = (f"first principal component ({shares[0]:.0%})", f"second principal component ({shares[1]:.0%})")
        text = f"principal components, with {sum(shares):.0%} of the variance"
        return FeatureMap(images, places[:, :2].astype(np.float64), axes, text)
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(images) - 1) / 3)
    with threadpool_limits(1):  # its threads wait for each other a thousand times: with other work beside, 6 x as long
        found = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(places)
    text = "t-SNE: neighbours lie together, while distances between groups and the axes mean little"
    return FeatureMap(images, found.astype(np.float64), ("", ""), text)


def _chosen(cache: FeatureCache, answers: Answers | None, most: int, seed: int) -> npt.NDArray[np.int64]:
    """Return images, the mistakes first and others drawn from all."""
    first: list[int] = []
    if answers is not None:
        paths = [answers.paths[i] for i in answers.mistakes()[:most]]
        wanted = set(paths)
        index = {entry.path: i for i, entry in enumerate(cache.usable) if entry.path in wanted}
        first = [index[path] for path in paths if path in index]
    others = np.setdiff1d(np.arange(len(cache)), first)
    left = min(most - len(first), len(others))
    drawn = np.random.default_rng(seed).choice(others, left, replace=False)
    return np.concatenate([np.array(first, np.int64), np.sort(drawn)]).astype(np.int64)


def _features(cache: FeatureCache, layer: str, images: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return features of images, (n, d), maps averaged over their places, a few rows in memory at a time."""
    rows = cache.features(layer=layer)
    shape = rows.shape[1:]
    step = max(1, _VALUES // max(1, math.prod(shape)))
    parts = []
    for start in range(0, len(images), step):
        block = np.asarray(rows[images[start : start + step]], np.float32)
        parts.append(block.reshape(len(block), -1, shape[-1]).mean(axis=1) if len(shape) > 1 else block)
    return np.concatenate(parts)
