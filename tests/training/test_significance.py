from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.errors import OptionError
from featcache.training.significance import clearly_lower, holm, mcnemar, paired_difference

P_VALUES = st.lists(st.floats(0, 1), max_size=12)


def results(only_first, only_second, both=3, neither=2):
    """Return which images two classifiers have right, from the four counts."""
    first = [True] * only_first + [False] * only_second + [True] * both + [False] * neither
    second = [False] * only_first + [True] * only_second + [True] * both + [False] * neither
    return np.array(first), np.array(second)


@pytest.mark.parametrize("b", range(6))
@pytest.mark.parametrize("c", range(6))
def test_mcnemar_counts_what_is_as_unlikely(b, c) -> None:
    """The p-value is the share of all ways to deal out the discordant images that are at least as one-sided."""
    ways = [abs(2 * sum(way) - b - c) >= abs(b - c) for way in product([0, 1], repeat=b + c)]
    assert mcnemar(*results(b, c)) == pytest.approx(np.mean(ways))


def test_mcnemar_of_known_cases() -> None:
    """Values worked out by hand: 2 (1 + 10)/2^10 for 1 against 9, and 2/2^6 for 0 against 6."""
    assert mcnemar(*results(1, 9)) == pytest.approx(22 / 1024)
    assert mcnemar(*results(6, 0)) == pytest.approx(2 / 64)
    assert mcnemar(*results(5, 5)) == 1.0


def test_mcnemar_of_equal_classifiers() -> None:
    """Classifiers that are right on the same images do not differ, nor do two on no images."""
    assert mcnemar(*results(0, 0)) == 1.0
    assert mcnemar(np.array([], bool), np.array([], bool)) == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.randoms())
def test_mcnemar_knows_no_order(pairs, random) -> None:
    """Which classifier comes first, the order of images and what both have right do not count."""
    first, second = np.array(pairs).T
    p = mcnemar(first, second)
    assert 0 < p <= 1
    assert mcnemar(second, first) == pytest.approx(p)
    assert mcnemar(~first, ~second) == pytest.approx(p)
    random.shuffle(pairs)
    assert mcnemar(*np.array([*pairs, (True, True)]).T) == p


def test_mcnemar_needs_the_same_images() -> None:
    """Results on different numbers of images are refused."""
    with pytest.raises(OptionError, match="3 and 2"):
        mcnemar(np.ones(3, bool), np.ones(2, bool))


def test_holm_of_known_cases() -> None:
    """Values worked out by hand, as R's p.adjust gives them."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.4, 0.5, 0.9]) == [1.0, 1.0, 1.0]
    assert holm([0.7]) == [0.7]
    assert holm([]) == []


@given(P_VALUES, st.floats(0.001, 0.999))
def test_holm_rejects_what_the_procedure_rejects(values, level) -> None:
    """Adjusted values at or below a level are those that Holm's steps, taken one by one, reject."""
    adjusted = holm(values)
    if any(abs(a - level) < 1e-12 for a in adjusted):
        return
    rejected = [False] * len(values)
    for step, i in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        if values[i] > level / (len(values) - step):
            break
        rejected[i] = True
    assert [a <= level for a in adjusted] == rejected


@given(P_VALUES, st.randoms())
def test_holm_keeps_the_order(values, random) -> None:
    """Adjusted values are at most 1, not below the raw ones, ordered alike, and go with their p-value."""
    adjusted = holm(values)
    assert all(raw <= value <= 1 for raw, value in zip(values, adjusted, strict=True))
    ordered = [value for _, value in sorted(zip(values, adjusted, strict=True))]
    assert ordered == sorted(adjusted)
    order = list(range(len(values)))
    random.shuffle(order)
    assert holm([values[i] for i in order]) == [adjusted[i] for i in order]


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_holm_needs_p_values(wrong) -> None:
    """What is not in [0, 1] is refused."""
    with pytest.raises(OptionError, match="from 0 to 1"):
        holm([0.5, wrong])


def test_a_paired_difference_has_the_error_of_its_mean() -> None:
    """It is SciPy's standard error of the differences; one image of n more or less is exactly one error, not more."""
    from scipy.stats import sem

    rng = np.random.default_rng(0)
    first, second = rng.random(200) < 0.9, rng.random(200) < 0.8
    difference, deviation = paired_difference(first, second)
    each = second.astype(int) - first.astype(int)
    assert (difference, deviation) == (pytest.approx(each.mean()), pytest.approx(sem(each)))
    assert clearly_lower(difference, deviation)
    assert not clearly_lower(*paired_difference(second, first))
    for n in range(2, 60):
        right = np.ones(n, bool)
        wrong = right.copy()
        wrong[0] = False
        assert not clearly_lower(*paired_difference(right, wrong))
        if n > 4:
            wrong[1] = False
            assert clearly_lower(*paired_difference(right, wrong))
