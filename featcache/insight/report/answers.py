"""What a model answers on a split, a few numbers for each image, however many there are."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featcache.cache import FeatureCache
from featcache.errors import BaseError, HeadError
from featcache.heads import Head
from featcache.insight.report.subject import Subject
from featcache.models.classifier import ImageClassifier
from featcache.models.evaluation import own_source
from featcache.models.folder import PixelModel
from featcache.options import Progress
from featcache.sources import Item, Selected, why_left_out
from featcache.training.examples import Examples, evaluation_examples, nothing_counts

log = logging.getLogger(__name__)

MOST_PIXELS = 5000
"""So many images at most go through a base for a report."""


@dataclass(frozen=True)
class Answers:
    """A model's answers on the n images of a split that count.

    `paths` are relative to the source; `truth` and `predicted`, shape (n,), index `class_names`; `confidence` and
    `own`, shape (n,), are the probabilities of the predicted class and of the true one. `left_out` images do not
    count: copies of training images, and images of groups that train has images of. `sampled_from` is how many images
    the split has, if not all were answered.
    """

    split: str
    class_names: list[str]
    paths: list[str]
    truth: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    own: npt.NDArray[np.float32]
    left_out: int
    sampled_from: int | None = None

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each answer is right, shape (n,)."""
        return np.equal(self.truth, self.predicted)

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts, shape (k, k): rows the true class, columns the predicted."""
        size = len(self.class_names)
        cells = np.bincount(self.truth * size + self.predicted, minlength=size * size)
        return cells.reshape(size, size).astype(np.int64)

    def mistakes(self) -> npt.NDArray[np.int64]:
        """Return indices of the wrong answers, the most confident first."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]

    def uncertain(self) -> npt.NDArray[np.int64]:
        """Return all indices, the least confident answer first."""
        return np.argsort(self.confidence, kind="stable")


def ask(subject: Subject, progress: Progress | None = None) -> Answers | None:
    """Return a subject's answers on validation images, or where none counts on test or training images.

    A head's come from cached features. Those of a whole model, and of a head whose cache is gone, come from the
    pixels of at most `MOST_PIXELS` images, drawn with a fixed seed.
    """
    model, cache = subject.model, subject.cache
    if model is None:
        return None
    if isinstance(model, Head) and cache is not None:
        split = _split(cache, subject.notes)
        return None if split is None else _from_features(model, cache, split, subject.notes)
    return _from_pixels(model, cache, subject, progress)


def _split(cache: FeatureCache, notes: list[str]) -> str | None:
    """Return the split to ask about, None where others than train have no image that counts, and say so."""
    reasons = {split: nothing_counts(cache, split) for split in cache.splits if split != "train"}
    notes += [f"{why}." for why in reasons.values() if why is not None]
    if reasons and all(reasons.values()):
        return None
    return _first([split for split in cache.splits if reasons.get(split) is None])


def _first(there: list[str]) -> str | None:
    return next((split for split in ("validation", "test", "train") if split in there), None)


def _from_features(head: Head, cache: FeatureCache, split: str, notes: list[str]) -> Answers | None:
    examples = evaluation_examples(cache, split, head.layer)
    known = {name: i for i, name in enumerate(head.class_names)}
    renumbered = np.array([*(known.get(name, -1) for name in cache.class_names), -1], np.int64)  # the last: no label
    truth = renumbered[examples.labels]
    n = len(truth)
    predicted, confidence, own = np.empty(n, np.int64), np.empty(n, np.float32), np.empty(n, np.float32)
    for part, block in examples.rows.blocks():
        shares = head.predict_proba(block)
        at = np.arange(len(shares))
        predicted[part] = shares.argmax(axis=1)
        confidence[part], own[part] = shares[at, predicted[part]], shares[at, truth[part]]
    if strange := int((truth < 0).sum()):
        notes.append(f"{strange:,} images of {split} have no class, or one that the head does not know: left out.")
    trained = _trained_on(head, cache, examples, split)
    if trained.any():
        notes.append(f"{int(trained.sum()):,} images of {split} are ones that the head was trained on: left out.")
    counts = examples.scored & (truth >= 0) & ~trained
    paths = cache.paths(split, order="storage")
    chosen = np.flatnonzero(counts)
    if not len(chosen):
        return None
    left_out = int((~examples.scored).sum())
    probabilities = confidence[chosen], own[chosen]
    names, shown = head.class_names, [paths[i] for i in chosen]
    return Answers(split, names, shown, truth[chosen], predicted[chosen], *probabilities, left_out)


def _trained_on(head: Head, cache: FeatureCache, examples: Examples, split: str) -> npt.NDArray[np.bool_]:
    """Return which examples of another split than train the head was trained on: splits may have changed since."""
    if split == "train":
        return np.zeros(len(examples), bool)
    entries = [cache.usable[i] for i in examples.images.tolist()]
    return np.array([why_left_out(head.trained_on, one, one.digest or b"") is not None for one in entries], bool)


def _from_pixels(
    model: Head | PixelModel, cache: FeatureCache | None, subject: Subject, progress: Progress | None
) -> Answers | None:
    source = subject.open_source()
    if source is None:
        return None
    try:
        classifier = ImageClassifier(model) if isinstance(model, Head) else ImageClassifier.from_model(model)
        classifier.extractor  # noqa: B018 - loads the base
    except (BaseError, HeadError) as error:
        subject.notes.append(f"The model could not be asked, so nothing is said about single images: {error}")
        return None
    policy = own_source(model)[1]
    number = {name: i for i, name in enumerate(model.class_names)}
    items = [item for item in source.items if item.label in number]
    if cache is not None:
        split = _split(cache, subject.notes)
        members = set(cache.paths(split)) if split else set()
        items = [item for item in items if item.path in members]
    chosen = _drawn(items)
    rows, left_out = [], 0
    stream = classifier.predict_records(Selected(source, chosen), progress=progress or False)
    for item, found in zip(chosen, stream, strict=True):
        if found.label is None or found.digest is None:
            continue
        of = policy.split_of(item, found.digest)
        if of != "train" and why_left_out(model.trained_on, item, found.digest) is not None:
            left_out += 1
            continue
        truth, best = number[str(item.label)], number[found.label]
        rows.append((of, item.path, truth, best, found.probability, found.probabilities[str(item.label)]))
    split = _first(list({row[0] for row in rows}))
    if split == "train" and left_out:
        subject.notes.append(
            f"All {left_out:,} images of other splits are copies of training images or of their groups."
        )
        return None
    rows = [row for row in rows if row[0] == split]
    if split is None:
        return None
    _, paths, truths, answers, confidence, own = zip(*rows, strict=True)
    return Answers(
        split,
        model.class_names,
        list(paths),
        np.array(truths, np.int64),
        np.array(answers, np.int64),
        np.array(confidence, np.float32),
        np.array(own, np.float32),
        left_out,
        None if len(chosen) == len(items) else len(items),
    )


def _drawn(items: list[Item]) -> list[Item]:
    """Return `MOST_PIXELS` of the images at most, in their order."""
    if len(items) <= MOST_PIXELS:
        return items
    drawn = np.random.default_rng(0).choice(len(items), MOST_PIXELS, replace=False)
    return [items[i] for i in np.sort(drawn)]
