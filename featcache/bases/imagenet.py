"""EfficientNet B0 to B7 as Keras builds them for its ImageNet weights.

``weights="imagenet"`` gives these networks one more Rescaling layer, because the weights were trained on pixels divided
by what their Normalization layer has as variance, and that layer divides by its square root. A file with these weights
can be told only by those values.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def normalization(model: Any) -> Any | None:
    """Return the layer whose statistics are weights, where a network has one (of the applications: EfficientNet)."""
    import keras

    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Normalization) and layer.weights]
    return layers[0] if len(layers) == 1 else None


def are_imagenet_statistics(mean: npt.ArrayLike, variance: npt.ArrayLike) -> bool:
    """Whether a Normalization layer has the values of Keras' ImageNet weights: a standard deviation as variance.

    They may have been stored as float16 or bfloat16.
    """
    pairs = ((np.ravel(mean), _MEAN), (np.ravel(variance), _DEVIATION))
    return all(
        values.shape == (3,) and np.allclose(values, expected, rtol=0, atol=1.5e-3) for values, expected in pairs
    )


def as_for_imagenet(model: Any) -> Any:
    """Return the graph that Keras builds for ``weights="imagenet"``, with the layers of the one built for None."""
    import keras

    before = normalization(model)
    if before is None or sum(isinstance(layer, keras.layers.Rescaling) for layer in model.layers) > 1:
        return model
    scale = [1.0 / math.sqrt(deviation) for deviation in _DEVIATION]
    output = pixels = keras.Input(model.input_shape[1:])

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal output
        output = layer(*args, **kwargs)
        if layer is before:
            output = keras.layers.Rescaling(scale)(output)
        return output

    keras.models.clone_model(model, input_tensors=pixels, clone_function=lambda layer: layer, call_function=call)
    return keras.Model(pixels, output, name=model.name)
