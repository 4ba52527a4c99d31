"""Light models on features: scikit-learn estimators that know nothing of caches."""

from featcache.heads.build import HEADS, STREAMING, build, fit, kind_of, memory_needed, own_name, parameters
from featcache.heads.rows import Rows
from featcache.heads.store import Head

__all__ = ["HEADS", "STREAMING", "Head", "Rows", "build", "fit", "kind_of", "memory_needed", "own_name", "parameters"]
