"""The heads `logreg` and `linear-svm`."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from featcache.errors import OptionError
from featcache.heads import linear
from featcache.heads.calibration import log_loss_of
from featcache.heads.folds import grouped_folds
from featcache.heads.linear import LogisticHead, PenalisedHead, SquaredHingeHead
from featcache.heads.rows import Rows

KINDS = [LogisticHead, SquaredHingeHead]


def images(n: int = 240, d: int = 15, k: int = 3, *, apart: float = 0.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, labels and groups of two rows."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(n // 2) % k, 2)
    X = rng.standard_normal((n, d)) + apart * rng.standard_normal((k, d))[y]
    return (X * np.exp(rng.standard_normal(d))).astype(np.float32), y, np.arange(n) // 2


@parametrize_with_checks([LogisticHead(C=1.0), SquaredHingeHead(C=1.0), LogisticHead(), SquaredHingeHead()])
def test_they_are_estimators(estimator, check) -> None:
    """They pass scikit-learn's checks, with a penalty that is given and with one that is chosen."""
    check(estimator)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5, 2: 1.0}])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_parameters_mean_what_they_mean_in_scikit_learn(class_weight: object, fit_intercept: bool) -> None:
    """C, class_weight and fit_intercept give the probabilities of scikit-learn's pipeline."""
    X, y, _ = images()
    given = {"C": 0.3, "class_weight": class_weight, "fit_intercept": fit_intercept}
    ours = LogisticHead(**given, tol=1e-6).fit(X, y)
    plain = make_pipeline(StandardScaler(), LogisticRegression(**given, tol=1e-8, max_iter=5000)).fit(
        X.astype(float), y
    )
    assert np.allclose(ours.predict_proba(X), plain.predict_proba(X), atol=1e-5)


def test_the_intercept_of_the_svm_is_not_penalised() -> None:
    """It is what LinearSVC comes to when its intercept's scale grows."""
    X, y, _ = images()
    y = (y == 0).astype(int)
    ours = SquaredHingeHead(C=0.1, tol=1e-6).fit(X, y).decision_function(X)
    far, near = (
        np.abs(
            make_pipeline(StandardScaler(), LinearSVC(C=0.1, tol=1e-8, max_iter=50_000, intercept_scaling=scale))
            .fit(X, y)
            .decision_function(X)
            - ours
        ).max()
        for scale in (1, 300)
    )
    assert near < 1e-3 < far


@pytest.mark.parametrize("kind", KINDS)
def test_the_penalty_is_chosen_on_grouped_folds(kind: type[PenalisedHead]) -> None:
    """It is the one with the least held-out loss of those tried, none of which is far from its neighbours."""
    X, y, groups = images()
    head = kind().fit(X, y, groups)
    losses = {one["C"]: one["log_loss"] for one in head.path_}
    assert min(losses, key=losses.__getitem__) == head.C_
    assert head.C_ not in (min(losses), max(losses))
    if kind is LogisticHead:
        fold = grouped_folds(y, groups, 5, seed=0)
        scores = np.empty((len(y), 3))
        for number in range(5):
            part = LogisticHead(C=head.C_, tol=1e-6).fit(X[fold != number], y[fold != number])
            scores[fold == number] = part.decision_function(X[fold == number])
        assert log_loss_of(scores, y) == pytest.approx(losses[head.C_], abs=0.02)  # all rows give the scale


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("C", [None, 0.1])
def test_held_out_scores_are_of_models_without_the_row(kind: type[PenalisedHead], C: float | None) -> None:
    """Random labels are not predicted better than by chance, although the model knows its own rows by heart."""
    rng = np.random.default_rng(1)
    X, y, groups = rng.standard_normal((200, 300)).astype(np.float32), np.arange(200) % 2, np.arange(200) // 2
    y = rng.permutation(100)[groups] % 2
    head = kind(C=C)
    rows, scores = head.fit_scored(X, y, groups)
    assert sorted(rows.tolist()) == list(range(200))
    assert 0.3 < ((scores > 0) == y[rows]).mean() < 0.7
    if C is not None:
        assert head.score(X, y) > 0.95


def test_copies_in_other_groups_would_be_known_by_heart() -> None:
    """Copies of a row in its group do not lower the penalty that is chosen."""
    rng = np.random.default_rng(2)
    X = np.repeat(rng.standard_normal((150, 40)).astype(np.float32), 2, axis=0)
    y = np.repeat(rng.integers(0, 2, 150), 2)
    grouped, alone = (LogisticHead().fit(X, y, groups) for groups in (np.arange(300) // 2, np.arange(300)))
    assert grouped.C_ < alone.C_ / 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 3])
def test_to_sklearn(kind: type[PenalisedHead], classes: int) -> None:
    """The pipeline predicts what the head predicts."""
    X, y, groups = images(k=classes)
    head = kind().fit(X, y, groups)
    pipeline = head.to_sklearn()
    assert np.allclose(pipeline.decision_function(X), head.decision_function(X), atol=1e-4)
    assert np.array_equal(pipeline.predict(X), head.predict(X))
    assert type(pipeline[-1]).__name__ == ("LogisticRegression" if kind is LogisticHead else "LinearSVC")


def test_scikit_learn_can_do_the_work() -> None:
    """A solver of its name is scikit-learn's own, to the same optimum; another name is its error."""
    X, y, groups = images()
    for kind, solver, more in (
        (LogisticHead, "newton-cg", {}),
        (LogisticHead, "lbfgs", {}),
        (SquaredHingeHead, "liblinear", {}),
    ):
        theirs = kind(C=0.1, solver=solver, tol=1e-6, max_iter=20_000, **more).fit(X, y, groups)
        ours = kind(C=0.1, tol=1e-6).fit(X, y, groups)
        limit = 0.3 if kind is SquaredHingeHead else 1e-3  # whose intercept is penalised
        assert np.abs(theirs.decision_function(X) - ours.decision_function(X)).max() < limit
    with pytest.raises(ValueError, match="solver"):
        LogisticHead(C=1.0, solver="magic").fit(X, y)
    with pytest.raises(ValueError, match="liblinear"):
        SquaredHingeHead(C=1.0, solver="lbfgs").fit(X, y)


def test_float16_rows_of_a_source() -> None:
    """Rows that are read in blocks, in float16, give the model of the same numbers in memory."""
    X, y, groups = images()
    half = X.astype(np.float16)
    one, other = (LogisticHead(C=0.1).fit(Rows(values), y, groups) for values in (half, half.astype(np.float32)))
    assert np.array_equal(one.coef_, other.coef_)


def test_the_penalty_of_long_fits_is_chosen_on_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole groups of the rows are drawn for it, and that is said; the model is of all rows."""
    X, y, groups = images(400)
    monkeypatch.setattr(linear, "LONG", 0.0)
    monkeypatch.setattr(linear, "ENOUGH", 100)
    with pytest.warns(UserWarning, match=r"chosen on 100 of 400 training rows"):
        head = LogisticHead().fit(X, y, groups)
    again = LogisticHead(C=head.C_, tol=1e-6).fit(X, y, groups)
    assert np.allclose(head.decision_function(X), again.decision_function(X), atol=0.01)


def test_it_says_if_it_did_not_converge() -> None:
    """After too few steps there is a warning with what to do; without two images of a class C is not chosen."""
    X, y, _ = images()
    with pytest.warns(UserWarning, match="did not converge.*raise max_iter"):
        LogisticHead(C=100.0, max_iter=1).fit(X, y)
    with pytest.warns(UserWarning, match="penalty not selected"):
        assert LogisticHead().fit(X[:2], [0, 1]).C_ == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LogisticHead(C=1.0).fit(X, y)


@pytest.mark.parametrize("params", [{"C": 0}, {"C": "x"}, {"tol": -1}, {"max_iter": 0}, {"folds": 1}, {"seed": -1}])
@pytest.mark.parametrize("kind", KINDS)
def test_impossible_parameters(kind: type[PenalisedHead], params: dict[str, object]) -> None:
    """Each is refused by name."""
    X, y, _ = images()
    with pytest.raises(OptionError, match=f"{next(iter(params))} must"):
        kind(**params).fit(X, y)
