import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featcache.errors import HeadError, OptionError
from featcache.heads import HEADS, build, fit

X, Y = make_classification(240, 20, n_informative=8, n_classes=3, random_state=0)
X = X.astype(np.float32)
GROUPS = np.arange(240)


def test_heads_there_are() -> None:
    """These are the heads that can be named."""
    assert list(HEADS) == ["logreg", "linear-svm", "svm", "dense"]


@pytest.mark.parametrize("clf", ["logreg", "linear-svm", "svm"])
def test_probabilities(clf: str) -> None:
    """Every head gives probabilities that add up to 1 and beat chance by far."""
    head = fit(build(clf), X, Y, GROUPS, seed=0)
    shares = head.predict_proba(X)
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert (shares.argmax(axis=1) == Y).mean() > 0.6


def test_logreg_is_plain_scikit_learn() -> None:
    """`logreg` gives what StandardScaler and LogisticRegression give."""
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(X, Y)
    ours = fit(build("logreg", {"C": 0.1}), X, Y, GROUPS, seed=0)
    assert np.array_equal(ours.predict_proba(X), plain.predict_proba(X))


def test_float32_is_kept() -> None:
    """Logistic regression works on float32 as it is."""
    assert fit(build("logreg"), X, Y, GROUPS, seed=0).predict_proba(X).dtype == np.float32


def test_unknown_head_and_parameter() -> None:
    """Wrong names get the valid ones."""
    with pytest.raises(OptionError, match="logreg, linear-svm, svm, dense"):
        build("forest")
    with pytest.raises(OptionError, match=r"Expected a parameter of logreg: C, .*Received: 'c'"):
        build("logreg", {"c": 1})


@pytest.mark.parametrize(
    ("clf", "params"), [("logreg", {"C": -1}), ("svm", {"kernel": "cubic"}), ("logreg", {"C": "x"})]
)
def test_wrong_values_are_one_error(clf: str, params: dict[str, object]) -> None:
    """A value that scikit-learn refuses is an error with its reason."""
    with pytest.raises(HeadError, match=next(iter(params))):
        fit(build(clf, params), X, Y, GROUPS, seed=0)


def test_one_class_cannot_be_trained() -> None:
    """At least two classes are needed."""
    with pytest.raises(HeadError, match="at least 2 classes"):
        fit(build("logreg"), X, np.zeros(240, int), GROUPS, seed=0)


def test_calibration_needs_two_images_a_class() -> None:
    """A class of one image cannot calibrate; the message says what to do."""
    y = np.array([0] * 10 + [1])
    with pytest.raises(HeadError, match="--clf logreg"):
        fit(build("svm"), X[:11], y, GROUPS[:11], seed=0)


def test_copies_are_on_one_side_of_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """No group is in the training and the held-out part of a calibration fold."""
    seen = []

    def spy(self, X, y):
        seen.extend(self.cv)
        return self

    monkeypatch.setattr(CalibratedClassifierCV, "fit", spy)
    groups = np.arange(240) // 4
    fit(build("linear-svm"), X, Y, groups, seed=0)
    assert len(seen) == 5
    assert all(not set(groups[train]) & set(groups[test]) for train, test in seen)
