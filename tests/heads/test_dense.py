import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.model_selection import cross_val_score

from featcache.errors import OptionError
from featcache.heads.dense import DenseClassifier

X, Y = make_classification(200, 12, n_informative=6, n_classes=3, class_sep=2, random_state=0)
QUICK = {"epochs": 3, "validation_fraction": 0.0}


def test_learns() -> None:
    """On separable classes it is nearly always right, with probabilities that add up to 1."""
    model = DenseClassifier(hidden=(32,), epochs=30, learning_rate=0.01).fit(X, Y)
    assert model.score(X, Y) > 0.9
    assert np.allclose(model.predict_proba(X).sum(axis=1), 1, atol=1e-5)


def test_two_classes_end_in_one_sigmoid() -> None:
    """Two classes share one output, as a logistic regression."""
    model = DenseClassifier(**QUICK).fit(X, Y > 0)
    assert model.model_.output_shape == (None, 1)
    assert model.predict_proba(X).shape == (200, 2)
    assert model.predict(X).dtype == bool


def test_layers_are_as_asked() -> None:
    """Sizes and dropouts appear in the network in their order."""
    model = DenseClassifier(hidden=(8, 6), dropout=(0.5, 0), input_dropout=0.1, input_norm="batch", **QUICK).fit(X, Y)
    names = [layer.name for layer in model.model_.layers]
    assert names == ["features", "batch_norm", "input_dropout", "dense_1", "dropout_1", "dense_2", "logits",
                     "probabilities"]  # fmt: skip
    assert model.model_.get_layer("dense_1").units == 8


def test_same_seed_same_head() -> None:
    """A seed decides weights, order and dropout; another seed is another head."""

    def shares(seed: int) -> np.ndarray:
        return DenseClassifier(hidden=8, dropout=0.3, seed=seed, **QUICK).fit(X, Y).predict_proba(X)

    assert np.array_equal(shares(1), shares(1))
    assert not np.array_equal(shares(1), shares(2))


def test_trains_as_many_epochs_as_asked_also_when_cloned() -> None:
    """A clone keeps every parameter, and cross-validation trains all epochs."""
    model = DenseClassifier(hidden=(4,), epochs=7, validation_fraction=0.0)
    assert clone(model).get_params() == model.get_params()
    lengths = []

    class Spy(DenseClassifier):
        def fit(self, X, y, groups=None):
            super().fit(X, y, groups)
            lengths.append(len(self.history_["loss"]))
            return self

    cross_val_score(Spy(**model.get_params()), X, Y, cv=2)
    assert lengths == [7, 7]


def test_stops_early_and_keeps_the_best() -> None:
    """Training ends when the held-out loss does not improve, with the weights of the best epoch."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2, 200)
    model = DenseClassifier(hidden=64, epochs=200, patience=2, learning_rate=0.01, validation_fraction=0.2).fit(
        X, noise
    )
    losses = model.history_["val_loss"]
    assert len(losses) < 200
    assert len(losses) - 1 - int(np.argmin(losses)) == 2


def test_held_out_part_takes_whole_groups_of_every_class() -> None:
    """Copies of an image are on one side; every class keeps something to train on."""
    model = DenseClassifier(validation_fraction=0.25)
    model.classes_ = np.arange(3)
    groups = np.arange(200) // 5
    target = groups % 3
    held = model._held_out(target, groups)
    assert all(len(set(held[groups == g])) == 1 for g in range(40))
    assert all(0 < held[target == label].mean() < 0.5 for label in range(3))


@pytest.mark.parametrize("params", [
    {"hidden": 0}, {"hidden": (4, 4), "dropout": (0.5,)}, {"dropout": 1.0}, {"input_norm": "layer"}, {"epochs": 0},
    {"hidden": "wide"}, {"epochs": 1.5}, {"epochs": "many"}, {"l2": "x"}, {"dropout": ("x",)},
    {"activation": "wobble"}, {"optimizer": "lbfgs"}, {"learning_rate": 0}, {"batch_size": 0}, {"l2": -1},
])  # fmt: skip
def test_wrong_values_are_refused(params: dict[str, object]) -> None:
    """A value that is not possible is named with what is."""
    hidden = {"hidden": 4} if "dropout" in params else {}
    with pytest.raises(OptionError, match="Expected"):
        DenseClassifier(**{**hidden, **params}).fit(X, Y)


def test_caller_random_numbers_are_left_alone() -> None:
    """Training does not reseed NumPy or Python."""
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    DenseClassifier(**QUICK).fit(X, Y)
    assert np.random.random() == expected
