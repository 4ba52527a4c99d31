"""A learning curve with its uncertainty, and what its power law says of more data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.training.metrics import wilson_interval

Floats = npt.NDArray[np.float64]

RESAMPLES = 400
EXPONENTS = np.arange(0.05, 2.01, 0.05)
"""Of the power law; errors of trained models fall with exponents of 0.05 to 1, mostly (Hestness et al. 2017)."""
MULTIPLES = (2, 4)
"""How much more data is extrapolated to; nothing is said of more."""


@dataclass(frozen=True)
class Curve:
    """How accuracy on n held-out images grows with p numbers of training images, `sizes` (p,), in growing order.

    `wrong` has p arrays, each of shape (draws, n): which images each draw's head got wrong. `groups` (n,) are equal for
    held-out images that belong together.
    """

    sizes: npt.NDArray[np.int64]
    wrong: list[npt.NDArray[np.bool_]]
    groups: npt.NDArray[np.int64]

    def points(self) -> list[dict[str, Any]]:
        """Return ``images``, ``accuracy``, ``accuracy_sd`` over draws, ``accuracy_ci95`` and ``draws`` by size.

        The interval is Wilson's for the held-out images, about the mean over draws.
        """
        rows = []
        for size, wrong in zip(self.sizes.tolist(), self.wrong, strict=True):
            right = 1 - wrong.mean(axis=1)
            n = wrong.shape[1]
            accuracy = float(right.mean())
            spread = float(right.std(ddof=1)) if len(right) > 1 else 0.0
            interval = list(wilson_interval(round(accuracy * n), n))
            row = {"images": size, "accuracy": accuracy, "accuracy_sd": spread, "accuracy_ci95": interval}
            rows.append(row | {"draws": len(right)})
        return rows

    def extrapolated(self, *, seed: int = 0) -> list[dict[str, Any]]:
        """Return what 2 and 4 times the training images can be expected to bring.

        A power law error(n) = a + b n⁻ᶜ with a, b ≥ 0 is fitted by weighted least squares to the curve, and to
        400 resamples of it, in each of which groups of held-out images and draws are drawn anew.

        For each of `MULTIPLES`: ``times``, ``images``, ``accuracy``, ``gain`` (points of accuracy in 0…1 over the
        fitted value at the whole data) and ``gain_ci95`` (percentiles of the resamples).
        """
        rng = np.random.default_rng(seed)
        _, member = np.unique(self.groups, return_inverse=True)
        n, count = len(member), int(member.max()) + 1
        errors = np.empty((RESAMPLES + 1, len(self.sizes)))
        errors[0] = [wrong.mean() for wrong in self.wrong]
        for i in range(1, RESAMPLES + 1):
            weights = np.bincount(rng.integers(0, count, count), minlength=count)[member].astype(np.float64)
            weights /= max(weights.sum(), 1)
            for j, wrong in enumerate(self.wrong):
                errors[i, j] = (wrong[rng.integers(0, len(wrong), len(wrong))] @ weights).mean()
        spread = errors[0] * (1 - errors[0]) / n
        spread += [wrong.mean(axis=1).var() / len(wrong) for wrong in self.wrong]
        weight = 1 / np.maximum(spread, 0.25 / n**2)
        ends = float(self.sizes[-1]) * np.array([1, *MULTIPLES])
        fitted = power_law(self.sizes.astype(np.float64), errors, weight, ends)
        gains = fitted[:, :1] - fitted[:, 1:]
        low, high = np.percentile(gains[1:], [2.5, 97.5], axis=0)
        rows = []
        for j, times in enumerate(MULTIPLES):
            row = {"times": times, "images": int(ends[j + 1]), "accuracy": float(1 - fitted[0, j + 1])}
            rows.append(row | {"gain": float(gains[0, j]), "gain_ci95": [float(low[j]), float(high[j])]})
        return rows


def power_law(sizes: Floats, errors: Floats, weight: Floats, at: Floats) -> Floats:
    """Return the errors (m, q) at sizes (q,) of the power laws a + b n⁻ᶜ, a, b ≥ 0, that fit errors (m, p) best.

    The m curves were measured at `sizes` (p,); `weight` (p,) has the weights of the errors' squares.
    """
    best = np.full(len(errors), np.inf)
    found = np.empty((len(errors), len(at)))
    scale = sizes[-1]
    for exponent in EXPONENTS:
        x = (sizes / scale) ** -exponent
        total, mean_x, mean_y = weight.sum(), np.average(x, weights=weight), np.average(errors, axis=1, weights=weight)
        slope = ((errors - mean_y[:, None]) * (x - mean_x) * weight).sum(axis=1)
        slope = np.maximum(slope / (weight * (x - mean_x) ** 2).sum(), 0)
        through = (errors * x * weight).sum(axis=1) / (weight * x**2).sum()  # with a = 0
        offset = mean_y - slope * mean_x
        slope, offset = np.where(offset < 0, through, slope), np.maximum(offset, 0)
        loss = ((errors - offset[:, None] - slope[:, None] * x) ** 2 * weight).sum(axis=1) / total
        better = loss < best
        best[better] = loss[better]
        found[better] = offset[better, None] + slope[better, None] * (at / scale) ** -exponent
    return found
