"""What a cache's recipe.json and manifest may say: kinds of values, ranges, and lengths that agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache.shard import HEAD_BYTES, ShardInfo, block_rows
from featcache.files.reading import parsed
from featcache.files.values import (
    list_of,
    mapping_of,
    matching,
    maybe,
    number,
    record,
    row,
    sha256,
    text,
    truth,
    whole,
    wrong,
)
from featcache.saved.cards import SOURCE, listing

shard_name = matching(r"[0-9a-f]{16}\.h5", "the name of a shard")


def _layers(value: Any, name: str) -> None:
    _SHAPES(value, name)
    if len({layer for layer, _ in value}) < len(value) or any(math.prod(shape) > 2**40 for _, shape in value):
        raise wrong(value, name, "layers with a plausible shape each")


_SHAPES = list_of(row(text, list_of(whole(1, 2**40))), least=1)

_PARTS = ("rotation", "zoom", "shift", "brightness", "contrast", "crop")
_POLICY = record({}, {"flip": truth, "fill": text, "seed": whole(-(2**63)), **dict.fromkeys(_PARTS, number(0, 1))})

META = record(
    {},
    {
        "format": whole(),
        "fingerprint": sha256,
        "layers": _layers,
        **dict.fromkeys(("images", "rows", "settled"), whole(0, 2**40)),
        "version": text,
        "writer": text,
        "commits": whole(0, 2**62),
        "source": SOURCE,
        "listing": listing,
        "views": record({"count": whole(0, 2**16 - 1), "augmentation": text}, {"policy": maybe(_POLICY)}),
    },
)
"""The kind of value that the table ``meta`` has, all of it."""

COLUMNS: dict[str, type] = {
    **dict.fromkeys(("key", "value", "name", "layer", "augmentation"), str),
    **dict.fromkeys(("id", "rows", "size", "checksum", "shard", "offset", "first", "crc"), int),
    **dict.fromkeys(("checksums", "digests", "views", "content", "positions", "splits", "known", "reasons"), bytes),
}
"""Python's type of each column of the manifest's tables."""

_COUNT, _SIZE, _CRC = whole(1, 2**31 - 1), whole(HEAD_BYTES + 1), whole(0, 2**32 - 1)
_SHARD = record({"name": shard_name, "id": _COUNT, "rows": _COUNT, "size": _SIZE, "checksum": _CRC})


def shard(number: int, info: ShardInfo) -> None:
    """Raise `ValueError` if a shard cannot be as the manifest describes it."""
    described = {"id": number, "name": info.name, "rows": info.rows, "size": info.size, "checksum": info.checksum}
    _SHARD(described, "a shard")
    for layer, offset in info.offsets.items():
        if not 0 <= offset < info.size:
            raise wrong(offset, f"the place of {layer} in {info.name}", "inside the file")


def inside(info: ShardInfo, layers: Mapping[str, Sequence[int]], dtype: np.dtype[Any]) -> None:
    """Raise `ValueError` if a shard's rows do not fit into its file, or have another number of checksums."""
    for layer in layers.keys() & info.offsets.keys():
        row_bytes = math.prod(layers[layer]) * dtype.itemsize
        offset, count = info.offsets[layer], len(info.checksums[layer])
        if offset and offset + info.rows * row_bytes > info.size:
            raise ValueError(f"{info.rows} rows of {layer} from byte {offset} on are more than {info.name} has")
        if count != -(-info.rows // block_rows(row_bytes)):
            raise ValueError(f"{info.name} has {count} checksums of {info.rows} rows of {layer}")


def numbers(content: bytes, kind: str, name: str, *, count: int, low: int, high: int) -> npt.NDArray[Any]:
    """Return a blob as so many numbers in a range; raise `ValueError` if it is anything else."""
    values = np.frombuffer(content, kind)
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} values instead of {count}")
    if count and not low <= int(values.min()) <= int(values.max()) <= high:
        raise ValueError(f"{name} has values outside of {low} to {high}")
    return values


def names(content: bytes, name: str) -> list[str]:
    """Return a JSON list of distinct texts; raise `ValueError` if it is anything else."""
    found = parsed(content)
    if not isinstance(found, list) or not all(type(one) is str for one in found) or len(set(found)) < len(found):
        raise wrong(found, name, "a list of distinct names")
    text("\n".join(found), name)
    return found


def reasons(content: bytes, count: int) -> dict[int, str]:
    """Return reasons by place, of so many places; raise `ValueError` if that is not what is there."""
    found = parsed(content)
    mapping_of(text)(found, "reasons")
    known = {int(place): reason for place, reason in found.items()}
    if known and not 0 <= min(known) <= max(known) < count:
        raise ValueError(f"its reasons are of images from {min(known)} to {max(known)}, and there are {count}")
    return known
