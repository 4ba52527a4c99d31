"""Networks from files, in safe mode: configurations of Keras 2 are mended, and what Keras says is made short."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from featcache.bases.cutting import leaves
from featcache.bases.file_kinds import damage, other_kind
from featcache.bases.keras_applications import application_in
from featcache.bases.weights import differing
from featcache.bases.weights_files import readable_config, stored_config
from featcache.errors import BaseError, one_line

_HARMLESS: dict[str, tuple[Any, ...]] = {  # arguments of Keras 2, and the values with which they change nothing
    **dict.fromkeys(("renorm", "ragged", "sparse"), (False, None)),
    "fused": (True, False, None),
    "groups": (1,),
    "virtual_batch_size": (None,),
}
_ONLY_TRAINING = re.compile(r".*_(initializer|regularizer|constraint)")


def model_file(path: Path) -> Any:
    """Return the network in a Keras model file, loaded in safe mode: nothing in it is run. Else it is a `BaseError`."""
    try:
        if kind := other_kind(path):
            raise BaseError(kind)
        return _loaded(path)
    except BaseError:
        raise
    except Exception as error:
        raise BaseError(_reason(path, error)) from None


def _loaded(path: Path) -> Any:
    import keras

    if zipfile.is_zipfile(path):
        if path.suffix != ".keras":
            raise BaseError(f"{str(path)!r} is a .keras file under another name. Rename it to end in .keras.")
        return keras.models.load_model(path, compile=False)
    config = stored_config(path)
    if config is None:
        raise BaseError(
            f"{str(path)!r} has no Keras model in it. If it has the weights of one of Keras' applications: "
            f"--base NAME --weights {path}"
        )
    mended = json.dumps(_mended(json.loads(config)))
    if path.suffix in (".h5", ".hdf5") and json.loads(mended) == json.loads(config):
        model = keras.models.load_model(path, compile=False)
    else:
        model = _loaded_with(path, mended)
    wrong = differing(leaves(model), path)
    if wrong:
        raise BaseError(
            f"{str(path)!r} has the tensors of {', '.join(wrong[:3])} in another order than Keras reads them. "
            f"Load them by name: --base NAME --weights {path}"
        )
    return model


def _loaded_with(path: Path, config: str) -> Any:
    """Return the network in an HDF5 file as if it had another configuration."""
    import h5py
    import keras

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.h5"
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = config
        return keras.models.load_model(copy, compile=False)


def _mended(config: Any) -> Any:
    """Return a configuration without arguments that layers no longer take, where these decide no number."""
    import keras

    if isinstance(config, list):
        return [_mended(part) for part in config]
    if not isinstance(config, dict):
        return config
    mended = {key: _mended(value) for key, value in config.items()}
    kind = getattr(keras.layers, str(config.get("class_name")), None)
    if inspect.isclass(kind) and isinstance(mended.get("config"), dict):
        makers = [vars(parent)["__init__"] for parent in kind.__mro__ if "__init__" in vars(parent)]
        taken = {name for maker in makers for name in inspect.signature(maker).parameters}
        mended["config"] = {
            key: value for key, value in mended["config"].items() if key in taken or not _decides_nothing(key, value)
        }
    return mended


def _decides_nothing(key: str, value: Any) -> bool:
    return _ONLY_TRAINING.fullmatch(key) is not None or any(value is harmless for harmless in _HARMLESS.get(key, ()))


def _reason(path: Path, error: Exception) -> str:
    """Say in one line why a model file does not load, and what to do."""
    config: Any = {}
    with contextlib.suppress(ValueError, RecursionError):
        config = json.loads(readable_config(path) or "{}")
    layers = list(_layers(config))
    name = application_in(str(_settings(config).get("name", ""))) if layers else None
    remedy = (
        f"Use its weights alone: --base {name.lower()} --weights {path}" if name else "Save it with a current Keras."
    )
    lambdas = [str(_settings(layer).get("name", "?")) for layer in layers if layer.get("class_name") == "Lambda"]
    if lambdas and ("ambda" in str(error) or "safe" in str(error)):
        return (
            f"{str(path)!r} has Lambda layers ({', '.join(lambdas[:3])}), which would run code from the file. Replace "
            f"them by layers of Keras (loading stays in safe mode). {remedy if name else ''}"
        ).rstrip()
    unknown = sorted({str(layer.get("class_name")) for layer in layers if not _is_known(layer)})
    if unknown:
        return (
            f"{str(path)!r} has layers that Keras does not know: {', '.join(unknown[:5])}. Register these classes with "
            f"keras.saving.register_keras_serializable and give the model itself. {remedy if name else ''}"
        ).rstrip()
    if not layers:
        return f"{str(path)!r} is not a sound Keras model file that loads in safe mode: {_short(error)}"
    return f"{str(path)!r} does not load in safe mode: {_short(error)}. {remedy}"


def _layers(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every layer in a model's configuration, inner and wrapped ones too."""
    settings = _settings(config)
    listed = settings.get("layers")
    for layer in [*(listed if isinstance(listed, list) else []), settings.get("layer")]:
        if isinstance(layer, dict):
            yield layer
            yield from _layers(layer)


def _settings(config: Any) -> Mapping[str, Any]:
    settings = config.get("config") if isinstance(config, dict) else None
    return settings if isinstance(settings, dict) else {}


def _is_known(layer: Mapping[str, Any]) -> bool:
    import keras

    kind, package = str(layer.get("class_name")), str(layer.get("module")).partition(".")[0]
    registered = {name.rpartition(">")[2] for name in keras.saving.get_custom_objects()}
    return (
        package == "keras" or hasattr(keras.layers, kind) or kind in {"Functional", "Model", "Sequential", *registered}
    )


def _short(error: Exception) -> str:
    """Return what Keras found wrong, without its advice and its dumps of configurations."""
    if isinstance(error, OSError):
        return damage(error)
    text = re.split(r"Exception encountered: ", str(error))[-1]
    text = re.split(r"\n|(?<=[a-z)'}])\. ", text.strip())[0]
    return one_line(text)[:160].rstrip(".") or type(error).__name__
