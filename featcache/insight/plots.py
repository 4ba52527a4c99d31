"""Charts for notebooks: the confusion matrix of a head, the map of a cache's features."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from featcache import charts
from featcache.cache import FeatureCache
from featcache.errors import HeadError, OptionError
from featcache.heads import Head

if TYPE_CHECKING:
    import altair as alt


def plot_confusion(head: Head | str | os.PathLike[str], *, split: str = "validation") -> alt.Chart:
    """Plot which classes a head takes for which.

    Parameters
    ----------
    head : Head or path
        The head, with the scores that it was saved with.
    split : str
        Whose images: ``train``, ``validation`` or ``test``.

    Returns
    -------
    altair.Chart
        A notebook shows it; ``chart.save("confusion.png")`` writes it to a file.

    Raises
    ------
    HeadError
        If the head has no scores of this split, or cannot be read.
    OptionError
        If Vega-Altair is not installed.
    """
    opened = head if isinstance(head, Head) else Head.load(head)
    metrics = opened.metrics
    if split not in metrics:
        raise HeadError(f"The head has no scores of the split {split!r}. It has: {', '.join(metrics) or 'none'}.")
    return _chart(lambda: charts.confusion(metrics[split]["confusion"], opened.class_names))


def plot_map(
    cache: FeatureCache | str | os.PathLike[str],
    *,
    layer: str | None = None,
    method: Literal["tsne", "pca"] = "tsne",
    seed: int = 0,
) -> alt.Chart:
    """Plot the images of a cache on a plane, by their features: similar images lie together.

    Parameters
    ----------
    cache : FeatureCache or path
        The cache; of more than 1,000 images, so many are drawn.
    layer : str, optional
        Whose features. Default: the deepest.
    method : {"tsne", "pca"}
        t-SNE (van der Maaten and Hinton 2008), or the first two principal components.
    seed : int
        For the draw and for t-SNE.

    Returns
    -------
    altair.Chart
        A notebook shows it; ``chart.save("map.png")`` writes it to a file.

    Raises
    ------
    OptionError
        If the cache has no such layer or fewer than three images with features, or Vega-Altair is not installed.
    """
    from featcache.insight.report.images import feature_map

    opened = cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
    found = feature_map(opened, opened.layer_name(layer), None, method=method, seed=seed)
    if found is None:
        raise OptionError(f"A map needs 3 images with features. {str(opened.path)!r} has {len(opened)}.")
    points = [
        {
            "x": float(f"{x:.4g}"),
            "y": float(f"{y:.4g}"),
            "file": (entry := opened.usable[image]).path,
            "class": entry.label or "none",
            "split": entry.split or "none",
            "wrong": False,
        }
        for image, (x, y) in zip(found.images.tolist(), found.places, strict=True)
    ]
    return _chart(lambda: charts.scatter(points, ["class", "split"], found.axes))


def _chart(specification: Any) -> alt.Chart:
    """Return a Vega-Lite specification as a chart."""
    try:
        import altair as alt
    except ImportError:
        raise OptionError(
            "Plots need Vega-Altair, which is not installed. Run: pip install 'featcache[report]'"
        ) from None
    return alt.Chart.from_dict(specification())
