"""Make ``tests/golden/format-2``: a tiny cache of format 2, with everything that the format can hold.

Run it as ``python tests/golden/make.py`` only when the format changes before its release; a released one stays.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np

from featcache.cache import CacheWriter
from featcache.cache.manifest import Entry
from featcache.cache.shard import ShardBuilder
from featcache.recipe import Recipe

FOLDER = Path(__file__).parent / "format-2"
RECIPE = Recipe(
    architecture="a" * 64,
    weights="b" * 64,
    layers=("block1", "outer/block2"),
    pooling="none",
    image_size=(8, 8),
    resize="stretch",
    interpolation="bilinear",
    preprocess="none",
    dtype="float32",
)
LAYERS = {"block1": (3,), "outer/block2": (2, 2)}
POLICY = hashlib.sha256(b"an augmentation and a seed").hexdigest()
IMAGES = [  # path, class, split, group, content
    ("cats/1.png", "cats", "train", None, b"one"),
    ("cats/2.png", "cats", "train", "twins", b"two"),
    ("cats/copy of 1.png", "cats", "train", None, b"one"),
    ("dogs/\udcff\n.png", "dogs", "train", "twins", b"three"),
    ("dogs/4.png", "dogs", "validation", None, b"four"),
    ("dogs/5.png", "dogs", "test", None, b"five"),
    ("dogs/broken.png", "dogs", None, None, None),
]
REASON = "not an image: its content is text"


def features(content: bytes, view: int) -> dict[str, np.ndarray]:
    """Return what the golden cache holds for an image: numbers that anyone can compute again."""
    numbers = np.frombuffer(hashlib.sha256(content + bytes([view])).digest()[:7], np.uint8).astype(np.float32) / 4
    return {"block1": numbers[:3], "outer/block2": numbers[3:].reshape(2, 2)}


def entry(number: int) -> Entry:
    """Return an image as the manifest lists it."""
    path, label, split, group, content = IMAGES[number]
    if content is None:
        return Entry(path, label, split, group, 5, 7, None, REASON, 9)
    identity = hashlib.sha256(content).digest()
    return Entry(path, label, split, group, len(content), 1000 + number, identity, None, -(2**60) + number)


def main() -> None:
    """Write the cache."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    meta = {
        "fingerprint": RECIPE.fingerprint,
        "layers": [[name, list(shape)] for name, shape in LAYERS.items()],
        "source": {"name": "pets", "location": "/pets"},
        "listing": {"classes": None, "validation_split": 0.0, "test_from": None, "seed": 0},
        "views": {"count": 1, "augmentation": POLICY},
    }
    with CacheWriter.open_for_writing(FOLDER, RECIPE, {"base": "golden"}) as writer:
        unread = entry(4)._replace(split=None, digest=None)  # until a shard settles it
        writer.replace_listing([unread if i == 4 else entry(i) for i in range(len(IMAGES))], meta)
        for numbers, views in (((4, 5, 3), (0,)), ((1, 0), (0, 1))):
            builder = ShardBuilder(RECIPE, LAYERS, augmentation=POLICY if 1 in views else "")
            for number in numbers:
                path, *_, content = IMAGES[number]
                for view in views:
                    builder.append(hashlib.sha256(content).digest(), path, features(content, view), view)
            writer.commit(builder, [(4, entry(4))] if 4 in numbers else [])


if __name__ == "__main__":
    main()
