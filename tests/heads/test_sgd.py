import numpy as np
import pytest
import skops.io
from conftest import slow
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from featcache.errors import OptionError
from featcache.heads import rows as reading
from featcache.heads.rows import Rows
from featcache.heads.sgd import SGDHead

X, Y = make_classification(1500, 40, n_informative=12, n_classes=4, class_sep=1.5, random_state=0)
X = (X * np.geomspace(1e-3, 1e3, 40) + 5).astype(np.float32)
TRAIN, TEST = slice(0, 1000), slice(1000, 1500)


def wide(n: int, d: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features that are mixtures of 16 latent ones, cut at 0 as a network's are."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    latent = rng.normal(size=(classes, 16))[y] * 1.5 + rng.normal(size=(n, 16))
    return np.maximum(latent @ rng.normal(size=(16, d)), 0).astype(np.float32), y


class Recording:
    """Rows that note how many are read at once."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.reads = values, values.shape, []

    def __getitem__(self, rows):
        found = self.values[rows]
        self.reads.append(len(found))
        return found


@parametrize_with_checks([SGDHead()])
def test_is_a_scikit_learn_estimator(estimator, check) -> None:
    """Whatever takes scikit-learn estimators takes this one."""
    check(estimator)


@pytest.mark.parametrize("labels", [Y, Y > 1])
def test_is_as_accurate_as_logistic_regression(labels: np.ndarray) -> None:
    """On rows it has not seen it comes within 2 points of the exact solution, with features of any scale."""
    exact = make_pipeline(StandardScaler(), LogisticRegression(C=10, max_iter=1000)).fit(X[TRAIN], labels[TRAIN])
    head = SGDHead().fit(X[TRAIN], labels[TRAIN])
    assert head.score(X[TEST], labels[TEST]) > exact.score(X[TEST], labels[TEST]) - 0.02
    assert np.allclose(head.predict_proba(X[TEST]).sum(axis=1), 1, atol=1e-5)
    assert head.loss_[-1] < head.loss_[0] and head.n_iter_ == 20 == len(head.loss_)


@pytest.mark.parametrize(("n", "d"), [(300, 2), (300, 3000), slow(150, 60_000)])
@pytest.mark.parametrize("copies", [False, True])
def test_one_rate_serves_few_and_many_features(n: int, d: int, copies: bool) -> None:
    """The default rate learns two features and very many, also where all are copies of two."""
    features, y = wide(n + 200, 2 if copies else d, 3)
    if copies:
        features = np.tile(features, (1, d // 2))
    head = SGDHead().fit(features[:n], y[:n])
    exact = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(features[:n], y[:n])
    assert head.score(features[n:], y[n:]) > exact.score(features[n:], y[n:]) - 0.03
    assert head.loss_[-1] <= head.loss_[0]


@pytest.mark.parametrize(
    "params", [{"standardize": False}, {"schedule": "constant"}, {"momentum": 0.0}, {"batch_size": 1}]
)
def test_learns_with_other_settings(params: dict[str, object]) -> None:
    """Unscaled features, a constant rate, no momentum and single rows learn as well."""
    features, y = wide(600, 64, 4)
    head = SGDHead(**params).fit(features[:400] + 3, y[:400])
    assert head.score(features[400:] + 3, y[400:]) > 0.9


def test_weights_are_those_of_the_penalised_loss() -> None:
    """With many epochs and a strong penalty the coefficients are scikit-learn's for C = 1 / (alpha n)."""
    features = StandardScaler().fit_transform(X[:, :10]).astype(np.float32)
    for labels in (Y, Y > 1):
        exact = LogisticRegression(C=1 / (0.1 * len(Y)), max_iter=1000, tol=1e-8).fit(features, labels)
        head = SGDHead(alpha=0.1, epochs=200, validation_fraction=0.0).fit(features, labels)
        assert np.allclose(head.coef_, exact.coef_, atol=0.01)
        assert np.allclose(head.predict_proba(features), exact.predict_proba(features), atol=0.01)


def test_same_seed_same_head() -> None:
    """A seed decides held-out rows and order; another seed is another head, and NumPy's own state is left alone."""
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    one, two, other = (SGDHead(seed=seed).fit(X, Y) for seed in (1, 1, 2))
    assert np.array_equal(one.coef_, two.coef_) and np.array_equal(one.intercept_, two.intercept_)
    assert not np.array_equal(one.coef_, other.coef_)
    assert np.random.random() == expected


def test_reads_blocks_and_never_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """From rows that do not fit into the window it learns as from an array, in pieces of a block."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 4 * 40 * 16)
    monkeypatch.setattr(reading, "WINDOW_BYTES", 4 * 40 * 128)
    source = Recording(X)
    head = SGDHead()
    rows, scores = head.fit_scored(Rows(source), Y)
    assert max(source.reads) <= 16
    assert head.score(X, Y) > SGDHead().fit(X, Y).score(X, Y) - 0.02
    without = np.delete(np.arange(len(Y)), rows)
    plain = SGDHead().fit(X[without], Y[without]).decision_function(X[rows])
    assert np.corrcoef(scores.ravel(), plain.ravel())[0, 1] > 0.99
    assert np.array_equal(head.coef_, SGDHead().fit(X, Y).coef_)
    assert np.array_equal(source.values, X)


def test_held_out_rows_are_whole_groups_that_were_not_trained_on() -> None:
    """No group is on both sides, every class is; the scores are of a head without them, the head is of all rows."""
    groups = np.arange(len(Y)) // 5
    labels = Y[groups * 5]
    head = SGDHead(epochs=2)
    rows, scores = head.fit_scored(X, labels, groups)
    held = np.isin(np.arange(len(Y)), rows)
    assert all(len(set(held[groups == g])) == 1 for g in np.unique(groups))
    assert all(0 < held[labels == label].mean() < 0.2 for label in range(4))
    assert scores.shape == (len(rows), 4)
    plain = SGDHead(epochs=2).fit(X[~held], labels[~held])
    assert np.allclose(scores, plain.decision_function(X[rows]), atol=1e-4)
    assert np.array_equal(SGDHead(epochs=2).fit(X, labels).coef_, head.coef_)
    rows, scores = SGDHead(epochs=1).fit_scored(X, Y > 1)
    assert scores.shape == (len(rows),)
    rows, scores = SGDHead(epochs=1, validation_fraction=0.0).fit_scored(X, Y)
    assert len(rows) == 0 and scores.shape == (0, 4)


def test_partial_fit_learns_in_pieces() -> None:
    """From its classes and pieces of rows it learns what one fit does, and `fit` can be continued."""
    head = SGDHead()
    for _ in range(10):
        for start in range(0, 1000, 100):
            head.partial_fit(X[start : start + 100], Y[start : start + 100], classes=range(4))
    assert head.score(X[TEST], Y[TEST]) > SGDHead().fit(X[TRAIN], Y[TRAIN]).score(X[TEST], Y[TEST]) - 0.03
    assert head.n_iter_ == 100
    assert np.allclose(head.scaler_.var_, np.var(X[TRAIN].astype(float), axis=0), rtol=1e-3)
    fitted = SGDHead().fit(X[:500], Y[:500])
    before = fitted.score(X[TEST], Y[TEST])
    assert fitted.partial_fit(Rows(X[500:1000]), Y[500:1000]).score(X[TEST], Y[TEST]) > before - 0.03


def test_partial_fit_starts_from_the_current_weights() -> None:
    """A step of nearly 0 leaves what the head predicts as it was, though the scaling follows the new rows."""
    head = SGDHead().fit(X[:500], Y[:500])
    before = head.predict_proba(X)
    head.set_params(learning_rate=1e-12).partial_fit(3 * X[500:700], Y[500:700])
    assert np.allclose(head.predict_proba(X), before, atol=1e-3)


def test_partial_fit_learns_before_a_class_was_seen() -> None:
    """The first piece may lack classes, or have one class and one row."""
    head = SGDHead().partial_fit(X[:1], Y[:1], classes=np.arange(4))
    assert head.predict_proba(X).shape == (1500, 4)
    head.partial_fit(X[Y < 2], Y[Y < 2])
    assert set(head.predict(X)) <= {0, 1, 2, 3}


def test_partial_fit_refuses_what_does_not_fit() -> None:
    """Missing, other or unknown classes, other features and balanced weights are named."""
    with pytest.raises(ValueError, match="first call"):
        SGDHead().partial_fit(X, Y)
    with pytest.raises(ValueError, match="at least 2"):
        SGDHead().partial_fit(X, Y * 0, classes=[0])
    with pytest.raises(ValueError, match="labels"):
        SGDHead().partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(OptionError, match="class_weight"):
        SGDHead(class_weight="balanced").partial_fit(X, Y, classes=range(4))
    head = SGDHead(epochs=1).fit(X, Y)
    with pytest.raises(ValueError, match="as before"):
        head.partial_fit(X, Y, classes=range(5))
    with pytest.raises(ValueError, match="40 features"):
        head.partial_fit(Rows(X[:, :3]), Y)


def test_balanced_weights_find_more_of_a_rare_class() -> None:
    """The rare class's recall rises with balanced weights, and with a dict."""
    features, y = make_classification(2000, 20, n_informative=4, weights=[0.95], class_sep=0.7, random_state=1)

    def recall(weight: object) -> float:
        head = SGDHead(class_weight=weight).fit(features[:1500], y[:1500])
        return recall_score(y[1500:], head.predict(features[1500:]))

    assert recall("balanced") > recall(None) + 0.2
    assert recall({0: 1, 1: 20}) > recall(None) + 0.2


def test_divergence_is_named() -> None:
    """A rate at which weights overflow ends with what to do."""
    with pytest.raises(ValueError, match="lower learning_rate"):
        SGDHead(learning_rate=1e20).fit(X, Y)


@pytest.mark.parametrize(
    "params",
    [
        {"alpha": -1},
        {"alpha": "x"},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"momentum": 1.0},
        {"schedule": "step"},
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"standardize": "yes"},
        {"validation_fraction": 1.0},
        {"seed": -1},
        {"class_weight": "rare"},
    ],
)
def test_wrong_values_are_refused(params: dict[str, object]) -> None:
    """A value that is not possible is named with what is."""
    with pytest.raises(OptionError, match=f"{next(iter(params))} must"):
        SGDHead(**params).fit(X, Y)


def test_saved_head_predicts_bit_for_bit() -> None:
    """skops restores it with one type to trust, and training can go on."""
    head = SGDHead(epochs=2).fit(X, Y)
    saved = skops.io.dumps(head)
    assert skops.io.get_untrusted_types(data=saved) == ["featcache.heads.sgd.SGDHead"]
    loaded = skops.io.loads(saved, trusted=["featcache.heads.sgd.SGDHead"])
    assert np.array_equal(loaded.predict_proba(X), head.predict_proba(X))
    assert np.array_equal(loaded.partial_fit(X, Y).coef_, head.partial_fit(X, Y).coef_)
