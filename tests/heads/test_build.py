import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from featcache.errors import HeadError, OptionError
from featcache.heads import HEADS, STREAMING, Rows, build, fit, memory_needed, parameters

X, Y = make_classification(240, 20, n_informative=8, n_classes=3, random_state=0)
X = X.astype(np.float32)
GROUPS = np.arange(240)
QUICK = {"dense": {"epochs": 3}, "knn": {"n_neighbors": 3}}


def test_heads_there_are() -> None:
    """These are the heads that can be named, and those that train in blocks."""
    assert list(HEADS) == ["logreg", "linear-svm", "svm", "ridge", "knn", "centroid", "dense"]
    assert STREAMING == ["logreg", "linear-svm", "ridge", "centroid", "dense"]


OWN = ["logreg", "linear-svm", "ridge", "knn", "centroid", "dense"]  # each passes the checks in its own tests


@parametrize_with_checks([build(clf) for clf in HEADS if clf not in OWN])
def test_heads_are_estimators(estimator, check) -> None:
    """scikit-learn's classifiers, scaled and calibrated as they are built, pass its own checks."""
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([build(clf, QUICK.get(clf)) for clf in OWN if clf != "dense"])
def test_own_heads_are_estimators(estimator, check) -> None:
    """Ours pass them with their calibration, too."""
    check(estimator)


@pytest.mark.parametrize("clf", HEADS)
@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities(clf: str, classes: int) -> None:
    """Every head gives probabilities that add up to 1 and beat chance by far."""
    kept = classes > Y
    head = fit(build(clf), X[kept], Y[kept], GROUPS[kept])
    shares = head.predict_proba(X[kept])
    assert shares.shape == (kept.sum(), classes)
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert (shares.argmax(axis=1) == Y[kept]).mean() > 0.6


@pytest.mark.parametrize("clf", STREAMING)
def test_streaming_heads_never_hold_all_rows(clf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that stream read a few rows at a time, and end up as from an array."""
    from featcache.heads import rows as module

    monkeypatch.setattr(module, "BLOCK_BYTES", 20 * 4 * 16)
    monkeypatch.setattr(module, "WINDOW_BYTES", 20 * 4 * 64)
    most = []

    class Source:
        shape = X.shape

        def __getitem__(self, rows: object) -> np.ndarray:
            found = X[rows]
            most.append(len(found))
            return found

    params = {"epochs": 2, "batch_size": 16} if clf == "dense" else {}
    params |= {"folds": 2} if clf in ("ridge", "centroid") else {}
    head = fit(build(clf, params), Rows(Source()), Y, GROUPS)
    assert max(most) <= 64
    plain = fit(build(clf, params), X, Y, GROUPS)
    assert np.allclose(head.predict_proba(X), plain.predict_proba(X), atol=1e-4)


def test_logreg_is_plain_scikit_learn() -> None:
    """Without calibration `logreg` gives what StandardScaler and LogisticRegression give."""
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-8, max_iter=1000)).fit(X.astype(float), Y)
    ours = fit(build("logreg", {"C": 0.1, "tol": 1e-6}, calibrate="none"), X, Y, GROUPS)
    assert np.allclose(ours.predict_proba(X), plain.predict_proba(X), atol=1e-5)
    calibrated = fit(build("logreg", {"C": 0.1}), X, Y, GROUPS)
    assert np.array_equal(calibrated.predict(X), plain.predict(X))


def test_float32_is_kept() -> None:
    """Logistic regression works on float32 as it is."""
    assert fit(build("logreg"), X, Y, GROUPS).predict_proba(X).dtype == np.float32


@pytest.mark.parametrize("clf", HEADS)
def test_every_head_takes_balanced_classes(clf: str) -> None:
    """`class_weight=balanced` is a parameter of every head."""
    assert "class_weight" in parameters(clf)
    rare = np.flatnonzero((Y == 0) | ((Y == 1) & (np.arange(240) % 5 == 0)))
    head = fit(build(clf, {"class_weight": "balanced", **QUICK.get(clf, {})}), X[rare], Y[rare], GROUPS[rare])
    assert set(head.predict(X)) == {0, 1}


def test_memory_is_known_beforehand() -> None:
    """Heads that hold X need a multiple of it, heads that stream what their weights, sums or matrices take."""
    assert memory_needed("svm", 1000, 100) >= 400_000
    assert memory_needed("logreg", 10**7, 1280, classes=10) < 10**9
    assert memory_needed("dense", 10**6, 10**6, {"hidden": (1024,)}) > 10**10
    assert memory_needed("centroid", 10**6, 500_000, classes=1000) > 10**10
    assert memory_needed("ridge", 10**6, 1000) < 10**9
    assert memory_needed("ridge", 10**6, 500_000) > 10**12


def test_unknown_head_and_parameter() -> None:
    """Wrong names get the valid ones."""
    with pytest.raises(OptionError, match="logreg, linear-svm, svm, ridge"):
        build("forest")
    with pytest.raises(OptionError, match=r"logreg has no parameter 'c'. Its parameters are: C, "):
        build("logreg", {"c": 1})
    with pytest.raises(OptionError, match="temperature, sigmoid, isotonic, none"):
        build("logreg", calibrate="platt")


@pytest.mark.parametrize(
    ("clf", "params"),
    [
        ("logreg", {"C": -1}),
        ("svm", {"kernel": "cubic"}),
        ("logreg", {"C": "x"}),
        ("knn", {"weights": "heavy"}),
        ("ridge", {"alphas": -1}),
        ("logreg", {"tol": 0}),
        ("linear-svm", {"solver": "newton"}),
        ("dense", {"activation": "wobble"}),
        ("centroid", {"standardize": "x"}),
        ("linear-svm", {"class_weight": "heavy"}),
    ],
)
def test_wrong_values_are_one_error(clf: str, params: dict[str, object]) -> None:
    """A value that a head refuses is an error with its reason."""
    with pytest.raises((HeadError, OptionError), match=next(iter(params))):
        fit(build(clf, params), X, Y, GROUPS)


def test_one_class_cannot_be_trained() -> None:
    """At least two classes are needed."""
    with pytest.raises(HeadError, match="at least 2 classes"):
        fit(build("logreg"), X, np.zeros(240, int), GROUPS)
