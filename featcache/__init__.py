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

    from featcache.advising import advise
    from featcache.auditing import audit
    from featcache.cache import FeatureCache
    from featcache.classifier import ImageClassifier
    from featcache.errors import FeatcacheError
    from featcache.export import export_model
    from featcache.extraction import extract
    from featcache.extractor import FeatureExtractor
    from featcache.finetune import fine_tune
    from featcache.heads import Head
    from featcache.neighboring import neighbors
    from featcache.train import Comparison, compare, fit_head

__version__ = "0.1.0"

_HOME = {
    "extract": "featcache.extraction",
    "fit_head": "featcache.train",
    "compare": "featcache.train",
    "fine_tune": "featcache.finetune",
    "audit": "featcache.auditing",
    "neighbors": "featcache.neighboring",
    "advise": "featcache.advising",
    "Comparison": "featcache.train",
    "FeatureCache": "featcache.cache",
    "FeatureExtractor": "featcache.extractor",
    "Head": "featcache.heads",
    "ImageClassifier": "featcache.classifier",
    "export_model": "featcache.export",
    "FeatcacheError": "featcache.errors",
}

__all__ = [
    "extract",
    "fit_head",
    "compare",
    "fine_tune",
    "audit",
    "neighbors",
    "advise",
    "Comparison",
    "FeatureCache",
    "FeatureExtractor",
    "Head",
    "ImageClassifier",
    "export_model",
    "FeatcacheError",
]


def __getattr__(name: str) -> "Any":
    if name not in _HOME:
        raise AttributeError(f"module 'featcache' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
