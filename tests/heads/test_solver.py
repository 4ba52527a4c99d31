"""Linear models against scikit-learn's, and the same model however its rows are read."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from featcache.heads import rows, solver
from featcache.heads.rows import Rows
from featcache.heads.solver import Design, Problem, memory_bytes, solve


def images(n: int, d: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features of unlike scales, with a constant and a repeated one, and classes, each at least once."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.concatenate([np.arange(k), rng.integers(0, k, n - k)]))
    X = rng.standard_normal((n, d)) + 0.5 * rng.standard_normal((k, d))[y]
    X = X * np.exp(rng.standard_normal(d)) + 5 * rng.standard_normal(d)
    X[:, 0] = 0.1
    X[:, -1] = X[:, 1]
    return X.astype(np.float32), y


def problem(y: np.ndarray, loss: str, penalty: float, weights: np.ndarray | None = None) -> Problem:
    k = int(y.max()) + 1
    own = np.ones(len(y), np.float32) if weights is None else weights
    return Problem(loss, y, own, 1 if k == 2 else k, penalty, len(y))


def scaled(X: np.ndarray) -> np.ndarray:
    Z = X.astype(np.float64)
    spread = Z.std(axis=0)
    return (Z - Z.mean(axis=0)) / np.where(spread > 1e-6 * np.abs(Z.mean(axis=0)), spread, 1)


def objective(
    Z: np.ndarray,
    y: np.ndarray,
    coef: np.ndarray,
    intercept: np.ndarray,
    loss: str,
    penalty: float,
    weights: np.ndarray,
) -> float:
    """Return what is minimised, from its definition."""
    scores = Z @ coef.T + intercept
    if loss == "squared_hinge":
        signs = (
            np.where(y == 1, 1, -1)[:, None] if scores.shape[1] == 1 else np.where(np.eye(scores.shape[1])[y], 1, -1)
        )
        losses = (np.maximum(0, 1 - signs * scores) ** 2).sum(axis=1)
    else:
        full = np.column_stack([np.zeros(len(y)), scores]) if scores.shape[1] == 1 else scores
        losses = -log_softmax(full, axis=1)[np.arange(len(y)), y]
    return float((weights * losses).mean() + penalty / 2 * (coef**2).sum())


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(6, 120),
    d=st.integers(2, 150),
    k=st.integers(2, 6),
    C=st.sampled_from([1e-4, 0.01, 1.0, 100.0]),
    loss=st.sampled_from(["softmax", "squared_hinge"]),
    seed=st.integers(0, 1000),
    weighted=st.booleans(),
)
def test_nothing_of_scikit_learn_is_lower(
    n: int, d: int, k: int, C: float, loss: str, seed: int, weighted: bool
) -> None:
    """The objective is not above that of scikit-learn's own solvers, whose decisions are the same."""
    X, y = images(max(n, k), d, k, seed)
    n = len(X)
    weights = np.random.default_rng(seed).uniform(0.2, 3, n) if weighted else np.ones(n)
    design, penalty = Design(Rows(X)), 1 / (C * n)
    kind = "sigmoid" if loss == "softmax" and k == 2 else loss
    (found,) = solve(design, [problem(y, kind, penalty, weights.astype(np.float32))], tol=1e-7, max_iter=5000)
    coef, intercept = design.original(found)
    Z = scaled(X)
    spread, mean = X.astype(np.float64).std(axis=0), X.astype(np.float64).mean(axis=0)
    spread = np.where(spread > 1e-6 * np.abs(mean), spread, 1)
    ours = objective(Z, y, coef * spread, intercept + coef @ mean, loss, penalty, weights)
    assert found.objective == pytest.approx(ours, rel=1e-5, abs=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if loss == "softmax":
            plain = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(Z, y, sample_weight=weights)
        else:  # its intercept is penalised, less the more it is scaled
            plain = LinearSVC(C=C, tol=1e-8, max_iter=20_000, intercept_scaling=100.0).fit(Z, y, sample_weight=weights)
    theirs = objective(Z, y, plain.coef_, plain.intercept_, loss, penalty, weights)
    assert ours <= theirs * (1 + 1e-5) + 1e-9
    if loss == "softmax":
        difference = Z @ (coef * spread).T + intercept + coef @ mean - (Z @ plain.coef_.T + plain.intercept_)
        assert np.abs(difference - difference.mean(axis=1, keepdims=True) * (k > 2)).max() < 0.01


def test_many_classes() -> None:
    """Three hundred classes in two places of the rows: converged, and almost all rows of training found."""
    X, y = images(900, 40, 300, 3)
    design = Design(Rows(X))
    (found,) = solve(design, [problem(y, "softmax", 1e-5)])
    assert found.converged
    assert found.coef.shape == (40, 300)
    coef, intercept = design.original(found)
    assert ((X @ coef.T + intercept).argmax(axis=1) == y).mean() > 0.9


def test_a_sigmoid_for_each_label() -> None:
    """Labels that may be true together are fitted as one model each."""
    X, y = images(150, 12, 4)
    truth = np.random.default_rng(1).random((150, 3)) < np.array([0.1, 0.5, 0.9])
    truth[:, 1] |= y == 1
    design = Design(Rows(X))
    together = Problem("sigmoid", truth.astype(np.float32), np.ones(150, np.float32), 3, 0.01, 150)
    (found,) = solve(design, [together], tol=1e-8)
    for label in range(3):
        alone = Problem("sigmoid", truth[:, label].astype(np.int64), np.ones(150, np.float32), 1, 0.01, 150)
        (one,) = solve(design, [alone], tol=1e-8)
        assert np.allclose(found.coef[:, label], one.coef[:, 0], atol=1e-5)
        assert found.intercept[label] == pytest.approx(one.intercept[0], abs=1e-5)


@pytest.mark.parametrize(("n", "d"), [(300, 20), (60, 90)])
def test_problems_that_share_passes_are_those_alone(n: int, d: int) -> None:
    """Folds fitted together are what each is alone, and a row that is left out decides nothing."""
    X, y = images(n, d, 3)
    fold = np.arange(n) % 4
    design = Design(Rows(X))
    parts = [problem(y, "softmax", 0.01, (fold != i).astype(np.float32)) for i in range(4)]
    together = solve(design, parts, tol=1e-7)
    for i, part in enumerate(parts):
        (alone,) = solve(design, [part], tol=1e-7)
        assert np.allclose(together[i].coef, alone.coef, atol=1e-5)
    scores = design.held_scores(together, fold)
    coef, intercept = design.original(together[2])
    own = fold == 2
    assert np.allclose(scores[own], X[own] @ coef.T + intercept, atol=1e-3)
    assert (design.held_scores(together, np.full(n, -1)) == 0).all()


@pytest.mark.parametrize(("n", "d"), [(400, 30), (50, 80), (40, 60)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_way_to_the_optimum_changes_nothing(n: int, d: int, dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, several threads, no square matrix, other precision: the same model."""
    X, y = images(n, d, 3)
    plain = Design(Rows(X))
    (expected,) = solve(plain, [problem(y, "softmax", 0.05)], tol=1e-8)
    coef, intercept = plain.original(expected)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 4 * d * 7)
    monkeypatch.setattr(solver, "SMALL", 1)
    for wide in (8192, 1):
        monkeypatch.setattr(solver, "WIDE", wide)
        design = Design(Rows(X), dtype=dtype)
        (found,) = solve(design, [problem(y, "softmax", 0.05)], tol=1e-6, max_iter=5000)
        other, offset = design.original(found)
        scores, wanted = X @ other.T + offset, X @ coef.T + intercept
        assert np.allclose(scores, wanted, atol=2e-3), (wide, np.abs(scores - wanted).max())


def test_large_means_lose_no_digits() -> None:
    """Features far from 0 are moved before they are multiplied."""
    X, y = images(400, 10, 2)
    far = (X.astype(np.float64) * 1.0 + 3e4).astype(np.float32)
    near = far - np.float32(3e4)
    models = []
    for values in (far, near):
        design = Design(Rows(values), dtype=np.float32)
        (found,) = solve(design, [problem(y, "sigmoid", 0.01)], tol=1e-5)
        models.append(found.coef)
    assert Design(Rows(far)).moments.shifts
    assert np.allclose(*models, atol=2e-3)


def test_few_passes_on_correlated_features() -> None:
    """Where plain L-BFGS needs hundreds of passes, the change of variables leaves some dozens."""
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((600, 60)) @ (rng.standard_normal((60, 60)) / np.arange(1, 61)[:, None] ** 2)).astype("f4")
    y = (X @ rng.standard_normal(60) + rng.standard_normal(600) > 0).astype(int)
    (found,) = solve(Design(Rows(X)), [problem(y, "sigmoid", 1e-3)])
    assert found.converged
    assert found.passes < 40


def test_a_fit_that_is_cut_short_says_so() -> None:
    """After so many steps it ends, not converged, with what it has."""
    X, y = images(200, 20, 3)
    (found,) = solve(Design(Rows(X)), [problem(y, "softmax", 1e-6)], max_iter=2)
    assert not found.converged
    assert found.gradient > 1e-4


def test_memory_is_bounded_by_the_features() -> None:
    """More rows need no more memory; too many features for a square matrix need none."""
    assert memory_bytes(10**7, 1280, 10) == memory_bytes(10**6, 1280, 10)
    assert memory_bytes(10**6, 500_000, 1) < 2 * 10**9
    assert memory_bytes(1000, 500_000, 10) < 2 * 10**9
