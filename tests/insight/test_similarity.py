import numpy as np
import pytest

from featcache.heads import Rows
from featcache.insight import similarity
from featcache.insight.similarity import directions, mean_row, most_similar, nearest, pair_cosines


def some_rows(n: int = 100, d: int = 12) -> np.ndarray:
    """Return positive rows, some of them equal, one the mean of nothing."""
    rows = np.abs(np.random.default_rng(0).normal(size=(n, d))).astype(np.float32) + 3
    rows[7] = rows[3]
    return rows


@pytest.mark.parametrize("k", [1, 5, 200])
@pytest.mark.parametrize("block", [16, 64, 2048])
def test_nearest_equals_all_products(k: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However rows are divided, neighbours and cosines are those that one product of all rows gives."""
    monkeypatch.setattr(similarity, "BLOCK", block)
    X = some_rows()
    centred = X - X.mean(axis=0)
    units, uncertainty = directions(Rows(X), mean_row(Rows(X)))
    assert uncertainty == 0
    calls = []
    indices, cosines = nearest(units, k, progress=lambda done, total: calls.append((done, total)))
    expected = centred @ centred.T
    lengths = np.linalg.norm(centred, axis=1)
    expected = expected / np.outer(lengths, lengths)
    np.fill_diagonal(expected, -np.inf)
    wanted = -np.sort(-expected, axis=1)[:, : min(k, 99)]
    np.testing.assert_allclose(cosines, wanted, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, indices, axis=1), wanted, atol=1e-5)
    assert calls[-1] == (100, 100)


def test_one_row_has_no_neighbours() -> None:
    """A single row, or none to ask for, gives empty results."""
    indices, cosines = nearest(np.ones((1, 3), np.float32), 5)
    assert indices.shape == cosines.shape == (1, 0)


def test_sketches_keep_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the memory limit, sketches give cosines within four of the stated deviations; pairs are exact again."""
    X = np.abs(np.random.default_rng(1).normal(size=(60, 4000))).astype(np.float32)
    X[1] = X[0] + 0.2 * X[2]
    mean = mean_row(Rows(X))
    exact, _ = directions(Rows(X), mean)
    monkeypatch.setattr(similarity, "MEMORY", 1000)
    sketch, uncertainty = directions(Rows(X), mean)
    assert sketch.shape == (60, similarity.SKETCH)
    assert 0 < uncertainty < 0.1
    products = exact @ exact.T
    assert np.abs(sketch @ sketch.T - products).max() < 4.5 * uncertainty
    left, right = np.array([0, 5]), np.array([1, 9])
    np.testing.assert_allclose(pair_cosines(Rows(X), mean, left, right), products[left, right], atol=1e-5)


def test_most_similar_equals_scikit_learn() -> None:
    """The most similar rows to a query are those of scikit-learn's cosine similarity, in its order."""
    from sklearn.metrics.pairwise import cosine_similarity

    X = some_rows()
    X[5] = 0
    expected = cosine_similarity(X[3:4], X)[0]
    best, cosines = most_similar(Rows(X), X[3], 4)
    assert best[:2].tolist() == [3, 7]
    np.testing.assert_allclose(cosines, -np.sort(-expected)[:4], atol=1e-6)
    assert most_similar(Rows(X), np.zeros(12, np.float32), 1)[1][0] == 0
