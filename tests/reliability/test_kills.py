"""Real processes, killed: what a cache loses when the plug is pulled."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import standin
from conftest import slow
from recording import record

from featcache.cache import FeatureCache

IMAGES, SHARD_ROWS = 300, 20
FULL = bool(os.environ.get("FEATCACHE_RELIABILITY"))


def make_source(root: Path) -> Path:
    """Write small files in two classes: some are copies, some cannot be decoded."""
    for i in range(IMAGES):
        content = b"bad" if i % 50 == 7 else hashlib.sha256(bytes([i % 256, i // 280])).digest()
        path = root / ("a" if i % 2 else "b") / f"{i:03d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def command(source: Path, cache: Path, *before: str) -> list[str]:
    stand_in = [sys.executable, str(Path(standin.__file__)), *before]
    options = ["--cache", str(cache), "--shard-rows", str(SHARD_ROWS), "--views", "1", "--augment", "flip"]
    return [*stand_in, "extract", str(source), "--base", "vgg19", "--weights", "none", *options]


def finish(source: Path, cache: Path, *before: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(source, cache, *before), capture_output=True, text=True, check=False, timeout=120)


def content(cache: Path) -> tuple[list[tuple[object, ...]], list[bytes]]:
    """Return everything a cache says of its source: the listing, and every row of every layer."""
    opened = FeatureCache(cache)
    rows = [np.asarray(opened.features(layer=layer, views=True)).tobytes() for layer in opened.layers]
    return [entry._replace(changes=0) for entry in opened.entries], rows  # 0 or not by how old the files were


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("source") / "photos")


@pytest.fixture(scope="module")
def uninterrupted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, float]:
    """Return the content of a cache that nobody disturbed, and how long it took after its start."""
    cache = tmp_path_factory.mktemp("reference") / "cache"
    process = subprocess.Popen(command(source, cache), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    start = time.monotonic()
    process.communicate()
    assert process.returncode == 3  # some files are no images
    return content(cache), time.monotonic() - start


def is_sound(cache: Path) -> bool:
    """Whether verify finds nothing wrong (a cache that was not made yet is not there to be wrong)."""
    from featcache.cache.verification import verify

    if not (cache / "recipe.json").exists():
        return True
    return not verify(cache).problems


def computed_rows(log: Path) -> Counter[bytes]:
    return Counter(log.read_bytes().splitlines()) if log.exists() else Counter()


@pytest.mark.slow
def test_random_kills(source: Path, uninterrupted: tuple[object, float], tmp_path: Path) -> None:
    """Killed at random moments, again and again, the cache opens, verifies, and ends up the same."""
    wanted = 220 if FULL else 8
    expected, seconds = uninterrupted
    rng = random.Random(0)
    kills = finished = recomputed = unsound = different = 0
    while kills < wanted:
        cache, log = tmp_path / f"cache-{finished}", tmp_path / f"log-{finished}"
        here = 0
        for _ in range(12):
            process = subprocess.Popen(command(source, cache, "--log", str(log)), stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0, seconds))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate()
            if process.returncode != -signal.SIGKILL:
                break
            here += 1
            unsound += not is_sound(cache)
        done = finish(source, cache, "--log", str(log))
        assert done.returncode == 3, done.stderr
        different += content(cache) != expected
        counts = computed_rows(log)
        again = sum(counts.values()) - len(counts)
        assert again <= here * (SHARD_ROWS + 1)
        kills, finished, recomputed = kills + here, finished + 1, recomputed + again
    record(
        "random SIGKILL",
        tries=kills,
        unsound=unsound,
        different=different,
        caches=finished,
        rows_recomputed_per_kill=round(recomputed / kills, 1),
        rows_in_flight=SHARD_ROWS,
    )
    assert (unsound, different) == (0, 0)


@pytest.mark.parametrize("point", standin.POINTS)
@pytest.mark.parametrize("when", ["before", slow("after")])
@pytest.mark.by_default("before-rename")
def test_kills_at_every_point(source, uninterrupted, tmp_path: Path, point: str, when: str) -> None:
    """Killed before and after each write, fsync, rename, link and commit, nothing is lost."""
    expected, _ = uninterrupted
    hits = unsound = different = 0
    for count in (1, 2, 3, 4, 5, 7, 9) if FULL else (2,):
        cache = tmp_path / f"cache-{count}"
        died = finish(source, cache, "--die", f"{point}:{when}:{count}")
        if died.returncode != -signal.SIGKILL:
            continue  # this run has no such use any more
        hits += 1
        unsound += not is_sound(cache)
        done = finish(source, cache)
        assert done.returncode == 3, done.stderr
        different += content(cache) != expected
    record(f"SIGKILL {when} {point}", tries=hits, unsound=unsound, different=different)
    assert hits or not FULL
    assert (unsound, different) == (0, 0)


@pytest.mark.slow
def test_full_disk(source, uninterrupted, tmp_path: Path) -> None:
    """Wherever the disk ends, the command ends with one line and exit code 1, and goes on when there is room."""
    expected, _ = uninterrupted
    limits = [
        0,
        1,
        100,
        500,
        700,
        1000,
        2000,
        4000,
        6000,
        8192,
        10_000,
        12_288,
        15_000,
        20_480,
        25_000,
        28_000,
        30_000,
        33_000,
        36_864,
        41_000,
        45_056,
        50_000,
        60_000,
        75_000,
    ]
    tries = unsound = different = tracebacks = 0
    for limit in limits if FULL else [0, 4000, 20_480, 45_056]:
        cache = tmp_path / f"cache-{limit}"
        full = finish(source, cache, "--limit", str(limit))
        if full.returncode == 3:
            continue  # everything fitted
        tries += 1
        lines = [line for line in full.stderr.splitlines() if not line.startswith("warning: skipped")]
        tracebacks += full.returncode != 1 or len(lines) != 1 or not lines[0].startswith("error: ")
        unsound += not is_sound(cache)
        done = finish(source, cache)
        assert done.returncode == 3, done.stderr
        different += content(cache) != expected
    record("disk full", tries=tries, unsound=unsound, different=different, not_one_line=tracebacks)
    assert (unsound, different, tracebacks) == (0, 0, 0)
    assert tries >= (20 if FULL else 3)
