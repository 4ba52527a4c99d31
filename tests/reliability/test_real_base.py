"""The same kills with a real network: TensorFlow, decoded images, float32 features."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image, write_image
from recording import record

from featcache.cache import FeatureCache
from featcache.cache.verification import verify

FULL = bool(os.environ.get("FEATCACHE_RELIABILITY"))
IMAGES, SHARD_ROWS = 1500, 50


@pytest.mark.slow
def test_random_kills_of_a_real_base(oracle: Path, tmp_path: Path) -> None:
    """Killed at random moments while a Keras base runs, the finished cache equals an undisturbed one in every byte."""
    for i in range(IMAGES):
        write_image(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png", random_image(i))

    def start(cache: Path) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "featcache",
            "extract",
            tmp_path / "photos",
            "--base",
            oracle,
            "--cache",
            cache,
        ]
        options = ["--layer", "mix", "--preprocess", "none", "--shard-rows", SHARD_ROWS, "--batch-size", 2]
        command += options
        return subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def content(cache: Path) -> bytes:
        return np.asarray(FeatureCache(cache).features()).tobytes()

    begin = time.monotonic()
    assert start(tmp_path / "reference").wait() == 0
    whole = time.monotonic() - begin
    rng, kills, unsound, different, caches = random.Random(1), 0, 0, 0, 0
    while kills < (12 if FULL else 1):
        cache = tmp_path / f"cache-{caches}"
        for _ in range(4 if FULL else 2):
            process = start(cache)
            time.sleep(rng.uniform(0.3 * whole, whole))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            unsound += (cache / "recipe.json").exists() and bool(verify(cache).problems)
        assert start(cache).wait() == 0
        different += content(cache) != content(tmp_path / "reference")
        caches += 1
    record("random SIGKILL, Keras base", tries=kills, unsound=unsound, different=different, caches=caches)
    assert (unsound, different) == (0, 0)
