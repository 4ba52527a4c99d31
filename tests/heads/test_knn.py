import numpy as np
import pytest
import skops.io
from sklearn.datasets import make_classification
from sklearn.metrics import recall_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from featcache.errors import OptionError
from featcache.heads.knn import KNNHead

X, Y = make_classification(500, 16, n_informative=8, n_classes=3, class_sep=2, random_state=0)
X = X.astype(np.float32)
TRAIN, TEST = slice(0, 400), slice(400, 500)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    left, right = left.astype(float), right.astype(float)
    return left @ right.T / np.linalg.norm(left, axis=1)[:, None] / np.linalg.norm(right, axis=1)


@parametrize_with_checks([KNNHead()])
def test_is_a_scikit_learn_estimator(estimator, check) -> None:
    """Whatever takes scikit-learn estimators takes this one."""
    check(estimator)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_votes_are_those_of_the_largest_cosines(weights: str) -> None:
    """Shares are those of a search written out, whatever the rows' lengths."""
    lengths = np.geomspace(0.01, 100, 500, dtype=np.float32)[:, None]
    head = KNNHead(n_neighbors=7, weights=weights).fit(X[TRAIN] * lengths[TRAIN], Y[TRAIN])
    found = cosines(X[TEST], X[TRAIN])
    nearest = np.argsort(-found, axis=1)[:, :7]
    distance = np.sqrt(2 - 2 * np.take_along_axis(found, nearest, axis=1))
    votes = 1 / distance if weights == "distance" else np.ones_like(distance)
    expected = np.stack([(votes * (Y[TRAIN][nearest] == c)).sum(axis=1) for c in range(3)], axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    shares = head.predict_proba(X[TEST] * lengths[TEST])
    assert np.allclose(shares, expected, atol=1e-4)
    assert np.array_equal(head.predict(X[TEST]), shares.argmax(axis=1))
    assert head.score(X[TEST], Y[TEST]) > 0.8


def test_labels_are_as_given() -> None:
    """Labels of any kind come back, and a training row's nearest is itself."""
    labels = np.array(["cat", "dog", "eel"])[Y]
    head = KNNHead().fit(X, labels)
    assert np.array_equal(head.predict(X), labels)
    assert list(head.classes_) == ["cat", "dog", "eel"]


def test_ties_go_to_the_first_class_as_in_the_shares() -> None:
    """Prediction and shares agree where votes are equal."""
    head = KNNHead(n_neighbors=2, weights="uniform").fit([[1, 0], [0, 1]], ["b", "a"])
    assert head.predict_proba([[1, 0]]).tolist() == [[0.5, 0.5]]
    assert head.predict([[1, 0]]) == ["a"]


def test_rows_of_zeros_are_possible() -> None:
    """A row without a direction is kept, and has neighbours."""
    features = X.copy()
    features[:3] = 0
    head = KNNHead().fit(features, Y)
    assert head.neighbors_._fit_X.dtype == np.float32
    assert not head.neighbors_._fit_X[:3].any()
    assert np.isfinite(head.predict_proba(features)).all()


def test_balanced_weights_find_more_of_a_rare_class() -> None:
    """The rare class's recall rises with balanced weights and with a dict, and shares still add up to 1."""
    features, y = make_classification(2000, 20, n_informative=4, weights=[0.95], class_sep=0.7, random_state=1)

    def recall(weight: object) -> float:
        head = KNNHead(class_weight=weight).fit(features[:1500], y[:1500])
        assert np.allclose(head.predict_proba(features[1500:]).sum(axis=1), 1)
        return recall_score(y[1500:], head.predict(features[1500:]))

    assert recall("balanced") > recall(None) + 0.2
    assert recall({0: 1, 1: 20}) > recall(None) + 0.2


@pytest.mark.parametrize(
    "params",
    [
        {"n_neighbors": 0},
        {"n_neighbors": 2.5},
        {"n_neighbors": 501},
        {"weights": "cosine"},
        {"class_weight": "rare"},
        {"class_weight": {0: 0}},
    ],
)
def test_wrong_values_are_refused(params: dict[str, object]) -> None:
    """A value that is not possible is named with what is."""
    with pytest.raises(OptionError, match=f"{next(iter(params))} must"):
        KNNHead(**params).fit(X, Y)


def test_saved_head_predicts_bit_for_bit() -> None:
    """skops restores it with one type of ours to trust."""
    head = KNNHead().fit(X, Y)
    saved = skops.io.dumps(head)
    untrusted = skops.io.get_untrusted_types(data=saved)
    assert untrusted == ["featcache.heads.knn.KNNHead"]
    loaded = skops.io.loads(saved, trusted=untrusted)
    assert np.array_equal(loaded.predict_proba(X), head.predict_proba(X))
