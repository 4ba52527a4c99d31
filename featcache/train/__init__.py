"""Stage two: train, tune and compare heads on cached features."""

from featcache.train.comparison import Comparison, compare
from featcache.train.fitting import fit_head

__all__ = ["Comparison", "compare", "fit_head"]
