"""A Keras network on features, as a scikit-learn classifier with plain parameters."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from featcache.errors import HeadError, OptionError
from featcache.heads.folds import enough, held_out
from featcache.heads.linear import as_probabilities, checked, class_weights, moments
from featcache.heads.rows import WINDOW_BYTES, Rows
from featcache.system.startup import import_tensorflow

_NORMS = ("none", "batch", "standard")
_OPTIMIZERS = ("adam", "sgd", "rmsprop")
_SCHEDULES = ("constant", "cosine", "exponential", "plateau")
_BATCH_NORM_MOMENTUM = 0.9
"""Keras' 0.99 takes hundreds of steps to forget its start, more than small data has in its first epochs."""


class DenseClassifier(ClassifierMixin, BaseEstimator):
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

    def __init__(
        self,
        hidden: int | Sequence[int] = (),
        dropout: float | Sequence[float] = 0.0,
        input_dropout: float = 0.0,
        input_norm: str = "standard",
        batch_norm: bool = False,
        activation: str = "relu",
        optimizer: str = "adam",
        learning_rate: float = 0.001,
        schedule: str = "constant",
        momentum: float = 0.9,
        l2: float = 0.0,
        label_smoothing: float = 0.0,
        class_weight: Any = None,
        epochs: int = 100,
        batch_size: int | str = "auto",
        patience: int = 5,
        validation_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.input_norm = input_norm
        self.batch_norm = batch_norm
        self.activation = activation
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.momentum = momentum
        self.l2 = l2
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        self.epochs = epochs
        self.batch_size = batch_size
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.seed = seed

    def fit(self, X: Any, y: Any, groups: Any = None) -> DenseClassifier:
        """Train the network.

        Parameters
        ----------
        X : array, shape (n, d), or Rows
            Features. They are read in blocks, and a window of about 64 MiB of them is in memory.
        y : array, shape (n,)
            Labels.
        groups : array, shape (n,), optional
            Rows of one group are on one side of the part held out for early stopping.

        Returns
        -------
        self

        Raises
        ------
        OptionError
            If a parameter's value is not possible.
        """
        self.fit_scored(X, y, groups)
        return self

    def fit_scored(self, X: Any, y: Any, groups: Any = None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Train as `fit` does, and return held-out scores to calibrate with.

        Returns
        -------
        rows : array, shape (m,)
            Which rows were held out for early stopping; none if `validation_fraction` is 0.
        scores : array, shape (m,) for two classes, else (m, k)
            Their logits.
        """
        import_tensorflow()
        import keras

        self._check_parameters()
        rows, target, groups = checked(self, X, y, groups)
        held = held_out(target, groups, self.validation_fraction, seed=self.seed)
        if self.schedule == "plateau" and not held.any():
            raise OptionError(
                "schedule='plateau' needs held-out rows, but validation_fraction is 0. Set validation_fraction above 0."
            )
        weights = self._class_weights(target)[target].astype(np.float32)
        network = self._network(rows.take(~held))
        self._forward: Any = _logits_of(network)
        self._train(network, rows, target, weights, held)
        two = network.output_shape[1] == 1
        outputs = keras.layers.Activation("sigmoid" if two else "softmax", name="probabilities")(network.output)
        self._model: Any = keras.Model(network.input, outputs, name="head")
        self._model_file: bytes | None = None
        scored = enough(np.flatnonzero(held), seed=self.seed)
        return scored, self._scores(rows.take(scored)).astype(np.float64)

    def decision_function(self, X: Any) -> npt.NDArray[np.float32]:
        """Return logits, shape (n,) for two classes (positive: the second), else (n, k)."""
        check_is_fitted(self)
        if not isinstance(X, Rows):
            X = Rows(validate_data(self, X, dtype=np.float32, reset=False))
        if X.shape[1] != self.n_features_in_:
            raise ValueError(f"Expected {self.n_features_in_} values per row. Received: {X.shape[1]}.")
        return self._scores(X)

    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """Return the probability of each class, shape (n, k), rows adding up to 1."""
        return as_probabilities(self.decision_function(X))

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the most probable label of each row, shape (n,)."""
        scores = self.decision_function(X)
        best = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        labels: npt.NDArray[Any] = self.classes_[best]
        return labels

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

    def _scores(self, rows: Rows) -> npt.NDArray[np.float32]:
        """Return logits of rows, read in blocks: shape (n,) for two classes, else (n, k)."""
        if self._forward is None:
            _ = self.model_
        count = len(self.classes_)
        result = np.empty((len(rows), 1 if count == 2 else count), np.float32)
        for which, block in rows.blocks():
            result[which] = self._forward(block)
        return result[:, 0] if count == 2 else result

    def _layers(self) -> list[tuple[int, float]]:
        """Return (size, dropout) of each hidden layer."""
        sizes = list(self.hidden) if isinstance(self.hidden, Sequence) else [self.hidden]
        rates = list(self.dropout) if isinstance(self.dropout, Sequence) else [self.dropout] * len(sizes)
        for name, values, kinds in (("hidden", sizes, int | np.integer), ("dropout", rates, int | float | np.number)):
            if isinstance(getattr(self, name), str) or not all(isinstance(value, kinds) for value in values):
                raise OptionError(f"Expected {name}: numbers. Received: {name}={getattr(self, name)!r}.")
        if len(rates) != len(sizes):
            raise OptionError(
                f"Expected one dropout, or one for each of the {len(sizes)} hidden layers. "
                f"Received: dropout={self.dropout!r}."
            )
        return [(int(size), float(rate)) for size, rate in zip(sizes, rates, strict=True)]

    def _check_parameters(self) -> None:
        rules = [
            ("hidden", "sizes of 1 or more", all(size >= 1 for size, _ in self._layers())),
            ("dropout", "rates 0 <= x < 1", all(0 <= rate < 1 for _, rate in self._layers())),
            ("input_dropout", "0 <= x < 1", 0 <= self._number("input_dropout") < 1),
            ("input_norm", f"one of {', '.join(_NORMS)}", self.input_norm in _NORMS),
            ("batch_norm", "true or false", isinstance(self.batch_norm, bool | np.bool_)),
            ("activation", "the name of a Keras activation", _known_activation(self.activation)),
            ("optimizer", f"one of {', '.join(_OPTIMIZERS)}", self.optimizer in _OPTIMIZERS),
            ("learning_rate", "a number above 0", 0 < self._number("learning_rate") < math.inf),
            ("schedule", f"one of {', '.join(_SCHEDULES)}", self.schedule in _SCHEDULES),
            ("momentum", "0 <= x < 1", 0 <= self._number("momentum") < 1),
            ("l2", "0 or more", 0 <= self._number("l2") < math.inf),
            ("label_smoothing", "0 <= x < 1", 0 <= self._number("label_smoothing") < 1),
            ("epochs", "1 or more", self._whole("epochs", 1)),
            ("batch_size", "1 or more, or auto", self.batch_size == "auto" or self._whole("batch_size", 1)),
            ("patience", "0 or more", self._whole("patience", 0)),
            ("validation_fraction", "0 <= x < 1", 0 <= self._number("validation_fraction") < 1),
            ("seed", "0 or more", self._whole("seed", 0)),
        ]
        for name, expected, holds in rules:
            if not holds:
                raise OptionError(f"Expected {name}: {expected}. Received: {name}={getattr(self, name)!r}.")

    def _number(self, name: str) -> float:
        """Return a parameter as a float; NaN, which no rule allows, if it is not a number."""
        value = getattr(self, name)
        return float(value) if isinstance(value, int | float | np.number) else math.nan

    def _whole(self, name: str, least: int) -> bool:
        value = getattr(self, name)
        return isinstance(value, int | np.integer) and bool(value >= least)

    def _class_weights(self, target: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the weight of each class, shape (k,); all of them are 0 or more."""
        try:
            weights = class_weights(self.class_weight, self.classes_, target)
            if not (weights >= 0).all():
                raise ValueError("a weight is not 0 or more")
        except OptionError:
            raise
        except (ValueError, TypeError) as error:
            raise OptionError(
                f"Expected class_weight: 0 or more by label. Received: class_weight={self.class_weight!r}: {error}."
            ) from None
        return weights

    def _rows_per_step(self, rows: Rows) -> int:
        """Return the batch size for these training rows."""
        if not isinstance(self.batch_size, str):
            return int(self.batch_size)
        fitting: int = WINDOW_BYTES // (4 * max(rows.shape[1], 1))
        wanted = min(max(len(rows) // 300, 32), 1024)
        return max(1, min(wanted, fitting))

    def _rate(self, epoch: int, halvings: int) -> float:
        """Return the learning rate of an epoch."""
        part = epoch / self.epochs
        factors: dict[str, float] = {
            "constant": 1.0,
            "cosine": (1 + math.cos(math.pi * part)) / 2,
            "exponential": math.pow(0.01, part),
            "plateau": math.pow(0.5, halvings),
        }
        return float(self.learning_rate) * factors[self.schedule]

    def _train(
        self,
        network: Any,
        rows: Rows,
        target: npt.NDArray[np.int64],
        weights: npt.NDArray[np.float32],
        held: npt.NDArray[np.bool_],
    ) -> None:
        """Train until the epochs or the patience end, set ``history_`` and leave the best weights in the network."""
        rng = np.random.default_rng(self.seed)
        optimizer = self._made_optimizer()
        train_epoch = _epochs(network, optimizer, float(self.label_smoothing))
        training, batch_size = rows.take(~held), self._rows_per_step(rows.take(~held))
        self.history_: dict[str, list[float]] = {}
        lowest, since, halvings, kept = math.inf, 0, 0, None
        for epoch in range(self.epochs):
            seen = {"learning_rate": self._rate(epoch, halvings)}
            optimizer.learning_rate = seen["learning_rate"]
            batches = training.shuffled(rng, batch_size)
            seen["loss"], seen["accuracy"] = train_epoch(batches, target[~held], weights[~held])
            if held.any():
                seen["val_loss"], seen["val_accuracy"] = self._measure(rows.take(held), target[held], weights[held])
                since = 0 if seen["val_loss"] < lowest or kept is None else since + 1
                if since == 0:
                    lowest, kept = seen["val_loss"], network.get_weights()
                halvings += since > 0 and since % max(1, self.patience // 2) == 0
            for name, value in seen.items():
                self.history_.setdefault(name, []).append(value)
            if since >= max(1, self.patience):
                break
        if kept is not None:
            network.set_weights(kept)

    def _measure(
        self, rows: Rows, target: npt.NDArray[np.int64], weights: npt.NDArray[np.float32]
    ) -> tuple[float, float]:
        """Return loss and accuracy on rows."""
        loss = correct = 0.0
        for which, block in rows.blocks():
            logits = self._forward(block)
            losses, right = _losses(logits, target[which], float(self.label_smoothing))
            loss += float(np.asarray(losses, np.float64) @ weights[which])
            correct += float(np.sum(right))
        return loss / len(rows), correct / len(rows)

    def _network(self, rows: Rows) -> Any:
        """Return the network from features to logits."""
        import keras

        layers = keras.layers
        penalty = keras.regularizers.L2(self.l2) if self.l2 else None
        seeds = iter(np.random.SeedSequence(self.seed).generate_state(2 * len(self._layers()) + 2).tolist())

        def dense(size: int, activation: str | None, name: str) -> Any:
            start = keras.initializers.GlorotUniform(seed=next(seeds)) if self._layers() else "zeros"
            return layers.Dense(size, activation, kernel_initializer=start, kernel_regularizer=penalty, name=name)

        inputs = keras.Input((rows.shape[1],), name="features")
        x = inputs
        if self.input_norm == "standard":
            x = _standardization(rows)(x)
        elif self.input_norm == "batch":
            x = layers.BatchNormalization(momentum=_BATCH_NORM_MOMENTUM, name="batch_norm")(x)
        if self.input_dropout:
            x = layers.Dropout(self.input_dropout, seed=next(seeds), name="input_dropout")(x)
        for i, (size, rate) in enumerate(self._layers(), 1):
            x = dense(size, None if self.batch_norm else self.activation, f"dense_{i}")(x)
            if self.batch_norm:
                x = layers.BatchNormalization(momentum=_BATCH_NORM_MOMENTUM, name=f"batch_norm_{i}")(x)
                x = layers.Activation(self.activation, name=f"activation_{i}")(x)
            if rate:
                x = layers.Dropout(rate, seed=next(seeds), name=f"dropout_{i}")(x)
        outputs = 1 if len(self.classes_) == 2 else len(self.classes_)
        return keras.Model(inputs, dense(outputs, None, "logits")(x))

    def _made_optimizer(self) -> Any:
        import keras

        if self.optimizer == "sgd":
            return keras.optimizers.SGD(self.learning_rate, momentum=self.momentum)
        kinds = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}
        return kinds[self.optimizer](self.learning_rate)


_UNSAVED = {"_model", "_forward", "_model_file"}


def _known_activation(name: Any) -> bool:
    import keras

    try:
        return isinstance(name, str) and keras.activations.get(name) is not None
    except (ValueError, TypeError):
        return False


def _standardization(rows: Rows) -> Any:
    """Return a layer that subtracts the rows' mean and divides by their standard deviation."""
    import keras

    mean, scale = moments(rows)
    layer = keras.layers.Normalization(name="standardize")
    layer.build((None, rows.shape[1]))
    layer.adapt_mean.assign(mean)  # as arguments, they would go into the model file as text
    layer.adapt_variance.assign(scale**2)
    layer.finalize_state()
    return layer


def _logits_of(network: Any) -> Callable[[Any], Any]:
    """Return a function from features (n, d) to the network's output, compiled once for any n."""
    import tensorflow as tf

    def forward(x: Any) -> Any:
        return network(x, training=False)

    compiled: Callable[[Any], Any] = tf.function(
        forward, input_signature=[tf.TensorSpec((None, network.input_shape[1]), tf.float32)], autograph=False
    )
    return compiled


def _losses(logits: Any, target: Any, smoothing: float) -> tuple[Any, Any]:
    """Return the cross-entropy of each row, shape (n,), and whether its highest logit is the target's.

    Parameters
    ----------
    logits : tensor, shape (n, 1) for two classes, else (n, k)
    target : tensor or array of int, shape (n,)
        Class numbers.
    smoothing : float
        Of the labels.
    """
    import tensorflow as tf

    if logits.shape[1] == 1:
        score, labels = logits[:, 0], tf.cast(target, tf.float32)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels * (1 - smoothing) + smoothing / 2, score)
        return losses, tf.equal(score > 0, tf.cast(target, tf.bool))
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)
    if smoothing:
        spread = tf.reduce_logsumexp(logits, axis=1) - tf.reduce_mean(logits, axis=1)
        losses = (1 - smoothing) * losses + smoothing * spread
    return losses, tf.equal(tf.argmax(logits, axis=1), tf.cast(target, tf.int64))


def _epochs(network: Any, optimizer: Any, smoothing: float) -> Callable[..., tuple[float, float]]:
    """Return a function that trains a network for an epoch.

    A compiled step is called with each batch itself: Keras' ``fit`` takes several times as long for batches
    this small, and reads ahead, while batches of `Rows.shuffled` are valid until the next.

    Returns
    -------
    callable
        From batches (as of `Rows.shuffled`), class numbers (n,) and weights (n,) to mean loss and accuracy.
    """
    import tensorflow as tf

    totals = tf.Variable(tf.zeros(2, tf.float64))
    optimizer.build(network.trainable_variables)

    def step(x: Any, target: Any, weights: Any) -> None:
        with tf.GradientTape() as tape:
            losses, right = _losses(network(x, training=True), target, smoothing)
            losses *= weights
            goal = tf.add_n([tf.reduce_mean(losses), *network.losses])
        variables = network.trainable_variables
        optimizer.apply(tape.gradient(goal, variables), variables)
        totals.assign_add(tf.cast(tf.stack([tf.reduce_sum(losses), tf.math.count_nonzero(right, dtype=tf.float32)]),
                                  tf.float64))  # fmt: skip

    compiled = tf.function(
        step,
        input_signature=[
            tf.TensorSpec((None, network.input_shape[1]), tf.float32),
            tf.TensorSpec((None,), tf.int64),
            tf.TensorSpec((None,), tf.float32),
        ],
        autograph=False,
    ).get_concrete_function()

    def epoch(batches: Any, target: npt.NDArray[np.int64], weights: npt.NDArray[np.float32]) -> tuple[float, float]:
        totals.assign(np.zeros(2))
        for numbers, x in batches:
            batch = x.copy(), target[numbers], weights[numbers]  # tensors may share an array's memory
            compiled(*(tf.convert_to_tensor(values) for values in batch))
        loss, correct = totals.numpy() / len(target)
        return float(loss), float(correct)

    return epoch


def _archive(model: Any) -> bytes:
    """Return a model as the bytes of a ``.keras`` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def _loaded(content: bytes, features: int, classes: int) -> Any:
    """Return the model of a ``.keras`` file's bytes, without running anything from it.

    Raises
    ------
    HeadError
        If it is no model from `features` values to probabilities of `classes`.
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
