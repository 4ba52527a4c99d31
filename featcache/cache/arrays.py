"""Features that come from elsewhere, such as another framework's encoder, made into a cache."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache.listing import Listing
from featcache.cache.shard import ShardBuilder
from featcache.cache.writer import CacheWriter
from featcache.errors import OptionError
from featcache.recipe import Recipe
from featcache.sources import SPLITS, Item, Items, SplitPolicy, Words, digest

Arrays = Mapping[str, npt.NDArray[Any]]
"""Features by layer."""


def write_arrays(
    X: npt.NDArray[Any] | Arrays,
    y: Sequence[Any] | npt.NDArray[Any] | None,
    paths: Sequence[str | os.PathLike[str]] | None,
    spec: Mapping[str, Any],
    path: Path,
    *,
    splits: Sequence[str | None] | None = None,
    groups: Sequence[Any] | None = None,
    class_names: Sequence[str] | None = None,
    digests: Sequence[bytes] | None = None,
) -> None:
    """Make or extend the cache that `FeatureCache.from_arrays` returns."""
    layers = dict(X) if isinstance(X, Mapping) else {"features": X}
    n = _length(layers, y=y, paths=paths, splits=splits, groups=groups, digests=digests)
    names = [f"{i:0{len(str(n - 1))}d}" for i in range(n)] if paths is None else [os.fspath(one) for one in paths]
    if len(set(names)) != n:
        raise OptionError(f"Every path must be there once. Received: {n} paths, {len(set(names))} of them different.")
    halves = all(array.dtype == np.float16 for array in layers.values())
    recipe = Recipe(
        architecture="",
        weights="",
        layers=tuple(layers),
        pooling="none",
        image_size=(0, 0),
        resize="stretch",
        interpolation="bilinear",
        preprocess="none",
        dtype="float16" if halves else "float32",
        decode="elsewhere",
        precision="elsewhere",
        runtime="elsewhere",
        spec=_plain(spec),
    )
    labels = _labels(y, n, class_names)
    identities = _identities(layers, names, paths is not None) if digests is None else list(digests)
    if any(len(identity) != 32 for identity in identities):
        raise OptionError("`digests` must have 32 bytes each, as SHA-256 has. Some have another length.")
    wrong = {split for split in splits or () if split not in (None, *SPLITS)}
    if wrong:
        raise OptionError(f"`splits` must be {', '.join(SPLITS)} or None. Received: {sorted(wrong)}.")
    policy = SplitPolicy(validation_split=0.0 if splits is not None and any(splits) else 0.2)
    row_bytes = sum(array[:1].nbytes for array in layers.values())

    def items() -> Iterator[Item]:
        for i, name in enumerate(names):
            stat = Path(name).stat() if paths is not None and Path(name).is_file() else None
            size, stamp = (row_bytes, 0) if stat is None else (stat.st_size, stat.st_mtime_ns)
            group = None if groups is None or groups[i] is None else str(groups[i])
            yield Item(name, labels[i], splits[i] if splits is not None else None, size, stamp, group)

    listed, digested = Items.of(items()), np.frombuffer(b"".join(identities), np.uint8).reshape(-1, 32)
    policy = policy.ranked(listed, lambda rows: (digested[rows], np.ones(len(rows), bool)))
    settled = Words.of(policy.split_of(item, identity) for item, identity in zip(listed, identities, strict=True))
    meta = {
        "fingerprint": recipe.fingerprint,
        "layers": [[layer, list(array.shape[1:])] for layer, array in layers.items()],
        "source": {"name": path.name, "location": "arrays"},
        "listing": {"classes": None, **asdict(policy)},
    }
    with CacheWriter.open_for_writing(path, recipe, None) as writer:
        if writer.meta().get("layers", meta["layers"]) != meta["layers"]:
            raise OptionError(
                f"The cache {str(path)!r} has the layers {writer.meta()['layers']}. Received: {meta['layers']}. "
                "Choose another path."
            )
        writer.replace_listing(Listing.listed(listed, settled, digested, np.ones(n, bool), {}), meta)
        _write_rows(writer, recipe, layers, names, identities)


def _write_rows(writer: CacheWriter, recipe: Recipe, layers: Arrays, names: list[str], identities: list[bytes]) -> None:
    """Commit the rows that the cache lacks, the first of those with equal digests, in an order that is random."""
    shapes = {layer: tuple(array.shape[1:]) for layer, array in layers.items()}
    table, _ = writer.stored()
    there = table.find(np.frombuffer(b"".join(identities), np.uint8).reshape(-1, 32)) >= 0
    known = {identities[i] for i in np.flatnonzero(there).tolist()}
    builder = ShardBuilder(recipe, shapes)
    for i in sorted(range(len(names)), key=lambda i: hashlib.sha256(os.fsencode(names[i])).digest()):
        if identities[i] in known:
            continue
        row = {layer: np.asarray(array[i]).astype(recipe.dtype) for layer, array in layers.items()}
        for layer, values in row.items():
            if not np.isfinite(values).all():
                raise OptionError(
                    f"Row {i} of {layer} ({names[i]!r}) has numbers that {recipe.dtype} cannot hold, such as inf "
                    "or NaN. Mend or leave out that row."
                )
        builder.append(identities[i], names[i], row)
        known.add(identities[i])
        if builder.full:
            writer.commit(builder, [])
            builder = ShardBuilder(recipe, shapes)
    writer.commit(builder, [])


def _length(layers: Arrays, **others: Any) -> int:
    if not layers or not all(hasattr(array, "dtype") and array.ndim >= 1 for array in layers.values()):
        raise OptionError("`X` must be an array of shape (n, …), or a mapping of layer to such an array.")
    lengths = {f"X[{layer!r}]": len(array) for layer, array in layers.items()}
    lengths.update({name: len(values) for name, values in others.items() if values is not None})
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise OptionError(f"All arguments must have the same number of rows, at least one. Received: {lengths}.")
    return next(iter(lengths.values()))


def _plain(spec: Mapping[str, Any]) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(spec), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise OptionError(f"`spec` must be what JSON can hold. Received: {spec!r}: {error}.") from None
    return plain


def _labels(y: Any, n: int, class_names: Sequence[str] | None) -> list[str | None]:
    if y is None:
        return [None] * n
    if class_names is None:
        return [None if label is None else str(label) for label in y]
    numbers = [int(label) for label in y]
    if any(not -1 <= number < len(class_names) for number in numbers):
        raise OptionError(
            f"`y` must be indices into the {len(class_names)} class names, or -1. Received: {min(numbers)} to "
            f"{max(numbers)}."
        )
    return [None if number < 0 else str(class_names[number]) for number in numbers]


def _identities(layers: Arrays, names: Sequence[str], files: bool) -> list[bytes]:
    """Return digests of the files, if they are there; else of the features."""
    present = [files and Path(name).is_file() for name in names]
    if all(present):
        return [digest(Path(name).read_bytes()) for name in names]
    if any(present):
        raise OptionError(
            f"Some of `paths` are files and others are not: {names[present.index(True)]!r} is a file, "
            f"{names[present.index(False)]!r} is not. Correct the paths, or give a digest of each image as `digests`."
        )
    if len(layers) == 1:
        (array,) = layers.values()
        return [digest(np.asarray(row)) for row in array]
    return [digest(b"".join(digest(np.asarray(array[i])) for array in layers.values())) for i in range(len(names))]
