"""Model A is trained on the digits 0 to 4; Model B reuses its layers to tell 5 from 6, with few images."""

from __future__ import annotations

import numpy as np

SHOTS = (20, 50, 100)


def model_from_scratch(X: np.ndarray, y: np.ndarray, epochs: int) -> object:
    """Return Model A's layers with fresh weights, trained for two classes."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((8, 8), name="pixels"), keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"), keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(1, activation="sigmoid"),
    ])  # fmt: skip
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    model.fit(X, y, epochs=epochs, batch_size=16, verbose=0)
    return model
