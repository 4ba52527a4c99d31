"""Networks from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featcache.errors import BaseError, one_line


def model_file(path: Path) -> Any:
    """Return the network in a Keras model file, loaded in safe mode."""
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        raise BaseError(
            f"Expected a Keras model file (.keras or .h5) that loads in safe mode. Received: {str(path)!r}: "
            f"{one_line(error)}"
        ) from None
