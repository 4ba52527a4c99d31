"""Real processes that write one cache at once: in other pid namespaces, stopped and continued, with deleted locks."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
import types
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import standin
from conftest import hunt
from recording import record

from featcache.cache import FeatureCache
from featcache.cache.verification import verify
from featcache.errors import CacheError
from featcache.extraction import extracting as extraction

IMAGES, SHARD_ROWS, SLOW = 100, 8, 0.03
ISOLATED = ["unshare", "-rpf", "--kill-child", "--mount-proc"]


class Source:
    """Images in a folder, and every content that each name has had."""

    def __init__(self, root: Path) -> None:
        self.root, self.ever, self.changes = root, dict[str, set[bytes]](), 0
        for i in range(IMAGES):
            self.write(f"{'ab'[i % 2]}/{i:03d}", f"image {i}")

    def write(self, name: str, text: str) -> None:
        content = hashlib.sha256(text.encode()).digest()
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        self.ever.setdefault(name, set()).add(hashlib.sha256(content).digest())

    def change(self, rng: random.Random) -> None:
        """Put images before all others and take some away, so that every position means another image."""
        number = self.changes
        self.changes += 1
        self.write(f"a/-{number}", f"new {number}")
        for file in rng.sample(sorted(self.root.glob("*/*")), 3):
            file.unlink()

    def wrong_rows(self, cache: Path) -> int:
        """Return how many images have features of bytes that they never had."""
        opened = FeatureCache(cache)
        rows = {layer: np.asarray(opened.features(layer=layer)) for layer in standin.LAYERS}
        return sum(
            entry.digest not in self.ever[entry.path]
            or any(not np.array_equal(rows[name][i], standin.features(entry.digest, 0, name)) for name in rows)
            for i, entry in enumerate(opened.usable)
        )


def start(work: str, source: Source, cache: Path, *before: str, slow: float = 0.0) -> subprocess.Popen[str]:
    """Start extract, gc or verify --fix in a process group of its own, and return when it has been imported."""
    options = {
        "extract": [
            "extract",
            str(source.root),
            "--base",
            "vgg19",
            "--weights",
            "none",
            "--cache",
            str(cache),
            "--shard-rows",
            str(SHARD_ROWS),
        ],
        "gc": ["gc", str(cache)],
        "verify": ["verify", str(cache), "--fix"],
    }[work]
    process = subprocess.Popen(
        [*before, sys.executable, str(Path(standin.__file__)), "--slow", str(slow), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def ended(process: subprocess.Popen[str], patience: float = 120) -> tuple[int, str]:
    """Return the exit code, and the one line that says why it is not 0."""
    _, errors = process.communicate(timeout=patience)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    if process.returncode not in (0, 3):  # 3: images were taken away meanwhile
        assert process.returncode == 1, errors
        assert len(lines) == 1, errors
    return process.returncode, "".join(lines)


def extracted(source: Source, cache: Path) -> list[str]:
    """Extract in this process, and return the names of the images that have features."""
    module = types.ModuleType("featcache.extraction.extractor")
    module.__dict__.update(Extractor=standin.Extractor, Extracted=standin.Extracted, Progress=object)
    with mock.patch.dict(sys.modules, {"featcache.extraction.extractor": module}):
        return extraction.extract(source.root, base="vgg19", weights=None, cache=cache, shard_rows=SHARD_ROWS).paths()


def race(kind: str, rng: random.Random, source: Source, cache: Path) -> Counter[str]:
    """Let two processes write, the first one stopped or elsewhere, and return what came of it."""
    counts: Counter[str] = Counter()
    first = start("extract", source, cache, *(ISOLATED if kind == "namespaces" else []), slow=SLOW)
    while not (cache / "lock").exists() and first.poll() is None:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 1))
    if kind != "namespaces":
        os.killpg(first.pid, signal.SIGSTOP)
    counts["first_was_writing"] += (cache / "lock").exists()
    if kind == "deleted":
        (cache / "lock").unlink(missing_ok=True)
    source.change(rng)
    second = start(rng.choice(["extract", "extract", "gc", "verify"]), source, cache)
    try:
        second.wait(rng.uniform(0.1, 5))
    except subprocess.TimeoutExpired:
        counts["both_at_once"] += 1
    os.killpg(first.pid, signal.SIGCONT)
    for process in (second, first):
        code, message = ended(process)
        counts["refused"] += "Another process" in message
        assert code != 1 or "Another process" in message or "There is no cache" in message or "no listing" in message
    try:
        counts["wrong_rows"] += source.wrong_rows(cache)
        problems = verify(cache).problems
        counts["unsound"] += bool(problems)
        print(*problems)
    except CacheError as error:
        assert "There is no cache" in str(error)
    return counts


@pytest.mark.parametrize("races", [1, pytest.param(34, marks=[pytest.mark.slow, hunt])])
@pytest.mark.parametrize("kind", ["namespaces", "stopped", "deleted"])
@pytest.mark.by_default("stopped-1")
def test_races(tmp_path: Path, kind: str, races: int) -> None:
    """Whoever is stopped, hidden or loses its lock: no row is wrong, no image missing, and each ends with one line."""
    if kind == "namespaces":
        try:
            subprocess.run([*ISOLATED, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no pid namespaces here: {error}")
    rng, counts = random.Random(kind), Counter({"wrong_rows": 0, "unsound": 0, "different": 0, "refused": 0})
    for number in range(races):
        source, cache = Source(tmp_path / f"photos{number}"), tmp_path / f"cache{number}"
        counts.update(race(kind, rng, source, cache))
        expected = sorted(str(file.relative_to(source.root)) for file in source.root.glob("*/*"))
        counts["different"] += sorted(extracted(source, cache)) != expected or bool(source.wrong_rows(cache))
    names = {"namespaces": "pid namespaces", "stopped": "SIGSTOP/SIGCONT", "deleted": "deleted lock"}
    told = {name: counts[name] for name in ("wrong_rows", "unsound", "different", "first_was_writing", "refused")}
    record(f"two writers, {names[kind]}", tries=races, **told)
    assert (counts["wrong_rows"], counts["unsound"], counts["different"]) == (0, 0, 0)
