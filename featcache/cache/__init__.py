"""The cache folder: immutable HDF5 shards, a SQLite manifest, one recipe, one writer at a time."""

from featcache.cache.features import FeatureRows
from featcache.cache.reader import FeatureCache
from featcache.cache.writer import CacheWriter

__all__ = ["CacheWriter", "FeatureCache", "FeatureRows"]
