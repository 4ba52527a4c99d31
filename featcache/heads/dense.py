"""A Keras network on features, as a scikit-learn classifier with plain parameters."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from featcache.errors import HeadError, OptionError
from featcache.heads import checks, keras_training
from featcache.heads.estimator import LogitClassifier, checked, class_weights, update_scaler
from featcache.heads.folds import enough, held_out
from featcache.heads.rows import WINDOW_BYTES, Bools, Float32s, Floats, Ints, Rows
from featcache.system.startup import import_tensorflow

_BATCH_NORM_MOMENTUM = 0.9
"""Keras' 0.99 takes hundreds of steps to forget its start, more than small data has in its first epochs."""


@dataclass(eq=False, repr=False)
class DenseClassifier(LogitClassifier):
    """Dense layers on features, trained with early stopping from rows that need not be in memory.

    Parameters
    ----------
    hidden : int or sequence of int, default ()
        Sizes of the hidden layers; none: a linear classifier, which starts from zeros.
    dropout : float or sequence of float, default 0
        After each hidden layer, 0 ≤ rate < 1; one number is for all.
    input_dropout : float, default 0
        Before the first layer.
    input_norm : {"standard", "batch", "none"}
        Standardise by the training data's mean and variance, by batch normalisation, or not.
    batch_norm : bool, default False
        Batch normalisation between each hidden layer and its activation (Ioffe & Szegedy 2015).
    activation : str, default "relu"
        Of the hidden layers; any Keras activation's name.
    optimizer : {"adam", "sgd", "rmsprop"}
    learning_rate : float, default 0.001
    schedule : {"constant", "cosine", "exponential", "plateau"}
        The learning rate in epoch e = 0, 1, … of E: ``cosine`` falls to 0 as (1 + cos(π e / E)) / 2
        (Loshchilov & Hutter 2017), ``exponential`` to 1 % as 0.01 ** (e / E), ``plateau`` is halved whenever the
        held-out loss has not improved for patience // 2 epochs, or 1.
    momentum : float, default 0.9
        For ``sgd``.
    l2 : float, default 0
        Penalty on the kernels' squared values.
    label_smoothing : float, default 0
        The share s, 0 ≤ s < 1, of each target that is spread over all k classes: the label's own target is
        1 - s + s / k, the others' s / k (Szegedy et al. 2016).
    class_weight : {None, "balanced"} or dict, default None
        How much each class counts in the losses: the same, as n / (k · its rows), or by label.
    epochs : int, default 100
        At most; early stopping may end sooner.
    batch_size : int or "auto", default "auto"
        ``auto``: n // 300, but 32 to 1024, and not more than fill 64 MiB.
    patience : int, default 5
        Epochs without a better held-out loss before training stops.
    validation_fraction : float, default 0.1
        Part of the training data held out for early stopping, by group; the weights of the epoch with the lowest
        held-out loss are kept. 0: none, all epochs run and the last weights are kept.
    seed : int, default 0

    Attributes
    ----------
    classes_ : array, shape (k,)
        Labels, in the order of the probabilities' columns.
    model_ : keras.Model
        From features (n, d) to probabilities: (n, 1) after a sigmoid for two classes, else (n, k) after
        a softmax. The layer ``logits`` has what `decision_function` returns.
    history_ : dict
        Per epoch ``loss`` and ``accuracy`` while training, ``val_loss`` and ``val_accuracy`` of what is held out,
        and ``learning_rate``. The losses are without the penalty.
    n_features_in_ : int
        d.
    """

    hidden: int | Sequence[int] = ()
    dropout: float | Sequence[float] = 0.0
    input_dropout: float = 0.0
    input_norm: str = "standard"
    batch_norm: bool = False
    activation: str = "relu"
    optimizer: str = "adam"
    learning_rate: float = 0.001
    schedule: str = "constant"
    momentum: float = 0.9
    l2: float = 0.0
    label_smoothing: float = 0.0
    class_weight: Any = None
    epochs: int = 100
    batch_size: int | str = "auto"
    patience: int = 5
    validation_fraction: float = 0.1
    seed: int = 0

    def fit_scored(self, X: Any, y: Any, groups: Any = None) -> tuple[Ints, Floats]:
        """Train, and return the logits of the rows held out for early stopping; see `LogitClassifier.fit_scored`."""
        import_tensorflow()
        import keras

        checks.check(self, _RULES)
        hidden = self._hidden_layers()
        rows, target, groups = checked(self, X, y, groups)
        held = held_out(target, groups, self.validation_fraction, seed=self.seed)
        if self.schedule == "plateau" and not held.any():
            raise OptionError(
                "schedule='plateau' needs held-out rows, but validation_fraction is 0. Set validation_fraction above 0."
            )
        weights = class_weights(self.class_weight, self.classes_, target, zero=True)[target].astype(np.float32)
        network = self._network(rows.take(~held), hidden)
        self._forward: Any = _logits_of(network)
        self._train(network, rows, target, weights, held)
        two = network.output_shape[1] == 1
        outputs = keras.layers.Activation("sigmoid" if two else "softmax", name="probabilities")(network.output)
        self._model: Any = keras.Model(network.input, outputs, name="head")
        self._model_file: bytes | None = None
        scored = enough(np.flatnonzero(held), seed=self.seed)
        return scored, self._scores(rows.take(scored)).astype(np.float64)

    def decision_function(self, X: Any) -> Float32s:
        """Return logits, shape (n,) for two classes (positive: the second), else (n, k)."""
        check_is_fitted(self)
        if not isinstance(X, Rows):
            X = Rows(validate_data(self, X, dtype=np.float32, reset=False))
        if X.shape[1] != self.n_features_in_:
            raise ValueError(f"Expected {self.n_features_in_} values per row. Received: {X.shape[1]}.")
        return self._scores(X)

    @property
    def model_(self) -> Any:
        """The network; one that comes from a file is loaded when it is first asked for."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError("DenseClassifier has no model_ before it is fitted.")
        if self._model_file is not None:
            self.model_ = _loaded(self._model_file, self.n_features_in_, len(self.classes_))
        return self._model

    @model_.setter
    def model_(self, model: Any) -> None:
        import keras

        self._model, self._model_file = model, None
        self._forward = _logits_of(keras.Model(model.input, model.get_layer("logits").output))

    def __getstate__(self) -> dict[str, Any]:
        """Return parameters and attributes, and the network as the bytes ``model_file`` of a ``.keras`` archive."""
        state = {name: value for name, value in self.__dict__.items() if name not in _UNSAVED}
        if not self.__sklearn_is_fitted__():
            return state
        return {**state, "model_file": self._model_file if self._model is None else _archive(self._model)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what `__getstate__` returned; the network stays bytes until it is first used."""
        self.__dict__.update({name: value for name, value in state.items() if name != "model_file"})
        if "model_file" in state:
            self._model, self._forward, self._model_file = None, None, state["model_file"]

    def __sklearn_is_fitted__(self) -> bool:
        return "_model" in self.__dict__

    def _scores(self, rows: Rows) -> Float32s:
        """Return logits of rows, read in blocks: shape (n,) for two classes, else (n, k)."""
        if self._forward is None:
            _ = self.model_
        count = len(self.classes_)
        result = np.empty((len(rows), 1 if count == 2 else count), np.float32)
        for which, block in rows.blocks():
            result[which] = self._forward(block)
        return result[:, 0] if count == 2 else result

    def _hidden_layers(self) -> list[tuple[int, float]]:
        """Return (size, dropout) of each hidden layer."""
        sizes, rates = checks.as_list(self.hidden), checks.as_list(self.dropout)
        if np.ndim(self.dropout) == 0:
            rates *= len(sizes)
        if len(rates) != len(sizes):
            raise OptionError(
                f"dropout must be one number, or one for each of the {len(sizes)} hidden layers. "
                f"Received: dropout={self.dropout!r}."
            )
        return [(int(size), float(rate)) for size, rate in zip(sizes, rates, strict=True)]

    def _rows_per_step(self, rows: Rows) -> int:
        """Return the batch size for these training rows."""
        if not isinstance(self.batch_size, str):
            return int(self.batch_size)
        fitting: int = WINDOW_BYTES // (4 * max(rows.shape[1], 1))
        wanted = min(max(len(rows) // 300, 32), 1024)
        return max(1, min(wanted, fitting))

    def _train(self, network: Any, rows: Rows, target: Ints, weights: Float32s, held: Bools) -> None:
        """Train until the epochs or the patience end, set ``history_`` and leave the best weights in the network."""
        rng = np.random.default_rng(self.seed)
        optimizer = keras_training.make_optimizer(self.optimizer, self.learning_rate, self.momentum)
        smoothing = float(self.label_smoothing)
        step = keras_training.training_step(network, partial(network, training=True), optimizer, smoothing=smoothing)
        training, batch_size = rows.take(~held), self._rows_per_step(rows.take(~held))
        course, halvings = keras_training.Course(), 0
        for epoch in range(self.epochs):
            factor = keras_training.decay(self.schedule, epoch / self.epochs)
            if self.schedule == "plateau":
                factor = 0.5**halvings
            optimizer.learning_rate = rate = float(self.learning_rate) * factor
            loss, accuracy = _train_epoch(step, training.shuffled(rng, batch_size), target[~held], weights[~held])
            seen = {"learning_rate": rate, "loss": loss, "accuracy": accuracy}
            if held.any():
                seen["val_loss"], seen["val_accuracy"] = self._measure(rows.take(held), target[held], weights[held])
            course.note(seen, network.get_weights)
            halvings += course.since > 0 and course.since % max(1, self.patience // 2) == 0
            if course.since >= max(1, self.patience):
                break
        self.history_ = course.history
        if course.best:
            network.set_weights(course.best)

    def _measure(self, rows: Rows, target: Ints, weights: Float32s) -> tuple[float, float]:
        """Return loss and accuracy on rows."""
        loss = correct = 0.0
        for which, block in rows.blocks():
            logits = self._forward(block)
            row_losses, right = keras_training.losses(logits, target[which], float(self.label_smoothing))
            loss += float(np.asarray(row_losses, np.float64) @ weights[which])
            correct += float(np.sum(right))
        return loss / len(rows), correct / len(rows)

    def _network(self, rows: Rows, hidden: list[tuple[int, float]]) -> Any:
        """Return the network from features to logits."""
        import keras

        layers = keras.layers
        penalty = keras.regularizers.L2(self.l2) if self.l2 else None
        seeds = iter(np.random.SeedSequence(self.seed).generate_state(2 * len(hidden) + 2).tolist())

        def dense(size: int, activation: str | None, name: str) -> Any:
            start = keras.initializers.GlorotUniform(seed=next(seeds)) if hidden else "zeros"
            return layers.Dense(size, activation, kernel_initializer=start, kernel_regularizer=penalty, name=name)

        inputs = keras.Input((rows.shape[1],), name="features")
        x = inputs
        if self.input_norm == "standard":
            x = _standardization(rows)(x)
        elif self.input_norm == "batch":
            x = layers.BatchNormalization(momentum=_BATCH_NORM_MOMENTUM, name="batch_norm")(x)
        if self.input_dropout:
            x = layers.Dropout(self.input_dropout, seed=next(seeds), name="input_dropout")(x)
        for i, (size, rate) in enumerate(hidden, 1):
            x = dense(size, None if self.batch_norm else self.activation, f"dense_{i}")(x)
            if self.batch_norm:
                x = layers.BatchNormalization(momentum=_BATCH_NORM_MOMENTUM, name=f"batch_norm_{i}")(x)
                x = layers.Activation(self.activation, name=f"activation_{i}")(x)
            if rate:
                x = layers.Dropout(rate, seed=next(seeds), name=f"dropout_{i}")(x)
        outputs = 1 if len(self.classes_) == 2 else len(self.classes_)
        return keras.Model(inputs, dense(outputs, None, "logits")(x))


_UNSAVED = ("_model", "_forward", "_model_file")


def _known_activation(name: Any) -> bool:
    import keras

    try:
        return isinstance(name, str) and keras.activations.get(name) is not None
    except (ValueError, TypeError):
        return False


_RULES = {
    "hidden": checks.each(checks.whole(1), "sizes of 1 or more"),
    "dropout": checks.each(checks.BELOW_ONE, "rates 0 <= x < 1"),
    "input_dropout": checks.BELOW_ONE,
    "input_norm": checks.one_of("none", "batch", "standard"),
    "batch_norm": checks.TRUE_OR_FALSE,
    "activation": checks.Rule("the name of a Keras activation", _known_activation),
    "optimizer": checks.one_of(*keras_training.OPTIMIZERS),
    "learning_rate": checks.POSITIVE,
    "schedule": checks.one_of(*keras_training.SCHEDULES, "plateau"),
    "momentum": checks.BELOW_ONE,
    "l2": checks.NOT_NEGATIVE,
    "label_smoothing": checks.BELOW_ONE,
    "epochs": checks.whole(1),
    "batch_size": checks.Rule("1 or more, or auto", lambda value: value == "auto" or checks.whole(1).holds(value)),
    "patience": checks.whole(0),
    "validation_fraction": checks.BELOW_ONE,
    "seed": checks.whole(0),
}


def _standardization(rows: Rows) -> Any:
    """Return a layer that subtracts the rows' mean and divides by their standard deviation."""
    import keras

    scaler = update_scaler(StandardScaler(), rows)
    layer = keras.layers.Normalization(name="standardize")
    layer.build((None, rows.shape[1]))
    layer.adapt_mean.assign(scaler.mean_)  # as arguments, they would go into the model file as text
    layer.adapt_variance.assign(scaler.scale_**2)
    layer.finalize_state()
    return layer


def _logits_of(network: Any) -> Callable[[Any], Any]:
    """Return a function from features (n, d) to the network's output, compiled once for any n."""
    return keras_training.compiled(lambda x: network(x, training=False), (None, network.input_shape[1]))


def _train_epoch(step: Any, batches: Any, target: Ints, weights: Float32s) -> tuple[float, float]:
    """Train for an epoch on batches, as `Rows.shuffled` yields them, and return mean loss and accuracy.

    The compiled step is called with each batch itself: Keras' ``fit`` takes several times as long for batches this
    small, and reads ahead, while batches of `Rows.shuffled` are valid until the next.
    """
    import tensorflow as tf

    steps = []
    for numbers, x in batches:
        batch = x.copy(), target[numbers], weights[numbers]  # tensors may share an array's memory
        steps.append(step(*map(tf.convert_to_tensor, batch)))
    loss = correct = 0.0
    for batch_loss, right in steps:  # read in the end, as a GPU works on meanwhile
        loss, correct = loss + float(batch_loss), correct + float(right)
    return loss / len(target), correct / len(target)


def _archive(model: Any) -> bytes:
    """Return a model as the bytes of a ``.keras`` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def _loaded(content: bytes, features: int, classes: int) -> Any:
    """Return the model of a ``.keras`` file's bytes, without running anything from it.

    It raises HeadError if that is no model from `features` values to probabilities of `classes`.
    """
    import_tensorflow()
    import keras

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        try:
            path.write_bytes(content)
            model = keras.models.load_model(path, compile=False)
            shapes = model.input_shape, model.get_layer("logits").output.shape
            if [layer.name for layer in model.layers[-2:]] != ["logits", "probabilities"]:
                raise ValueError("its last layers are not logits and probabilities")
        except Exception as error:  # a damaged archive fails in many ways
            text = " ".join(str(error).split())[:200]
            raise HeadError(f"The file model.keras is not the model of a dense head: {text}") from None
    if shapes != ((None, features), (None, 1 if classes == 2 else classes)):
        raise HeadError(
            f"The file model.keras has layers of shapes {shapes}, which do not fit {features} features and "
            f"{classes} classes. Train the head again."
        )
    return model
