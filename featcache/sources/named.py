"""Sets that have a name: embedded in scikit-learn, or downloaded by Keras."""

from __future__ import annotations

import numpy as np

from featcache.errors import SourceError
from featcache.sources.arrays import ArraySource, Part, PartsSource
from featcache.sources.messages import reason
from featcache.sources.source import Source

_KERAS = ("cifar10", "cifar100", "mnist", "fashion_mnist")
NAMED = ("digits", *_KERAS)
"""Names that `named_source` knows."""


def named_source(name: str) -> Source:
    """Return one of the sets in `NAMED`; labels are their numbers as text."""
    if name == "digits":
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = (bunch.images * (255 / 16)).round().astype("uint8")
        return ArraySource(name, images, [str(label) for label in bunch.target])
    from featcache.system.startup import import_tensorflow

    import_tensorflow()
    import keras

    try:
        loaded = getattr(keras.datasets, name).load_data()
    except Exception as error:  # whatever its download, its checksum or its unpacking raise
        raise SourceError(
            f"Keras cannot load {name}, which it downloads once: {reason(error)}. Check the network, "
            f"put the files into ~/.keras/datasets, or take another source, such as digits."
        ) from None
    parts = [
        Part(images, [str(label) for label in np.ravel(labels).tolist()], split)
        for split, (images, labels) in zip(("train", "test"), loaded, strict=True)
    ]
    return PartsSource(name, name, parts)
