"""Real processes: what they compute is what this one would have, whoever dies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from common import OPTIONS, children, content, killing, make_photos
from conftest import hunt
from deadly import DeadlySource
from recording import record

from featcache.cache import FeatureCache
from featcache.errors import ImageError
from featcache.extraction.extracting import Extraction

FULL = bool(os.environ.get("FEATCACHE_RELIABILITY"))
ENGINES = ["processes", "dask"]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("many") / "photos")


def extraction(oracle: Path, source: object, cache: Path, **options: object) -> Extraction:
    given = {"base": oracle, "layers": ["mix"], "preprocess": "none", "cache": cache, "batch_size": 4}
    return Extraction(source, **{**given, **OPTIONS, **options})


@pytest.fixture(scope="module")
def local(oracle: Path, many: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    cache = tmp_path_factory.mktemp("local") / "c"
    extraction(oracle, many, cache).run()
    return content(cache)


def workers() -> list[int]:
    """Return the processes that do tasks."""
    found = []
    for pid in children():
        name = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"engines.worker" in name or b"spawn_main" in name:
            found.append(pid)
    return found


@pytest.mark.parametrize("engine", ["processes", "dask"])
@pytest.mark.by_default("dask")
def test_two_workers_are_one(
    oracle, many: Path, local, tmp_path: Path, engine: str, hostile_folder: tuple[Path, Path], monkeypatch
) -> None:
    """Two workers, one of them killed on the way, leave what one process leaves: listing, rows, places and bytes.

    They execute no Python file of the folder they are started in.
    """
    pytest.importorskip("distributed")
    monkeypatch.chdir(hostile_folder[0])
    plan = extraction(oracle, many, tmp_path / "c", engine=engine, workers=2, progress=killing(workers, {2}))
    done = plan.run().report
    rows = len(local[2])
    assert rows - 8 <= done.computed <= rows  # a task may be published as its worker dies: it is found then
    assert content(tmp_path / "c") == local
    assert workers() == []
    assert not hostile_folder[1].exists(), hostile_folder[1].read_text()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", pytest.param("dask", marks=hunt)])
def test_random_kills(oracle, many: Path, local, tmp_path: Path, engine: str) -> None:
    """Workers killed again and again at random moments change nothing."""
    rng, tries, kills, different = random.Random(1), 8 if FULL else 1, 0, 0
    for attempt in range(tries):
        at = {rng.randrange(1, 10) for _ in range(2)}
        extraction(
            oracle, many, tmp_path / f"c{attempt}", engine=engine, workers=2, progress=killing(workers, at)
        ).run()
        kills += len(at)
        different += content(tmp_path / f"c{attempt}") != local
    record(f"SIGKILL of workers, {engine}", tries=tries, kills=kills, different=different)
    assert different == 0


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", pytest.param("dask", marks=hunt)])
def test_a_deadly_task_is_reported(oracle, many: Path, tmp_path: Path, engine: str, monkeypatch) -> None:
    """A task that kills three workers is left out with a reason for each of its images; all others are there."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    source = DeadlySource(many, "a/011.png")
    plan = extraction(oracle, source, tmp_path / "c", engine=engine, workers=2, views=0, augment=None)
    skipped = {one["path"]: one["reason"] for one in plan.run().report.skipped}
    killed = [path for path, reason in skipped.items() if reason == "its task of 8 images killed 3 workers"]
    assert "a/011.png" in killed
    assert len(killed) == 8
    assert len(FeatureCache(tmp_path / "c")) == 40 - len(skipped)
    retried = extraction(oracle, many, tmp_path / "c", views=0, augment=None).run().report
    assert sorted(one["path"] for one in retried.skipped) == ["a/005.png", "b/020.png"]


@pytest.mark.slow
def test_what_workers_raise_is_raised(oracle, many: Path, tmp_path: Path) -> None:
    """An error in a worker is the error it would be here, in order of the source, and ends the workers."""
    plan = extraction(oracle, many, tmp_path / "c", engine="processes", workers=2, on_error="fail")
    with pytest.raises(ImageError, match=r"a/005\.png: not an image"):
        plan.run()
    assert workers() == []
    there = FeatureCache(tmp_path / "c")
    assert {"a/001.png", "a/003.png"} <= {entry.path for entry in there.entries if entry.digest}


def started(oracle: Path, many: Path, cache: Path, engine: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "featcache",
        "extract",
        many,
        "--base",
        oracle,
        "--layer",
        "mix",
        "--preprocess",
        "none",
        "--batch-size",
        4,
        "--shard-rows",
        8,
        "--views",
        1,
        "--augment",
        "flip",
        "--cache",
        cache,
        "--engine",
        engine,
        "--workers",
        2,
        "--json",
    ]
    return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the command starts itself again on Linux")
@pytest.mark.parametrize(
    ("engine", "number"),
    [("processes", signal.SIGKILL), ("dask", signal.SIGINT)]
    + [("processes", signal.SIGINT), ("dask", signal.SIGKILL)] * FULL,
)
def test_a_driver_that_dies(oracle, many: Path, local, tmp_path: Path, engine: str, number: signal.Signals) -> None:
    """Its workers end with it, nobody is left, and the same command goes on to the same result."""
    first = started(oracle, many, tmp_path / "c", engine)
    deadline = time.monotonic() + 90
    while not list((tmp_path / "c").glob("*/*.h5")) and time.monotonic() < deadline:
        time.sleep(0.01)
    below = children(first.pid)
    driver = next(pid for pid in below if _parent(pid) == first.pid)
    os.kill(driver, number)
    first.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while (left := [pid for pid in below if _alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    second = started(oracle, many, tmp_path / "c", engine)
    out, err = second.communicate(timeout=180)
    assert second.returncode == 3, err
    assert len(json.loads(out)["skipped"]) == 2
    assert content(tmp_path / "c") == local


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_workers_that_cannot_start(oracle, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that die before they begin end the run with one line, not with new workers for ever."""
    from featcache.errors import CacheError

    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CacheError, match="workers ended while they were starting"):
        extraction(oracle, many, tmp_path / "c", engine="processes", workers=2).run()


def test_a_scheduler_that_is_none(oracle, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody at the address is one line that says how to start somebody."""
    cluster = pytest.importorskip("featcache.extraction.engines.cluster")
    from featcache.errors import OptionError

    monkeypatch.setattr(cluster, "WAIT_SECONDS", 1)
    with pytest.raises(OptionError, match=r"Start one with: dask scheduler"):
        extraction(oracle, many, tmp_path / "c", engine="dask", scheduler="tcp://127.0.0.1:9").run()
