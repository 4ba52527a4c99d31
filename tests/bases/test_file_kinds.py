import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from featcache.bases import load_base
from featcache.bases.file_kinds import other_kind
from featcache.errors import BaseError, WeightsError
from featcache.recipe import Request


def zipped(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return content.getvalue()


FILES = {
    "m.onnx": (b"\x08\x08\x12\x07pytorch", "an ONNX file"),
    "m.tflite": (b"\x1c\x00\x00\x00TFL3\x14\x00", "a TensorFlow Lite file"),
    "m.safetensors": (b"\x02\x00\x00\x00\x00\x00\x00\x00{} ", "a safetensors file"),
    "m.pth": (zipped("archive/data.pkl", "archive/data/0"), "a PyTorch file"),
    "old.h5": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a Python pickle"),
    "m.pb": (b"\n\x0e\n\x05input", "a TensorFlow graph"),
    "m.ckpt.index": (b"\x00\x00\x07bundle", "a TensorFlow checkpoint"),
    "m.ckpt.data-00000-of-00001": (b"\x00\x01\x02", "a TensorFlow checkpoint"),
    "m.weights.json": (b'{"metadata": {}}', "a JSON file without weights"),
    "pointer.keras": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
    "page.h5": (b"<!DOCTYPE html><html>Not found</html>", "a web page"),
    "m.h5.gz": (b"\x1f\x8b\x08\x00", "a compressed archive"),
    "arrays.npz": (zipped("a.npy"), "a file of NumPy arrays"),
    "m.zip": (zipped("readme.txt"), "a zip archive without a Keras model"),
    "empty.keras": (b"", "an empty file"),
    "text.h5": (b"nonsense", "neither HDF5 nor zip"),
}
FOLDERS = {
    "saved_model.pb": "a TensorFlow SavedModel",
    "model.keras": "a folder. Give the file in it",
    "_CHECKPOINT_METADATA": "an Orbax checkpoint",
    "checkpoint": "a folder of TensorFlow checkpoints",
    "photo.jpg": "a folder. Give a Keras file",
}


@pytest.mark.parametrize("name", FILES)
def test_other_files_are_named(tmp_path: Path, name: str) -> None:
    """What is no Keras file is called what it is, as base and as weights, in one line that says what to do."""
    content, kind = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    for error, request in (
        (BaseError, Request(path)),
        (WeightsError, Request("vgg19", weights=path, image_size=(32, 32), layers=("block1_conv1",))),
    ):
        with pytest.raises(error, match=f"{name}' is {kind}") as caught:
            load_base(request)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_are_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is called what it is, by its path and by its bare name."""
    folder = tmp_path / "thing"
    folder.mkdir()
    (folder / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    for base in (folder, "thing"):
        with pytest.raises(BaseError, match=f"thing' is {FOLDERS[name]}"):
            load_base(Request(base))


def test_bare_file_name_is_no_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without a folder in its name is not called an unknown application."""
    (tmp_path / "m.onnx").write_bytes(FILES["m.onnx"][0])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseError, match="an ONNX file"):
        load_base(Request("m.onnx"))


def test_what_keras_and_numpy_write(tmp_path: Path) -> None:
    """Files that Keras wrote are none of these kinds, arrays are."""
    import keras

    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    for name in ("m.keras", "m.h5"):
        model.save(tmp_path / name)
        assert other_kind(tmp_path / name) is None
    model.save_weights(tmp_path / "m.weights.h5")
    assert other_kind(tmp_path / "m.weights.h5") is None
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    assert "NumPy" in str(other_kind(tmp_path / "a.npz"))
