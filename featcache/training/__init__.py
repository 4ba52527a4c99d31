"""Stage two: train, tune and compare heads on cached features."""

from featcache.training.comparison import Comparison, compare
from featcache.training.fitting import fit_head

__all__ = ["Comparison", "compare", "fit_head"]
