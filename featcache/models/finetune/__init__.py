"""The optional last step: base and head trained together, from pixels."""

from featcache.models.finetune.layers import Unfreezing
from featcache.models.finetune.tuning import FineTuned, fine_tune

__all__ = ["FineTuned", "Unfreezing", "fine_tune"]
