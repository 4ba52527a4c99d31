"""Compose, write, ask in a clean process, compare, publish."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from featcache.bases.finding import DRAWN, licence
from featcache.errors import ExportError, OptionError, one_line
from featcache.files.publishing import TEMPORARY, publish_json, swap_folder, sync_folder
from featcache.files.reading import read_json
from featcache.heads import Head
from featcache.images.decoding import PixelSpec, load
from featcache.models.classifier import ImageClassifier
from featcache.models.composition import compose
from featcache.models.export.comparison import Images, difference, images_for
from featcache.models.export.formats import described_input, format_of, with_every_class, write
from featcache.models.export.graph import taking_any_size
from featcache.models.export.rescoring import answers, in_words, scored_in_float32
from featcache.recipe import Recipe, Request, choices, fitting
from featcache.system.status import doing
from featcache.system.versions import versions

Pictures = Literal["any", "fixed"]

TOLERANCE = 1e-4
"""How far a probability may be from the classifier's, in float32 and in every format."""

LOW_PRECISION = 5e-3
"""The same of networks that compute in less than float32."""

METADATA_FORMAT = 1

_INSIDE = "featcache.json"


@dataclass(frozen=True)
class ExportReport:
    """What `export_model` wrote.

    Attributes
    ----------
    path : Path
        The file or folder.
    metadata : Path
        The JSON file beside the file, or in the folder, with class names, recipe, digests and licence note.
    format : {"keras", "savedmodel", "tflite", "onnx"}
    classes : list of str
        In the order of the columns.
    max_difference : float
        The largest difference of a probability from what it was compared with.
    compared_with : {"the classifier", "base and head in float32"}
        The second for a head whose cache has less than float32, as the export is another classifier.
    compared : int
        On how many images; 0 if on random pixels only.
    notes : list of str
        What whoever takes the model must know.
    own_score : dict or None
        Of a head whose cache has less than float32: what the export scores itself.
    """

    path: Path
    metadata: Path
    format: str
    classes: list[str]
    max_difference: float
    compared_with: str
    compared: int
    notes: list[str]
    own_score: dict[str, Any] | None = None


def export_model(
    model: Head | str | os.PathLike[str] | ImageClassifier,
    to: str | os.PathLike[str],
    *,
    images: str | None = None,
    compare: int = 32,
    input: Pictures = "any",
    base: Any = None,
    weights: str | Path | None = None,
) -> ExportReport:
    """Write a classifier for those who have no featcache, once it gave the same answers without it.

    Exports compute in float32. Of a head whose cache was computed in less, the export is another classifier: it is
    compared with base and head as one float32 model, and written with its own score on labelled validation images.

    Parameters
    ----------
    model : path, Head or ImageClassifier
        A head or its folder, which is composed with its base, or of a whole model.
    to : path
        ``.keras``, ``.tflite``, ``.onnx``, or a folder for a SavedModel; an earlier export there is replaced.
    images : path, optional
        Images to compare on; default: validation images of the source it was trained from.
    compare : int
        On how many.
    input : {"any", "fixed"}
        Which decoded pictures the model takes: of any size, which it resizes, crops or pads itself, or pixels that
        already have the base's size. A SavedModel takes any.
    base, weights : optional
        As `ImageClassifier.load` takes them.

    Returns
    -------
    ExportReport
        Where it is, what format, and how far its probabilities were at most from what it was compared with.

    Raises
    ------
    HeadError
        If no network can express the head.
    ExportError
        If the exported model does not load without featcache, or its probabilities are further than promised from
        what it is compared with. Of a head whose cache was computed in less than float32 also if there are no
        labelled validation images to score the export on, or if it is less accurate than the classifier by more
        than one standard error of the difference. Nothing is written then.
    OptionError
        If `to` is no format, or holds something else, or the format cannot resize as the classifier does.
    """
    target = Path(to)
    kind = format_of(target)
    beside = target / _INSIDE if kind == "savedmodel" else target.with_name(target.name + ".json")
    _check_free(target, beside)
    if compare < 0:
        raise OptionError(f"`compare` must be 0 or more images. Received: {compare}.")
    if input not in choices(Pictures):
        raise OptionError(f"`input` must be one of {', '.join(choices(Pictures))}. Received: input={input!r}.")
    if (kind, input) == ("savedmodel", "fixed"):
        raise OptionError("A SavedModel takes pictures of any size, and bytes. Leave out input='fixed'.")
    if isinstance(model, Head):
        classifier = ImageClassifier(model, base=base, weights=weights)
    elif isinstance(model, ImageClassifier):
        classifier = model
    else:
        classifier = ImageClassifier.load(model, base=base, weights=weights)
    whole, spec, tolerance = _whole(classifier)
    in_float32 = classifier.recipe is None or classifier.recipe.precision == "float32"
    own_score = None if in_float32 else scored_in_float32(classifier, whole)
    compared_with = "the classifier" if own_score is None else "base and head in float32"
    shown = images_for(classifier, compare, images, input)
    if own_score is not None:  # the export is held to what base and head say in float32
        tolerance, pixels = TOLERANCE, np.stack([load(content, spec) for content in shown.contents])
        shown = replace(shown, expected=answers(whole, pixels))
    if input == "any" and kind != "savedmodel":  # which resizes by itself
        whole = taking_any_size(whole, spec, kind)
    draft = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        draft.mkdir(parents=True)
        written = draft / target.name
        try:
            with doing(f"writing the {kind} model"):
                write(kind, whole, spec, classifier.class_names, written)
        except OSError:
            raise
        except Exception as error:  # converters fail in many ways
            raise ExportError(
                f"The format {kind} cannot hold this network: {one_line(error)}. Choose another format."
            ) from error
        with doing(f"comparing the {kind} model with the classifier"):
            worst, refused = difference(kind, written, shown, classifier.class_names)
        if worst > tolerance:
            raise ExportError(
                f"Probabilities of the {kind} model differ by {worst:.3g} from those of {compared_with}, more than "
                f"{tolerance:g}, on {len(shown.contents)} {shown.origin}. Nothing was written: take another format."
            )
        notes = _notes(kind, classifier, spec, shown, refused, input)
        if own_score is not None:
            notes.insert(0, in_words(own_score))
        known = _metadata(kind, classifier, described_input(kind, spec, input), written, notes)
        compared: dict[str, Any] = {"max_difference": worst, "compared_with": compared_with, "compared": shown.compared}
        known |= {"own_score": own_score, "comparison": {**compared, "tolerance": tolerance}}
        _publish(written, target, beside, known)
    except OSError as error:
        raise ExportError(
            f"{str(target)!r} cannot be written: {error.strerror or error}. Choose another `to`."
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    classes = list(classifier.class_names)
    return ExportReport(target, beside, kind, classes, **compared, notes=notes, own_score=own_score)


def _check_free(target: Path, beside: Path) -> None:
    """Refuse to replace anything that is not an export."""
    folder = beside.parent == target
    empty = folder and target.is_dir() and not any(target.iterdir())
    free = empty or not (target.exists() or beside.exists())
    written = _written_before(beside)
    if not free and (written is None or target.is_dir() != folder):
        raise OptionError(f"{str(target)!r} exists already, and is no earlier export. Choose another `to`.")
    if folder and target.is_dir():
        found = {path.relative_to(target).as_posix() for path in _files(target)}
        strangers = sorted(found - (written or set()) - {beside.name})
        if strangers:
            raise OptionError(
                f"The folder {str(target)!r} has files that are of no earlier export, such as "
                f"{strangers[0]!r}. Choose another `to`."
            )


def _written_before(metadata: Path) -> set[str] | None:
    """Return the files that an export says it wrote; None if it is no export's."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        known = read_json(metadata)
        if isinstance(known, dict) and "exported_by_featcache" in known:
            return set(known.get("files", ()))
    return None


def _whole(classifier: ImageClassifier) -> tuple[Any, PixelSpec, float]:
    """Return the model from pixels to the probability of every class, and how far it may be off."""
    head, count = classifier.head, len(classifier.class_names)
    if isinstance(head, Head):
        assert classifier.recipe is not None
        composed = compose(head, classifier.extractor.base, classifier.recipe)
        trained, spec = list(map(int, head.estimator.classes_)), classifier.extractor.spec
    else:
        composed, trained, spec = head.model, head.trained_classes, head.spec
    described = head.card.get("recipe")
    promised = Recipe.from_dict(described).tolerance if described else 0.0
    promised = max(promised, TOLERANCE, 0.0 if _in_float32(composed) else LOW_PRECISION)
    return with_every_class(composed, trained, count), spec, promised


def _in_float32(layer: Any) -> bool:
    inner = getattr(layer, "layers", None)
    return all(map(_in_float32, inner)) if inner else getattr(layer, "compute_dtype", "float32") == "float32"


def _publish(written: Path, target: Path, beside: Path, known: Mapping[str, Any]) -> None:
    for file in _files(written):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    if written.is_dir():
        publish_json(written / _INSIDE, known)
        swap_folder(written, target)
    else:
        publish_json(beside, known)  # first: a model without it would pass for somebody else's
        written.replace(target)
        sync_folder(target.parent)


def _files(written: Path) -> list[Path]:
    return sorted(path for path in written.rglob("*") if path.is_file()) if written.is_dir() else [written]


def _metadata(
    kind: str, classifier: ImageClassifier, described: Mapping[str, Any], written: Path, notes: list[str]
) -> dict[str, Any]:
    head, root = classifier.head, written if written.is_dir() else written.parent
    return {
        "exported_by_featcache": METADATA_FORMAT,
        "format": kind,
        "class_names": list(classifier.class_names),
        "input": described,
        "output": "the probability of every class, in the order of class_names",
        "recipe": head.card.get("recipe"),
        "clf": head.clf if isinstance(head, Head) else None,
        "classifier_sha256": head.card.get("model", {}).get("sha256"),
        "weights": _licence(head.card),
        "files": {
            file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in _files(written)
        },
        "versions": versions(),
        "notes": notes,
    }


def _notes(
    kind: str, classifier: ImageClassifier, spec: PixelSpec, shown: Images, refused: int, pictures: Pictures
) -> list[str]:
    notes = []
    if kind == "savedmodel":
        notes.append(
            "signature encoded decodes JPEG and PNG and turns them upright by their EXIF orientation; TIFF and what "
            "else only Pillow reads it refuses, with the whole request; WebP it does not turn"
        )
    elif pictures == "any":
        notes.append(
            "takes decoded pictures of any size, upright (apply the EXIF orientation), 0 to 255; it resizes and "
            "preprocesses them itself"
        )
    else:
        notes.append(
            f"takes decoded pixels, upright, 0 to 255, {spec.height}x{spec.width}x{spec.channels}, resized by "
            f"{fitting(spec)} with {spec.interpolation} interpolation; preprocessing is inside"
        )
    if spec.decode == "reduced":
        notes.append(
            "its features are of JPEGs decoded at a reduced size (fast_decode): JPEGs decoded at full size give other "
            "answers; a SavedModel's signature encoded decodes as featcache does"
        )
    if refused:
        notes.append(f"{refused} of the {shown.compared} images are no JPEG or PNG that the graph decodes")
    if not shown.real:
        notes.append(shown.origin)
    return [*notes, _licence(classifier.head.card)]


def _licence(card: Mapping[str, Any]) -> str:
    """Say whose weights the model has, and what is known of their licence."""
    described = card.get("request")
    if card.get("options", {}).get("reinitialise"):
        return DRAWN
    return licence(Request.from_dict(described) if isinstance(described, Mapping) else None)
