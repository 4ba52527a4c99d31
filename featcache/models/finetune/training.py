"""Training a composed model on images, epoch by epoch, so that a kill costs one epoch at most."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import OptionError
from featcache.files.publishing import publish
from featcache.files.reading import parsed
from featcache.files.values import maybe, measured, record, text, whole
from featcache.images.augmentation import Augmentation
from featcache.models.composition import Composition
from featcache.models.finetune.pictures import Picture, Pictures
from featcache.saved.cards import HISTORY

log = logging.getLogger(__name__)

_OPTIMIZERS = ("adam", "sgd", "rmsprop")
_SCHEDULES = ("constant", "cosine", "exponential")
_EXPLODED = 10.0
"""A loss of so many times what it was before training, or that of guessing, is the end."""

Forward = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


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
        rules = [
            ("learning_rate", "a number above 0", 0 < self.learning_rate < math.inf),
            ("epochs", "1 or more", self.epochs >= 1),
            ("optimizer", f"one of {', '.join(_OPTIMIZERS)}", self.optimizer in _OPTIMIZERS),
            ("momentum", "0 <= x < 1", 0 <= self.momentum < 1),
            ("schedule", f"one of {', '.join(_SCHEDULES)}", self.schedule in _SCHEDULES),
            ("weight_decay", "0 or more", 0 <= self.weight_decay < math.inf),
            ("batch_size", "1 or more", self.batch_size >= 1),
            ("class_weight", "balanced, or none", self.class_weight in (None, "balanced")),
            ("patience", "1 or more", self.patience >= 1),
            ("seed", "0 or more", self.seed >= 0),
        ]
        for name, expected, holds in rules:
            if not holds:
                raise OptionError(f"Expected {name}: {expected}. Received: {name}={getattr(self, name)!r}.")

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        part = epoch / self.epochs
        factors: dict[str, float] = {
            "constant": 1.0,
            "cosine": (1 + math.cos(math.pi * part)) / 2,
            "exponential": math.pow(0.01, part),
        }
        return self.learning_rate * factors[self.schedule]

    def to_dict(self) -> dict[str, Any]:
        """Return them as JSON-ready values."""
        return asdict(self)


@dataclass
class State:
    """How far training is.

    Attributes
    ----------
    epoch : int
        Whole epochs done.
    history : dict
        Per epoch ``epoch`` (counted on from the head's), ``loss`` and ``accuracy`` while training, ``val_loss``,
        ``val_accuracy`` and ``learning_rate``.
    lowest : float
        The lowest ``val_loss``, of the weights `best`.
    since : int
        Epochs since then.
    stopped : dict or None
        ``reason`` and ``epoch``, where training ended before its last epoch.
    best : list of arrays
        Values of all variables; empty before the first epoch.
    """

    epoch: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)
    lowest: float = math.inf
    since: int = 0
    stopped: dict[str, Any] | None = None
    best: list[npt.NDArray[Any]] = field(default_factory=list)


_TOLD = record({"key": text, "epoch": whole(), "since": whole(), "lowest": measured, "history": HISTORY,
                "stopped": maybe(record({"reason": text, "epoch": whole()}))})  # fmt: skip


class Checkpoint:
    """One file that holds a whole `State`, the weights and the optimizer's; replaced as a whole.

    Parameters
    ----------
    path : Path
        Where.
    key : str
        Digest of all that decides what training does: a file of another key is of another training.
    check : callable, optional
        Called before the file is written; raises `CacheBusyError` if another process writes it now.
    """

    def __init__(self, path: Path, key: str, check: Callable[[], None] = lambda: None) -> None:
        self.path, self._key, self._check = path, key, check

    def save(self, state: State, variables: list[Any], optimizer: Any) -> None:
        """Publish everything that going on needs."""
        told = {"key": self._key, "epoch": state.epoch, "history": state.history, "lowest": state.lowest,
                "since": state.since, "stopped": state.stopped}  # fmt: skip
        arrays = {"state": np.frombuffer(json.dumps(told).encode(), np.uint8)}
        groups = (("now", [v.numpy() for v in variables]), ("best", state.best),
                  ("optimizer", [v.numpy() for v in optimizer.variables]))  # fmt: skip
        for name, values in groups:
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
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                told = parsed(stored["state"].tobytes())
                _TOLD(told, "")
                if set(told) != {"key", "epoch", "since", "lowest", "history", "stopped"}:
                    raise ValueError(f"it says {sorted(told)}")
                same = told["key"] == self._key
                arrays = {name: [stored[f"{name}{i}"] for i in range(len(stored.files)) if f"{name}{i}" in stored.files]
                          for name in ("now", "best", "optimizer")}  # fmt: skip
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read (%s): beginning anew", self.path, error)
            return State()
        if not same:
            raise OptionError(
                f"Expected the options and images of the fine-tuning that {str(self.path)!r} is of, which stopped "
                f"after epoch {told['epoch']}. Received others. Take the same to go on with it, delete the file to "
                "begin anew, or choose another --out."
            )
        for name, wanted in (("now", variables), ("best", variables), ("optimizer", optimizer.variables)):
            kept = arrays[name]
            if name == "best" and not kept:
                continue
            if [array.shape for array in kept] != [tuple(variable.shape) for variable in wanted]:
                log.warning("%s cannot be read (other weights than the model's): beginning anew", self.path)
                return State()
        put(variables, arrays["now"])
        put(optimizer.variables, arrays["optimizer"])
        log.info("going on after epoch %d of %s", told["epoch"], self.path)
        return State(
            best=arrays["best"], **{name: told[name] for name in ("epoch", "history", "lowest", "since", "stopped")}
        )

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)


def put(variables: list[Any], values: list[npt.NDArray[Any]]) -> None:
    """Assign values to variables."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class Trainer:
    """A composed model and the images it is trained on.

    Parameters
    ----------
    parts : Composition
        Its trainable weights are those that train.
    pictures : Pictures
        ``train`` to train on, ``validation`` to choose the epoch by.
    columns : list of int
        Which class each of the model's outputs is of.
    options : Options
    unseen : callable
        Whether an image may count in validation.
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
        self, checkpoint: Checkpoint, *, initial_epoch: int, tensorboard: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> State:  # fmt: skip
        """Train, and leave the weights of the epoch with the lowest validation loss in the model.

        Returns
        -------
        State
            Its `best` is empty if no epoch ended well; the model's weights then are those it began with.
        """
        write = _summary_writer(tensorboard)
        options, variables = self.options, self.parts.model.variables
        optimizer = _optimizer(options)
        optimizer.build(self.parts.model.trainable_variables)
        start = [variable.numpy() for variable in variables]
        limit = _EXPLODED * max(self.validation()[0], math.log(max(2, len(self._column))))
        step = _step(self.parts, optimizer, options)
        state = checkpoint.restore(variables, optimizer)
        count = len(self.pictures.by_split["train"])
        while state.epoch < options.epochs and state.since < options.patience and state.stopped is None:
            optimizer.learning_rate = options.rate(state.epoch)
            shown = progress and _within(progress, state.epoch * count, options.epochs * count)
            seen = {"epoch": float(initial_epoch + state.epoch), **self._epoch(step, state.epoch, shown)}
            if math.isfinite(seen["loss"]):
                seen["val_loss"], seen["val_accuracy"] = self.validation()
            worst = max(seen["loss"], seen.get("val_loss", math.nan))
            if not math.isfinite(seen["loss"] + seen.get("val_loss", 0.0)) or worst > limit:
                what = f"the loss went to {worst:.4g}" if math.isfinite(worst) else "the loss was not finite"
                state.stopped = {"reason": what, "epoch": int(seen["epoch"])}
                break
            self._note(state, {**seen, "learning_rate": options.rate(state.epoch)}, variables)
            write(seen)
            checkpoint.save(state, variables, optimizer)
        put(variables, state.best or start)
        return state

    def _note(self, state: State, seen: dict[str, float], variables: list[Any]) -> None:
        """Add an epoch to the history and keep its weights if it is the best."""
        state.epoch += 1
        state.since += 1
        if seen["val_loss"] < state.lowest:
            state.lowest, state.since = seen["val_loss"], 0
            state.best = [variable.numpy() for variable in variables]
        for name, value in seen.items():
            state.history.setdefault(name, []).append(int(value) if name == "epoch" else value)
        log.info("epoch %d: loss %.4f, accuracy %.4f; on validation %.4f, %.4f", seen["epoch"],
                 seen["loss"], seen["accuracy"], seen["val_loss"], seen["val_accuracy"])  # fmt: skip
        if state.since == self.options.patience and state.epoch < self.options.epochs:
            reason = f"no better validation loss for {state.since} epochs"
            state.stopped = {"reason": reason, "epoch": int(seen["epoch"])}

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
            raise OptionError("Expected training images that can be read. Received: none. Look at the skipped ones.")
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

    def _class_weights(self) -> npt.NDArray[np.float32]:
        labels = [self._column[one.label] for one in self.pictures.by_split["train"]]
        if self.options.class_weight is None:
            return np.ones(len(self._column), np.float32)
        images = np.bincount(labels, minlength=len(self._column))
        return (len(labels) / (len(self._column) * np.maximum(images, 1))).astype(np.float32)


def _within(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int], None]:
    """Return what reports an epoch's progress as a part of all."""
    return lambda done: progress(before + done, total)


def _log_probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the logarithms of probabilities, (n, k), of logits (n, k), or (n, 1) of the second of two classes."""
    exact = logits.astype(np.float64)
    if exact.shape[1] == 1:
        exact = np.hstack([np.zeros_like(exact), exact])
    logarithms: npt.NDArray[np.float64] = exact - np.logaddexp.reduce(exact, axis=1, keepdims=True)
    return logarithms


def _calibrated(parts: Composition, scores: Any) -> Any:
    """Return logits: what a sigmoid (one column) or a softmax makes the model's probabilities of."""
    import tensorflow as tf

    logits = tf.cast(scores, tf.float32) * parts.expression.scale + parts.expression.shift
    return tf.math.log_sigmoid(logits) if parts.expression.activation == "normalized" else logits


def _forward(parts: Composition) -> Forward:
    """Return a compiled function from pixels to logits, in inference mode."""
    import tensorflow as tf

    def logits(pixels: Any) -> Any:
        return _calibrated(parts, parts.scores(parts.features(pixels, training=False), training=False))

    signature = tf.TensorSpec(parts.model.inputs[0].shape, tf.float32)
    compiled = tf.function(logits, input_signature=[signature], autograph=False).get_concrete_function()
    return lambda pixels: np.asarray(compiled(tf.convert_to_tensor(pixels)))


def _step(parts: Composition, optimizer: Any, options: Options) -> Any:
    """Return a compiled function that trains on a batch: from pixels, columns and weights to loss and hits."""
    import tensorflow as tf

    variables, scoring = parts.model.trainable_variables, _training_scores(parts.scores, options.train_batch_norm)

    def step(pixels: Any, target: Any, weights: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            features = parts.features(pixels, training=options.train_batch_norm)
            logits = _calibrated(parts, scoring(features))
            losses, right = _losses(logits, target)
            losses *= weights
            goal = tf.add_n([tf.reduce_mean(losses), *parts.model.losses])
        optimizer.apply(tape.gradient(goal, variables), variables)
        return tf.reduce_sum(losses), tf.math.count_nonzero(right)

    signature = [tf.TensorSpec(parts.model.inputs[0].shape, tf.float32), tf.TensorSpec((None,), tf.int64),
                 tf.TensorSpec((None,), tf.float32)]  # fmt: skip
    with _mixed(parts.network) if options.mixed_precision else contextlib.nullcontext():
        return tf.function(step, input_signature=signature, autograph=False).get_concrete_function()


def _losses(logits: Any, target: Any) -> tuple[Any, Any]:
    """Return cross-entropies and hits."""
    import tensorflow as tf

    if logits.shape[1] == 1:
        score = logits[:, 0]
        losses = tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(target, tf.float32), score)
        return losses, tf.equal(score > 0, tf.cast(target, tf.bool))
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)
    return losses, tf.equal(tf.argmax(logits, axis=1), target)


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


def _optimizer(options: Options) -> Any:
    import keras

    common = {"learning_rate": options.learning_rate, "weight_decay": options.weight_decay or None}
    if options.optimizer == "adam":
        optimizer = keras.optimizers.Adam(**common)
    elif options.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(momentum=options.momentum, **common)
    else:
        optimizer = keras.optimizers.RMSprop(**common)
    if options.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _summary_writer(folder: Path | None) -> Callable[[dict[str, float]], None]:
    """Return a function that writes an epoch's scalars for TensorBoard; without a folder, it does nothing."""
    if folder is None:
        return lambda seen: None
    import tensorflow as tf

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"Expected --tensorboard to be a folder that can be written. Received: {str(folder)!r}: {error.strerror}."
        ) from None
    writer = tf.summary.create_file_writer(str(folder))

    def write(seen: dict[str, float]) -> None:
        # `tf.summary.scalar` needs the package tensorboard to write what only tensorboard reads
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            tf.raw_ops.WriteScalarSummary(
                writer=writer._resource, step=np.int64(seen["epoch"]), tag=f"epoch_{name}", value=np.float32(seen[name])
            )
        writer.flush()

    return write
