import numpy as np
import pytest
from scipy.optimize import curve_fit

from featcache.insight.advice.curve import Curve, power_law

SIZES = np.array([100, 200, 350, 500, 700, 1000])


@pytest.mark.parametrize(("a", "b", "c"), [(0.05, 2.0, 0.5), (0.0, 1.0, 0.25), (0.1, 30.0, 1.0), (0.2, 0.0, 1.0)])
def test_a_power_law_is_found_again(a: float, b: float, c: float) -> None:
    """Errors that follow a power law without noise are continued as it goes on."""
    errors = a + b * SIZES.astype(float) ** -c
    found = power_law(SIZES.astype(float), errors[None], np.ones(6), np.array([2000.0, 4000.0]))[0]
    np.testing.assert_allclose(found, a + b * np.array([2000.0, 4000.0]) ** -c, rtol=1e-3)


def test_the_fit_equals_scipys() -> None:
    """Noisy errors get the weighted fit that SciPy's bounded least squares finds."""
    rng = np.random.default_rng(0)
    errors = 0.05 + 2 * SIZES.astype(float) ** -0.5 + rng.normal(size=6) * 0.004
    sigma = np.linspace(0.5, 1.5, 6)

    def law(n: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
        return a + b * (n / 1000) ** -c

    best, _ = curve_fit(law, SIZES, errors, p0=[0.05, 0.06, 0.5], sigma=sigma, bounds=([0, 0, 0.05], [1, 1, 2]))
    found = power_law(SIZES.astype(float), errors[None], sigma**-2, np.array([2000.0]))[0, 0]
    assert abs(found - law(2000, *best)) < 1e-3


def simulated(n: int, *, slope: float, seed: int) -> Curve:
    """Return a curve whose true error is 0.05 + slope · size^-½."""
    rng = np.random.default_rng(seed)
    hardness = rng.random(n)
    wrong = [
        hardness + rng.normal(size=(1 if size == 1000 else 5, n)) * 0.02 < 0.05 + slope * size**-0.5 for size in SIZES
    ]
    return Curve(SIZES, wrong, np.arange(n))


@pytest.mark.parametrize("slope", [0.0, 4.0])
def test_the_interval_holds_the_true_gain(slope: float) -> None:
    """Of 20 simulated curves, the true gain of twice the images lies in the interval of most; it is never above 1."""
    true = slope * (1000**-0.5 - 2000**-0.5)
    hits = 0
    for seed in range(20):
        twice, four = simulated(800, slope=slope, seed=seed).extrapolated()
        hits += twice["gain_ci95"][0] - 0.002 <= true <= twice["gain_ci95"][1] + 0.002
        assert twice["images"] == 2000
        assert four["times"] == 4
        assert twice["accuracy"] <= four["accuracy"] <= 1
    assert hits >= 14


def test_points_have_means_and_spreads() -> None:
    """A point's accuracy is the mean over draws, its spread their standard deviation."""
    points = simulated(500, slope=2.0, seed=0).points()
    curve = simulated(500, slope=2.0, seed=0)
    right = 1 - curve.wrong[0].mean(axis=1)
    assert points[0]["accuracy"] == pytest.approx(right.mean())
    assert points[0]["accuracy_sd"] == pytest.approx(right.std(ddof=1))
    assert points[0]["accuracy_ci95"][0] < right.mean() < points[0]["accuracy_ci95"][1]
    assert points[-1]["draws"] == 1
    assert points[-1]["accuracy_sd"] == 0


def test_what_is_resampled_is_groups() -> None:
    """400 images that are copies of 20 give a wider interval than if they were 400 images."""
    rng = np.random.default_rng(3)
    hardness = np.repeat(rng.random(20), 20)
    wrong = [(hardness < 0.05 + 10 * size**-0.5)[None] for size in SIZES]
    widths = []
    for groups in (np.repeat(np.arange(20), 20), np.arange(400)):
        low, high = Curve(SIZES, wrong, groups).extrapolated()[0]["gain_ci95"]
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1] > 0
