import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import skops.io
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from featcache.errors import HeadError, OptionError
from featcache.heads import keras_training
from featcache.heads import rows as rows_module
from featcache.heads.dense import DenseClassifier, _archive
from featcache.heads.rows import Rows

X, Y = make_classification(200, 12, n_informative=6, n_classes=3, class_sep=2, random_state=0)
NAMES = np.array(["ant", "bee", "cat"])[Y]
QUICK = {"epochs": 3, "validation_fraction": 0.0}


class Recording:
    """Rows made when they are asked for, and how many were in one read."""

    def __init__(self, values: np.ndarray, wide: int = 1) -> None:
        self.values, self.wide, self.reads = values, wide, []
        self.shape = (len(values), values.shape[1] * wide)

    def __getitem__(self, rows: object) -> np.ndarray:
        made = np.tile(self.values[rows], self.wide)
        self.reads.append(len(made))
        return made


def same_weights(a: DenseClassifier, b: DenseClassifier) -> bool:
    pairs = zip(a.model_.get_weights(), b.model_.get_weights(), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def rounds(_: object) -> dict[str, str]:
    """Checks that ask for float64: in float32, a row's last digit depends on its place in a matrix product."""
    orders = ("check_methods_sample_order_invariance", "check_methods_subset_invariance")
    return dict.fromkeys(orders, "float32 on some processors; see test_order_hardly_matters")


@parametrize_with_checks([DenseClassifier(epochs=8, learning_rate=0.05)], expected_failed_checks=rounds)
def test_is_a_scikit_learn_classifier(estimator: DenseClassifier, check: object) -> None:
    """It passes every one of scikit-learn's checks."""
    check(estimator)


def test_learns() -> None:
    """On separable classes it is nearly always right, with probabilities that add up to 1."""
    model = DenseClassifier(hidden=(32,), epochs=30, learning_rate=0.01).fit(X, Y)
    assert model.score(X, Y) > 0.9
    assert np.allclose(model.predict_proba(X).sum(axis=1), 1, atol=1e-5)


def test_order_hardly_matters() -> None:
    """Scores of a row are the same to float32's rounding, whatever rows are around it."""
    model = DenseClassifier(epochs=3).fit(X, Y)
    order = np.random.default_rng(0).permutation(len(X))
    assert np.allclose(model.decision_function(X[order]), model.decision_function(X)[order], rtol=1e-5, atol=1e-6)
    assert np.allclose(model.decision_function(X[:7]), model.decision_function(X)[:7], rtol=1e-5, atol=1e-6)


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
    assert names == [
        "features",
        "batch_norm",
        "input_dropout",
        "dense_1",
        "dropout_1",
        "dense_2",
        "logits",
        "probabilities",
    ]
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


def test_the_best_weights_are_kept_when_all_epochs_run() -> None:
    """Not only a stop, also the end of training brings back the epoch with the lowest held-out loss."""
    noise = np.random.default_rng(0).integers(0, 3, 200)
    model = DenseClassifier(hidden=64, epochs=12, patience=50, learning_rate=0.01, validation_fraction=0.2)
    rows, logits = model.fit_scored(X, noise)
    losses = model.history_["val_loss"]
    assert len(losses) == 12 and np.argmin(losses) < 11
    kept = -log_softmax(logits, axis=1)[np.arange(len(rows)), noise[rows]].mean()
    assert kept == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_held_out_rows_come_back_with_their_logits(classes: int) -> None:
    """`fit_scored` returns whole groups of every class, and what `decision_function` says of them."""
    groups = np.arange(200) // 5
    target = groups % classes
    model = DenseClassifier(validation_fraction=0.25, epochs=2)
    rows, logits = model.fit_scored(X, target, groups)
    held = np.isin(np.arange(200), rows)
    assert all(len(set(held[groups == g])) == 1 for g in range(40))
    assert all(0 < held[target == label].mean() < 0.5 for label in range(classes))
    assert logits.dtype == np.float64 and logits.shape == ((len(rows),) if classes == 2 else (len(rows), 3))
    assert np.allclose(logits, model.decision_function(X[rows]), atol=1e-5)


def test_held_out_rows_are_not_trained_on() -> None:
    """Other features in the held-out rows make no other weights."""
    model = DenseClassifier(validation_fraction=0.25, epochs=1, hidden=4, batch_norm=True)
    rows, _ = model.fit_scored(X, Y)
    other = X.copy()
    other[rows] *= -100
    assert same_weights(model, clone(model).fit(other, Y))
    other = X.copy()
    other[np.setdiff1d(np.arange(200), rows)[0]] += 1
    assert not same_weights(model, clone(model).fit(other, Y))


@pytest.mark.parametrize("target", [Y, Y > 0])
def test_nothing_held_out_has_no_scores(target: np.ndarray) -> None:
    """Without a held-out part, rows and logits are empty, of the shapes they would have."""
    rows, logits = DenseClassifier(**QUICK).fit_scored(X, target)
    assert rows.shape == (0,) and logits.shape == ((0,) if target.dtype == bool else (0, 3))


@pytest.mark.parametrize("labels", [NAMES, NAMES == "ant", NAMES.astype(object)])
def test_labels_may_be_anything(labels: np.ndarray) -> None:
    """Predictions are labels, those of the highest probability, which `model_` gives too."""
    model = DenseClassifier(epochs=20, learning_rate=0.05).fit(X, labels)
    shares = model.predict_proba(X)
    assert model.score(X, labels) > 0.85
    assert np.array_equal(model.predict(X), model.classes_[shares.argmax(axis=1)])
    assert np.allclose(np.asarray(model.model_(X.astype(np.float32)))[:, -1], shares[:, -1], atol=1e-6)


@pytest.mark.parametrize("params", [{}, {"hidden": [6], "dropout": [0.2], "batch_norm": True, "batch_size": 7}])
def test_rows_train_the_head_that_an_array_trains(params: dict[str, object]) -> None:
    """Where the features come from makes no difference to the weights."""
    model = DenseClassifier(epochs=3, **params).fit(X, Y)
    source = Recording(X)
    streamed = clone(model).fit(Rows(source), Y)
    assert same_weights(model, streamed)
    assert np.array_equal(model.decision_function(X), streamed.decision_function(Rows(source)))


def test_a_block_is_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No read is larger than a block, and an epoch reads each row once: to train or to measure."""
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 10 * 12 * 4)
    monkeypatch.setattr(rows_module, "WINDOW_BYTES", 40 * 12 * 4)
    source = Recording(X.astype(np.float32))
    rows, _ = DenseClassifier(epochs=3, patience=9, validation_fraction=0.2).fit_scored(Rows(source), Y)
    assert max(source.reads) == 10
    moments = 200 - len(rows)
    assert sum(source.reads) == moments + 3 * 200 + len(rows)


def test_wide_rows_train_within_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """80 MB of rows of 100,000 values each train with less than a quarter of that in memory."""
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 2**20)
    monkeypatch.setattr(rows_module, "WINDOW_BYTES", 2**22)
    source = Recording(X[:, :10].astype(np.float32), wide=10_000)
    model = DenseClassifier(epochs=2, batch_size=8)
    tracemalloc.start()
    try:
        model.fit(Rows(source), Y)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert model.n_features_in_ == 100_000 and max(source.reads) == 2


@pytest.mark.parametrize(
    ("n", "d", "expected"),
    [
        (100, 8, 32),
        (9_600, 8, 32),
        (30_000, 1280, 100),
        (10**6, 1280, 1024),
        (10**6, 2**19, 32),
        (10**6, 2**22, 4),
    ],
)
def test_batches_grow_with_the_rows(n: int, d: int, expected: int) -> None:
    """`auto` is a 300th of the rows, 32 to 1024, in at most 64 MiB."""
    assert DenseClassifier()._rows_per_step(Rows(np.broadcast_to(np.float32(0), (n, d)))) == expected


def test_batch_norm_lies_between_layer_and_activation() -> None:
    """Each hidden layer is normalised before its activation, and the network learns."""
    model = DenseClassifier(hidden=(8, 6), dropout=0.1, batch_norm=True, epochs=30, learning_rate=0.01).fit(X, Y)
    names = [layer.name for layer in model.model_.layers]
    assert names == [
        "features",
        "standardize",
        "dense_1",
        "batch_norm_1",
        "activation_1",
        "dropout_1",
        "dense_2",
        "batch_norm_2",
        "activation_2",
        "dropout_2",
        "logits",
        "probabilities",
    ]
    assert model.score(X, Y) > 0.85


@pytest.mark.parametrize("target", [Y, (Y > 0).astype(int)])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_smoothing_spreads_a_share_over_all_classes(target: np.ndarray, smoothing: float) -> None:
    """The held-out loss is the cross-entropy with targets 1 - s + s / k and s / k, for two classes too."""
    model = DenseClassifier(epochs=1, label_smoothing=smoothing, validation_fraction=0.2)
    rows, logits = model.fit_scored(X, target)
    if logits.ndim == 1:
        logits = np.column_stack([np.zeros(len(rows)), logits])
    k = logits.shape[1]
    wanted = np.eye(k)[target[rows]] * (1 - smoothing) + smoothing / k
    expected = -(wanted * log_softmax(logits, axis=1)).sum(axis=1).mean()
    assert model.history_["val_loss"] == pytest.approx([expected], rel=1e-5)


def test_smoothing_tempers_probabilities() -> None:
    """Trained with smoothing, a network is less sure."""
    sure, less = (
        DenseClassifier(epochs=20, learning_rate=0.05, label_smoothing=s).fit(X, Y).predict_proba(X).max(axis=1).mean()
        for s in (0.0, 0.5)
    )
    assert less < sure - 0.1


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.1, 0.1, 0.1, 0.1]),
        ("cosine", [0.1, 0.1 * (2 + 2**0.5) / 4, 0.05, 0.1 * (2 - 2**0.5) / 4]),
        ("exponential", [0.1, 0.1 * 10**-0.5, 0.01, 0.1 * 10**-1.5]),
    ],
)
def test_the_rate_follows_its_schedule(monkeypatch: pytest.MonkeyPatch, schedule: str, expected: list[float]) -> None:
    """Cosine falls to 0 over the epochs, exponential to 1 %; the optimizer has what the history says."""
    made = []
    make = keras_training.make_optimizer
    monkeypatch.setattr(keras_training, "make_optimizer", lambda *args: made.append(make(*args)) or made[-1])
    model = DenseClassifier(schedule=schedule, learning_rate=0.1, epochs=4, validation_fraction=0.0).fit(X, Y)
    assert model.history_["learning_rate"] == pytest.approx(expected)
    assert float(made[0].learning_rate) == pytest.approx(expected[-1])


def test_a_plateau_halves_the_rate() -> None:
    """The rate is halved after each patience // 2 epochs without a lower held-out loss."""
    noise = np.random.default_rng(0).integers(0, 2, 200)
    model = DenseClassifier(
        hidden=64, schedule="plateau", learning_rate=0.01, patience=6, epochs=60, validation_fraction=0.2
    ).fit(X, noise)
    rate, lowest, since = 0.01, np.inf, 0
    for seen, loss in zip(model.history_["learning_rate"], model.history_["val_loss"], strict=True):
        assert seen == pytest.approx(rate)
        since = 0 if loss < lowest else since + 1
        lowest = min(loss, lowest)
        rate /= 2 if since in (3, 6) else 1
    assert since == 6 and rate < 0.01


def test_balanced_weights_find_more_of_a_rare_class() -> None:
    """On 5 % positives, balanced weights raise recall; a dict weighs by label."""
    many, labels = make_classification(1000, 12, weights=[0.95], class_sep=0.5, random_state=0)
    labels = np.where(labels == 1, "rare", "usual")

    def recall(class_weight: object) -> float:
        model = DenseClassifier(class_weight=class_weight, epochs=10, learning_rate=0.01).fit(many, labels)
        return float((model.predict(many)[labels == "rare"] == "rare").mean())

    assert recall("balanced") > recall(None) + 0.2
    assert recall({"rare": 1000.0, "usual": 1.0}) == 1


def test_a_linear_head_starts_undecided() -> None:
    """Without hidden layers the weights start from zeros, so that a few small steps go the right way."""
    few = np.repeat([[-1.0], [1.0]], 10, axis=0) * np.ones(6)
    model = DenseClassifier(epochs=1).fit(few, np.arange(20) // 10)
    assert model.score(few, np.arange(20) // 10) == 1
    assert np.abs(model.decision_function(few)).max() < 0.05


def test_rows_of_another_width_are_refused() -> None:
    """Rows, which scikit-learn does not check, are checked too."""
    with pytest.raises(ValueError, match="Expected 12 values per row"):
        DenseClassifier(**QUICK).fit(X, Y).predict(Rows(X[:, :5]))


def test_large_seeds_are_seeds() -> None:
    """Any seed that NumPy takes is one."""
    first, second = (DenseClassifier(hidden=4, dropout=0.1, seed=2**40 + 1, **QUICK).fit(X, Y) for _ in range(2))
    assert same_weights(first, second)


SAVED = [
    (Y, {"hidden": (8, 6), "dropout": [0.1, 0], "batch_norm": True, "class_weight": {0: 1.0, 1: 2.0, 2: 1.0}}),
    (NAMES == "ant", {"class_weight": "balanced", "hidden": np.int64(4)}),
    (NAMES, {"input_norm": "batch", "input_dropout": 0.1}),
    (NAMES.astype(object), {"hidden": 3, "l2": 0.01}),
]


@pytest.mark.parametrize(("target", "params"), SAVED)
def test_saved_heads_predict_to_the_bit(target: np.ndarray, params: dict[str, object]) -> None:
    """Through pickle and skops, also twice, a head keeps its parameters, history and every bit it predicts."""
    model = DenseClassifier(epochs=2, **params).fit(X, target)
    expected = model.predict_proba(X)
    content = skops.io.dumps(model)
    assert skops.io.get_untrusted_types(data=content) == ["featcache.heads.dense.DenseClassifier"]
    for copy in (
        pickle.loads(pickle.dumps(model)),
        pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model)))),
        skops.io.loads(content, trusted=["featcache.heads.dense.DenseClassifier"]),
    ):
        assert copy.get_params() == model.get_params() and copy.history_ == model.history_
        assert np.array_equal(copy.predict_proba(X), expected)
        assert np.array_equal(copy.predict(X), model.predict(X))
        assert copy.model_.output_shape == model.model_.output_shape


def test_an_unfitted_head_can_be_pickled() -> None:
    """Before training there are parameters only."""
    copy = pickle.loads(pickle.dumps(DenseClassifier(hidden=(3,))))
    assert copy.hidden == (3,) and not hasattr(copy, "model_")
    with pytest.raises(NotFittedError):
        copy.predict(X)


@pytest.mark.slow
def test_unpickling_starts_no_tensorflow(tmp_path: Path) -> None:
    """A head is read, and asked for its classes, before TensorFlow is there."""
    file = tmp_path / "head.pickle"
    file.write_bytes(pickle.dumps(DenseClassifier(**QUICK).fit(X, NAMES)))
    code = "import pickle, sys; print(*pickle.load(open(sys.argv[1], 'rb')).classes_, 'tensorflow' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["ant", "bee", "cat", "False"]


def test_a_model_file_runs_nothing() -> None:
    """A network with code of its own is refused, as is a damaged one, and one of other shapes."""
    import keras

    state = DenseClassifier(**QUICK).fit(X, Y).__getstate__()
    other = DenseClassifier(**QUICK).fit(X, Y > 0).__getstate__()["model_file"]
    inputs = keras.Input((12,))
    harmful = keras.Model(inputs, keras.layers.Lambda(lambda x: x[:, :3], name="logits")(inputs))
    for content in (_archive(harmful), b"PK", other):
        head = DenseClassifier()
        head.__setstate__({**state, "model_file": content})
        with pytest.raises(HeadError, match=r"model\.keras"):
            head.predict(X)


@pytest.mark.parametrize(
    "params",
    [
        {"hidden": 0},
        {"hidden": (4, 4), "dropout": (0.5,)},
        {"dropout": 1.0},
        {"input_norm": "layer"},
        {"epochs": 0},
        {"hidden": "wide"},
        {"epochs": 1.5},
        {"epochs": "many"},
        {"l2": "x"},
        {"dropout": ("x",)},
        {"activation": "wobble"},
        {"optimizer": "lbfgs"},
        {"learning_rate": 0},
        {"batch_size": 0},
        {"l2": -1},
        {"batch_norm": "yes"},
        {"schedule": "step"},
        {"label_smoothing": 1.0},
        {"label_smoothing": -0.1},
        {"seed": -1},
        {"class_weight": "rare"},
        {"class_weight": {0: -1.0, 1: 1.0, 2: 1.0}},
        {"class_weight": {0: "x"}},
        {"batch_size": "many"},
        {"batch_size": 2.5},
        {"schedule": "plateau", "validation_fraction": 0.0},
        {"input_norm": ["batch"]},
        {"activation": abs},
        {"learning_rate": float("inf")},
        {"dropout": (0.1, 0.1)},
    ],
)
def test_wrong_values_are_refused(params: dict[str, object]) -> None:
    """A value that is not possible is named with what is."""
    hidden = {"hidden": 4} if "dropout" in params else {}
    with pytest.raises(OptionError, match="|".join(params)):
        DenseClassifier(**{**hidden, **params}).fit(X, Y)


def test_caller_random_numbers_are_left_alone() -> None:
    """Training does not reseed NumPy or Python."""
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    DenseClassifier(**QUICK).fit(X, Y)
    assert np.random.random() == expected
