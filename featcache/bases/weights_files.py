"""What weights files hold: the tensors of each layer, still on disk, and their names within the layer."""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.bases.file_kinds import damage, other_kind
from featcache.errors import WeightsError

_SMALL = 2**20
_MOST_SWELLING = 1000
_DAMAGE = (OSError, KeyError, RuntimeError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class StoredLayer:
    """One layer's tensors in a file, as h5py's datasets; none for a name that several layers have.

    `names` are those within the layer, such as ``kernel``, or "" where the file only numbers them. Layers of one
    `group` are of one model and `rank` is their order in it: all layers in a legacy file, those of one class in a file
    of Keras 3, which sorts by class.
    """

    tensors: list[Any]
    names: list[str]
    group: str = ""
    rank: int = 0


@dataclass(frozen=True)
class StoredWeights:
    """What a weights file has for each layer, by name; by class and rank where it has no names of layers."""

    layers: dict[str, StoredLayer]
    by_place: bool = False


@contextlib.contextmanager
def stored_weights(path: Path) -> Iterator[StoredWeights]:
    """Open a weights file and list what it has; raise `WeightsError` if it is no sound one, or Theano's."""
    import h5py

    try:
        kind = other_kind(path)
        if kind:
            raise WeightsError(f"{kind} A Keras weights file is .h5, .weights.h5 or .keras.")
        content: Any = path
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content = io.BytesIO(_unzipped(archive, "model.weights.h5"))
        with h5py.File(content, "r") as file:
            yield _listed(file, path)
    except WeightsError:
        raise
    except _DAMAGE as error:
        raise WeightsError(
            f"{str(path)!r} is not a sound Keras weights file (.h5, .weights.h5 or .keras): {damage(error)}"
        ) from None


def readable_config(path: Path) -> str | None:
    """Return the configuration of the model in a file as JSON; None where there is none, or it is damaged."""
    with contextlib.suppress(*_DAMAGE):
        return stored_config(path)
    return None


def _unzipped(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > max(_SMALL, _MOST_SWELLING * info.compress_size):
        raise ValueError(f"its {name} would swell to {info.file_size:,} bytes")
    return archive.read(name)


def stored_config(path: Path) -> str | None:
    """Return the configuration of the model in a sound file as JSON; None where there is none."""
    import h5py

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if "config.json" not in archive.namelist():
                return None
            return _unzipped(archive, "config.json").decode(errors="replace")
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
    if isinstance(config, bytes):
        return config.decode(errors="replace")
    return config if isinstance(config, str) else None


def values_of(tensor: Any, path: Path) -> npt.NDArray[Any]:
    """Return a tensor's numbers; raise `WeightsError` if they are none."""
    values: npt.NDArray[Any] = np.asarray(tensor)
    if tensor.attrs.get("dtype") == "bfloat16":
        import ml_dtypes

        values = values.view(ml_dtypes.bfloat16).astype(np.float32)
    if values.dtype.kind not in "fiub":
        raise WeightsError(f"{str(path)!r} has {values.dtype} for {tensor.name!r}, where numbers are expected.")
    return values


def bare_name(name: str, layer: str) -> str:
    """Return a name within its layer: ``kernel`` of ``conv/kernel:0``, ``W`` of Keras 1’s ``conv_W_1:0``."""
    parts = name.split("/")
    parts = parts[len(parts) - parts[::-1].index(layer) :] if layer in parts[:-1] else parts[-1:]
    last = re.sub(r":\d+$", "", parts[-1]).removeprefix(f"{layer}_")
    return "/".join([*parts[:-1], re.sub(r"_\d+$", "", last)])


def _listed(file: Any, path: Path) -> StoredWeights:
    root = file.get("model_weights", file)
    backend = _text(root.attrs.get("backend", b""))
    if backend == "theano" or re.search(r"(^|_)th_(kernels|dim_ordering)", path.name):
        raise WeightsError(
            f"{str(path)!r} was written by Theano, whose kernels are flipped. "
            "Use the file with 'tf_kernels' in its name."
        )
    layers = _text_attribute(root, "layer_names")
    return StoredWeights(_unique(_legacy(root, layers))) if layers else _numbered(file)


def _legacy(root: Any, layers: list[str]) -> dict[tuple[str, str], StoredLayer]:
    """Return layers by the outer model's group and their own name: inner ones lie side by side in that group."""
    found: dict[tuple[str, str], StoredLayer] = {}
    for layer in layers:
        for name in _text_attribute(root[layer], "weight_names"):
            inner = name.rpartition("/")[0].rpartition("/")[2]
            own = inner in ("", layer) or ("/" in layer and name.startswith(f"{layer}/"))
            place = ("", layer.replace("/", "_")) if own else (layer, inner)  # Keras 2 had DenseNet's `conv1/conv`
            stored = found.setdefault(place, StoredLayer([], [], place[0], len(found)))
            stored.tensors.append(_tensor(root[layer], name))
            stored.names.append(bare_name(name, place[1]))
    return found


def _numbered(file: Any) -> StoredWeights:
    """Return the layers of a file of Keras 3, by name; by place where early versions wrote no names."""
    import h5py

    named: dict[tuple[str, str], StoredLayer] = {}
    placed: dict[str, StoredLayer] = {}

    def visit(place: str, group: Any) -> None:
        if not (isinstance(group, h5py.Group) and isinstance(group.get("vars"), h5py.Group) and len(group["vars"])):
            return
        tensors = [_tensor(group["vars"], str(i)) for i in range(len(group["vars"]))]
        kind = re.sub(r"_\d+$", "", place)
        rank = int(place[len(kind) + 1 :] or 0)
        stored = StoredLayer(tensors, [""] * len(tensors), kind, rank)
        name = group["vars"].attrs.get("name", group.attrs.get("name"))
        if name is not None:
            named[place, _text(name)] = stored
        elif not place.startswith("optimizer"):
            placed[place.replace("_layer_checkpoint_dependencies", "layers")] = stored  # as Keras 2.13 wrote it

    file.visititems(visit)
    return StoredWeights(_unique(named)) if named else StoredWeights(placed, by_place=True)


def _unique(found: dict[tuple[str, str], StoredLayer]) -> dict[str, StoredLayer]:
    stored: dict[str, StoredLayer] = {}
    for (_, name), layer in found.items():
        stored[name] = StoredLayer([], []) if name in stored else layer
    return stored


def _tensor(group: Any, name: str) -> Any:
    """Return a dataset that lies in the file itself: a link could lead to another file of this machine."""
    import h5py

    parts = name.split("/")
    for i in range(len(parts)):
        link = group.get("/".join(parts[: i + 1]), getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"it has no tensor {name!r} of its own")
    tensor = group[name]
    if not isinstance(tensor, h5py.Dataset) or tensor.is_virtual or tensor.external:
        raise ValueError(f"it has no tensor {name!r} of its own")
    return tensor


def _text_attribute(group: Any, name: str) -> list[str]:
    """Return a list of names that Keras may have split over ``name0``, ``name1``, …"""
    parts = [name] if name in group.attrs else []
    while f"{name}{len(parts)}" in group.attrs:
        parts.append(f"{name}{len(parts)}")
    return [_text(value) for part in parts for value in group.attrs[part]]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
