"""A whole classifier in a folder: one Keras model from pixels to probabilities, and all that is known of it.

The folder holds ``model.keras``, ``model.json`` (all that is known) and ``trained_on.bin`` (the digests of its
training images, 32 bytes each, sorted).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import HeadError
from featcache.files import TEMPORARY, publish, publish_json, swap_folder
from featcache.heads.store import card_digest
from featcache.images import PixelSpec
from featcache.recipe import Request

MODEL_FORMAT = 1

_CARD, _MODEL, _TRAINED_ON = "model.json", "model.keras", "trained_on.bin"


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
    trained_on: set[bytes] = field(default_factory=set)
    path: Path | None = None
    digest: str | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """Scores by split, as measured when it was made."""
        return dict(self.card.get("metrics", {}))

    def request(self) -> Request:
        """Return what makes the model a base whose features are probabilities."""
        spec = self.spec
        return Request(
            base=self.model, layers=(self.model.layers[-1].name,), pooling="none", preprocess="none",
            image_size=(spec.height, spec.width), resize=spec.resize, interpolation=spec.interpolation,
            fast_decode=spec.fast,
        )  # fmt: skip

    def predict_proba(self, outputs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the probability of every class, (n, len(class_names)), of what the model gave, (n, 1) or (n, k)."""
        shares = np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs
        result = np.zeros((len(outputs), len(self.class_names)))
        result[:, self.trained_classes] = shares
        return result

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder, replacing one that is a model, and return its path.

        Raises
        ------
        HeadError
            If the folder holds anything else, or cannot be written.
        """
        target = Path(folder)
        check_target(target)
        draft = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            draft.mkdir(parents=True)
            self.model.save(draft / _MODEL)
            publish(draft / _TRAINED_ON, b"".join(sorted(self.trained_on)))
            spec = self.spec
            card = {
                "format": MODEL_FORMAT,
                "class_names": self.class_names,
                "trained_classes": self.trained_classes,
                "pixels": [spec.height, spec.width, spec.channels, spec.resize, spec.interpolation, spec.fast],
                **self.card,
                "sha256_model": hashlib.sha256((draft / _MODEL).read_bytes()).hexdigest(),
            }
            digest = card_digest(card)
            publish_json(draft / _CARD, {**card, "sha256": digest})
            swap_folder(draft, target)
        except OSError as error:
            raise HeadError(f"Expected to write {str(target)!r}. Received: {error.strerror or error}.") from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self.path, self.digest = target, digest
        return target

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> PixelModel:
        """Read a model's folder without running anything from it.

        Raises
        ------
        HeadError
            If it is no model, has another format, or was changed since it was saved.
        """
        from featcache.startup import import_tensorflow

        path = Path(folder)
        try:
            card = json.loads((path / _CARD).read_text())
            stated = card.pop("sha256", None)
            if card["format"] != MODEL_FORMAT:
                raise HeadError(
                    f"Expected a model of format {MODEL_FORMAT}. Received: {str(path)!r} of format {card['format']}."
                )
            digest = hashlib.sha256((path / _MODEL).read_bytes()).hexdigest()
            if stated != card_digest(card) or digest != card["sha256_model"]:
                raise HeadError(
                    f"Expected a model as it was written. Received: {str(path)!r}, which was changed since. "
                    "Make it again."
                )
            seen = (path / _TRAINED_ON).read_bytes()
            names, trained, spec = card["class_names"], card["trained_classes"], PixelSpec(*card["pixels"])
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise HeadError(f"Expected a model's folder. Received: {str(path)!r}, which has no {missing}.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise HeadError(f"Expected a model's folder. Received: {str(path)!r}, whose {_CARD} is damaged: "
                            f"{error}.") from None  # fmt: skip
        import_tensorflow()
        import keras

        try:
            model = keras.models.load_model(path / _MODEL, compile=False)
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise HeadError(f"Expected a Keras model. Received: {str(path / _MODEL)!r}: {text}") from None
        trained_on = {seen[start : start + 32] for start in range(0, len(seen), 32)}
        return cls(model, list(names), list(trained), spec, card, trained_on, path, stated)


def check_target(folder: str | os.PathLike[str]) -> None:
    """Refuse to replace what is no model.

    Raises
    ------
    HeadError
        If the folder holds anything else.
    """
    target = Path(folder)
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / _CARD).is_file()):
        raise HeadError(
            f"Expected an empty folder or a model. Received: {str(target)!r}, which holds something else. "
            "Choose another --out."
        )


def is_model(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder holds a whole classifier, not a head."""
    return (Path(folder) / _CARD).is_file()
