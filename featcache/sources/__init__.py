"""Images with labels and splits: where they lie, in which order, and who is in which split.

A source lists `Item` s in its own order and reads one at a time; nothing here decodes an image.
"""

from featcache.sources.columns import Texts, Words
from featcache.sources.digests import Digests, DigestSet
from featcache.sources.options import NO_OPTIONS, SourceOptions
from featcache.sources.source import (
    SPLITS,
    Item,
    Items,
    Selected,
    Source,
    class_names,
    digest,
    folder_name,
    read_image,
)
from featcache.sources.splits import SplitPolicy, group_identity, why_left_out

__all__ = ["NO_OPTIONS", "SPLITS", "DigestSet", "Digests", "Item", "Items", "Selected", "Source", "SourceOptions"]
__all__ += ["SplitPolicy", "Texts", "Words", "class_names", "digest", "folder_name", "group_identity", "read_image"]
__all__ += ["why_left_out"]
