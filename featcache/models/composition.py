"""Base and head as one Keras model: from pixels to probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from featcache.bases import Base, copied
from featcache.bases.runtimes.tensorflow import pooled, preprocessed
from featcache.heads import Head
from featcache.heads.expression import Expression, expressed
from featcache.recipe import Recipe


@dataclass(frozen=True)
class Composition:
    """Base and head as one model, and the parts that it is made of, which share its weights.

    `features` go from ``pixels`` to the head's features, in float32 whatever the cache has: gradients below float16's
    smallest number would be lost. `scores` is a layer from these to what comes before calibration, and `expression`
    says how probabilities come of that.
    """

    model: Any
    network: Any
    features: Any
    scores: Any
    expression: Expression


def compose(head: Head, base: Base, recipe: Recipe) -> Any:
    """Return base and head as one Keras model, or raise `HeadError` if no network can express the head.

    It goes from ``pixels`` (n, height, width, channels), values in 0…255, to ``probabilities``: (n, 1) of the second
    class where the head knows two, else (n, k), for the classes ``head.estimator.classes_``. The base is one layer of
    it, frozen, in inference mode; it shares no weights with what was given.
    """
    return composition(head, base, recipe).model


def composition(head: Head, base: Base, recipe: Recipe) -> Composition:
    """Return what `compose` returns together with its parts."""
    import keras

    expression = expressed(head)
    pixels = keras.Input((base.height, base.width, base.channels), name="pixels")
    scaled = preprocessed(pixels, base.preprocess)
    network = cut(base, int(head.card["layer_index"]))
    features = pooled(network(scaled[..., 0] if base.squeeze else scaled, training=False), recipe.pooling)
    if len(features.shape) > 2:
        features = keras.layers.Flatten(name="flat")(features)
    stored = features
    if recipe.dtype == "float16":  # as the cache keeps them
        stored = keras.ops.cast(keras.ops.cast(features, "float16"), "float32")
    scoring = _scoring(head, expression, int(features.shape[-1]))
    model = keras.Model(pixels, _probabilities(scoring(stored), expression), name="classifier")
    return Composition(model, network, keras.Model(pixels, features, name="features"), scoring, expression)


def cut(base: Base, index: int) -> Any:
    """Return a copy of a base that ends at one of its layers, frozen."""
    import keras

    whole = base.model
    network = copied(keras.Model(whole.inputs, whole.outputs[index], name=whole.name))
    network.trainable = False
    return network


def _scoring(head: Head, expression: Expression, width: int) -> Any:
    """Return a layer from features to scores; of a dense head a copy of its network."""
    import keras

    if expression.kernel is None:
        model = head.estimator.estimator_.model_
        return copied(keras.Model(model.input, model.get_layer("logits").output, name="head"))
    dense = keras.layers.Dense(expression.kernel.shape[1], name="scores")
    dense.build((None, width))
    dense.set_weights([expression.kernel, expression.bias])
    return dense


def _probabilities(scores: Any, expression: Expression) -> Any:
    """Return probabilities of scores; the calibration is a fixed scaling."""
    import keras

    calibration = keras.layers.Rescaling(expression.scale.tolist(), expression.shift.tolist(), name="calibration")
    calibrated = calibration(scores)
    if expression.activation != "normalized":
        return keras.layers.Activation(expression.activation, name="probabilities", dtype="float32")(calibrated)
    each = keras.layers.Activation("sigmoid", name="each", dtype="float32")(calibrated)
    shares = keras.ops.divide(each, keras.ops.sum(each, axis=-1, keepdims=True))
    return keras.layers.Activation("linear", name="probabilities", dtype="float32")(shares)
