"""Fine-tune base and head together, score it against the head, save the better one."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from featcache import charts
from featcache.bases import fresh_weights
from featcache.bases.finding import DRAWN, licence
from featcache.cache import FeatureCache
from featcache.cache.lock import Lock, writer_lock
from featcache.errors import CacheError, HeadError, OptionError
from featcache.files.publishing import TEMPORARY
from featcache.heads import Head
from featcache.heads.keras_training import compiled
from featcache.heads.rows import Bools, Float32s, Floats
from featcache.images.augmentation import Augmentation
from featcache.models.classifier import ImageClassifier
from featcache.models.composition import Composition, composition
from featcache.models.evaluation import own_source
from featcache.models.finetune.distillation import distilled
from featcache.models.finetune.layers import Unfreezing, counts, layer_table, unfreeze
from featcache.models.finetune.pictures import Picture, Pictures, listed
from featcache.models.finetune.training import Checkpoint, Options, State, Trainer, put
from featcache.models.folder import FOLDER, PixelModel, is_model
from featcache.options import BATCH_SIZE, FineTuneOptions, subset, takes
from featcache.recipe import Request, canonical_json
from featcache.saved.model_folder import card_digest
from featcache.sources import group_identity, why_left_out
from featcache.system.progress import shown
from featcache.system.versions import versions
from featcache.training.metrics import split_metrics
from featcache.training.significance import clearly_lower, paired_difference

log = logging.getLogger(__name__)

_RATE, _FRESH_RATE = 1e-5, 1e-3


@dataclass
class FineTuned:
    """What fine-tuning did.

    Attributes
    ----------
    trainable, non_trainable, total : int
        Parameters of the composed model.
    layers : list of dict
        ``index``, ``name``, ``type``, ``parameters``, ``trainable`` of each layer of the base.
    model : PixelModel or None
        What was kept, saved; None after a dry run, as is all that follows.
    before, after : dict
        Metrics by split, of the head and of what was trained: ``validation``, and ``test`` where there is one. There
        are none after training without a good epoch.
    composed_accuracy : float
        Of base and head as one model on validation, before training: the head's own.
    difference : float
        Between probabilities of head and composed model before training, at most.
    history : dict
        Per epoch, see `featcache.models.finetune.training.State`.
    kept : str
        ``tuned``, or ``head`` where that scores higher on validation.
    stopped : dict or None
        ``reason`` and ``epoch`` where training ended early.
    distilled : dict or None
        Between which heads, and how far they agree.
    skipped : list of dict
        ``path`` and ``reason`` of images that could not be read.
    seconds : float
    """

    trainable: int
    non_trainable: int
    total: int
    layers: list[dict[str, Any]]
    model: PixelModel | None = None
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    composed_accuracy: float = 0.0
    difference: float = 0.0
    history: dict[str, list[float]] = field(default_factory=dict)
    kept: str | None = None
    stopped: dict[str, Any] | None = None
    distilled: dict[str, Any] | None = None
    skipped: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0


@takes(FineTuneOptions)
def fine_tune(options: FineTuneOptions) -> ImageClassifier:
    """Train a head together with a part of its base, from pixels, and keep the better of before and after.

    A killed run resumes after its last whole epoch when the same call is made again.

    Returns
    -------
    ImageClassifier
        Of the model that was kept and saved, or after a dry run of the head as it is. Its ``fine_tuning``, a
        `FineTuned`, says what was done.

    Raises
    ------
    OptionError, HeadError, SourceError, BaseError, WeightsError, CacheError
        If a value is not possible, or the head, its base, its images or its cache cannot be used.
    """
    begun = time.monotonic()
    which, augment, seed = subset(options, Unfreezing), options.augment, options.seed
    teacher = _opened(options.head)
    target = _target(teacher, options.out)
    distill, rate = options.distill, options.learning_rate
    student, lesson = (teacher, None) if distill is None else distilled(teacher, distill, seed=seed)
    if rate is None:
        rate = _default_rate(student, options.reinitialise)
    if isinstance(augment, str):
        augment = Augmentation.parse(augment, fill=options.fill, seed=seed)
    training = subset(options, Options, learning_rate=rate, augmentation=augment)
    classifier = ImageClassifier(student, base=options.base, weights=options.weights)
    run = _Run(student, classifier, which, training)
    result = FineTuned(*counts(run.parts.model), layers=run.layers, distilled=lesson)
    classifier.fine_tuning = result
    if options.dry_run:
        return classifier
    run.read()
    described = [run.identity(), _head_digest(teacher), distill, options.initial_epoch]
    key = hashlib.sha256(canonical_json(described).encode())
    first = options.initial_epoch
    if first is None:  # counted on from the head's epochs
        first = len(student.card.get("history", {}).get("loss", []))
    folder = None if options.tensorboard is None else Path(options.tensorboard)
    with _alone(target.with_name(target.name + ".checkpoint")) as lock:
        checkpoint = Checkpoint(lock.folder / "state.npz", key.hexdigest(), lock.check)
        result.before, result.composed_accuracy, result.difference = run.compared()
        with shown(options.progress, "fine-tuning") as progress:
            state = run.trained(checkpoint, initial_epoch=first, tensorboard=folder, progress=progress)
        result.history, result.stopped = state.history, state.stopped
        result.after, result.kept = run.chosen(state, result.before)
        if lesson is not None:
            _warn_if_below(teacher, result)
        result.skipped = [{"path": path, "reason": reason} for path, reason in run.pictures.skipped.items()]
        result.seconds = time.monotonic() - begun
        lock.check()
        result.model = _saved(run, teacher, result, target)
        checkpoint.remove()
    tuned = ImageClassifier.from_model(result.model)
    tuned.fine_tuning = result
    return tuned


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[Lock]:
    """Make the checkpoint's folder and hold its lock; remove what is empty in the end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"No folder can be made in {str(folder.parent)!r}: {error.strerror}. Choose another `out`."
        ) from None
    try:
        with writer_lock(folder) as lock:
            for litter in folder.glob(f"{TEMPORARY}*"):  # of a run that was killed
                litter.unlink(missing_ok=True)
            yield lock
    finally:
        with contextlib.suppress(OSError):  # a checkpoint lies in it
            folder.rmdir()


def _warn_if_below(teacher: Head, result: FineTuned) -> None:
    """Say where the model is worse than the head that it was distilled from."""
    stated = teacher.metrics.get("validation", {}).get("accuracy")
    reached = (result.after if result.kept == "tuned" else result.before)["validation"]["accuracy"]
    if stated is not None and reached < stated:
        text = "the model is worse than the %s head it was distilled from: accuracy %.4f on validation, that one %.4f"
        log.warning(text, teacher.clf, reached, stated)


def _opened(head: Head | str | os.PathLike[str]) -> Head:
    if isinstance(head, Head):
        return head
    if is_model(head):
        raise HeadError(
            f"{str(head)!r} is a fine-tuned model, a whole model with its base. Name the head that it was made from."
        )
    return Head.load(head)


def _target(head: Head, out: str | os.PathLike[str] | None) -> Path:
    if out is not None:
        target = Path(out)
    elif head.path is not None:
        target = head.path.with_name(f"{head.path.name}-finetuned")
    else:
        raise OptionError("This head was never saved, so the model has no default folder. Name one as `out`.")
    FOLDER.check_target(target)
    return target


def _default_rate(head: Head, reinitialise: bool) -> float:
    if reinitialise:
        return _FRESH_RATE
    stated = head.card.get("all_params", {}).get("learning_rate") if head.clf == "dense" else None
    return _RATE if stated is None else float(stated) / 10


def _head_digest(head: Head) -> str:
    return head.digest or card_digest(head.card)


class _Run:
    """Base and head as one model, with the images they are trained and scored on."""

    def __init__(self, head: Head, classifier: ImageClassifier, which: Unfreezing, options: Options) -> None:
        self.head, self.which, self.options = head, which, options
        self._extractor = classifier.extractor
        request = self._extractor.request
        assert classifier.recipe is not None
        self.recipe = classifier.recipe
        self.parts: Composition = composition(head, self._extractor.base, self.recipe)
        numbered_anew = not (request.is_file or request.in_memory)
        unfreeze(self.parts.network, which, numbered_anew=numbered_anew)
        self.layers = layer_table(self.parts.network, numbered_anew=numbered_anew)
        self.columns = [int(label) for label in head.estimator.classes_]
        self.spec = self._extractor.spec
        self._probabilities = _compiled(self.parts.model)

    def read(self) -> None:
        """List the head's images, as its cache did."""
        source, policy = own_source(self.head)
        self.pictures: Pictures = listed(source, policy, self.spec, self.head.class_names, _known_bad(self.head))
        train = self.pictures.by_split.get("train", [])
        groups = {group_identity(one.item.group) for one in train if one.item.group is not None}
        self.trained_on = self.head.trained_on | {one.digest for one in train} | groups
        others = sum(one.digest not in self.head.trained_on for one in train)
        if others and self.head.trained_on:
            text = "%d of %d training images are not those that the head was trained on: they have changed, or came"
            log.warning(f"{text} later", others, len(train))
        for split in ("train", "validation"):
            if not any(split == "train" or self._unseen(one) for one in self.pictures.by_split.get(split, [])):
                there = len(self.pictures.by_split.get(split, []))
                why = f"all {there:,} are copies of training images or of their groups" if there else "there are none"
                raise OptionError(
                    f"Fine-tuning needs {split} images that can be read, to train on and to choose the epoch by, but "
                    f"in {source.location!r} {why}. Extract with `validation_split` and train the head again."
                )
        odd = {one.label for one in self.pictures.by_split["train"]} - set(self.columns)
        if odd:
            names = ", ".join(self.head.class_names[label] for label in sorted(odd))
            raise OptionError(
                f"The training images have classes that the head was not trained on: {names}. Train the head again."
            )

    def _unseen(self, one: Picture) -> bool:
        return why_left_out(self.trained_on, one.item, one.digest) is None

    def identity(self) -> dict[str, Any]:
        """Return all that decides what training does, the head aside."""
        images = hashlib.sha256()
        for split in ("train", "validation"):
            for one in self.pictures.by_split[split]:
                images.update(one.digest + one.label.to_bytes(4, "big"))
        from keras import __version__

        return {
            "options": asdict(self.options),
            "layers": self.layers,
            "reinitialise": self.which.reinitialise,
            "recipe": self.recipe.fingerprint,
            "images": images.hexdigest(),
            "keras": __version__,
        }

    def compared(self) -> tuple[dict[str, Any], float, float]:
        """Return metrics on validation, the composed model's accuracy, and how far its probabilities are off.

        The metrics are the head's. Where its cache was computed in less than float32 they are the composed model's,
        which is another classifier then; HeadError says that it is less accurate by more than one standard error of
        the paired difference. Otherwise it says that probabilities are farther apart than rounding explains.
        """
        index = int(self.head.card["layer_index"])

        def by_head(pixels: Float32s) -> Floats:
            return self.head.predict_proba(list(self._extractor.features(pixels).values())[index])

        metrics, expected, right = self._scored("validation", by_head)
        composed, found, still_right = self._scored("validation", self._by_model)
        difference = float(np.abs(expected - found).max())
        if self.recipe.precision != "float32":
            self._check_other_precision(metrics, composed, right, still_right)
            return {"validation": composed}, composed["accuracy"], difference
        tolerance = self.recipe.tolerance
        if difference > tolerance:
            raise HeadError(
                f"Base and head as one model differ from the head by {difference:.2g} in a probability, more "
                f"than {tolerance}. Report it, with this head."
            )
        text = "before training: accuracy %.4f of the head, %.4f as one model; probabilities differ by %.1e at most"
        log.info(text, metrics["accuracy"], composed["accuracy"], difference)
        return {"validation": metrics}, composed["accuracy"], difference

    def _check_other_precision(
        self, head: dict[str, Any], model: dict[str, Any], right: Bools, still_right: Bools
    ) -> None:
        """Say how base and head score in float32, and raise `HeadError` if that is clearly less."""
        difference, deviation = paired_difference(right, still_right) if len(right) > 1 else (0.0, 0.0)
        scores = (
            f"the head's cache was computed in {self.recipe.precision}, fine-tuning computes in float32: before "
            f"training, accuracy {model['accuracy']:.4f} instead of {head['accuracy']:.4f} on n={len(right)} "
            f"validation images, difference {difference:+.4f}, standard error {deviation:.4f}"
        )
        if clearly_lower(difference, deviation):
            raise HeadError(
                f"{scores}. That is lower by more than one standard error. Extract with --precision float32 and train "
                "the head again."
            )
        log.warning("%s", scores)

    def _by_model(self, pixels: Float32s) -> Floats:
        return self.pixel_model().predict_proba(self._probabilities(pixels))

    def pixel_model(self) -> PixelModel:
        """Return the model as it is now."""
        return PixelModel(self.parts.model, self.head.class_names, self.columns, self.spec, trained_on=self.trained_on)

    def _scored(self, split: str, predict: Callable[[Any], Any]) -> tuple[dict[str, Any], Floats, Bools]:
        """Return metrics and probabilities of a split, and which images are right.

        Copies of training images, and images of their groups, are left out of the metrics and of the last.
        """
        seen: list[Picture] = []
        rows: list[Floats] = []
        for pictures, pixels in self.pictures.batches(split, BATCH_SIZE):
            seen += pictures
            rows.append(predict(pixels))
        if not seen:
            raise OptionError(f"No {split} image can be read. Look at the reasons of the skipped images.")
        shares = np.concatenate(rows)
        truth, groups = (np.array([getattr(one, name) for one in seen], np.int64) for name in ("label", "group"))
        counted = np.array([self._unseen(one) for one in seen], bool)
        copies = np.array([one.digest in self.trained_on for one in seen], bool)
        found = split_metrics(truth, shares, self.head.class_names, groups, counted, copies)
        if found is None:
            raise OptionError(
                f"No readable image of {split} can be scored: all are copies of training images or of their groups. "
                "Add other images."
            )
        return found, shares, np.equal(shares.argmax(axis=1), truth)[counted]

    def trained(self, checkpoint: Checkpoint, **how: Any) -> State:
        """Train, after drawing fresh weights if these are asked for."""
        self._start = [variable.numpy() for variable in self.parts.model.variables]
        if self.which.reinitialise:
            self.parts.network.set_weights(fresh_weights(self.parts.network, self.options.seed))
            _reset(self.parts.scores, self.options.seed)
        return Trainer(self.parts, self.pictures, self.columns, self.options, self._unseen).run(checkpoint, **how)

    def chosen(self, state: State, before: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Score what was trained, put the head back where that was better, and score test once.

        A model from fresh weights is kept in any case, as it is there to be compared with.
        """
        after: dict[str, Any] = {}
        kept, old, new = "head", before["validation"]["accuracy"], 0.0
        if state.best:
            after = {"validation": self._scored("validation", self._by_model)[0]}
            new = after["validation"]["accuracy"]
            kept = "tuned" if new >= old or self.which.reinitialise else "head"
        if kept == "head":
            put(self.parts.model.variables, self._start)
            why = f"made it worse (accuracy {new:.4f}, before {old:.4f})" if state.best else "had no good epoch"
            log.warning("fine-tuning %s: the head is kept", why)
        elif new < old:
            log.warning("the model from fresh weights is worse than the head: accuracy %.4f, before %.4f", new, old)
        if any(self._unseen(one) for one in self.pictures.by_split.get("test", [])):
            (after if kept == "tuned" else before)["test"] = self._scored("test", self._by_model)[0]
        return after, kept


def _compiled(model: Any) -> Callable[[Float32s], Float32s]:
    """Return a model as a function of up to `BATCH_SIZE` images, padded as extraction pads them."""
    forward = compiled(lambda pixels: model(pixels, training=False), model.inputs[0].shape)

    def run(pixels: Float32s) -> Float32s:
        padding = np.broadcast_to(pixels[:1], (BATCH_SIZE - len(pixels), *pixels.shape[1:]))
        return np.asarray(forward(np.concatenate([pixels, padding])))[: len(pixels)]

    return run


def _reset(scoring: Any, seed: int) -> None:
    """Give a head fresh weights."""
    import keras

    if isinstance(scoring, keras.Model):
        scoring.set_weights(fresh_weights(scoring, seed))
        return
    rng = np.random.default_rng(seed)
    kernel, bias = scoring.get_weights()
    limit = np.sqrt(6 / sum(kernel.shape))  # as Keras draws a Dense layer's (Glorot & Bengio 2010)
    scoring.set_weights([rng.uniform(-limit, limit, kernel.shape), np.zeros_like(bias)])


def _known_bad(head: Head) -> dict[str, str]:
    """Return the images that the head's cache could not read, so that none of them is decoded again."""
    try:
        entries = FeatureCache(head.card["cache"]).entries
    except CacheError:
        return {}
    return {entries.paths[i]: reason for i, reason in entries.reasons.items()}


_REPORTED = (
    *("before", "after", "kept", "stopped", "distilled", "composed_accuracy", "difference"),
    *("trainable", "non_trainable", "total", "skipped", "seconds"),
)


def _saved(run: _Run, head: Head, result: FineTuned, target: Path) -> PixelModel:
    """Write the model's folder, with curves beside the model."""
    model, described = run.pixel_model(), run.head.card.get("request")
    model.card = {
        **{key: run.head.card[key] for key in ("source", "listing", "recipe", "request", "cache")},
        "head": {
            "path": None if head.path is None else str(head.path.absolute()),
            "sha256": _head_digest(head),
            "clf": head.clf,
            "layer": head.layer,
            "params": head.card.get("params", {}),
        },
        "licence": DRAWN if run.which.reinitialise else licence(described and Request.from_dict(described)),
        "metrics": result.after if result.kept == "tuned" else result.before,
        "selected_on": "validation",
        "history": {"head": run.head.card.get("history", {}), "fine_tune": result.history},
        "options": {**asdict(run.options), **vars(run.which)},
        **{name: getattr(result, name) for name in _REPORTED},
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    model.save(target)
    phases = {"head": run.head.card.get("history", {}), "fine-tune": result.history}
    note = "The head's validation: training images that were held out. Fine-tuning's: the validation set."
    charts.draw(charts.curves(phases, note if phases["head"] else ""), target / "curves")
    return model
