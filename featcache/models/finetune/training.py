"""Training a composed model on images, epoch by epoch, so that a kill costs one epoch at most."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.errors import OptionError
from featcache.files.publishing import publish
from featcache.files.reading import parsed
from featcache.files.values import maybe, measured, record, text, whole
from featcache.heads import checks
from featcache.heads.keras_training import OPTIMIZERS, SCHEDULES, Course, compiled, decay, make_optimizer, training_step
from featcache.heads.rows import Array, Float32s, Floats
from featcache.images.augmentation import Augmentation
from featcache.models.composition import Composition
from featcache.models.finetune.pictures import Picture, Pictures
from featcache.saved.cards import HISTORY

log = logging.getLogger(__name__)

_SCALARS = ("loss", "accuracy", "val_loss", "val_accuracy")
_EXPLODED = 10.0
"""A loss of this many times what it was before training, or that of guessing, is the end."""


@dataclass(frozen=True)
class Options:
    """How a composed model is trained, see `featcache.fine_tune`."""

    learning_rate: float
    epochs: int = 10
    optimizer: str = "adam"
    momentum: float = 0.9
    schedule: str = "constant"
    weight_decay: float = 0.0
    batch_size: int = 32
    mixed_precision: bool = False
    train_batch_norm: bool = False
    augmentation: Augmentation | None = None
    class_weight: str | None = None
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        checks.check(self, _RULES)

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self.learning_rate * decay(self.schedule, epoch / self.epochs)


_RULES = {
    "learning_rate": checks.POSITIVE,
    "epochs": checks.whole(1),
    "optimizer": checks.one_of(*OPTIMIZERS),
    "momentum": checks.BELOW_ONE,
    "schedule": checks.one_of(*SCHEDULES),
    "weight_decay": checks.NOT_NEGATIVE,
    "batch_size": checks.whole(1),
    "class_weight": checks.Rule("balanced, or none", lambda value: value in (None, "balanced")),
    "patience": checks.whole(1),
    "seed": checks.whole(0),
}


@dataclass
class State(Course):
    """How far training is: epochs done, and ``reason`` and ``epoch`` where it ended before its last one.

    The history has per epoch ``epoch`` (counted on from the head's), ``loss`` and ``accuracy`` while training,
    ``val_loss``, ``val_accuracy`` and ``learning_rate``; `best` has the values of all variables.
    """

    epoch: int = 0
    stopped: dict[str, Any] | None = None


_TOLD = record(
    {
        "key": text,
        "epoch": whole(),
        "since": whole(),
        "lowest": measured,
        "history": HISTORY,
        "stopped": maybe(record({"reason": text, "epoch": whole()})),
    }
)
_KEPT = ("epoch", "history", "lowest", "since", "stopped")
"""What a file says of a `State`, in their order there."""


class Checkpoint:
    """One file that holds a whole `State`, the weights and the optimizer's; replaced as a whole.

    `key` is a digest of all that decides what training does: a file of another key is of another training. `check` is
    called before the file is written, and raises `CacheBusyError` if another process writes it now.
    """

    def __init__(self, path: Path, key: str, check: Callable[[], None] = lambda: None) -> None:
        self.path, self._key, self._check = path, key, check

    def save(self, state: State, variables: list[Any], optimizer: Any) -> None:
        """Publish everything that going on needs."""
        told = {"key": self._key, **{name: getattr(state, name) for name in _KEPT}}
        arrays = {"state": np.frombuffer(json.dumps(told).encode(), np.uint8)}
        groups = {"now": _values(variables), "best": state.best, "optimizer": _values(optimizer.variables)}
        for name, values in groups.items():
            arrays |= {f"{name}{i}": value for i, value in enumerate(values)}
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        self._check()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        publish(self.path, content.getbuffer())

    def restore(self, variables: list[Any], optimizer: Any) -> State:
        """Put the weights of a former run back and return how far it was; a new state if there is none."""
        if not self.path.exists():
            return State()
        arrays: dict[str, list[Array]]
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                told = parsed(stored["state"].tobytes())
                _TOLD(told, "")
                if set(told) != {"key", *_KEPT}:
                    raise ValueError(f"it says {sorted(told)}")
                arrays = {name: [] for name in ("now", "best", "optimizer")}
                for name, values in arrays.items():
                    while (key := f"{name}{len(values)}") in stored.files:
                        values.append(stored[key])
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read (%s): starting again", self.path, error)
            return State()
        if told["key"] != self._key:
            raise OptionError(
                f"{str(self.path)!r} is of a fine-tuning with other options or images, which stopped after epoch "
                f"{told['epoch']}. Use the same ones to resume it, delete the file to start again, or choose another "
                "`out`."
            )
        for name, wanted in (("now", variables), ("best", variables), ("optimizer", optimizer.variables)):
            kept = arrays[name]
            if name == "best" and not kept:
                continue
            if [array.shape for array in kept] != [tuple(variable.shape) for variable in wanted]:
                log.warning("%s cannot be read (other weights than the model's): starting again", self.path)
                return State()
        put(variables, arrays["now"])
        put(optimizer.variables, arrays["optimizer"])
        log.info("resuming after epoch %d of %s", told["epoch"], self.path)
        return State(best=arrays["best"], **{name: told[name] for name in _KEPT})

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)


def put(variables: list[Any], values: list[Array]) -> None:
    """Assign values to variables."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class Trainer:
    """A composed model and the images it is trained on.

    The trainable weights of `parts` train, on the pictures of ``train``; those of ``validation`` that are `unseen`
    choose the epoch. `columns` says which class each of the model's outputs is of.
    """

    def __init__(
        self,
        parts: Composition,
        pictures: Pictures,
        columns: list[int],
        options: Options,
        unseen: Callable[[Picture], bool],
    ) -> None:
        self.parts, self.pictures, self.options, self._unseen = parts, pictures, options, unseen
        self._column = {label: i for i, label in enumerate(columns)}
        self._weights = self._class_weights()
        self._logits = _forward(parts)

    def run(
        self,
        checkpoint: Checkpoint,
        *,
        initial_epoch: int,
        tensorboard: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> State:
        """Train, and leave the weights of the epoch with the lowest validation loss in the model.

        The state's `best` is empty if no epoch ended well; the model's weights then are those it began with.
        """
        write = _summary_writer(tensorboard)
        options, variables = self.options, self.parts.model.variables
        rate, decay_by = options.learning_rate, options.weight_decay
        optimizer = make_optimizer(options.optimizer, rate, options.momentum, weight_decay=decay_by)
        start = _values(variables)
        limit = _EXPLODED * max(self.validation()[0], math.log(max(2, len(self._column))))
        step = _step(self.parts, optimizer, options)
        state = checkpoint.restore(variables, optimizer)
        count = len(self.pictures.by_split["train"])
        while state.epoch < options.epochs and state.since < options.patience and state.stopped is None:
            optimizer.learning_rate = options.rate(state.epoch)
            shown = progress and _within(progress, state.epoch * count, options.epochs * count)
            epoch = initial_epoch + state.epoch + 1
            seen = {"epoch": epoch, **self._epoch(step, state.epoch, shown)}
            if math.isfinite(seen["loss"]):
                seen["val_loss"], seen["val_accuracy"] = self.validation()
            worst = max(seen["loss"], seen.get("val_loss", math.nan))
            if not math.isfinite(seen["loss"] + seen.get("val_loss", 0.0)) or worst > limit:
                what = f"the loss went to {worst:.4g}" if math.isfinite(worst) else "the loss was not finite"
                state.stopped = {"reason": what, "epoch": epoch}
                break
            state.note({**seen, "learning_rate": options.rate(state.epoch)}, lambda: _values(variables))
            state.epoch += 1
            what = "epoch %d: loss %.4f, accuracy %.4f; on validation %.4f, %.4f"
            log.info(what, epoch, *(seen[name] for name in _SCALARS))
            if state.since == options.patience and state.epoch < options.epochs:
                state.stopped = {"reason": f"no better validation loss for {state.since} epochs", "epoch": epoch}
            write(seen)
            checkpoint.save(state, variables, optimizer)
        put(variables, state.best or start)
        return state

    def _epoch(self, step: Any, epoch: int, progress: Callable[[int], None] | None) -> dict[str, float]:
        """Train for an epoch and return loss and accuracy; ends at once where the loss is not finite."""
        order = np.random.default_rng([self.options.seed, epoch]).permutation(len(self.pictures.by_split["train"]))
        total = right = done = 0.0
        batches = self.pictures.batches(
            "train", self.options.batch_size, order=order, augmentation=self.options.augmentation, view=epoch + 1
        )
        with contextlib.closing(batches):  # type: ignore[type-var]
            for pictures, pixels in batches:
                target = np.array([self._column[one.label] for one in pictures], np.int64)
                loss, correct = step(pixels, target, self._weights[target])
                total, right, done = total + float(loss), right + float(correct), done + len(pictures)
                if not math.isfinite(total):
                    break
                if progress is not None:
                    progress(int(done))
        if not done:
            raise OptionError("No training image can be read. Look at the reasons of the skipped images.")
        return {"loss": total / done, "accuracy": right / done}

    def validation(self) -> tuple[float, float]:
        """Return loss and accuracy on the validation images that may count."""
        loss, correct, count = 0.0, 0, 0
        for pictures, pixels in self.pictures.batches("validation", self.options.batch_size):
            logarithms = _log_probabilities(self._logits(pixels))
            for one, row in zip(pictures, logarithms, strict=True):
                if self._unseen(one):
                    count += 1
                    column = self._column.get(one.label)
                    loss -= float(row[column]) if column is not None else math.log(1e-15)
                    correct += column is not None and int(row.argmax()) == column
        return loss / count, correct / count

    def _class_weights(self) -> Float32s:
        labels = [self._column[one.label] for one in self.pictures.by_split["train"]]
        if self.options.class_weight is None:
            return np.ones(len(self._column), np.float32)
        images = np.bincount(labels, minlength=len(self._column))
        return (len(labels) / (len(self._column) * np.maximum(images, 1))).astype(np.float32)


def _values(variables: list[Any]) -> list[Array]:
    return [variable.numpy() for variable in variables]


def _within(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int], None]:
    """Return what reports an epoch's progress as a part of all."""
    return lambda done: progress(before + done, total)


def _log_probabilities(logits: Float32s) -> Floats:
    """Return the logarithms of probabilities, (n, k), of logits (n, k), or (n, 1) of the second of two classes."""
    exact = logits.astype(np.float64)
    if exact.shape[1] == 1:
        exact = np.hstack([np.zeros_like(exact), exact])
    return np.asarray(exact - np.logaddexp.reduce(exact, axis=1, keepdims=True))


def _calibrated(parts: Composition, scores: Any) -> Any:
    """Return logits: what a sigmoid (one column) or a softmax makes the model's probabilities of."""
    import tensorflow as tf

    logits = tf.cast(scores, tf.float32) * parts.expression.scale + parts.expression.shift
    return tf.math.log_sigmoid(logits) if parts.expression.activation == "normalized" else logits


def _forward(parts: Composition) -> Callable[[Float32s], Float32s]:
    """Return a compiled function from pixels to logits, in inference mode."""

    def logits(pixels: Any) -> Any:
        return _calibrated(parts, parts.scores(parts.features(pixels, training=False), training=False))

    forward = compiled(logits, parts.model.inputs[0].shape)
    return lambda pixels: np.asarray(forward(pixels))


def _step(parts: Composition, optimizer: Any, options: Options) -> Any:
    """Return a compiled function that trains on a batch of pixels, see `training_step`."""
    scoring = _training_scores(parts.scores, options.train_batch_norm)

    def logits(pixels: Any) -> Any:
        return _calibrated(parts, scoring(parts.features(pixels, training=options.train_batch_norm)))

    with _mixed(parts.network) if options.mixed_precision else contextlib.nullcontext():
        return training_step(parts.model, logits, optimizer)


def _training_scores(scoring: Any, train_batch_norm: bool) -> Any:
    """Return a head with dropout at work and batch normalisation in inference mode, unless that trains.

    A mode given to a model goes to all its layers, over what each of them was called with.
    """
    import keras

    if not isinstance(scoring, keras.Model):
        return scoring

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.layers.BatchNormalization):
            kwargs["training"] = train_batch_norm
        elif isinstance(layer, keras.layers.Dropout):
            kwargs["training"] = True
        return layer(*args, **kwargs)

    return keras.models.clone_model(scoring, clone_function=lambda layer: layer, call_function=call)


@contextlib.contextmanager
def _mixed(network: Any) -> Iterator[None]:
    """Let a base compute in bfloat16 while it is traced, all but the layer that gives its output."""
    import keras

    def inner(model: Any) -> Iterator[Any]:
        for layer in model.layers[:-1]:
            yield from layer._flatten_layers() if isinstance(layer, keras.Model) else [layer]
        if isinstance(model.layers[-1], keras.Model):
            yield from inner(model.layers[-1])

    passive = keras.layers.InputLayer | keras.Model
    policies = [(layer, layer.dtype_policy) for layer in inner(network) if not isinstance(layer, passive)]
    for layer, _ in policies:
        layer.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    try:
        yield
    finally:
        for layer, policy in policies:
            layer.dtype_policy = policy


def _summary_writer(folder: Path | None) -> Callable[[dict[str, float]], None]:
    """Return a function that writes an epoch's scalars for TensorBoard; without a folder, it does nothing."""
    if folder is None:
        return lambda seen: None
    import tensorflow as tf

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"The folder of `tensorboard` cannot be written: {str(folder)!r}: {error.strerror}."
        ) from None
    writer = tf.summary.create_file_writer(str(folder))

    def write(seen: dict[str, float]) -> None:
        # `tf.summary.scalar` needs the package tensorboard to write what only tensorboard reads
        for name in _SCALARS:
            tf.raw_ops.WriteScalarSummary(
                writer=writer._resource, step=np.int64(seen["epoch"]), tag=f"epoch_{name}", value=np.float32(seen[name])
            )
        writer.flush()

    return write
