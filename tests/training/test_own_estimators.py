"""Estimators of the user's own as heads."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from featcache import FeatureCache, Head
from featcache.errors import FeatcacheError, HeadError, OptionError
from featcache.heads.expression import expressed
from featcache.training import compare, fit_head
from featcache.training.results import described_estimator


@pytest.fixture
def cache(made) -> FeatureCache:
    return made(apart=0.6)


def validation(cache: FeatureCache) -> tuple[np.ndarray, np.ndarray]:
    X, y = cache.load("validation")
    return X, y


def test_it_predicts_as_plain_scikit_learn_does(cache: FeatureCache) -> None:
    """Uncalibrated, its probabilities and accuracy are those of the same estimator on the same rows."""
    estimator = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    head = fit_head(cache, estimator, calibrate="none")
    X, y = cache.load("train")
    V, v = validation(cache)
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(X, y)
    assert np.allclose(head.predict_proba(V), plain.predict_proba(V), atol=1e-4)
    assert head.metrics["validation"]["accuracy"] == pytest.approx(plain.score(V, v), abs=0.02)
    assert not hasattr(estimator[-1], "coef_")  # a clone was trained
    assert head.clf == "LogisticRegression"
    assert head.path == cache.path / "heads" / "LogisticRegression-features"


OWN = {
    "pca": make_pipeline(PCA(3), LogisticRegression()),
    "svc": SVC(),
    "neighbours": KNeighborsClassifier(3, algorithm="brute"),
    "bayes": GaussianNB(),
    "ridge classifier": RidgeClassifier(),
    "search": GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
}


@pytest.mark.parametrize("name", OWN)
def test_it_is_saved_and_loaded(cache: FeatureCache, tmp_path: Path, name: str) -> None:
    """From its folder it has the same probabilities, in float32, and better than chance."""
    head = fit_head(cache, OWN[name], out=tmp_path / "head")
    X, y = validation(cache)
    again = Head.load(tmp_path / "head")
    assert np.array_equal(again.predict_proba(X), head.predict_proba(X))
    assert np.allclose(again.predict_proba(X).sum(axis=1), 1, atol=1e-5)
    assert (again.predict(X) == y).mean() > 0.5
    assert again.card["estimator"].startswith(type(OWN[name]).__name__)


def test_uncalibrated_probabilities_are_its_own(cache: FeatureCache) -> None:
    """Without calibration the zeros of neighbours' votes stay zeros."""
    head = fit_head(cache, KNeighborsClassifier(5, algorithm="brute"), calibrate="none")
    V, _ = validation(cache)
    assert (head.predict_proba(V) == 0).any()
    assert set(np.unique(np.round(head.predict_proba(V) * 5, 5))) <= {0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (LogisticRegression, r"LogisticRegression\(\)"),
        (LinearRegression(), "not a classifier"),
        (StandardScaler(), "not a classifier"),
        (3, "int"),
        (make_pipeline(FunctionTransformer(lambda X: X), LogisticRegression()), "cannot be saved"),
    ],
)
def test_what_is_no_head_is_refused_before_training(cache: FeatureCache, given: object, said: str) -> None:
    """A class, a regressor, a transformer, anything else and what could not be loaded again are named."""
    with pytest.raises(FeatcacheError, match=said):
        fit_head(cache, given)
    assert not (cache.path / "heads").exists()


class Foreign(LogisticRegression):
    """A class that skops does not know."""


def test_untrusted_types_are_named(cache: FeatureCache) -> None:
    """A class from elsewhere, or parts that could do harm, are refused before training; comparing saves nothing."""
    for estimator, part in (
        (Foreign(), "Foreign"),
        (RandomForestClassifier(2), r"_tree\.Tree"),
        (HistGradientBoostingClassifier(max_iter=1), "TreePredictor"),
        (GridSearchCV(RandomForestClassifier(2), {"max_depth": [1, 2]}, cv=2), r"_tree\.Tree"),
    ):
        with mock.patch("featcache.training.fitting._trained") as trained, pytest.raises(HeadError, match=part):
            fit_head(cache, estimator)
        assert not trained.called
    found = compare(
        cache, {"foreign": Foreign(), "lambda": make_pipeline(FunctionTransformer(lambda X: X), GaussianNB())}
    )
    assert {row["clf"] for row in found.leaderboard} == {"foreign", "lambda"}, found.failed
    assert compare(cache, {"forest": RandomForestClassifier(2)}).best["clf"] == "forest"


def test_options_that_need_more(cache: FeatureCache) -> None:
    """Tuning advises GridSearchCV; an unknown parameter is named with those there are."""
    with pytest.raises(OptionError, match="GridSearchCV"):
        fit_head(cache, GaussianNB(), tune=True)
    with pytest.raises(OptionError, match=r"no parameter 'c'.*var_smoothing"):
        fit_head(cache, GaussianNB(), params={"c": 1})
    head = fit_head(cache, GaussianNB(), params={"var_smoothing": 0.5}, cv=2, fewshot=[2], tries=2)
    assert head.estimator.estimator_.var_smoothing == 0.5
    assert {"cross_validation", "fewshot"} <= set(head.card)


def test_they_are_compared(cache: FeatureCache) -> None:
    """A mapping names them; their accuracy is scikit-learn's; results are kept for equal parameters only."""
    own = {"mine": make_pipeline(StandardScaler(), LogisticRegression(C=0.1)), "bayes": GaussianNB(), "ridge": None}
    found = compare(cache, own, calibrate="none")
    rows = {row["clf"]: row for row in found.leaderboard}
    X, y = cache.load("train")
    V, v = validation(cache)
    assert set(rows) == set(own), found.failed
    for name in ("mine", "bayes"):
        assert rows[name]["accuracy"] == pytest.approx(own[name].fit(X, y).score(V, v), abs=0.02), name
    kept = len(list((cache.path / "results").iterdir()))
    compare(cache, own, calibrate="none")
    assert len(list((cache.path / "results").iterdir())) == kept
    compare(cache, {"bayes": GaussianNB(var_smoothing=0.1)}, calibrate="none")
    assert len(list((cache.path / "results").iterdir())) > kept
    both = compare(cache, ["centroid", GaussianNB()])
    assert {row["clf"] for row in both.leaderboard} == {"centroid", "GaussianNB"}
    with pytest.raises(OptionError, match=r"'ridge'.*another"):
        compare(cache, {"ridge": GaussianNB()})


def test_equal_texts_are_equal_estimators() -> None:
    """The text that a result is kept under has every parameter; there is none where it could not tell two apart."""
    texts = {described_estimator(make_pipeline(StandardScaler(), LogisticRegression(C=c))) for c in (1, 2)}
    texts |= {described_estimator(make_pipeline(PCA(), LogisticRegression(C=1)))}
    assert len(texts) == 3
    assert None not in texts
    assert described_estimator(make_pipeline(FunctionTransformer(lambda X: X), LogisticRegression())) is None
    assert described_estimator(GaussianNB(priors=np.array([0.5, 0.5]))) is None


def test_what_a_network_can_express(cache: FeatureCache) -> None:
    """A scaled logistic regression is a linear layer, as `logreg` is; others are refused with what to do."""
    head = fit_head(cache, make_pipeline(StandardScaler(), LogisticRegression()))
    found = expressed(head)
    X, _ = validation(cache)
    assert found.kernel is not None
    scores = (X @ found.kernel + found.bias) * found.scale + found.shift
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    assert np.allclose(shares / shares.sum(axis=1, keepdims=True), head.predict_proba(X), atol=1e-5)
    for own in (GaussianNB(), make_pipeline(PCA(2), LogisticRegression())):
        with pytest.raises(HeadError, match="distill"):
            expressed(fit_head(cache, own))


def test_the_order_of_steps_decides_a_result(cache: FeatureCache) -> None:
    """Pipelines of the same steps in another order, or grids that differ in one value, do not share a kept result."""
    first, second = (
        make_pipeline(*steps, LogisticRegression())
        for steps in ([PCA(2), StandardScaler()], [StandardScaler(), PCA(2)])
    )
    assert described_estimator(first) != described_estimator(second)
    for own in (first, second):
        found = compare(cache, {"mine": own}, calibrate="none")
        again = compare(cache, {"mine": own}, calibrate="none", fresh=True)
        assert found.best["log_loss"] == pytest.approx(again.best["log_loss"], abs=1e-6)
    assert described_estimator(GridSearchCV(GaussianNB(), {"var_smoothing": np.linspace(0.1, 1, 2000)})) is None
    assert described_estimator(Foreign()) is None


def test_names_of_compared_estimators(cache: FeatureCache) -> None:
    """Two estimators of one class in a list are not taken for one; what is no estimator in a mapping is named."""
    with pytest.raises(OptionError, match=r"'LogisticRegression'.*mapping"):
        compare(cache, [LogisticRegression(C=1), LogisticRegression(C=2)])
    for wrong in ({"mine": "ridge"}, {1: GaussianNB()}):
        with pytest.raises(OptionError, match=r"Received: ('mine': 'ridge'|1: GaussianNB)"):
            compare(cache, wrong)


def test_scores_of_pairs_are_refused(cache: FeatureCache) -> None:
    """Of three classes there are as many pairs, so that their scores would pass for those of the classes."""
    for own, params in ((SVC(decision_function_shape="ovo"), {}), (SVC(), {"decision_function_shape": "ovo"})):
        with pytest.raises(OptionError, match="'ovr'"):
            fit_head(cache, own, params=params)
