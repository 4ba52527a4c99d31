"""What to do next with a cache: more data, another layer, augmentation, fine-tuning; decided from evidence."""

from featcache.insight.advice.advising import advise
from featcache.insight.advice.decisions import Advice

__all__ = ["Advice", "advise"]
