"""What is measured before anything is advised: accuracy by layer and by number of images, honestly held out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.cache import FeatureCache
from featcache.errors import FeatcacheError, OptionError
from featcache.heads.folds import held_out
from featcache.heads.showing import left_out_text
from featcache.insight.advice.curve import Curve
from featcache.recipe import Request
from featcache.training.examples import Examples, evaluation_examples, probabilities, training_examples
from featcache.training.metrics import wilson_interval
from featcache.training.significance import mcnemar
from featcache.training.single import Plan, train

log = logging.getLogger(__name__)

PARTS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
"""Of the training groups of each class."""
DRAWS = 5
LEAST = 5
"""Training groups of the smallest class, from which there is a learning curve."""
MOST = 50_000
"""Training images of the curve and of the layers; of more, so many drawn at random."""


@dataclass(frozen=True)
class LayerScore:
    """A layer's ridge head: accuracy on n held-out images, Wilson's interval, and which it has right, shape (n,)."""

    layer: str
    accuracy: float
    accuracy_ci95: tuple[float, float]
    right: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Evidence:
    """All that is measured: distinct training images of each class, and how good heads on each layer are.

    Held-out images are those of `held_out_from` that count; always naming the most frequent class would score `chance`
    on them. `layers` has the deepest last; `best` is the index of the most accurate one, `p_value` that of McNemar's
    test of it against the deepest (1 where they are one), `curve` its learning curve (None where a class has too few
    images), `without_views` its head without augmented views. `notes` say what was done on a sample, or not at all.
    """

    images_per_class: dict[str, int]
    held_out: int
    held_out_from: str
    chance: float
    layers: list[LayerScore]
    best: int
    p_value: float
    curve: Curve | None
    without_views: LayerScore | None
    notes: list[str]


def gather(cache: FeatureCache, *, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> Evidence:
    """Measure; heads are trained on train, and scored on validation, or on a fifth of the groups of train.

    Images of test are never looked at. Copies of training images in validation do not count, nor do images of groups
    that train has images of. OptionError if train has fewer than two classes, HeadError if it has no images or one
    without a class.
    """
    notes: list[str] = []
    steps, done = len(cache.layers) + (len(PARTS) - 1) * DRAWS, 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    on_validation = _on_validation(cache, notes)
    scores, sides = [], {}
    for layer in cache.layers:
        sides[layer] = train_side, test_side = _sides(cache, layer, seed, notes, on_validation=on_validation)
        scores.append(_score(cache, layer, train_side, test_side, seed))
        step()
    best = max(range(len(scores)), key=lambda i: (scores[i].accuracy, i))
    p_value = mcnemar(scores[best].right, scores[-1].right) if best != len(scores) - 1 else 1.0
    layer = scores[best].layer
    train_side, test_side = sides[layer]
    plain = train_side.take(train_side.scored)
    counts = _groups_by_class(cache.label_indices("train"), cache.groups("train"))
    curve = None
    if len(counts) > 1 and min(counts.values()) >= LEAST:
        curve = _curve(cache, layer, plain, test_side, seed, step)
    names = cache.class_names
    return Evidence(
        images_per_class={name: counts.get(i, 0) for i, name in enumerate(names)},
        held_out=len(test_side),
        held_out_from="validation" if on_validation else "train",
        chance=float(np.bincount(test_side.labels).max() / len(test_side)) if len(test_side) else 0.0,
        layers=scores,
        best=best,
        p_value=p_value,
        curve=curve,
        without_views=_score(cache, layer, plain, test_side, seed) if cache.views else None,
        notes=list(dict.fromkeys(notes)),
    )


def _on_validation(cache: FeatureCache, notes: list[str]) -> bool:
    """Return whether validation has images that count, and note what does not."""
    if "validation" not in cache.splits:
        notes.append("there is no validation split: a fifth of the groups of train was held out instead")
        return False
    copies, members = cache.left_out("validation")
    text = left_out_text("validation", int(copies.sum()), int(members.sum()), len(copies))
    if (copies | members).all():
        notes.append(f"{text}: a fifth of the groups of train was held out instead")
        return False
    notes += [] if text is None else [text]
    return True


def _sides(
    cache: FeatureCache, layer: str, seed: int, notes: list[str], *, on_validation: bool
) -> tuple[Examples, Examples]:
    """Return what is trained on and what is scored."""
    examples = training_examples(cache, layer)
    if on_validation:
        test = evaluation_examples(cache, "validation", layer)
        test = test.take(test.scored)
    else:
        held = held_out(examples.labels, examples.groups, 0.2, seed=seed)
        test = examples.take(held & examples.scored)
        examples = examples.take(~held)
    if len(examples) > MOST:
        notes.append(f"heads were trained on {MOST:,} of {len(examples):,} training rows, drawn at random")
        chosen = np.random.default_rng(seed).choice(len(examples), MOST, replace=False)
        examples = examples.take(np.sort(chosen))
    return examples, test


def _score(cache: FeatureCache, layer: str, train_side: Examples, test_side: Examples, seed: int) -> LayerScore:
    right = _right(cache, layer, train_side, test_side, seed)
    n = len(right)
    interval = wilson_interval(int(right.sum()), n) if n else (0.0, 1.0)
    return LayerScore(layer, float(right.mean()) if n else 0.0, interval, right)


def _right(
    cache: FeatureCache, layer: str, train_side: Examples, test_side: Examples, seed: int
) -> npt.NDArray[np.bool_]:
    """Train a ridge head and return which images of the other side it has right."""
    classes, labels = np.unique(train_side.labels, return_inverse=True)
    if len(classes) < 2:
        raise OptionError(
            f"Advice needs training images of at least two classes, but there are {len(classes)}. Add images "
            "of other classes."
        )
    if not len(test_side):
        return np.empty(0, bool)
    names = [cache.class_names[i] for i in classes.tolist()]
    head = train(Plan("ridge", layer, names, calibrate="none", seed=seed), replace(train_side, labels=labels))
    found: npt.NDArray[np.bool_] = classes[probabilities(head, test_side.rows).argmax(axis=1)] == test_side.labels
    return found


def _groups_by_class(labels: npt.NDArray[np.int64], groups: npt.NDArray[np.int64]) -> dict[int, int]:
    """Return how many groups each class has; a group's class is that of its first row."""
    _, first = np.unique(groups, return_index=True)
    classes, counts = np.unique(labels[first], return_counts=True)
    return dict(zip(classes.tolist(), counts.tolist(), strict=True))


def _curve(
    cache: FeatureCache, layer: str, examples: Examples, test: Examples, seed: int, step: Callable[[], Any]
) -> Curve | None:
    """Train on growing parts of each class's groups, drawn anew each time; all of them once."""
    groups, first, member = np.unique(examples.groups, return_index=True, return_inverse=True)
    of_class = [np.flatnonzero(examples.labels[first] == label) for label in np.unique(examples.labels[first])]
    sizes: list[int] = []
    wrong: list[npt.NDArray[np.bool_]] = []
    for part in PARTS:
        draws, counts = [], []
        for draw in range(DRAWS if part < 1 else 1):
            rng = np.random.default_rng([seed, round(100 * part), draw])
            taken = np.zeros(len(groups), bool)
            for own in of_class:
                taken[rng.choice(own, max(2, round(part * len(own))), replace=False)] = True
            rows = np.flatnonzero(taken[member])
            draws.append(~_right(cache, layer, examples.take(rows), test, seed))
            counts.append(len(rows))
            step()
        if not sizes or np.mean(counts) > sizes[-1]:
            sizes.append(round(float(np.mean(counts))))
            wrong.append(np.stack(draws))
    return Curve(np.array(sizes), wrong, test.groups) if len(sizes) > 2 and len(test) else None


@dataclass(frozen=True)
class Depth:
    """Where a base can be cut or opened: one layer where each resolution ends.

    `ends` are in the network's order, empty where the base is not known; `order` is the place of every layer; the
    weights of those in `lacking` are not in the weights file.
    """

    ends: tuple[str, ...] = ()
    order: Mapping[str, int] = field(default_factory=dict)
    lacking: frozenset[str] = frozenset()

    def before(self, layer: str) -> list[str]:
        """Return the ends of resolutions before a layer."""
        place = self.order.get(layer, -1)
        return [end for end in self.ends if self.order[end] < place]

    def after(self, layer: str) -> list[str]:
        """Return the ends of resolutions after a layer."""
        place = self.order.get(layer, len(self.order))
        return [end for end in self.ends if self.order[end] > place]


def depth(cache: FeatureCache) -> Depth:
    """Return where a cache's base can be cut; nothing where it is not known any more."""
    described = cache.description.get("request")
    if described is None:
        return Depth()
    from featcache.bases import layers_of

    try:
        request = Request.from_dict(described)
        layers = layers_of(request)
    except FeatcacheError:
        return Depth()
    there, complete = _weighted(request), True
    ends, lacking = [], set()
    last = ""
    for one, following in zip(layers, [*layers[1:], None], strict=True):
        complete = complete and (there is None or not one.weight_shapes or one.address in there)
        if len(one.output_shape) != 3:
            continue
        last = last if "Padding" in one.type else one.address
        after = following.output_shape[0] if following is not None and len(following.output_shape) == 3 else None
        if last and (after is None or (one.output_shape[0] or 0) > 1.5 * (after or 0)):
            ends.append(last)
            lacking |= set() if complete else {last}
    order = {layer.address: place for place, layer in enumerate(layers)}
    return Depth(tuple(dict.fromkeys(ends)), order, frozenset(lacking))


def _weighted(request: Request) -> set[str] | None:
    """Return the layers whose weights are in the request's weights file, None if it names no readable one."""
    if request.weights in (None, "imagenet"):
        return None
    import h5py

    try:
        with h5py.File(request.weights) as file:
            part = file.get("model_weights", file)
            names = [name.decode() if isinstance(name, bytes) else str(name) for name in part.attrs["layer_names"]]
            return {name for name in names if len(part[name].attrs.get("weight_names", ()))}
    except (OSError, KeyError, ValueError):
        return None
