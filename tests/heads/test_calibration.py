from typing import ClassVar

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from featcache.errors import OptionError
from featcache.heads import Rows
from featcache.heads import calibration as module
from featcache.heads.calibration import CalibratedHead
from featcache.training.metrics import calibration_error, log_loss

X, Y = make_classification(600, 20, n_informative=8, n_classes=3, class_sep=0.8, flip_y=0.2, random_state=0)
X = X.astype(np.float32)
TRAIN, TEST = np.arange(300), np.arange(300, 600)


class Counting(LogisticRegression):
    """Keeps what it was fitted on."""

    fits: ClassVar[list[np.ndarray]] = []

    def fit(self, X, y):
        self.fits.append(X)
        return super().fit(X, y)


class Scored(LogisticRegression):
    """Holds out rows by itself."""

    def fit_scored(self, X, y, groups):
        self.fit(X[:200], y[:200])
        return np.arange(200, len(y)), self.decision_function(X[200:])


@parametrize_with_checks([CalibratedHead(LogisticRegression(max_iter=50))])
def test_is_an_estimator(estimator, check) -> None:
    """It passes scikit-learn's own checks."""
    check(estimator)


@pytest.mark.parametrize(
    "estimator", [LinearSVC(), SVC(C=20), KNeighborsClassifier(3), LogisticRegression(C=1e4, max_iter=1000)]
)
@pytest.mark.parametrize("method", ["temperature", "sigmoid", "isotonic"])
@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_become_honest(estimator, method: str, classes: int) -> None:
    """The calibration error on other images falls, or nearly stays, and rows add up to 1."""
    kept = Y[TRAIN] < classes
    seen, unseen = TRAIN[kept], TEST[Y[TEST] < classes]
    plain = CalibratedHead(estimator, "none").fit(X[seen], Y[seen]).predict_proba(X[unseen])
    shares = CalibratedHead(estimator, method).fit(X[seen], Y[seen]).predict_proba(X[unseen])
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert shares.shape == (len(unseen), classes)
    assert calibration_error(Y[unseen], shares) < calibration_error(Y[unseen], plain) + 0.06
    if method == "temperature":
        assert log_loss(Y[unseen], shares) < log_loss(Y[unseen], plain) + 0.03


def test_an_overconfident_head_is_mended() -> None:
    """A head that is sure of everything has its calibration error cut by the temperature, and no prediction moved."""
    sure = KNeighborsClassifier(1)
    plain = CalibratedHead(sure, "none").fit(X[TRAIN], Y[TRAIN])
    head = CalibratedHead(sure).fit(X[TRAIN], Y[TRAIN])
    assert head.temperature_ > 2
    assert np.array_equal(head.predict(X[TEST]), plain.predict(X[TEST]))
    before, after = (calibration_error(Y[TEST], one.predict_proba(X[TEST])) for one in (plain, head))
    assert after < 0.5 * before


def test_none_is_the_head_itself() -> None:
    """Without calibration a logistic regression's probabilities are its own."""
    for kept in (Y < 2, Y < 3):
        head = CalibratedHead(LogisticRegression(), "none").fit(X[kept], Y[kept])
        assert np.allclose(head.predict_proba(X), head.estimator_.predict_proba(X), atol=1e-6)
        assert head.temperature_ == 1


def test_temperature_is_the_least_log_loss() -> None:
    """No other temperature gives the held-out scores a lower log loss."""
    scores = np.random.default_rng(0).normal(size=(500, 3)) * 4
    target = (scores + np.random.default_rng(1).gumbel(size=(500, 3)) * 3).argmax(axis=1)
    best = module.temperature_of(scores, target)
    losses = [log_loss(target, module.as_probabilities(scores / t)) for t in (best * 0.95, best, best * 1.05)]
    assert losses[1] == min(losses)
    assert best == pytest.approx(3, abs=0.5)


def test_every_row_is_held_out_once_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few rows all folds are held out, of many one; the last fit is on all rows; groups are whole."""
    numbered = np.column_stack([X[TRAIN], TRAIN]).astype(np.float32)
    groups = TRAIN // 3
    for few, fits in ((5000, 6), (100, 2)):
        monkeypatch.setattr(module, "FEW", few)
        Counting.fits = []
        CalibratedHead(Counting()).fit(numbered, Y[TRAIN], groups)
        *folds, final = [set(part[:, -1].astype(int)) for part in Counting.fits]
        assert len(folds) + 1 == fits
        assert final == set(TRAIN.tolist())
        for part in folds:
            assert all(len(part & set(TRAIN[groups == group])) in (0, 3) for group in range(100))
        if few == 5000:
            assert sorted(row for part in folds for row in final - part) == TRAIN.tolist()


def test_heads_that_hold_out_by_themselves_are_fitted_once() -> None:
    """Scores that `fit_scored` brings give the temperature."""
    head = CalibratedHead(Scored()).fit(X[TRAIN], Y[TRAIN])
    expected = module.temperature_of(Scored().fit_scored(X[TRAIN], Y[TRAIN], None)[1], Y[200:300])
    assert head.temperature_ == pytest.approx(expected)


def test_rows_and_arrays_are_alike() -> None:
    """A head is the same from rows that are read when asked for."""
    one = CalibratedHead(LogisticRegression()).fit(X[TRAIN], Y[TRAIN]).predict_proba(X)
    other = CalibratedHead(LogisticRegression()).fit(Rows(X).take(TRAIN), Y[TRAIN]).predict_proba(X)
    assert np.array_equal(one, other)


def test_single_images() -> None:
    """A class of one image is always trained on; if all are, that is said, and the scores stay as they are."""
    y = np.array([0] * 10 + [1])
    assert len(CalibratedHead(LogisticRegression()).fit(X[:11], y).classes_) == 2
    with pytest.warns(UserWarning, match="not calibrated"):
        head = CalibratedHead(LogisticRegression()).fit(X[:2], np.array([0, 1]))
    assert head.temperature_ == 1
    with pytest.raises(OptionError, match="fewer than 2 different images, too few for sigmoid"):
        CalibratedHead(LogisticRegression(), "sigmoid").fit(X[:11], y)


def test_balanced_classes_stay_balanced() -> None:
    """A calibration that may move predictions weighs classes as the head does."""
    rare = np.flatnonzero((Y == 0) | ((Y == 1) & (np.arange(600) % 8 == 0)))
    head = CalibratedHead(LogisticRegression(class_weight="balanced"), "sigmoid").fit(X[rare], Y[rare])
    plain = CalibratedHead(LogisticRegression(), "sigmoid").fit(X[rare], Y[rare])
    ones = X[Y == 1]
    assert (head.predict(ones) == 1).mean() > (plain.predict(ones) == 1).mean() + 0.2


def test_unknown_method() -> None:
    """A wrong method gets the valid ones."""
    with pytest.raises(OptionError, match="temperature, sigmoid, isotonic, none"):
        CalibratedHead(LogisticRegression(), "platt").fit(X, Y)


def test_being_always_right_on_a_few_rows_does_not_make_sure() -> None:
    """Held-out rows that are all right leave a temperature at which an error does not cost everything."""
    scores = np.where(np.arange(40) % 2, 2.0, -2.0)
    assert module.temperature_of(scores, (scores > 0).astype(int)) > 0.3
    wide = np.eye(3)[np.arange(30) % 3] * 5
    assert module.temperature_of(wide, np.arange(30) % 3) > 0.5


def test_groups_of_several_classes_leave_every_class_in_training() -> None:
    """A class whose images all lie in groups of other classes is trained on in every fold."""
    y = np.array([0, 0, 1, 1] * 10 + [0, 2, 0, 2])
    groups = np.concatenate([np.arange(40), [50, 50, 50, 50]])
    X = np.random.default_rng(0).normal(size=(44, 4)).astype(np.float32) + y[:, None]
    for estimator in (LogisticRegression(), KNeighborsClassifier(3)):
        assert len(CalibratedHead(estimator).fit(X, y, groups).classes_) == 3
