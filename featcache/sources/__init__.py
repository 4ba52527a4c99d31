"""Images with labels and splits: where they lie, in which order, and who is in which split.

A source lists `Item` s in its own order and reads one at a time; nothing here decodes an image.
"""

from featcache.sources.arrays import ArraySource
from featcache.sources.columns import Texts, Words
from featcache.sources.digests import Digests, DigestSet
from featcache.sources.files import FileSource
from featcache.sources.folders import files_source
from featcache.sources.opening import describe, open_images, open_source, reopen
from featcache.sources.options import NO_OPTIONS, SourceOptions
from featcache.sources.pairs import PairSource
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
from featcache.sources.splits import SplitPolicy
from featcache.sources.tars import TarSource
from featcache.sources.trained import group_identity, why_left_out

__all__ = [
    "SPLITS",
    "DigestSet",
    "Digests",
    "Item",
    "Items",
    "Source",
    "SourceOptions",
    "NO_OPTIONS",
    "SplitPolicy",
    "ArraySource",
    "FileSource",
    "PairSource",
    "Selected",
    "TarSource",
    "Texts",
    "Words",
    "class_names",
    "describe",
    "digest",
    "files_source",
    "folder_name",
    "group_identity",
    "open_images",
    "open_source",
    "read_image",
    "reopen",
    "why_left_out",
]
