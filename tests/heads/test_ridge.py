import tracemalloc
import warnings

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.estimator_checks import parametrize_with_checks

from featcache.errors import OptionError
from featcache.heads import ridge, rows
from featcache.heads.folds import grouped_folds
from featcache.heads.ridge import RidgeHead, memory_bytes
from featcache.heads.rows import Rows

ALPHAS = (0.1, 10.0, 1000.0)


def images(n: int, d: int, k: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of unlike scales with a constant one, labels of unlike frequencies, groups of 1 to 3 rows."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n), rng.integers(1, 4, n))[:n]
    y = np.minimum(rng.integers(0, k + 1, n), k - 1)[groups]
    X = rng.standard_normal((n, d)) + 0.3 * rng.standard_normal((k, d))[y]
    X *= np.exp(rng.standard_normal(d))
    X[:, 0] = 0.1
    return X.astype(np.float32), y, groups


def targets(y: np.ndarray) -> np.ndarray:
    """Return the ±1 targets (n, outputs) that one-vs-rest ridge is fitted to."""
    signs = np.where(y[:, None] == np.unique(y), 1.0, -1.0)
    return signs[:, 1:] if signs.shape[1] == 2 else signs


def reference(X: np.ndarray, y: np.ndarray, fit_on: np.ndarray, alpha: float, class_weight: object) -> np.ndarray:
    """Return the scores (n, outputs) of all rows by scikit-learn, in float64, trained on some of them."""
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    weights = compute_sample_weight(class_weight, y)
    model = Ridge(alpha, solver="svd").fit(Z[fit_on], targets(y)[fit_on], sample_weight=weights[fit_on])
    return model.predict(Z).reshape(len(y), -1)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5}])
@pytest.mark.parametrize(("n", "d", "k"), [(90, 12, 2), (90, 12, 3), (30, 50, 2), (40, 50, 3)])
def test_scores_are_those_of_ridge_on_standardised_features(n: int, d: int, k: int, class_weight: object) -> None:
    """The one model of all rows scores as scikit-learn's Ridge on standardised features and ±1 targets does."""
    X, y, groups = images(n, d, k)
    for alpha in ALPHAS:
        model = RidgeHead(alpha, class_weight=class_weight).fit(X, y, groups)
        expected = reference(X, y, np.arange(n), alpha, class_weight)
        assert model.coef_.shape == (expected.shape[1], d) and model.coef_.dtype == np.float32
        assert np.allclose(model.decision_function(X).reshape(expected.shape), expected, atol=2e-4)


def test_features_can_be_left_as_they_are() -> None:
    """Without standardising, the coefficients are those of Ridge on the features themselves."""
    for n, d in ((90, 12), (40, 60)):
        X, y, _ = images(n, d, 3)
        model = RidgeHead(10.0, standardize=False).fit(X, y)
        expected = Ridge(10.0).fit(X.astype(np.float64), targets(y))
        assert np.allclose(model.coef_, expected.coef_, atol=1e-4)
        assert np.allclose(model.intercept_, expected.intercept_, atol=1e-4)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize(("n", "d", "k"), [(90, 12, 2), (90, 12, 3), (30, 50, 2), (40, 50, 3)])
def test_held_out_errors_and_scores_are_those_of_a_loop_over_folds(
    n: int, d: int, k: int, class_weight: object
) -> None:
    """Errors of all penalties, the choice, and the held-out scores equal a plain loop of Ridge over the folds."""
    X, y, groups = images(n, d, k)
    model = RidgeHead(ALPHAS, class_weight=class_weight, folds=4, seed=3)
    held, scores = model.fit_scored(X, y, groups)
    fold = grouped_folds(y, groups, 4, seed=3)
    weights = compute_sample_weight(class_weight, y)
    errors, expected = [], []
    for alpha in ALPHAS:
        found = np.empty(targets(y).shape)
        for f in range(4):
            found[fold == f] = reference(X, y, np.flatnonzero(fold != f), alpha, class_weight)[fold == f]
        expected.append(found)
        errors.append(np.average(((targets(y) - found) ** 2).sum(axis=1), weights=weights))
    assert np.array_equal(held, np.arange(n))
    assert np.allclose(model.errors_, errors, rtol=1e-3)
    assert model.alpha_ == ALPHAS[int(np.argmin(errors))]
    assert np.allclose(scores.reshape(n, -1), expected[ALPHAS.index(model.alpha_)], atol=2e-3)


def test_rows_of_a_lone_group_are_always_trained_on() -> None:
    """A class of one group has no held-out scores, and every held-out model was trained on it."""
    X, y, _ = images(60, 8, 2)
    y[:2] = 2
    groups = np.arange(60)
    groups[:2] = 99
    for wide in (1, 10):
        model = RidgeHead(10.0)
        held, scores = model.fit_scored(np.tile(X, wide), y, groups)
        fold = grouped_folds(y, groups, 5, seed=0)
        assert np.array_equal(held, np.arange(2, 60))
        for f in range(5):
            own = np.flatnonzero(fold == f)
            expected = reference(np.tile(X, wide), y, np.flatnonzero(fold != f), 10.0, None)[own]
            assert np.allclose(scores[own - 2], expected, atol=1e-3)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_both_forms_find_the_same(monkeypatch: pytest.MonkeyPatch, class_weight: object) -> None:
    """From products of features or of rows: the same errors, the same head, the same held-out scores."""
    X, y, groups = images(60, 40, 3)

    def fitted() -> tuple[RidgeHead, np.ndarray]:
        model = RidgeHead(ALPHAS, class_weight=class_weight)
        return model, model.fit_scored(X, y, groups)[1]

    primal, primal_scores = fitted()
    monkeypatch.setattr(ridge, "_Primal", ridge._Dual)
    dual, dual_scores = fitted()
    assert np.allclose(primal.errors_, dual.errors_, rtol=1e-4)
    assert np.allclose(primal.decision_function(X), dual.decision_function(X), atol=1e-4)
    assert np.allclose(primal_scores, dual_scores, atol=1e-3)


@pytest.mark.parametrize("d", [12, 200])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_size_of_pieces_does_not_matter(monkeypatch: pytest.MonkeyPatch, d: int, class_weight: object) -> None:
    """Rows read one at a time, multiplied a few at a time, give the same head as all at once."""
    X, y, groups = images(100, d, 3)
    whole = RidgeHead(ALPHAS, class_weight=class_weight)
    _, scores = whole.fit_scored(X, y, groups)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 4 * d)
    monkeypatch.setattr(ridge, "CHUNK_BYTES", 7 * 4 * d)
    monkeypatch.setattr(ridge, "SUMMED", 5)
    pieces = RidgeHead(ALPHAS, class_weight=class_weight)
    _, again = pieces.fit_scored(X, y, groups)
    assert np.allclose(whole.errors_, pieces.errors_, rtol=1e-4)
    assert np.allclose(whole.decision_function(X), pieces.decision_function(X), atol=1e-4)
    assert np.allclose(scores, again, atol=1e-3)


@pytest.mark.parametrize("d", [12, 90])
def test_many_penalties_find_what_few_find(monkeypatch: pytest.MonkeyPatch, d: int) -> None:
    """One eigendecomposition for many penalties gives what a factorisation for each gives."""
    X, y, groups = images(80, d, 3)
    alphas = tuple(np.logspace(-1, 4, ridge.FEW + 1))
    many = RidgeHead(alphas).fit(X, y, groups)
    monkeypatch.setattr(ridge, "FEW", len(alphas))
    few = RidgeHead(alphas).fit(X, y, groups)
    assert np.allclose(many.errors_, few.errors_, rtol=1e-6)
    assert np.allclose(many.coef_, few.coef_, atol=1e-6)


def test_a_singular_matrix_is_solved_too() -> None:
    """Where rounding makes the matrix indefinite by more than the penalty, eigenvalues below 0 count as 0."""
    gram = np.diag([4.0, 1.0, -1e-9])
    (solution,) = ridge._solutions(gram, np.array([[4.0], [1.0], [1e-12]]), [1e-12])
    assert np.allclose(solution, 1)
    X, y, groups = images(80, 6, 3)
    doubled = RidgeHead(1e-9).fit(np.hstack([X, X, X]), y, groups)
    assert np.allclose(
        doubled.decision_function(np.hstack([X, X, X])), reference(X, y, np.arange(80), 1e-9, None), atol=1e-2
    )


@pytest.mark.parametrize("d", [30, 3000])
def test_copies_of_an_image_do_not_leak(d: int) -> None:
    """On random labels, held-out scores of rows that have a copy are right as often as chance."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.standard_normal((300, d)).astype(np.float32), 3, axis=0)
    y = np.repeat(rng.integers(0, 2, 300), 3)
    order = rng.permutation(900)
    _, scores = RidgeHead(0.01).fit_scored(X[order], y[order], np.repeat(np.arange(300), 3)[order])
    assert 0.4 < np.mean((scores > 0) == (y[order] > 0)) < 0.6
    _, leaked = RidgeHead(0.01).fit_scored(X[order], y[order])
    assert d == 30 or np.mean((leaked > 0) == (y[order] > 0)) > 0.9


@pytest.mark.parametrize(("n", "d"), [(3000, 40), (60, 80)])
def test_large_means_lose_no_digits(n: int, d: int) -> None:
    """Features with a mean of 1,000 and a deviation of 1, some nearly alike, score as in float64."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    X = rng.standard_normal((n, d)) + 0.5 * rng.standard_normal((3, d))[y]
    X[:, 1] = X[:, 0] + 0.01 * X[:, 1]
    X = (X + 1000).astype(np.float32)
    model = RidgeHead((1.0, 10.0))
    _, scores = model.fit_scored(X, y)
    expected = reference(X, y, np.arange(n), model.alpha_, None)
    assert np.abs(X.astype(np.float64) @ model.coef_.T + model.intercept_ - expected).max() < 1e-3
    fold = grouped_folds(y, np.arange(n), 5, seed=0)
    held_out = reference(X, y, np.flatnonzero(fold != 2), model.alpha_, None)[fold == 2]
    assert np.abs(scores[fold == 2] - held_out).max() < 1e-3


class Wide:
    """Rows that are made when they are asked for, and noted."""

    def __init__(self, n: int, d: int) -> None:
        self.shape = (n, d)
        self.most = 0
        self._noise = np.random.default_rng(0).standard_normal(d + 16 * n).astype(np.float32)

    def __getitem__(self, rows: slice) -> np.ndarray:
        numbers = np.arange(self.shape[0])[rows].tolist()
        self.most = max(self.most, len(numbers))
        values = np.stack([self._noise[16 * i : 16 * i + self.shape[1]] for i in numbers])
        values[:, :500] += np.array([2.0 * (i % 2) for i in numbers], np.float32)[:, None]
        return values


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.by_default("None")
def test_half_a_million_features_need_a_few_pieces_of_memory(class_weight: object) -> None:
    """524,288 features of 200 images: never is more in memory than some blocks, and never d by d."""
    source = Wide(200, 524_288)
    y = np.arange(200) % 2
    tracemalloc.start()
    model = RidgeHead((10.0, 1e4), class_weight=class_weight)
    _, scores = model.fit_scored(Rows(source), y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model.coef_.shape == (1, 524_288)
    assert np.mean((scores > 0) == (y > 0)) > 0.9
    assert source.most <= 2
    assert peak < memory_bytes(200, 524_288, 5) < 4 * 200 * 524_288


def test_rows_on_disk_are_read_in_blocks(tmp_path) -> None:
    """Many rows are read a block at a time, and a memory-mapped file gives the head of the array."""
    source = Wide(20_000, 512)
    y = np.arange(20_000) % 2
    tracemalloc.start()
    RidgeHead(10.0).fit_scored(Rows(source), y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.most <= rows.BLOCK_BYTES // (4 * 512)
    assert peak < memory_bytes(20_000, 512, 5)
    X, y, _ = images(90, 12, 3)
    X.tofile(tmp_path / "rows")
    mapped = Rows(np.memmap(tmp_path / "rows", np.float32, "r", shape=X.shape))
    assert np.array_equal(RidgeHead().fit(mapped, y).coef_, RidgeHead().fit(X, y).coef_)


def test_nothing_to_hold_out() -> None:
    """With one group a class the largest penalty is taken and said so; there are no held-out scores."""
    X, y, _ = images(60, 8, 3)
    for wide, outputs in ((1, 3), (10, 3), (1, 2), (10, 2)):
        labels = np.minimum(y, outputs - 1)
        model = RidgeHead(ALPHAS)
        with pytest.warns(UserWarning, match="penalty not selected: each class has one image"):
            held, scores = model.fit_scored(np.tile(X, wide), labels, labels)
        assert model.alpha_ == max(ALPHAS) and np.isnan(model.errors_).all()
        assert held.shape == (0,) and scores.shape == ((0,) if outputs == 2 else (0, 3))
        assert model.score(np.tile(X, wide), labels) > 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert RidgeHead(3.0).fit(X, y, y).alpha_ == 3.0


@pytest.mark.parametrize("d", [12, 200])
def test_same_seed_same_head(d: int) -> None:
    """The same rows and seed give the same numbers; another seed holds out other rows."""
    X, y, groups = images(100, d, 3)
    one, two, other = (RidgeHead(ALPHAS, seed=seed).fit(X, y, groups) for seed in (1, 1, 2))
    assert np.array_equal(one.coef_, two.coef_) and np.array_equal(one.errors_, two.errors_)
    assert not np.array_equal(one.errors_, other.errors_)


def test_memory_is_that_of_the_smaller_form() -> None:
    """What is needed grows with the smaller of rows and features, squared."""
    assert memory_bytes(50_000, 1280, 5) > 8 * 8 * 1280**2
    assert memory_bytes(50_000, 1280, 5) == memory_bytes(500_000, 1280, 5)
    assert memory_bytes(1000, 524_288, 5) < 2**30
    assert memory_bytes(50_000, 1280, 5, outputs=1000) > memory_bytes(50_000, 1280, 5)


@pytest.mark.parametrize(
    "params",
    [
        {"alphas": 0},
        {"alphas": -1.0},
        {"alphas": ()},
        {"alphas": "1"},
        {"alphas": (1.0, "x")},
        {"alphas": True},
        {"alphas": (1.0, np.inf)},
        {"alphas": (1.0, np.nan)},
        {"alphas": None},
        {"alphas": {1.0: 2}},
        {"folds": 1},
        {"folds": 2.5},
        {"folds": True},
        {"seed": -1},
        {"seed": "x"},
        {"standardize": "yes"},
        {"class_weight": "even"},
        {"class_weight": {0: 0.0}},
        {"class_weight": {0: -1.0}},
    ],
)
def test_wrong_values_are_refused(params: dict[str, object]) -> None:
    """A value that is not possible is named with what is."""
    X, y, _ = images(30, 4, 2)
    with pytest.raises(OptionError, match=r" must .*Received: \w+="):
        RidgeHead(**params).fit(X, y)


@parametrize_with_checks([RidgeHead()])
def test_follows_scikit_learn(estimator, check) -> None:
    """It behaves as scikit-learn expects of a classifier."""
    check(estimator)
