"""Light models on features: scikit-learn estimators that know nothing of caches."""

from featcache.heads.build import HEADS, build, fit
from featcache.heads.store import Head

__all__ = ["HEADS", "Head", "build", "fit"]
