import numpy as np
import pytest
import skops.io
from sklearn.datasets import make_classification
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from featcache.errors import OptionError
from featcache.heads import rows as reading
from featcache.heads.centroid import CentroidHead
from featcache.heads.folds import grouped_folds
from featcache.heads.rows import Rows

X, Y = make_classification(400, 12, n_informative=6, n_classes=3, random_state=0, weights=[0.6, 0.3])
X = (X * np.geomspace(0.01, 100, 12) + 50).astype(np.float32)
X[:, 3] = 0.1  # constant


def plain(
    features: np.ndarray, y: np.ndarray, wanted: np.ndarray, standardize: bool = True, prior: np.ndarray | float = 1.0
) -> np.ndarray:
    """Return scores (n, k) written out as the model is: -½ ‖z - μ_c‖² / σ² + log p_c."""
    features, wanted = np.delete(features, 3, axis=1).astype(float), np.delete(wanted, 3, axis=1).astype(float)
    if standardize:
        scaler = StandardScaler().fit(features)
        features, wanted = scaler.transform(features), scaler.transform(wanted)
    means = np.array([features[y == c].mean(axis=0) for c in np.unique(y)])
    shared = np.mean((features - means[y]) ** 2)
    return -0.5 * ((wanted[:, None] - means) ** 2).sum(axis=2) / shared + np.log(prior)


def centered(scores: np.ndarray) -> np.ndarray:
    return scores - scores.mean(axis=1, keepdims=True)


@parametrize_with_checks([CentroidHead()])
def test_is_a_scikit_learn_estimator(estimator, check) -> None:
    """Whatever takes scikit-learn estimators takes this one."""
    check(estimator)


@pytest.mark.parametrize("standardize", [True, False])
def test_predicts_as_nearest_centroid_does(standardize: bool) -> None:
    """Predictions are those of scikit-learn's NearestCentroid, scores those of the Gaussian model."""
    features = np.delete(StandardScaler().fit_transform(X) if standardize else X, 3, axis=1)
    for labels in (Y, (Y > 0).astype(int)):
        head = CentroidHead(standardize=standardize).fit(X, labels)
        assert np.array_equal(head.predict(X), NearestCentroid().fit(features, labels).predict(features))
        expected = plain(X, labels, X, standardize)
        if labels.max() == 1:
            assert np.allclose(head.decision_function(X), expected[:, 1] - expected[:, 0], atol=2e-3)
        else:
            assert np.allclose(centered(head.decision_function(X)), centered(expected), atol=2e-3)


def test_class_weights_are_priors() -> None:
    """None adds the log of class frequencies, a dict that of frequency times weight, balanced nothing."""
    shares = np.bincount(Y) / len(Y)
    for weight, prior in (("balanced", 1.0), (None, shares), ({0: 1, 1: 5, 2: 9}, shares * [1, 5, 9])):
        scores = CentroidHead(class_weight=weight).fit(X, Y).decision_function(X)
        assert np.allclose(centered(scores), centered(plain(X, Y, X, prior=prior)), atol=2e-3)


@pytest.mark.parametrize("labels", [Y, (Y > 0).astype(int)])
@pytest.mark.parametrize("weight", ["balanced", None, {0: 1, 1: 4}])
def test_held_out_scores_are_those_of_heads_without_the_fold(labels: np.ndarray, weight: object) -> None:
    """Each row's score comes from the rows of the other folds, whole groups at a time."""
    groups = np.arange(400) // 4
    labels = labels[groups * 4]
    head = CentroidHead(folds=3, seed=5, class_weight=weight)
    rows, scores = head.fit_scored(X, labels, groups)
    fold = grouped_folds(labels, groups, 3, seed=5)
    assert np.array_equal(rows, np.arange(400))
    for f in range(3):
        rest = CentroidHead(class_weight=weight).fit(X[fold != f], labels[fold != f])
        assert np.allclose(scores[fold == f], rest.decision_function(X[fold == f]), atol=2e-3)


def test_a_class_of_one_group_is_always_trained_on() -> None:
    """Its rows have no held-out score, and no mean is ever empty."""
    groups = np.where(Y == 2, 1000, np.arange(400))
    rows, scores = CentroidHead(folds=2).fit_scored(X, Y, groups)
    assert np.array_equal(rows, np.flatnonzero(Y != 2))
    assert np.isfinite(scores).all()
    two = np.where(Y == 2, 1000 + (np.arange(400) % 2), np.arange(400))
    rows, scores = CentroidHead(folds=5).fit_scored(X, Y, two)
    assert len(rows) == 400 and np.isfinite(scores).all()


def test_a_fold_that_would_empty_a_class_is_not_scored() -> None:
    """Groups of several classes can hold all rows of one: they are trained on only."""
    labels = np.where(np.arange(400) == 1, 2, np.arange(400) % 2)
    groups = np.arange(400) // 2
    rows, scores = CentroidHead().fit_scored(X, labels, groups)
    assert 1 not in rows and np.isfinite(scores).all()


def test_reads_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """From blocks of few rows, in any order of classes, comes the same head, with the same held-out scores."""
    expected = CentroidHead()
    rows, scores = expected.fit_scored(X, Y)
    monkeypatch.setattr(reading, "BLOCK_BYTES", 4 * 12 * 7)
    head = CentroidHead()
    found, found_scores = head.fit_scored(Rows(X), Y)
    assert np.allclose(head.coef_, expected.coef_, rtol=1e-5)
    assert np.array_equal(rows, found) and np.allclose(scores, found_scores, atol=1e-3)


def test_features_far_from_zero_keep_their_variance() -> None:
    """Sums of squares do not cancel where the mean is 10,000 times the deviation."""
    rng = np.random.default_rng(0)
    features = (1e4 + rng.normal(size=(300, 4)) + np.repeat([0, 3, 6], 100)[:, None]).astype(np.float32)
    y = np.repeat([0, 1, 2], 100)
    head = CentroidHead(standardize=False).fit(features, y)
    assert head.score(features, y) > 0.99
    assert np.allclose(head.coef_[2] - head.coef_[0], 6, atol=0.6)


def test_rows_without_variance_are_told_apart() -> None:
    """Where all rows equal their class's mean the head is finite and right."""
    features = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2, 2]]
    head = CentroidHead(folds=2).fit(features, [0, 0, 1, 1, 2, 2])
    assert np.isfinite(head.coef_).all() and head.score(features, [0, 0, 1, 1, 2, 2]) == 1


@pytest.mark.parametrize(
    "params",
    [
        {"standardize": "yes"},
        {"folds": 1},
        {"folds": 2.5},
        {"seed": -1},
        {"class_weight": "rare"},
        {"class_weight": {0: 0}},
    ],
)
def test_wrong_values_are_refused(params: dict[str, object]) -> None:
    """A value that is not possible is named with what is."""
    with pytest.raises(OptionError, match=f"{next(iter(params))} must"):
        CentroidHead(**params).fit(X, Y)


def test_saved_head_predicts_bit_for_bit() -> None:
    """skops restores it with one type to trust."""
    head = CentroidHead().fit(X, Y)
    saved = skops.io.dumps(head)
    assert skops.io.get_untrusted_types(data=saved) == ["featcache.heads.centroid.CentroidHead"]
    loaded = skops.io.loads(saved, trusted=["featcache.heads.centroid.CentroidHead"])
    assert np.array_equal(loaded.predict_proba(X), head.predict_proba(X))
