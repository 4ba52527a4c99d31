"""The sections that show images: mistakes, doubts, the map, samples as the base gets them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache import charts
from featcache.cache import FeatureCache
from featcache.heads import Rows
from featcache.images.augmentation import Augmentation
from featcache.images.decoding import PixelSpec
from featcache.insight.report.accuracy import percent
from featcache.insight.report.answers import Answers
from featcache.insight.report.page import Chart, Gallery, Section, Shot
from featcache.insight.report.pictures import Pictures
from featcache.recipe import Recipe, fitting

GALLERY = 24
GALLERY_SIDE = 160
POINTS = 1000
_VALUES = 2**25  # float32 that are in memory at a time: 128 MiB
_LEAST_FOR_TSNE = 50
_SAMPLE_CLASSES, _SAMPLES_EACH, _VIEWED, _VIEWS = 12, 4, 4, 5


def mistakes(answers: Answers, pictures: Pictures) -> Section:
    """Return the worst mistakes: wrong answers, the most confident first."""
    wrong = answers.mistakes()
    if not len(wrong):
        return Section("mistakes", "Worst mistakes", [f"No {answers.split} image was answered wrongly."])
    text = (
        f"{len(wrong):,} of {len(answers):,} {answers.split} images were answered wrongly; these are the "
        f"{min(GALLERY, len(wrong))} it was surest of. Look for wrong labels first, then for what they have in common."
    )
    gallery = Gallery("Wrong answers, the most confident first", _shots(answers, wrong[:GALLERY], pictures))
    return Section("mistakes", "Worst mistakes", [text], [gallery])


def doubts(answers: Answers, pictures: Pictures) -> Section:
    """Return the images whose answer has the lowest probability."""
    text = "Images whose most probable class is least probable: new ones like these teach a model most."
    gallery = Gallery("The least certain answers", _shots(answers, answers.uncertain()[:GALLERY], pictures))
    return Section("doubts", "Least certain", [text], [gallery])


def shown(answers: Answers) -> list[str]:
    """Return the paths that `mistakes` and `doubts` show."""
    chosen = [*answers.mistakes()[:GALLERY], *answers.uncertain()[:GALLERY]]
    return [answers.paths[i] for i in chosen]


def _shots(answers: Answers, chosen: npt.NDArray[np.int64], pictures: Pictures) -> list[Shot]:
    paths = [answers.paths[i] for i in chosen]
    images = pictures.of(paths, side=GALLERY_SIDE)
    shots = []
    for i, path in zip(chosen, paths, strict=True):
        true, said = answers.class_names[answers.truth[i]], answers.class_names[answers.predicted[i]]
        wrong, sure = true != said, percent(float(answers.confidence[i]))
        first = f"✗ {said}, {sure}" if wrong else f"✓ {said}, {sure}"
        lines = [first, f"true: {true}" + (f", {percent(float(answers.own[i]))}" if wrong else ""), path]
        shots.append(Shot(images[path], f"true {true}, predicted {said} with {sure}", lines, wrong))
    return shots


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


def mapped(cache: FeatureCache, answers: Answers | None, found: FeatureMap, pictures: Pictures) -> Section:
    """Return the map of the features, with a picture for each of its points."""
    entries = [cache.usable[i] for i in found.images]
    images = pictures.of([entry.path for entry in entries])
    at: dict[str, int] = {}
    if answers is not None:
        wanted = {entry.path for entry in entries}
        at = {path: i for i, path in enumerate(answers.paths) if path in wanted}
    points = []
    for entry, (x, y) in zip(entries, found.places, strict=True):
        i = at.get(entry.path)
        point = {"x": float(f"{x:.4g}"), "y": float(f"{y:.4g}"), "image": images[entry.path], "file": entry.path}
        point |= {"class": entry.label or "none", "split": entry.split or "none", "wrong": False}
        if answers is not None:
            point["error"] = "not asked" if i is None else "right" if answers.right[i] else "wrong"
            point["wrong"] = i is not None and not answers.right[i]
            if i is not None:
                said = answers.class_names[answers.predicted[i]]
                point["predicted"] = f"{said}, {percent(float(answers.confidence[i]))}"
        points.append(point)
    wrong = sum(bool(point["wrong"]) for point in points)
    mistaken = ""
    if answers is not None:
        mistaken = f", {wrong:,} of {int((~answers.right).sum()):,} mistakes among them as crosses"
    colours = ["class", "split", *(["error"] if answers is not None else [])]
    text = (
        f"{len(points):,} of {len(cache):,} images{mistaken}; put the pointer on one to see it. Laid out by "
        f"{found.method}. An island of mistakes, or a class in two islands, is worth a look."
    )
    description = f"Map of {len(points)} images by their features. The mistakes are in the galleries above."
    chart = Chart("map", charts.scatter(points, colours, found.axes), "Map of the features", description, broad=True)
    return Section("map", "Map", [text], [chart])


def sampled(cache: FeatureCache) -> tuple[list[str], list[str]]:
    """Return paths of a few images of each class, and of training images whose augmented views are shown."""
    labels = cache.label_indices()
    rng = np.random.default_rng(0)
    counts = np.bincount(labels[labels >= 0], minlength=len(cache.class_names))
    chosen: list[int] = []
    for label in np.sort(np.argsort(-counts, kind="stable")[:_SAMPLE_CLASSES]):
        members = np.flatnonzero(labels == label)
        chosen += np.sort(rng.choice(members, min(_SAMPLES_EACH, len(members)), replace=False)).tolist()
    if not chosen and len(cache):
        chosen = np.sort(rng.choice(len(cache), min(12, len(cache)), replace=False)).tolist()
    viewed: list[str] = []
    if cache.views and "train" in cache.splits:
        train = cache.paths("train")
        viewed = [train[i] for i in np.sort(rng.choice(len(train), min(_VIEWED, len(train)), replace=False))]
    return [cache.usable[i].path for i in chosen], viewed


def samples(
    cache: FeatureCache, recipe: Recipe, paths: Sequence[str], viewed: Sequence[str], pictures: Pictures
) -> Section | None:
    """Return what goes into the base: sample images by class, and augmented views; None if nothing can be shown."""
    height, width = recipe.image_size
    spec = PixelSpec.of(recipe, cache.channels)
    entries = {entry.path: entry for entry in cache.usable if entry.path in {*paths, *viewed}}
    shots = []
    for path in paths:
        label = entries[path].label or "no class"
        image = pictures.as_seen(path, spec, None, 0)
        shots.append(Shot(image[0] if image else None, f"a sample of {label}", [label, path]))
    blocks = [Gallery("Samples by class", shots)]
    text = (
        f"Images as the base gets them, at {width} × {height} pixels ({fitting(recipe)}, {recipe.interpolation}), "
        "before values are scaled for it. Is what matters still to be seen?"
    )
    policy = cache.augmentation_policy
    if viewed and policy is not None:
        augmentation = Augmentation.from_dict(policy)
        views = min(cache.views, _VIEWS)
        for path in viewed:
            label = entries[path].label or "no class"
            images = pictures.as_seen(path, spec, augmentation, views)
            names = ["as it is", *(f"view {i + 1}" for i in range(views))]
            row = [Shot(image, f"{label}, {name}", [name]) for name, image in zip(names, images, strict=False)]
            if row:
                blocks.append(Gallery(f"Augmented views of {path} ({label})", row))
    return Section("samples", "What goes in", [text], blocks) if shots else None
