import pytest

from featcache.extraction.batching import fastest_batch, largest_batch


def trial(each: dict[int, float]) -> tuple[list[int], object]:
    """Return a stand-in for two forward passes and the sizes that were tried with it."""
    tried: list[int] = []

    def seconds(size: int) -> tuple[float, float]:
        tried.append(size)
        return 2 * each[size] * size, each[size] * size

    return tried, seconds


FLAT = dict.fromkeys((8, 16, 32, 64, 128), 1.0)


def test_short_runs_try_nothing() -> None:
    """Below thousands of images the trial would cost more than it brings."""
    tried, seconds = trial(FLAT)
    assert fastest_batch(seconds, 4999, 128) == 32
    assert tried == []


@pytest.mark.parametrize("best", [8, 16, 64, 128])
def test_the_fastest_is_taken(best: int) -> None:
    """In a long run all sizes are tried, and the one with the least time per image is taken."""
    tried, seconds = trial({**FLAT, best: 0.5})
    assert fastest_batch(seconds, 10**6, 128) == best
    assert sorted(tried) == [8, 16, 32, 64, 128]


def test_a_small_gain_may_be_noise() -> None:
    """A size that is a hundredth faster does not replace the usual one."""
    assert fastest_batch(trial({**FLAT, 128: 0.99})[1], 10**6, 128) == 32


@pytest.mark.parametrize("images", [5000, 8000, 12_000, 40_000])
def test_the_trial_is_a_fiftieth_of_the_run(images: int) -> None:
    """Sizes that would take longer than that are left out."""
    tried, seconds = trial(FLAT)
    fastest_batch(seconds, images, 128)
    assert 32 in tried
    assert sum(2 * size for size in tried) <= images / 50


def test_batches_at_once_count_each() -> None:
    """With three passes at once a trial computes three batches, and fewer sizes are tried in the same time."""
    tried, seconds = trial(dict.fromkeys(FLAT, 3.0))
    fastest_batch(seconds, 40_000, 128, passes=3)
    assert 1 < len(tried) < 5
    assert sum(3 * 2 * size for size in tried) <= 40_000 / 50


def test_memory_limits_the_sizes() -> None:
    """Nothing larger than what surely fits is tried, but the usual size."""
    tried, seconds = trial({**FLAT, 64: 0.1, 128: 0.1})
    assert fastest_batch(seconds, 10**6, 40) == 32
    assert sorted(tried) == [8, 16, 32]
    assert largest_batch(224 * 224, 10**12) == largest_batch(224 * 224, None) == 128
    assert 32 < largest_batch(224 * 224, 8 * 10**9) < 128
