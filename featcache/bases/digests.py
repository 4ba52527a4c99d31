"""SHA-256 of a network's structure and of its weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.recipe import canonical_json


def architecture_digest(model: Any) -> str:
    """Return SHA-256 of a network's structure, free of names, initialisers and training settings."""
    return hashlib.sha256(canonical_json(_structure(model.get_config())).encode()).hexdigest()


_IRRELEVANT = re.compile(
    r"(name|trainable|seed|module|build_config|compile_config|.*_(initializer|regularizer|constraint))"
)


def _structure(config: Any) -> Any:
    """Return a model's config with layers named by position, and without what decides no number."""
    position = {}
    if isinstance(config, Mapping) and isinstance(config.get("layers"), list):
        position = {layer.get("name"): f"#{i}" for i, layer in enumerate(config["layers"]) if "name" in layer}

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            kind = str(value.get("class_name"))
            if kind.endswith("DTypePolicy"):
                return {"class_name": kind, "config": value.get("config")}
            if kind in ("Functional", "Sequential") and value is not config:
                return {"class_name": kind, "config": _structure(value.get("config"))} | {
                    key: plain(value[key]) for key in ("inbound_nodes",) if key in value
                }
            if "keras_history" in value:
                source, *rest = value["keras_history"]
                return [position.get(source, source), *rest]
            return {str(k): plain(v) for k, v in value.items() if not _IRRELEVANT.fullmatch(str(k))}
        if isinstance(value, list | tuple):
            if (
                len(value) == 3
                and isinstance(value[0], str)
                and value[0] in position
                and all(isinstance(n, int) for n in value[1:])
            ):
                return [position[value[0]], *value[1:]]  # an entry of input_layers or output_layers
            return [plain(v) for v in value]
        return value

    return json.loads(json.dumps(plain(config), default=lambda thing: type(thing).__name__))


def weights_digest(model: Any) -> str:
    """Return SHA-256 over dtype, shape and values of every weight tensor, in the network's order."""
    total = hashlib.sha256()
    for layer in model.layers:
        for variable in layer.weights:
            tensor: npt.NDArray[Any] = np.ascontiguousarray(variable.numpy())
            total.update(f"{tensor.dtype.str} {tensor.shape}\n".encode())
            total.update(tensor.data if tensor.size else b"")
    return total.hexdigest()
