"""A Keras network on features, as a scikit-learn classifier with plain parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from featcache.errors import OptionError
from featcache.startup import import_tensorflow

_NORMS = ("none", "batch", "standard")
_OPTIMIZERS = ("adam", "sgd", "rmsprop")


class DenseClassifier(ClassifierMixin, BaseEstimator):
    """Dense layers on features, trained with early stopping.

    Parameters
    ----------
    hidden : int or sequence of int, default ()
        Sizes of the hidden layers; none: a linear classifier.
    dropout : float or sequence of float, default 0
        After each hidden layer, 0 ≤ rate < 1; one number is for all.
    input_dropout : float, default 0
        Before the first layer.
    input_norm : {"standard", "batch", "none"}
        Standardise by the training data's mean and variance, by batch normalisation, or not.
    activation : str, default "relu"
        Of the hidden layers; any Keras activation.
    optimizer : {"adam", "sgd", "rmsprop"}
    learning_rate : float, default 0.001
    momentum : float, default 0.9
        For ``sgd``.
    l2 : float, default 0
        Penalty on the kernels' squared values.
    epochs : int, default 100
        At most; early stopping may end sooner.
    batch_size : int, default 32
    patience : int, default 5
        Epochs without a better held-out loss before training stops; the best weights are kept.
    validation_fraction : float, default 0.1
        Part of the training data held out for early stopping, by group; 0: none, all epochs run.
    seed : int, default 0

    Attributes
    ----------
    classes_ : array
        Labels, in the order of the probabilities' columns.
    model_ : keras.Model
        From features (n, d) to probabilities: (n, 1) after a sigmoid for two classes, else (n, k) after
        a softmax.
    history_ : dict
        Loss and accuracy per epoch.
    n_features_in_ : int
        d.
    """

    def __init__(
        self,
        hidden: int | Sequence[int] = (),
        dropout: float | Sequence[float] = 0.0,
        input_dropout: float = 0.0,
        input_norm: str = "standard",
        activation: str = "relu",
        optimizer: str = "adam",
        learning_rate: float = 0.001,
        momentum: float = 0.9,
        l2: float = 0.0,
        epochs: int = 100,
        batch_size: int = 32,
        patience: int = 5,
        validation_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.input_norm = input_norm
        self.activation = activation
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.l2 = l2
        self.epochs = epochs
        self.batch_size = batch_size
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.seed = seed

    def fit(self, X: Any, y: Any, groups: Any = None) -> DenseClassifier:
        """Train the network.

        Parameters
        ----------
        X : array, shape (n, d)
            Features.
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
        import_tensorflow()
        import keras

        self._check_parameters()
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, target = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"Expected at least 2 classes. Received: {len(self.classes_)} class.")
        held = self._held_out(target, np.arange(len(y)) if groups is None else np.asarray(groups))
        logits = self._network(X[~held])
        two = len(self.classes_) == 2
        loss = (
            keras.losses.BinaryCrossentropy(from_logits=True)
            if two
            else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        accuracy = (
            keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)
            if two
            else keras.metrics.SparseCategoricalAccuracy("accuracy")
        )
        logits.compile(self._made_optimizer(), loss, metrics=[accuracy])
        stopping = keras.callbacks.EarlyStopping("val_loss", patience=self.patience, restore_best_weights=True)
        history = logits.fit(
            _batches(X[~held], target[~held], self.batch_size, self.seed),
            epochs=self.epochs,
            validation_data=(X[held], target[held]) if held.any() else None,
            callbacks=[stopping] if held.any() else [],
            shuffle=False,  # the batches shuffle themselves, from the seed
            verbose=0,
        )
        self.history_ = {name: [float(v) for v in values] for name, values in history.history.items()}
        outputs = keras.layers.Activation("sigmoid" if two else "softmax", name="probabilities")(logits.output)
        self.model_ = keras.Model(logits.input, outputs, name="head")
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """Return the probability of each class, shape (n, k), rows adding up to 1."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        result: npt.NDArray[np.float32] = self.model_.predict(X, batch_size=1024, verbose=0)
        return np.hstack([1 - result, result]) if result.shape[1] == 1 else result

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the most probable label of each row, shape (n,)."""
        probabilities = self.predict_proba(X)
        labels: npt.NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels

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
        import keras

        def number(name: str) -> float:
            value = getattr(self, name)
            return float(value) if isinstance(value, int | float | np.number) else math.nan

        def whole(name: str) -> bool:
            return isinstance(getattr(self, name), int | np.integer)

        rules = [
            ("hidden", "sizes of 1 or more", all(size >= 1 for size, _ in self._layers())),
            ("dropout", "rates 0 <= x < 1", all(0 <= rate < 1 for _, rate in self._layers())),
            ("input_dropout", "0 <= x < 1", 0 <= number("input_dropout") < 1),
            ("input_norm", f"one of {', '.join(_NORMS)}", self.input_norm in _NORMS),
            ("activation", "a Keras activation", _known(keras.activations.get, self.activation)),
            ("optimizer", f"one of {', '.join(_OPTIMIZERS)}", self.optimizer in _OPTIMIZERS),
            ("learning_rate", "a number above 0", number("learning_rate") > 0),
            ("momentum", "0 <= x < 1", 0 <= number("momentum") < 1),
            ("l2", "0 or more", number("l2") >= 0),
            ("epochs", "1 or more", whole("epochs") and self.epochs >= 1),
            ("batch_size", "1 or more", whole("batch_size") and self.batch_size >= 1),
            ("patience", "0 or more", whole("patience") and self.patience >= 0),
            ("validation_fraction", "0 <= x < 1", 0 <= number("validation_fraction") < 1),
        ]
        for name, expected, holds in rules:
            if not holds:
                raise OptionError(f"Expected {name}: {expected}. Received: {name}={getattr(self, name)!r}.")

    def _held_out(self, target: npt.NDArray[Any], groups: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which rows early stopping looks at: of each class the wanted part of its groups, shape (n,)."""
        _, first, member = np.unique(groups, return_index=True, return_inverse=True)
        rng = np.random.default_rng(self.seed)
        held = np.zeros(len(first), bool)
        for label in range(len(self.classes_)):
            own = np.flatnonzero(target[first] == label)
            count = min(round(self.validation_fraction * len(own)), len(own) - 1)
            held[rng.permutation(own)[: max(count, 0)]] = True
        result: npt.NDArray[np.bool_] = held[member]
        return result

    def _network(self, X: npt.NDArray[np.float32]) -> Any:
        """Return the network from features to logits."""
        import keras

        layers = keras.layers
        penalty = keras.regularizers.L2(self.l2) if self.l2 else None
        seeds = iter(range(self.seed * 1000, self.seed * 1000 + 1000))

        def dense(size: int, activation: str | None, name: str) -> Any:
            start = keras.initializers.GlorotUniform(seed=next(seeds))
            return layers.Dense(size, activation, kernel_initializer=start, kernel_regularizer=penalty, name=name)

        inputs = keras.Input((X.shape[1],), name="features")
        x = inputs
        if self.input_norm == "standard":
            normalization = layers.Normalization(name="standardize")
            normalization.adapt(X)
            x = normalization(x)
        elif self.input_norm == "batch":
            x = layers.BatchNormalization(name="batch_norm")(x)
        if self.input_dropout:
            x = layers.Dropout(self.input_dropout, seed=next(seeds), name="input_dropout")(x)
        for i, (size, rate) in enumerate(self._layers(), 1):
            x = dense(size, self.activation, f"dense_{i}")(x)
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


def _known(get: Any, name: str) -> bool:
    try:
        get(name)
    except (ValueError, TypeError):
        return False
    return True


def _batches(X: npt.NDArray[Any], target: npt.NDArray[Any], batch_size: int, seed: int) -> Any:
    """Return the training data in batches, shuffled anew each epoch from the seed alone."""
    import keras

    class Batches(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__()
            self._rng = np.random.default_rng(seed)
            self._order = self._rng.permutation(len(X))

        def __len__(self) -> int:
            return math.ceil(len(X) / batch_size)

        def __getitem__(self, index: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
            rows = self._order[index * batch_size : (index + 1) * batch_size]
            return X[rows], target[rows]

        def on_epoch_end(self) -> None:
            self._order = self._rng.permutation(len(X))

    return Batches()
