"""A cache against a plain dict: whatever is done to the source, and whenever it stops, rows and labels are right."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import standin
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from recording import record

from featcache.cache import FeatureCache
from featcache.cache.compaction import gc
from featcache.cache.verification import verify
from featcache.extraction import extracting as extraction
from featcache.sources import digest

FULL = bool(os.environ.get("FEATCACHE_RELIABILITY"))
STEPS = {"examples": 0, "steps": 0, "kills": 0}


class Killed(BaseException):
    """Stands for a process that stops: nothing of ours catches it."""


class CacheAgainstDict(RuleBasedStateMachine):
    """The dict says which image has which bytes; the cache must agree after every extract."""

    paths = Bundle("paths")

    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.source, self.cache = self.root / "photos", self.root / "cache"
        self.files: dict[str, bytes] = {}
        self.views, self.stamp, self.extracted = 0, 1, False
        standin_module = type(sys)("featcache.extraction.extractor")
        standin_module.__dict__.update(Extractor=standin.Extractor, Extracted=standin.Extracted, Progress=object)
        self.patch = mock.patch.dict(sys.modules, {"featcache.extraction.extractor": standin_module})
        self.patch.start()
        STEPS["examples"] += 1

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.stop()
            shutil.rmtree(self.root)

    def write(self, path: str, content: bytes) -> None:
        file = self.source / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        self.stamp += 1
        os.utime(file, ns=(self.stamp, self.stamp))
        self.files[path] = content
        STEPS["steps"] += 1

    @rule(target=paths, label=st.sampled_from("ab"), name=st.integers(0, 9), content=st.integers(0, 6))
    def add_or_change(self, label: str, name: int, content: int) -> str:
        """A new file, or other bytes under a known name; few different contents, so that copies are common."""
        path = f"{label}/{name}"
        self.write(path, b"bad" if content == 6 else hashlib.sha256(bytes([content])).digest())
        return path

    @rule(path=consumes(paths))
    def remove(self, path: str) -> None:
        if path in self.files:
            (self.source / path).unlink()
            del self.files[path]

    @rule(target=paths, path=consumes(paths), label=st.sampled_from("ab"), name=st.integers(10, 19))
    def rename_or_relabel(self, path: str, label: str, name: int) -> str:
        target = f"{label}/{name}"
        if path in self.files:
            file = self.source / target
            file.parent.mkdir(parents=True, exist_ok=True)
            (self.source / path).replace(file)
            self.files[target] = self.files.pop(path)
        return target

    @rule(views=st.integers(0, 3))
    def change_views(self, views: int) -> None:
        self.views = views

    def run(self) -> FeatureCache:
        return extraction.extract(
            self.source,
            base="vgg19",
            weights=None,
            cache=self.cache,
            shard_rows=3,
            views=self.views,
            augment="flip" if self.views else None,
            replace_source=True,
        )

    @precondition(lambda self: self.files)
    @rule()
    def extract(self) -> None:
        cache = self.run()
        self.extracted = True
        STEPS["steps"] += 1
        self.check(cache)
        assert self.run().report.computed == 0

    @precondition(lambda self: self.files)
    @rule(at=st.integers(0, 12))
    def extract_and_stop(self, at: int) -> None:
        """The run stops at some fsync; what is there afterwards is sound."""
        left, real = at, os.fsync

        def fsync(descriptor: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            real(descriptor)

        with mock.patch("os.fsync", fsync):
            try:
                self.run()
            except Killed:
                STEPS["kills"] += 1
        if (self.cache / "recipe.json").exists():
            self.extracted = True

    @precondition(lambda self: self.extracted)
    @rule()
    def collect_garbage(self) -> None:
        gc(self.cache)
        STEPS["steps"] += 1

    @invariant()
    def is_sound(self) -> None:
        if getattr(self, "extracted", False):
            assert verify(self.cache).problems == []

    def check(self, cache: FeatureCache) -> None:
        good = {path: content for path, content in self.files.items() if content != b"bad"}
        order = sorted(good, key=lambda path: (path.split("/")[0], path.split("/")[1]))
        assert cache.paths() == order
        labels = sorted({path.split("/")[0] for path in self.files})
        assert [labels[i] for i in cache.label_indices()] == [path.split("/")[0] for path in order]
        assert sorted(one["path"] for one in cache.skipped) == sorted(set(self.files) - set(good))
        for layer in standin.LAYERS:
            rows = np.asarray(cache.features(layer=layer))
            assert all(
                np.array_equal(row, standin.features(digest(good[path]), 0, layer))
                for row, path in zip(rows, order, strict=True)
            )
        if "train" in cache.splits:
            rows = np.asarray(cache.features("train", "deep", views=True))
            expected = [
                standin.features(digest(good[path]), view, "deep")
                for path in cache.paths("train")
                for view in range(self.views + 1)
            ]
            assert np.array_equal(rows, np.array(expected))


CacheAgainstDict.TestCase.settings = settings(
    max_examples=100 if FULL else 12,
    stateful_step_count=30 if FULL else 15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class TestCacheAgainstDict(CacheAgainstDict.TestCase):
    """Add, remove, rename, relabel, change, raise views, stop, go on and collect, in any order."""

    @classmethod
    def tearDownClass(cls) -> None:
        record("state machine against a dict", **STEPS)
