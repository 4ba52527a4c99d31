import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.heads.folds import ENOUGH, enough, grouped_folds, held_out, joined
from featcache.heads.rows import Rows

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(ROWS, st.integers(2, 5), st.integers(0, 3))
def test_groups_are_whole_and_single_groups_train(pairs: list[tuple[int, int]], folds: int, seed: int) -> None:
    """A group is in one fold; a class with one group is in none; another run gives the same."""
    target, groups = (np.array(column) for column in zip(*pairs, strict=True))
    found = grouped_folds(target, groups, folds, seed=seed)
    held = held_out(target, groups, 0.3, seed=seed)
    owner = {g: target[groups == g][0] for g in set(groups.tolist())}
    for group in owner:
        assert len(set(found[groups == group])) == 1
        assert len(set(held[groups == group])) == 1
    for label in set(owner.values()):
        own = [g for g in owner if owner[g] == label]
        numbers = {int(found[groups == g][0]) for g in own}
        assert len(own) > 1 or numbers == {-1}
        assert sum(held[groups == g][0] for g in own) <= min(max(round(0.3 * len(own)), 1), len(own) - 1)
    for label in set(target.tolist()):
        assert not held[target == label].all()
        assert (found[target == label] == -1).any() or len(set(found[target == label])) > 1
    assert np.array_equal(found, grouped_folds(target, groups, folds, seed=seed))


def test_folds_are_alike() -> None:
    """Every fold has its share of each class and of the rows, though groups differ in size."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), rng.integers(1, 6, 300))
    target = groups % 3
    found = grouped_folds(target, groups, 5, seed=0)
    for label in range(3):
        shares = np.bincount(found[target == label]) / (target == label).sum()
        assert np.allclose(shares, 0.2, atol=0.02)


def test_seed_decides() -> None:
    """Another seed divides otherwise; nothing is held out of a fraction of 0."""
    target, groups = np.arange(100) % 2, np.arange(100)
    assert not np.array_equal(grouped_folds(target, groups, 5, seed=0), grouped_folds(target, groups, 5, seed=1))
    assert not held_out(target, groups, 0.0, seed=0).any()


def test_enough_rows_are_drawn() -> None:
    """Few rows are all taken; of many, so many as suffice, each once, in order, by the seed."""
    assert np.array_equal(enough(np.arange(5), seed=0), np.arange(5))
    drawn = enough(np.arange(10, 100_000), seed=0)
    assert len(set(drawn.tolist())) == len(drawn) == ENOUGH
    assert (np.diff(drawn) > 0).all()
    assert drawn.min() >= 10
    assert np.array_equal(drawn, enough(np.arange(10, 100_000), seed=0))


def test_equal_features_are_one_group() -> None:
    """Rows that agree but for rounding are joined, with all that is in their groups; others are not."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 30)).astype(np.float32) * 7 + 3
    X[11] = X[4] * np.float32(1 + 2e-7)
    X[30] = X[11]
    X[20] = X[5]
    X[20, 3] *= 1.0001
    groups = np.arange(40) // 2
    found = joined(Rows(X), groups)
    assert len({found[i] for i in (4, 5, 10, 11, 30, 31)}) == 1
    expected = np.where(np.isin(groups, [2, 5, 15]), 2, groups)
    assert all((found[i] == found[j]) == (expected[i] == expected[j]) for i in range(40) for j in range(40))
    assert joined(Rows(X[[1, 2, 3]]), groups[:3]) is not None
    assert np.array_equal(joined(Rows(X[12:20]), groups[12:20]), groups[12:20])
