"""Extract the features of a frozen base once; train, compare and ship light heads on them.

Importing this package loads neither Keras nor scikit-learn: each public name is fetched
from its module when it is first used.
"""

import importlib

# `python -m featcache` runs this with the current folder first on the path: nothing that Python has not loaded yet
# may be imported here, or a `typing.py` of that folder would run; `from __future__` is such an import, too.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from featcache.bases import list_bases, list_layers
    from featcache.cache import FeatureCache
    from featcache.cache.compaction import gc
    from featcache.cache.export import export_cache
    from featcache.cache.overview import list_caches
    from featcache.errors import (
        BaseError,
        CacheBusyError,
        CacheDamagedError,
        CacheError,
        ExportError,
        FeatcacheError,
        GateError,
        HeadError,
        HungError,
        ImageError,
        OptionError,
        SourceError,
        WeightsError,
    )
    from featcache.extraction.extracting import extract
    from featcache.extraction.recomputation import verify
    from featcache.extraction.transformer import FeatureExtractor
    from featcache.heads import Head
    from featcache.images.augmentation import Augmentation
    from featcache.insight.advice import advise
    from featcache.insight.audit import audit
    from featcache.insight.neighbors import neighbors
    from featcache.insight.plots import plot_confusion, plot_map
    from featcache.insight.report import report
    from featcache.models.classifier import ImageClassifier
    from featcache.models.export import export_model
    from featcache.models.finetune import fine_tune
    from featcache.models.loading import load
    from featcache.training import Comparison, compare, fit_head

__version__ = "0.1.0"

_HOME = {
    "extract": "featcache.extraction.extracting",
    "fit_head": "featcache.training",
    "compare": "featcache.training",
    "fine_tune": "featcache.models.finetune",
    "audit": "featcache.insight.audit",
    "neighbors": "featcache.insight.neighbors",
    "advise": "featcache.insight.advice",
    "Comparison": "featcache.training",
    "FeatureCache": "featcache.cache",
    "FeatureExtractor": "featcache.extraction.transformer",
    "Head": "featcache.heads",
    "ImageClassifier": "featcache.models.classifier",
    "export_model": "featcache.models.export",
    "FeatcacheError": "featcache.errors",
    "load": "featcache.models.loading",
    "verify": "featcache.extraction.recomputation",
    "gc": "featcache.cache.compaction",
    "export_cache": "featcache.cache.export",
    "report": "featcache.insight.report",
    "plot_confusion": "featcache.insight.plots",
    "plot_map": "featcache.insight.plots",
    "list_bases": "featcache.bases",
    "list_caches": "featcache.cache.overview",
    "list_layers": "featcache.bases",
    "Augmentation": "featcache.images.augmentation",
    "BaseError": "featcache.errors",
    "CacheBusyError": "featcache.errors",
    "CacheDamagedError": "featcache.errors",
    "CacheError": "featcache.errors",
    "ExportError": "featcache.errors",
    "GateError": "featcache.errors",
    "HeadError": "featcache.errors",
    "HungError": "featcache.errors",
    "ImageError": "featcache.errors",
    "OptionError": "featcache.errors",
    "SourceError": "featcache.errors",
    "WeightsError": "featcache.errors",
}

__all__ = [
    "extract",
    "fit_head",
    "compare",
    "fine_tune",
    "audit",
    "neighbors",
    "advise",
    "report",
    "plot_confusion",
    "plot_map",
    "load",
    "verify",
    "gc",
    "export_cache",
    "list_bases",
    "list_caches",
    "list_layers",
    "Augmentation",
    "Comparison",
    "FeatureCache",
    "FeatureExtractor",
    "Head",
    "ImageClassifier",
    "export_model",
    "FeatcacheError",
    "BaseError",
    "CacheBusyError",
    "CacheDamagedError",
    "CacheError",
    "ExportError",
    "GateError",
    "HeadError",
    "HungError",
    "ImageError",
    "OptionError",
    "SourceError",
    "WeightsError",
]


def __getattr__(name: str) -> "Any":
    if name not in _HOME:
        raise AttributeError(f"module 'featcache' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
