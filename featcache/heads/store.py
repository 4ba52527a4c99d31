"""A trained head and its folder: a `ModelFolder` of ``head.json`` and ``model.skops``, the estimator."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import HeadError, one_line
from featcache.files.reading import trouble
from featcache.heads import showing
from featcache.heads.build import HEADS
from featcache.heads.rows import Array, Float32s, Floats
from featcache.saved.base import NAME, copy
from featcache.saved.cards import HEAD
from featcache.saved.model_folder import ModelFolder

FOLDER = ModelFolder("head", "head.json", "model.skops", 2, HEAD)

_TRUSTED = [
    "featcache.heads.calibration.CalibratedHead",
    "featcache.heads.calibration.Scores",
    "featcache.heads.centroid.CentroidHead",
    "featcache.heads.dense.DenseClassifier",
    "featcache.heads.knn.KNNHead",
    "featcache.heads.linear.LogisticHead",
    "featcache.heads.linear.SquaredHingeHead",
    "featcache.heads.ridge.RidgeHead",
    "sklearn.calibration._CalibratedClassifier",  # parts of a fitted CalibratedClassifierCV
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.metrics._scorer._PassthroughScorer",  # parts of a fitted GridSearchCV
    "sklearn.model_selection._split.StratifiedKFold",
]
"""What a head may hold beyond skops' own list of safe types."""


@dataclass(repr=False)
class Head:
    """A trained head.

    Attributes
    ----------
    clf : str
        Its kind, a name of `featcache.heads.HEADS`, or the name of an estimator of the user's.
    estimator : estimator
        Fitted on features (n, d) and indices into `class_names`.
    class_names : list of str
        In alphanumeric order.
    layer : str
        The layer whose features it takes.
    card : dict
        All else that is known: ``params``, ``metrics`` by split, ``recipe``, ``request``, ``source``,
        ``listing``, ``cache``, ``fit_seconds``, ``versions``; ``base``: whether its folder carries its base.
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
    trained_on: Set[bytes] = field(default_factory=set)
    digest: str | None = None

    def __repr__(self) -> str:
        return showing.head_line(self)

    def __str__(self) -> str:
        return showing.head_text(self)

    def _repr_html_(self) -> str:
        """Return what a notebook shows of the head."""
        return showing.head_html(self)

    @property
    def classes_(self) -> npt.NDArray[np.str_]:
        """Class names as an array, shape (k,), as scikit-learn has them: the columns of `predict_proba`."""
        return np.array(self.class_names, np.str_)

    @property
    def metrics(self) -> dict[str, Any]:
        """Scores by split, as measured when it was trained."""
        return dict(self.card.get("metrics", {}))

    def predict_proba(self, X: Array) -> Floats:
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
        expected = getattr(self.estimator, "n_features_in_", None)
        if flat.shape[1] != expected:
            raise HeadError(f"This head takes {expected} values per image. Received: {flat.shape[1]}.")
        result = np.zeros((len(flat), len(self.class_names)))
        if len(flat):
            result[:, self.estimator.classes_] = self._answers(flat)
        if not np.isfinite(result).all():
            raise HeadError(
                f"The {self.clf} head gives NaN instead of probabilities. Train it with other parameters, such as a "
                "lower learning_rate."
            )
        return result

    def _answers(self, flat: Float32s) -> Array:
        """Return the probabilities of the estimator's classes, in the shape that they must have."""
        wanted = len(flat), len(self.estimator.classes_)
        try:
            answers: Array = self.estimator.predict_proba(flat)
            if np.shape(answers) != wanted:
                raise ValueError(f"its answers have the shape {np.shape(answers)}, not {wanted}")
        except (MemoryError, HeadError):
            raise
        except Exception as error:  # what a damaged estimator holds fails in many ways
            if self.path is None:
                raise
            raise HeadError(
                f"The head {str(self.path)!r} cannot answer, as what it holds is damaged: {one_line(error)}. Train it "
                "again with `featcache fit-head`."
            ) from None
        return answers

    def predict(self, X: Array) -> npt.NDArray[np.str_]:
        """Return the most probable class name of each row of `X`, shape (n,), as `predict_proba` takes them."""
        names: npt.NDArray[np.str_] = np.array(self.class_names)[self.predict_proba(X).argmax(axis=1)]
        return names

    def save(self, folder: str | os.PathLike[str], *, write_base: Callable[[Path], Any] | None = None) -> Path:
        """Write the head's folder, replacing one that is a head, and return its path.

        Parameters
        ----------
        folder : path
            Where; it appears whole or not at all. Other files in it are kept.
        write_base : callable, optional
            Given a path, puts the folder of its base there. Default: a copy of the one in the head's own folder, if
            it carries one.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        HeadError
            If the folder holds anything else, or cannot be written.
        """
        import skops.io

        if "estimator" in self.card:
            check_trusted(self.estimator, self.clf)
        content = skops.io.dumps(self.estimator)
        card = {"clf": self.clf, "layer": self.layer, "class_names": self.class_names, **self.card}
        if write_base is None and self.path is not None and self.card.get("base") is True:
            write_base = partial(copy, self.path / NAME)
        self.path, self.digest = FOLDER.write(
            folder, lambda path: path.write_bytes(content), card, self.trained_on, write_base
        )
        self.card["base"] = write_base is not None
        return self.path

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Head:
        """Read a head's folder without running anything from it.

        Parameters
        ----------
        folder : path
            What `save` wrote.

        Returns
        -------
        Head

        Raises
        ------
        HeadError
            If it is no head, has another format, was changed since it was saved, or holds a type that is
            not on the list of those a head may hold.
        """
        from featcache.heads.calibration import CalibratedHead

        path = Path(folder)
        found = FOLDER.read(path)
        clf, layer, class_names = (found.card[key] for key in ("clf", "layer", "class_names"))
        if clf not in HEADS and "estimator" not in found.card:
            raise HeadError(
                f"The head {str(path)!r} is of a kind that this version does not know: {clf!r}. Train it again."
            )
        estimator = _from_skops(path / FOLDER.model, found.model)
        if not isinstance(estimator, CalibratedHead) or not _fits(estimator, class_names):
            raise HeadError(f"{str(path)!r} is not a head of {len(class_names)} classes. Train it again.")
        return cls(clf, estimator, class_names, layer, found.card, path, found.trained_on, found.digest)


def check_trusted(estimator: Any, name: str) -> None:
    """Raise HeadError if a head holds types that would not be loaded again."""
    import skops.io

    try:
        untrusted = set(skops.io.get_untrusted_types(data=skops.io.dumps(estimator))) - set(_TRUSTED)
    except Exception as error:  # what cannot be written at all, such as a lambda
        raise HeadError(
            f"{name} cannot be saved by skops, which writes heads: {one_line(error)}. Replace that part of it."
        ) from None
    if untrusted:
        raise HeadError(
            f"{name} cannot be saved, as skops does not trust {', '.join(sorted(untrusted))}: a file with such parts "
            "could do harm when it is loaded. Score it with `compare`, which saves nothing, or use another one."
        )


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
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > len(content):  # `save` compresses nothing
                raise ValueError("it says that it holds more than it has")
        return skops.io.loads(content, trusted=_TRUSTED)
    except UntrustedTypesFoundException as error:
        raise HeadError(f"The head {str(path)!r} has parts that are not trusted: {one_line(error)}") from None
    except Exception as error:  # a damaged archive fails in many ways
        if (reason := trouble(error)) is not None:
            raise HeadError(f"The head {str(path)!r} cannot be read: {reason}") from None
        raise HeadError(f"The head {str(path)!r} is damaged: {one_line(error)}. Train it again.") from None
