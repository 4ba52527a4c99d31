"""From evidence to advice: the four classic cases, and what each way to go on can be expected to bring."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from featcache.insight.advice.evidence import Evidence

LARGE = 500
"""Training images of the smallest class from which training a part of the base is worth a try: a rule of thumb."""
SURE = 0.05
MATTERS = 0.01
"""A gain in accuracy that is worth something."""
WIDE = 0.1
"""Half the width of an accuracy's interval, beyond which nothing is decided by it."""
FITS = 0.8
"""Part of the way from chance to no error that a single layer must cover for its domain to count as similar."""


@dataclass(frozen=True)
class Way:
    """A way to go on.

    Attributes
    ----------
    name : str
        ``data``, ``layer``, ``augmentation`` or ``fine-tuning``.
    expected : {"helps", "no", "unknown"}
        Whether it can be expected to help.
    reason : str
        Why, with the numbers; or what is not known.
    command : str or None
        What to run to do it, or to know more.
    """

    name: str
    expected: str
    reason: str
    command: str | None = None


@dataclass(frozen=True)
class Advice:
    """What to do next, and why.

    Attributes
    ----------
    cache : str
        The cache's folder.
    amount : {"small", "large"}
        Of data: whether the smallest class has fewer than 500 training images.
    similarity : {"similar", "different", "unknown"}
        Of the images to what the base was trained on, as far as its layers show it.
    enough : bool
        Whether there is enough data to tell.
    recommendation : str
        In one sentence.
    reasons : tuple of str
        What it rests on.
    command : str or None
        What to run next.
    ways : tuple of Way
        What each way to go on can be expected to bring.
    layers : tuple of dict
        ``layer``, ``accuracy`` and ``accuracy_ci95``, the deepest last.
    curve : tuple of dict
        See `featcache.insight.advice.curve.Curve.points`; empty where there is none.
    extrapolation : tuple of dict
        See `featcache.insight.advice.curve.Curve.extrapolated`.
    held_out : dict
        ``images``, ``from`` (a split) and ``chance``.
    images_per_class : dict
        Distinct training images.
    notes : tuple of str
        What was not done, or on a sample only.
    """

    cache: str
    amount: str
    similarity: str
    enough: bool
    recommendation: str
    reasons: tuple[str, ...]
    command: str | None
    ways: tuple[Way, ...]
    layers: tuple[dict[str, Any], ...]
    curve: tuple[dict[str, Any], ...]
    extrapolation: tuple[dict[str, Any], ...]
    held_out: dict[str, Any]
    images_per_class: dict[str, int]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; the keys are the attributes' names."""
        return {**asdict(self), "ways": [asdict(way) for way in self.ways]}


def why_not_enough(evidence: Evidence) -> str | None:
    """Say why nothing can be told, None if something can."""
    low, high = evidence.layers[evidence.best].accuracy_ci95
    if evidence.held_out == 0 or (high - low) / 2 > WIDE:
        return (
            f"accuracy on {evidence.held_out} held-out images is known to within {100 * (high - low) / 2:.0f} points "
            f"only ({_interval((low, high))})"
        )
    if evidence.curve is None:
        name, count = min(evidence.images_per_class.items(), key=lambda item: item[1])
        return f"class {name} has {count} different training images"
    return None


def similarity(evidence: Evidence, *, last: bool) -> tuple[str, str]:
    """Return whether the images are similar to the base's domain, and why: by accuracy along its depth.

    `last`: whether the base ends with the deepest layer there is; if not, what its late layers do is not known.
    """
    best, deepest = evidence.layers[evidence.best], evidence.layers[-1]
    if len(evidence.layers) == 1:
        covered = (best.accuracy_ci95[0] - evidence.chance) / max(1 - evidence.chance, 1e-9)
        what = (
            f"{best.layer} alone separates the classes with accuracy {best.accuracy:.3f} "
            f"({_interval(best.accuracy_ci95)}), chance {evidence.chance:.3f}"
        )
        if covered >= FITS:
            late = "what the base has learned carries over" if last else "of its late layers that says nothing"
            return "similar" if last else "unknown", f"{what}: {late}"
        return "unknown", f"{what}: one layer does not show whether the base's domain or the classes are the reason"
    depth = ", ".join(f"{one.layer} {one.accuracy:.3f}" for one in evidence.layers)
    if evidence.p_value <= SURE:
        return "different", (
            f"by depth: {depth}; {best.layer} is better than the deeper {deepest.layer} (McNemar p = "
            f"{evidence.p_value:.2g}): late layers have thrown away what these classes need"
        )
    if best is deepest:
        if not last:
            return "unknown", f"by depth: {depth}; whether the base's later layers suit is not shown"
        return "similar", f"by depth: {depth}; the deepest is the best"
    return "similar", (
        f"by depth: {depth}; {best.layer} is not distinguishable from {deepest.layer} (McNemar p = "
        f"{evidence.p_value:.2g})"
    )


def data_way(evidence: Evidence, extrapolation: list[dict[str, Any]], doubt: str | None) -> Way:
    """Return what more training images can be expected to bring."""
    if doubt:
        return Way("data", "unknown", doubt)
    if not extrapolation:
        return Way("data", "unknown", "there is no learning curve: a class has too few images, or none is held out")
    twice, four = extrapolation
    low, high = twice["gain_ci95"]
    said = (
        f"twice the training images: {_points(twice['gain'])} points of accuracy ({_points(low)} to {_points(high)}); "
        f"four times: {_points(four['gain'])} ({_points(four['gain_ci95'][0])} to {_points(four['gain_ci95'][1])}); "
        "beyond that nothing is known"
    )
    if high < MATTERS:
        return Way("data", "no", f"{said}; the curve is flat")
    if low > 0 and max(2 * twice["gain"], four["gain"]) >= MATTERS:
        return Way("data", "helps", f"{said}, if new images are like the old ones")
    return Way("data", "unknown", f"{said}; that may be nothing")


def case(amount: str, domain: str) -> str:
    """Return what is usually done in each of the four cases."""
    what = {
        "small similar": "few images, similar to the base's: a linear head on late features",
        "small different": "few images, different from the base's: a linear head on earlier features",
        "large similar": "many images, similar to the base's: fine-tune the last layers, starting from a head",
        "large different": "many images, different from the base's: fine-tune all of it from its weights",
    }
    few = "few" if amount == "small" else "many"
    return what.get(f"{amount} {domain}", f"{few} images; whether they are similar is not known")


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _interval(interval: tuple[float, float]) -> str:
    return "95 %: {:.3f}-{:.3f}".format(*interval)
