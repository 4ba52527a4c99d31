"""A trained head and its folder.

The folder holds ``head.json`` (all that is known of it), ``model.skops`` (the estimator), and ``trained_on.bin``
(the digests of its training images, 32 bytes each, sorted); a report about it may lie beside them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import HeadError
from featcache.files import TEMPORARY, publish, publish_json, swap_folder
from featcache.heads.build import HEADS
from featcache.recipe import canonical_json

HEAD_FORMAT = 1

_TRAINED_ON = "trained_on.bin"
_MODEL = "model.skops"
_FILES = {"head.json", _MODEL, _TRAINED_ON, "report.html"}

_TRUSTED = [
    "featcache.heads.calibration.CalibratedHead",
    "featcache.heads.calibration.Scores",
    "featcache.heads.centroid.CentroidHead",
    "featcache.heads.dense.DenseClassifier",
    "featcache.heads.knn.KNNHead",
    "featcache.heads.ridge.RidgeHead",
    "featcache.heads.sgd.SGDHead",
    "sklearn.calibration._CalibratedClassifier",  # parts of a fitted CalibratedClassifierCV
    "sklearn.calibration._SigmoidCalibration",
]
"""What a head may hold beyond skops' own list of safe types."""


@dataclass
class Head:
    """A trained head.

    Attributes
    ----------
    clf : str
        Its kind, a name of `featcache.heads.HEADS`.
    estimator : estimator
        Fitted on features (n, d) and indices into `class_names`.
    class_names : list of str
        In alphanumeric order.
    layer : str
        The layer whose features it takes.
    card : dict
        All else that is known: ``params``, ``metrics`` by split, ``recipe``, ``request``, ``source``,
        ``listing``, ``cache``, ``fit_seconds``, ``versions``.
    path : Path or None
        Its folder, once saved.
    trained_on : set of bytes
        Digests of the images it was trained on, which no evaluation may count.
    digest : str or None
        SHA-256 of all that its head.json says, once saved; that names the SHA-256 of the model.
    """

    clf: str
    estimator: Any
    class_names: list[str]
    layer: str
    card: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    trained_on: set[bytes] = field(default_factory=set)
    digest: str | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """Scores by split, as measured when it was trained."""
        return dict(self.card.get("metrics", {}))

    def predict_proba(self, X: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the probability of each class, shape (n, len(class_names)).

        Parameters
        ----------
        X : array, shape (n, …)
            Features of `layer`; more axes are flattened.

        Raises
        ------
        HeadError
            If it was trained on another number of values, or gives no numbers.
        """
        flat = np.asarray(X, np.float32)
        flat = flat.reshape(len(flat), math.prod(flat.shape[1:]))
        expected = int(self.estimator.n_features_in_)
        if flat.shape[1] != expected:
            raise HeadError(f"Expected {expected} values per image for this head. Received: {flat.shape[1]}.")
        result = np.zeros((len(flat), len(self.class_names)))
        if len(flat):
            result[:, self.estimator.classes_] = self.estimator.predict_proba(flat)
        if not np.isfinite(result).all():
            raise HeadError(
                f"Expected probabilities. Received: NaN from the {self.clf} head. Train it with other parameters, such "
                "as a lower learning_rate."
            )
        return result

    def predict(self, X: npt.NDArray[Any]) -> npt.NDArray[np.str_]:
        """Return the most probable class name of each row, shape (n,)."""
        names: npt.NDArray[np.str_] = np.array(self.class_names)[self.predict_proba(X).argmax(axis=1)]
        return names

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the head's folder, replacing one that is a head, and return its path.

        Raises
        ------
        HeadError
            If the folder holds anything else, or cannot be written.
        """
        import skops.io

        target = Path(folder)
        check_target(target)
        draft = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            draft.mkdir(parents=True)
            content = skops.io.dumps(self.estimator)
            publish(draft / _MODEL, content)
            publish(draft / _TRAINED_ON, b"".join(sorted(self.trained_on)))
            card = {
                "format": HEAD_FORMAT,
                "clf": self.clf,
                "layer": self.layer,
                "class_names": self.class_names,
                **self.card,
                "model": {"file": _MODEL, "sha256": hashlib.sha256(content).hexdigest()},
            }
            digest = card_digest(card)
            publish_json(draft / "head.json", {**card, "sha256": digest})
            swap_folder(draft, target)
        except OSError as error:
            raise HeadError(f"Expected to write {str(target)!r}. Received: {error.strerror or error}.") from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self.path, self.digest = target, digest
        return target

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Head:
        """Read a head's folder without running anything from it.

        Raises
        ------
        HeadError
            If it is no head, has another format, was changed since it was saved, or holds a type that is
            not on the list of those a head may hold.
        """
        from featcache.heads.calibration import CalibratedHead

        path = Path(folder)
        try:
            card = json.loads((path / "head.json").read_text())
            stated = card.pop("sha256", None)
            if card["format"] != HEAD_FORMAT:
                raise HeadError(
                    f"Expected a head of format {HEAD_FORMAT}. Received: {str(path)!r} of format {card['format']}."
                )
            wanted = card["model"]["sha256"]
            if card["model"]["file"] != _MODEL or card["clf"] not in HEADS:
                raise HeadError(
                    f"Expected a head of a known kind. Received: {card['clf']!r} in {card['model']['file']!r}."
                )
            if stated != card_digest(card):
                raise HeadError(
                    f"Expected head.json as it was written. Received: {str(path)!r}, where it was changed since. "
                    "Train the head again."
                )
            content = (path / _MODEL).read_bytes()
            seen = (path / _TRAINED_ON).read_bytes()
            clf, layer, class_names = card["clf"], card["layer"], list(card["class_names"])
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise HeadError(f"Expected a head's folder. Received: {str(path)!r}, which has no {missing}.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise HeadError(f"Expected a head's folder. Received: {str(path)!r}, whose head.json is damaged: "
                            f"{error}.") from None  # fmt: skip
        if hashlib.sha256(content).hexdigest() != wanted:
            raise HeadError(
                f"Expected the model that head.json describes. Received: {str(path / _MODEL)!r}, which was changed "
                "since. Train the head again."
            )
        estimator = _from_skops(path / _MODEL, content)
        if not isinstance(estimator, CalibratedHead) or not _fits(estimator, class_names):
            raise HeadError(f"Expected a head of {len(class_names)} classes. Received: {str(path)!r}, which is none.")
        trained_on = {seen[start : start + 32] for start in range(0, len(seen), 32)}
        return cls(clf, estimator, class_names, layer, card, path, trained_on, stated)


def check_target(folder: Path) -> None:
    """Raise HeadError if a head cannot be written to a folder, as it holds something else."""
    found = [folder] if folder.is_file() else sorted(folder.glob("*"))
    strangers = [path.name for path in found if path.name not in _FILES]
    if strangers:
        raise HeadError(
            f"Expected an empty folder or a head. Received: {str(folder)!r}, which holds other files, such as "
            f"{strangers[0]!r}. Choose another --out."
        )


def card_digest(card: Mapping[str, Any]) -> str:
    """Return SHA-256 of a card's canonical JSON, as it reads back."""
    return hashlib.sha256(canonical_json(json.loads(json.dumps(card))).encode()).hexdigest()


def _fits(estimator: Any, class_names: list[str]) -> bool:
    """Return whether a head's labels are indices into its class names."""
    labels: Any = getattr(estimator, "classes_", None)
    if not isinstance(labels, np.ndarray) or labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        return False
    return len(labels) >= 2 and bool((labels >= 0).all() and (labels < len(class_names)).all())


def _from_skops(path: Path, content: bytes) -> Any:
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return skops.io.loads(content, trusted=_TRUSTED)
    except UntrustedTypesFoundException as error:
        raise HeadError(f"Expected a head of known types. Received: {str(path)!r}: {error}") from None
    except Exception as error:  # a damaged archive fails in many ways
        raise HeadError(f"Expected a scikit-learn head. Received: {str(path)!r}: {error}") from None
