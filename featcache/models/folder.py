"""A whole classifier in a folder: ``model.keras``, from pixels to probabilities, and ``model.json``, its card."""

from __future__ import annotations

import os
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import HeadError, one_line
from featcache.images.decoding import PixelSpec
from featcache.recipe import Decode, Request, choices
from featcache.saved.cards import MODEL
from featcache.saved.model_folder import ModelFolder

FOLDER = ModelFolder("model", "model.json", "model.keras", 2, MODEL, frozenset({"curves.json", "curves.png"}))


@dataclass
class PixelModel:
    """A classifier of pixels.

    Attributes
    ----------
    model : keras.Model
        From ``pixels`` (n, height, width, channels), values in 0…255, to probabilities: (n, 1) of the second of
        two classes, else (n, k).
    class_names : list of str
        Every class there is, in alphanumeric order.
    trained_classes : list of int
        Which of them the model's columns are of; two for (n, 1).
    spec : PixelSpec
        How images become pixels.
    card : dict
        All else that is known: ``metrics``, ``source``, ``listing``, ``recipe``, ``head``, ``versions``, ….
    trained_on : set of bytes
        Digests of the images it was trained on, which no evaluation may count.
    path : Path or None
        Its folder, once saved.
    digest : str or None
        SHA-256 of its card, once saved.
    """

    model: Any
    class_names: list[str]
    trained_classes: list[int]
    spec: PixelSpec
    card: dict[str, Any] = field(default_factory=dict)
    trained_on: Set[bytes] = field(default_factory=set)
    path: Path | None = None
    digest: str | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """Scores by split, as measured when it was made."""
        return dict(self.card.get("metrics", {}))

    def request(self) -> Request:
        """Return what makes the model a base whose features are probabilities."""
        spec, layers = self.spec, (self.model.layers[-1].name,)
        fitted: dict[str, Any] = {"resize": spec.resize, "interpolation": spec.interpolation}
        fitted |= {"image_size": (spec.height, spec.width), "fast_decode": spec.decode == "reduced"}
        fitted |= {"crop": spec.crop} if spec.crop < 1 else {}
        return Request(self.model, layers=layers, pooling="none", preprocess="none", **fitted)

    def predict_proba(self, outputs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the probability of every class, (n, len(class_names)), of what the model gave, (n, 1) or (n, k)."""
        shares = np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs
        result = np.zeros((len(outputs), len(self.class_names)))
        result[:, self.trained_classes] = shares
        return result

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder, replacing one that is a model, and return its path; other files in it are kept.

        Raises
        ------
        HeadError
            If the folder holds anything else, or cannot be written.
        """
        s = self.spec
        pixels = [s.height, s.width, s.channels, s.resize, s.interpolation, s.decode, s.crop]
        card = {"class_names": self.class_names, "trained_classes": self.trained_classes, "pixels": pixels, **self.card}
        self.path, self.digest = FOLDER.write(folder, self.model.save, card, self.trained_on)
        return self.path

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> PixelModel:
        """Read a model's folder without running anything from it.

        Raises
        ------
        HeadError
            If it is no model, has another format, or was changed since it was saved.
        """
        from featcache.system.startup import import_tensorflow

        path = Path(folder)
        found = FOLDER.read(path)
        names, trained = found.card["class_names"], found.card["trained_classes"]
        spec = PixelSpec(*found.card["pixels"])
        if max(trained) >= len(names):
            raise FOLDER.damaged(path, ValueError(f"trained_classes has {max(trained)}, of {len(names)} classes"))
        if spec.decode not in choices(Decode):
            raise HeadError(
                f"{str(path)!r} was made by an earlier version of featcache, whose JPEG pixels were different. "
                "Fine-tune it again."
            )
        import_tensorflow()
        import keras

        try:
            model = keras.models.load_model(path / FOLDER.model, compile=False)
        except Exception as error:
            text = one_line(error)[:200]
            raise HeadError(f"The Keras model {str(path / FOLDER.model)!r} cannot be loaded: {text}") from None
        return cls(model, names, trained, spec, found.card, found.trained_on, path, found.digest)


def is_model(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds a whole classifier, not a head."""
    return (Path(folder) / FOLDER.card).is_file()
