"""What a model was trained on, and why an image does therefore not count in its scores."""

from __future__ import annotations

import hashlib
from collections.abc import Set
from typing import Literal

from featcache.sources.source import Item


def group_identity(group: str) -> bytes:
    """Return 32 bytes that stand for a group: SHA-256 of its name."""
    return hashlib.sha256(group.encode("utf-8", "surrogateescape")).digest()


def why_left_out(trained_on: Set[bytes], item: Item, identity: bytes) -> Literal["copy", "member"] | None:
    """Return why an image does not count in a model's scores, None if it counts: it is a copy of a training image, or
    its group has training images. `trained_on` has digests of images and identities of groups, `identity` is its
    digest.
    """
    if identity in trained_on:
        return "copy"
    return "member" if item.group is not None and group_identity(item.group) in trained_on else None
