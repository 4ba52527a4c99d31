import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, ortho_group

from featcache import logme as module
from featcache.errors import OptionError
from featcache.heads.rows import Rows
from featcache.logme import logme
from featcache.memory import Peak


def some(n, d, classes=3, seed=0, signal=1.0):
    """Return features (n, d) whose first columns depend on the target (n,), with a mean that is not 0."""
    rng = np.random.default_rng(seed)
    target = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    X = rng.normal(0.5, 1.0, (n, d)) * np.geomspace(3, 0.1, d)
    X[:, :classes] += signal * np.eye(classes)[target][:, : min(classes, d)]
    return X.astype(np.float32), target


def greatest_evidence(X, y):
    """Return the maximum of log N(y | 0, I/beta + FF'/alpha)/n, searched from several starts."""
    F = X.astype(np.float64)

    def loss(logs):
        covariance = np.exp(-logs[1]) * np.eye(len(F)) + np.exp(-logs[0]) * (F @ F.T)
        try:
            return -multivariate_normal(np.zeros(len(F)), covariance, allow_singular=False).logpdf(y) / len(F)
        except np.linalg.LinAlgError:  # a step to where the noise is nothing
            return np.inf

    starts = [(a, b) for a in (-3.0, 2.0, 7.0) for b in (0.0, 3.0)]
    return max(-minimize(loss, x, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-11}).fun for x in starts)


@pytest.mark.parametrize(("n", "d"), [(40, 4), (30, 12), (25, 25), (20, 24), (15, 60)])
@pytest.mark.parametrize("signal", [0.0, 2.0])
def test_is_the_greatest_evidence(n, d, signal) -> None:
    """The score is the maximum of the multivariate normal density as SciPy computes it, averaged over classes."""
    X, target = some(n, d, signal=signal)
    expected = np.mean([greatest_evidence(X, (target == c).astype(float)) for c in range(3)])
    assert logme(X, target) == pytest.approx(expected, abs=1e-6)


def greatest_on_a_grid(X, y):
    """Return the same maximum from a fine grid of alpha/beta, with the best beta at each."""
    n = len(y)
    vectors, singular, _ = np.linalg.svd(X.astype(np.float64))
    values = np.zeros(n)
    values[: len(singular)] = singular**2
    spread = 1 + values / (np.geomspace(1e-11, 1e7, 20001)[:, None] * values[0])
    q = ((vectors.T @ y) ** 2 / spread).sum(axis=1)
    return (-n * np.log(2 * np.pi * np.e * q / n) - np.log(spread).sum(axis=1)).max() / 2 / n


@pytest.mark.parametrize("seed", range(20))
def test_no_point_of_a_fine_grid_is_better(seed) -> None:
    """The iteration ends at the maximum for any n and d."""
    rng = np.random.default_rng(seed)
    X, target = some(int(rng.integers(5, 40)), int(rng.integers(1, 60)), 2, seed, rng.uniform(0, 3))
    expected = np.mean([greatest_on_a_grid(X, target == c) for c in range(2)])
    assert logme(X, target) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", [526, 194, 876])
def test_of_several_maxima_the_greatest_counts(seed) -> None:
    """Features of scales far apart, where the iteration from alpha = beta = 1 ends at a lower maximum."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 14))
    d = int(rng.integers(2, n))
    X = (rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-4, 0, d)).astype(np.float32)
    target = np.arange(n) % 2
    expected = np.mean([greatest_on_a_grid(X, target == c) for c in range(2)])
    assert logme(X, target) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("n", "d"), [(300, 20), (60, 300)])
def test_in_blocks_is_the_whole(n, d, monkeypatch) -> None:
    """Rows that come in blocks of any size have the score of the array, in one pass or several."""
    X, target = some(n, d)
    whole = logme(X, target)
    monkeypatch.setattr("featcache.heads.rows.BLOCK_BYTES", 7 * 4 * d)
    assert logme(Rows(X), target) == whole
    monkeypatch.setattr(module, "PIECE_BYTES", 3 * 8 * d)
    monkeypatch.setattr(module, "PANEL_BYTES", 11 * 8 * d)
    assert logme(Rows(X), target) == pytest.approx(whole, abs=1e-12)
    assert logme(X, target) == pytest.approx(whole, abs=1e-12)


def test_narrow_rows_are_read_once() -> None:
    """One pass over the rows is enough where there are at least as many as features."""
    X, target = some(300, 20)

    class Counted(Rows):
        passes = 0

        def blocks(self):
            Counted.passes += 1
            return super().blocks()

    logme(Counted(X), target)
    assert Counted.passes == 1


def test_wide_rows_are_never_held_whole(monkeypatch) -> None:
    """Rows of 524,288 features take the memory of a panel and a piece, not of all rows or of d² numbers."""
    monkeypatch.setattr(module, "PIECE_BYTES", 2**23)
    monkeypatch.setattr(module, "PANEL_BYTES", 2**25)
    few, target = some(80, 4)

    class Repeated:
        shape = (80, 2**19)

        def blocks(self):
            for i in range(80):
                yield slice(i, i + 1), np.tile(few[i : i + 1], 2**17)

    with Peak() as peak:
        score = logme(Repeated(), target)
    assert score == pytest.approx(logme(few, target), abs=1e-6)
    assert peak.increase is None or peak.increase < 2**27 < 80 * 2**21


@pytest.mark.parametrize(("n", "d"), [(50, 10), (20, 40)])
def test_rotation_and_scale_do_not_count(n, d) -> None:
    """Rotated features, and features times a number, have the same score."""
    X, target = some(n, d)
    turned = X.astype(np.float64) @ ortho_group.rvs(d, random_state=0)
    assert logme(turned, target) == pytest.approx(logme(X, target), abs=1e-8)
    assert logme(X * 1024, target) == pytest.approx(logme(X, target), abs=1e-12)


@pytest.mark.parametrize(("n", "d"), [(200, 10), (60, 100)])
def test_information_counts(n, d) -> None:
    """The more the features say about the classes, the higher the score."""
    scores = [logme(*some(n, d, signal=signal)) for signal in (0.0, 2.0, 8.0)]
    assert scores == sorted(scores)
    assert scores[2] > scores[0] + 0.1


def test_names_are_classes() -> None:
    """Labels may be names, and numbers that do not occur do not count."""
    X, target = some(50, 10)
    assert logme(X, np.array(["cat", "dog", "eel"])[target]) == logme(X, target)
    assert logme(X, target * 5 + 2) == logme(X, target)


def test_is_the_same_each_time() -> None:
    """Equal features have equal scores."""
    assert logme(*some(50, 70)) == logme(*some(50, 70))


@pytest.mark.parametrize("X", [np.zeros((30, 4)), np.zeros((30, 50)), np.zeros((30, 0))])
def test_features_that_are_zero(X) -> None:
    """Without features, all is noise around 0."""
    target = np.arange(30) % 3
    assert logme(X, target) == pytest.approx(-np.log(2 * np.pi * np.e / 3) / 2)


def test_features_that_are_constant() -> None:
    """Constant features are worth no more than one constant, and no less than none."""
    target = np.arange(30) % 2
    one = logme(np.ones((30, 1)), target)
    assert one > logme(np.zeros((30, 1)), target)
    assert logme(np.ones((30, 20)), target) == pytest.approx(one, abs=1e-9)
    assert logme(np.ones((30, 40)), target) == pytest.approx(one, abs=1e-9)


@pytest.mark.parametrize("copies", [1, 20])
def test_features_that_are_the_target(copies) -> None:
    """A perfect fit has a finite score, above that of an almost perfect one, without a warning."""
    X = np.tile(np.eye(3, dtype=np.float32), (10, copies))
    target = np.arange(30) % 3
    almost = X + 1e-3 * np.random.default_rng(0).normal(size=X.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        perfect = logme(X, target)
    assert np.isfinite(perfect)
    assert perfect > logme(almost, target) > logme(*some(30, 3, signal=0))


def test_fewer_images_than_features() -> None:
    """Identity features, which fit anything, are worth what noise is worth: nothing is learnt of other images."""
    target = np.arange(30) % 3
    assert logme(np.eye(30), target) == pytest.approx(logme(np.zeros((30, 30)), target), abs=1e-9)


@pytest.mark.parametrize("d", [3, 50])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite(d, bad) -> None:
    """NaN and infinity are refused, without a warning."""
    X, target = some(30, d)
    X[4, 1] = bad
    with warnings.catch_warnings(), pytest.raises(OptionError, match="finite"):
        warnings.simplefilter("error")
        logme(X, target)


def test_targets_that_are_no_classes() -> None:
    """One class, no rows and a wrong number of labels are refused."""
    X, target = some(30, 5)
    with pytest.raises(OptionError, match="two classes"):
        logme(X, np.zeros(30, int))
    with pytest.raises(OptionError, match="two classes"):
        logme(X[:0], target[:0])
    with pytest.raises(OptionError, match="30 rows"):
        logme(X, target[:29])
