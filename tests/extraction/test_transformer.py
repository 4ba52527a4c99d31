from pathlib import Path

import numpy as np
import pytest
from conftest import predicted_mean, random_image, write_image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from featcache.errors import ImageError
from featcache.extraction.transformer import FeatureExtractor


def test_pipeline(oracle: Path, photos: Path) -> None:
    """In a scikit-learn pipeline, files go in and classes come out."""
    paths = sorted(photos.rglob("*.png"))
    labels = [path.parent.name for path in paths]
    model = make_pipeline(FeatureExtractor(oracle, layer="mix", preprocess="none"), LogisticRegression())
    assert clone(model).fit(paths, labels).score(paths, labels) == 1.0


def test_transform_repeats_and_refuses(oracle: Path, tmp_path: Path) -> None:
    """The same file twice gives two rows; a file that cannot be read is an error that names it."""
    transformer = FeatureExtractor(oracle, layer="mix", preprocess="none").fit([])
    path = write_image(tmp_path / "1.png", random_image(1))
    rows = transformer.transform([path, str(path), path])
    assert rows.shape == (3, transformer.n_features_out_) == (3, 4)
    assert np.allclose(rows, predicted_mean(random_image(1)), rtol=1e-5)
    (tmp_path / "2.png").write_text("no image")
    with pytest.raises(ImageError, match=r"2\.png: not an image"):
        transformer.transform([path, tmp_path / "2.png"])


def test_transform_of_nothing_and_of_folders(oracle: Path, photos: Path) -> None:
    """No file gives no row; a folder is not silently taken for its files."""
    transformer = FeatureExtractor(oracle, layer="mix", preprocess="none").fit([])
    assert transformer.transform([]).shape == (0, 4)
    with pytest.raises(ImageError, match="a folder or a table in it"):
        transformer.transform([photos])


def test_pipeline_can_be_pickled(oracle: Path, photos: Path) -> None:
    """A fitted pipeline survives pickling: the base is loaded anew, the numbers are the same; columns have names."""
    import pickle

    paths = sorted(photos.rglob("*.png"))
    transformer = FeatureExtractor(oracle, layer="mix", preprocess="none").fit(paths)
    again = pickle.loads(pickle.dumps(transformer))
    assert np.array_equal(again.transform(paths), transformer.transform(paths))
    assert list(transformer.get_feature_names_out()) == [f"featureextractor{i}" for i in range(4)]
    with pytest.raises(ImageError, match="a list of images"):
        transformer.transform(str(paths[0]))
