import numpy as np
import pytest
from conftest import predicted_mean, random_image

from featcache.errors import SourceError
from featcache.sources import class_names
from featcache.sources.opening import open_source


def test_digits() -> None:
    """The embedded set has 1,797 images of ten classes, in 0…255."""
    source = open_source("digits")
    assert len(source.items) == 1797
    assert class_names(source.items) == [str(i) for i in range(10)]
    pixels = source.read(source.items[0])
    assert pixels.shape == (8, 8)
    assert pixels.max() == 239  # 15 of 16


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_keras_sets(extracting, tmp_path, monkeypatch, name: str) -> None:
    """What Keras' loader gives is listed as train and test, its labels as text."""
    import keras

    images = np.stack([random_image(i) for i in range(5)])
    labels = np.array([3, 1, 3, 1, 3], np.uint8)
    given = ((images[:3], labels[:3, None]), (images[3:], labels[3:, None] if "cifar" in name else labels[3:]))
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", lambda: given)
    cache = extracting(name, tmp_path / "c")
    assert cache.splits == {"train": 3, "test": 2}
    assert cache.class_names == ["1", "3"]
    assert cache.paths("test") == ["test/000000", "test/000001"]
    assert np.allclose(cache.features(), [predicted_mean(image) for image in images], rtol=1e-5)
    assert extracting(name, tmp_path / "c").report.computed == 0


def test_failed_download(monkeypatch) -> None:
    """Without network the error is one line that says what to do."""
    import keras

    def fails() -> None:
        raise Exception("URL fetch failure on https://…: None --\n[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fails)
    with pytest.raises(SourceError, match=r"mnist.*URL fetch failure.*~/\.keras/datasets") as caught:
        open_source("mnist")
    assert "\n" not in str(caught.value)
