"""What a file or folder is that is no Keras model, told by its content, and what to do with it."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from featcache.errors import one_line
from featcache.files.reading import odd_file

_SAVE = "Load it in the program that made it and save the Keras model: model.save('model.keras')."
_CONVERT = (
    "featcache takes Keras models (.keras, .h5): use the same network from `featcache bases`, or compute features "
    "elsewhere and bring them in with FeatureCache.from_arrays."
)
_PYTORCH = ("a PyTorch file", _CONVERT)
_FOLDERS = (  # a name in the folder, what the folder is, what to do
    ("saved_model.pb", "a TensorFlow SavedModel", _SAVE),
    ("model.keras", "a folder", "Give the file in it: {path}/model.keras."),
    ("preprocessor.json", "a KerasHub preset", _SAVE),
    ("model.weights.h5", "an unpacked .keras file", "Zip its files again as one .keras file."),
    ("_CHECKPOINT_METADATA", "an Orbax checkpoint", _SAVE),
    ("orbax.checkpoint", "an Orbax checkpoint", _SAVE),
    ("pytree.orbax-checkpoint", "an Orbax checkpoint", _SAVE),
    ("checkpoint_metadata", "an Orbax checkpoint", _SAVE),
    ("checkpoint", "a folder of TensorFlow checkpoints", _SAVE),
)
_STARTS = (  # first bytes, what the file is, what to do
    (b"version https://git-lfs", "a Git LFS pointer in place of the file", "Fetch the file: git lfs pull."),
    (b"<!doctype html", "a web page", "Download the file itself."),
    (b"<html", "a web page", "Download the file itself."),
    (b"\x1f\x8b", "a compressed archive", "Unpack it."),
    (b"\x80", "a Python pickle, as PyTorch writes it", _CONVERT),
)
_ENDINGS = {
    ".onnx": ("an ONNX file", _CONVERT),
    ".tflite": ("a TensorFlow Lite file", _CONVERT),
    ".safetensors": ("a safetensors file", _CONVERT),
    ".pt": _PYTORCH,
    ".pth": _PYTORCH,
    ".pb": ("a TensorFlow graph", _SAVE),
    ".index": ("a TensorFlow checkpoint", _SAVE),
    ".ckpt": ("a TensorFlow checkpoint", _SAVE),
    ".npz": ("a file of NumPy arrays", _SAVE),
    ".json": ("a JSON file without weights", "Save model and weights in one file: model.save('model.keras')."),
}


def other_kind(path: Path) -> str | None:
    """Return what a path is and what to do, in one line, if it is certainly no Keras file."""
    if not path.exists():
        return f"{str(path)!r} does not exist."
    if not path.is_dir() and (odd := odd_file(path)) is not None:
        return f"{str(path)!r} is {odd}, not a file."
    known = _folder(path) if path.is_dir() else _file(path)
    if known is None:
        return None
    kind, remedy = known
    return f"{str(path)!r} is {kind}. {remedy.format(path=path)}"


def damage(error: Exception) -> str:
    """Return what a library says of a damaged file, in one line."""
    torn = re.search(r"truncated file: eof = (\d+),.*stored_eof = (\d+)", str(error))
    return f"it ends after {torn[1]} of {torn[2]} bytes. Copy or download it again." if torn else one_line(error)


def _folder(path: Path) -> tuple[str, str]:
    names = {entry.name for entry in path.iterdir()}
    for name, kind, remedy in _FOLDERS:
        if name in names:
            return kind, remedy
    return "a folder", "Give a Keras file: .keras, .h5 or .weights.h5."


def _file(path: Path) -> tuple[str, str] | None:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "an empty file", "Copy or download it again."
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return None
    if zipfile.is_zipfile(path):
        return _archive(path)
    if start[4:8] == b"TFL3":
        return _ENDINGS[".tflite"]
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return _ENDINGS[".safetensors"]
    for known, kind, remedy in _STARTS:
        if start.lower().startswith(known):
            return kind, remedy
    if ".data-0" in path.name:
        return _ENDINGS[".ckpt"]
    return _ENDINGS.get(path.suffix.lower()) or _unless_hdf5(path)


def _unless_hdf5(path: Path) -> tuple[str, str] | None:
    """Say that a file is nothing Keras writes, unless it is HDF5 behind a block of the user's own."""
    import h5py

    if h5py.is_hdf5(path):
        return None
    remedy = "It is damaged or has another format: copy or download it again."
    return "neither HDF5 nor zip, as Keras writes them", remedy


def _archive(path: Path) -> tuple[str, str] | None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if {"config.json", "model.weights.h5"} & set(names):
        return None
    if any(name.endswith("data.pkl") for name in names):
        return _PYTORCH
    if any(name.endswith(".npy") for name in names):
        return _ENDINGS[".npz"]
    return "a zip archive without a Keras model", "Unpack it, and give the model or weights file in it."
