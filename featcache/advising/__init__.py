"""What to do next with a cache: more data, another layer, augmentation, fine-tuning; decided from evidence."""

from featcache.advising.advising import advise
from featcache.advising.decisions import Advice

__all__ = ["Advice", "advise"]
