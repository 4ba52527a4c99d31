from pathlib import Path

import pytest

from featcache.bases import load_base
from featcache.errors import BaseError
from featcache.recipe import Request


def test_damaged_model_file(tmp_path: Path) -> None:
    """A file that is no model is an error, not a traceback."""
    (tmp_path / "m.keras").write_bytes(b"PK nonsense")
    with pytest.raises(BaseError, match="loads in safe mode"):
        load_base(Request(tmp_path / "m.keras"))


def test_model_that_would_run_code_is_refused(tmp_path: Path) -> None:
    """A Lambda layer in a model file is not unpickled."""
    import keras

    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "m.keras")
    with pytest.raises(BaseError, match="safe mode"):
        load_base(Request(tmp_path / "m.keras", preprocess="none"))
