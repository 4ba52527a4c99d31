"""Caches of features that NumPy made, for what needs no base."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from featcache.cache import FeatureCache


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., FeatureCache]:
    """Return a maker of caches: so many images of each class, in three splits, the classes so far apart."""

    def make(
        name: str = "cache", *, each: Sequence[int] = (60, 30, 30), classes: int = 3, width: int = 8,
        apart: float = 1.5, seed: int = 0, ids: int = 0, layers: Sequence[str] = ("features",),
    ) -> FeatureCache:  # fmt: skip
        rng = np.random.default_rng(seed)
        splits = np.repeat(["train", "validation", "test"], np.multiply(each, classes)).tolist()
        y = np.concatenate([np.arange(count * classes) % classes for count in each])
        means = np.random.default_rng(99).normal(size=(classes, width)) * apart
        X = {
            layer: (means[y] * (i + 1) / len(layers) + rng.normal(size=(len(y), width))).astype(np.float32)
            for i, layer in enumerate(layers)
        }
        names = [f"{ids + i:06d}" for i in range(len(y))]
        digests = [(ids + i).to_bytes(32, "big") for i in range(len(y))]
        return FeatureCache.from_arrays(
            X, y, names, {"made": name}, path=tmp_path / name, splits=splits, digests=digests,
            class_names=[f"c{i}" for i in range(classes)],
        )  # fmt: skip

    return make
