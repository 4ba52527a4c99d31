"""What training a Keras network takes: the optimizer, its learning rate, a compiled step, and the best epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from featcache.heads.rows import Array

OPTIMIZERS = ("adam", "sgd", "rmsprop")
SCHEDULES = ("constant", "cosine", "exponential")


def decay(schedule: str, part: float) -> float:
    """Return what a schedule multiplies the learning rate by after a part of the epochs, 0 to 1."""
    if schedule == "cosine":
        return (1 + math.cos(math.pi * part)) / 2
    return math.pow(0.01, part) if schedule == "exponential" else 1.0


def make_optimizer(name: str, learning_rate: float, momentum: float, *, weight_decay: float = 0.0) -> Any:
    """Return one of Keras' optimizers; `momentum` is for ``sgd``."""
    import keras

    kinds = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD, "rmsprop": keras.optimizers.RMSprop}
    more = {"momentum": momentum} if name == "sgd" else {}
    optimizer = kinds[name](learning_rate, weight_decay=weight_decay or None, **more)
    if weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def compiled(function: Callable[[Any], Any], shape: Any) -> Callable[[Any], Any]:
    """Return a function of float32 arrays of this shape (None: any size), compiled when it is first called."""
    import tensorflow as tf

    made: Callable[[Any], Any] = tf.function(function, [tf.TensorSpec(shape, tf.float32)], autograph=False)
    return made


def losses(logits: Any, target: Any, smoothing: float = 0.0) -> tuple[Any, Any]:
    """Return the cross-entropy of each row, shape (n,), and whether its highest logit is the target's.

    Logits are (n, 1) for two classes, else (n, k), targets class numbers (n,); `smoothing` is that of the labels.
    """
    import tensorflow as tf

    if logits.shape[1] == 1:
        score, labels = logits[:, 0], tf.cast(target, tf.float32)
        each = tf.nn.sigmoid_cross_entropy_with_logits(labels * (1 - smoothing) + smoothing / 2, score)
        return each, tf.equal(score > 0, tf.cast(target, tf.bool))
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)
    if smoothing:
        spread = tf.reduce_logsumexp(logits, axis=1) - tf.reduce_mean(logits, axis=1)
        each = (1 - smoothing) * each + smoothing * spread
    return each, tf.equal(tf.argmax(logits, axis=1), tf.cast(target, tf.int64))


def training_step(model: Any, logits_of: Callable[[Any], Any], optimizer: Any, *, smoothing: float = 0.0) -> Any:
    """Return a compiled function that trains a model on a batch.

    It takes inputs, class numbers (n,) and weights (n,), and returns the sum of the weighted losses and the number
    of rows that were right. The mean loss is minimised, plus the penalties that the model's layers have.
    """
    import tensorflow as tf

    optimizer.build(model.trainable_variables)

    def step(inputs: Any, target: Any, weights: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            each, right = losses(logits_of(inputs), target, smoothing)
            each *= weights
            goal = tf.add_n([tf.reduce_mean(each), *model.losses])
        optimizer.apply(tape.gradient(goal, model.trainable_variables), model.trainable_variables)
        return tf.reduce_sum(each), tf.math.count_nonzero(right)

    of_row = [tf.TensorSpec((None,), kind) for kind in (tf.int64, tf.float32)]
    signature = [tf.TensorSpec(model.inputs[0].shape, tf.float32), *of_row]
    return tf.function(step, input_signature=signature, autograph=False).get_concrete_function()


@dataclass
class Course:
    """The course of training: what each epoch measured, and the weights of the one with the lowest ``val_loss``.

    `since` counts the epochs after that one. `best` is empty before the first, and where nothing is held out.
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    lowest: float = math.inf
    since: int = 0
    best: list[Array] = field(default_factory=list)

    def note(self, seen: dict[str, float], weights: Callable[[], list[Array]]) -> None:
        """Add an epoch, and keep the weights as they are now if it is the best."""
        for name, value in seen.items():
            self.history.setdefault(name, []).append(value)
        if "val_loss" in seen:
            self.since += 1
            if seen["val_loss"] < self.lowest or not self.best:
                self.lowest, self.since, self.best = seen["val_loss"], 0, weights()
