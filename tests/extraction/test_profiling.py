from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from featcache.extraction import profiling
from featcache.extraction.profiling import Profile, step


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a clock's time, which stands still until it is changed."""
    now = [0.0]
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: now[0])
    return now


def test_steps_add_up(clock: list[float]) -> None:
    """Each step has the time that passed in it, also where it ended with an error; the start counts once."""
    profile = Profile()
    clock[0] += 3
    profile.ready()
    clock[0] += 5
    profile.ready()
    for seconds in (1, 2):
        with pytest.raises(ValueError, match="x"), step(profile, "write"):
            clock[0] += seconds
            raise ValueError("x")
    assert profile.seconds == {"start": 3, "read": 0, "decode": 0, "wait": 0, "forward": 0, "write": 3}


def test_no_step_gets_lost_among_threads(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of many threads are all counted."""
    profile = Profile()

    def work(_: int) -> None:
        with step(profile, "read"):
            pass

    ticks = iter(range(10**6))
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: next(ticks))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(2000)))
    assert profile.seconds["read"] >= 2000


def test_without_a_profile_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is not even looked at."""
    monkeypatch.setattr(profiling.time, "perf_counter", None)
    with step(None, "read"):
        pass


@pytest.mark.parametrize(
    ("seconds", "bottleneck"),
    [
        ({"wait": 2, "forward": 1, "decode": 5, "read": 1}, "decode"),
        ({"wait": 2, "read": 3, "decode": 1}, "read"),
        ({"wait": 2, "forward": 3, "decode": 9}, "forward"),
        ({"start": 4, "forward": 3}, "start"),
        ({"write": 1}, "write"),
    ],
)
def test_the_bottleneck(seconds: dict[str, float], bottleneck: str) -> None:
    """It is what the main thread spent most on; waiting is put down to what was waited for."""
    profile = Profile()
    profile.seconds.update(seconds)
    assert profile.bottleneck == bottleneck


def test_an_extraction_says_where_its_time_went(extracting, photos: Path, tmp_path: Path) -> None:
    """Every step takes some of the time, the main thread's no more than all; nobody who did not ask is told."""
    report = extracting(photos, tmp_path / "c", profile=True).report
    seconds = report.profile["seconds"]
    assert set(seconds) == {*profiling.AHEAD, *profiling.STEPS}
    assert all(value > 0 for value in seconds.values())
    assert sum(seconds[name] for name in profiling.STEPS) <= report.seconds
    assert report.profile["bottleneck"] in seconds
    assert extracting(photos, tmp_path / "d").report.profile is None
    again = extracting(photos, tmp_path / "c", profile=True).report
    assert not any(again.profile["seconds"].values())
