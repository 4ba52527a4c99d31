"""The optional last step: base and head trained together, from pixels."""

from featcache.finetune.layers import Unfreezing
from featcache.finetune.tuning import FineTuned, fine_tune

__all__ = ["FineTuned", "Unfreezing", "fine_tune"]
