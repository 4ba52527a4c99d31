"""Two writers at once, whose lock was deleted, stopped at every transaction and publication: no row is ever wrong."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pytest
import standin
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from recording import record

from featcache.cache import FeatureCache, shard
from featcache.cache.compaction import gc
from featcache.cache.manifest import Manifest
from featcache.cache.verification import verify
from featcache.errors import CacheError
from featcache.extraction import extracting as extraction
from featcache.sources import digest

FULL = bool(os.environ.get("FEATCACHE_RELIABILITY"))
COUNTS = {"steps": 0, "examples": 0, "stopped_writers": 0, "wrong_rows": 0}


class Writer(threading.Thread):
    """A writer that waits at every pause until it is told to go on."""

    here: ClassVar[dict[int, Writer]] = {}

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work, self._go, self._paused = work, threading.Semaphore(0), threading.Semaphore(0)
        self.error: BaseException | None = None
        self.done = False

    def run(self) -> None:
        Writer.here[threading.get_ident()] = self
        self._go.acquire()
        try:
            self._work()
        except BaseException as error:
            self.error = error
        del Writer.here[threading.get_ident()]
        self.done = True
        self._paused.release()

    def step(self) -> None:
        self._go.release()
        assert self._paused.acquire(timeout=30), "a writer hangs"

    @staticmethod
    def pause() -> None:
        writer = Writer.here.get(threading.get_ident())
        if writer is not None:
            writer._paused.release()
            writer._go.acquire()


real_transaction, real_publish = Manifest._transaction, shard.publish


@contextlib.contextmanager
def transaction(self: Manifest) -> Iterator[None]:
    Writer.pause()
    with real_transaction(self):
        yield
    Writer.pause()


def publish(*arguments: Any, **options: Any) -> None:
    Writer.pause()
    real_publish(*arguments, **options)
    Writer.pause()


WORKS = st.sampled_from(["extract", "extract", "extract", "gc", "fix"])


class TwoWriters(RuleBasedStateMachine):
    """Extractions of a changing source, `gc` and `verify --fix`, two at a time."""

    @initialize()
    def start(self) -> None:
        self.root = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.source, self.cache = self.root / "photos", self.root / "cache"
        self.files: dict[str, bytes] = {}
        self.ever: dict[str, set[bytes]] = defaultdict(set)
        self.stamp, self.damaged = 1, False
        self.writers: list[Writer | None] = [None, None]
        module = type(sys)("featcache.extraction.extractor")
        module.__dict__.update(Extractor=standin.Extractor, Extracted=standin.Extracted, Progress=object)
        self.patches = contextlib.ExitStack()
        self.patches.enter_context(mock.patch.dict(sys.modules, {"featcache.extraction.extractor": module}))
        self.patches.enter_context(mock.patch.object(Manifest, "_transaction", transaction))
        self.patches.enter_context(mock.patch.object(shard, "publish", publish))
        COUNTS["examples"] += 1
        for number in range(6):
            self.write("ab"[number % 2], number, number)
        self.extract()

    def teardown(self) -> None:
        if hasattr(self, "patches"):
            self.finish(0)
            self.finish(1)
            self.patches.close()
            shutil.rmtree(self.root)

    def write(self, label: str, name: int, content: int) -> None:
        file = self.source / label / f"{name}"
        file.parent.mkdir(parents=True, exist_ok=True)
        self.files[f"{label}/{name}"] = hashlib.sha256(bytes([content])).digest()
        self.ever[f"{label}/{name}"].add(digest(self.files[f"{label}/{name}"]))
        file.write_bytes(self.files[f"{label}/{name}"])
        self.stamp += 1
        os.utime(file, ns=(self.stamp, self.stamp))

    def unlink(self, path: str) -> None:
        if path in self.files and len(self.files) > 2:
            (self.source / path).unlink()
            del self.files[path]

    @rule(
        works=st.tuples(WORKS, WORKS),
        before=st.integers(1, 12),
        order=st.lists(st.integers(0, 1), max_size=30),
        changes=st.lists(
            st.tuples(st.sampled_from("ab"), st.integers(0, 7), st.integers(0, 15), st.booleans()),
            min_size=1,
            max_size=5,
        ),
        loss=st.sampled_from(["", "", "recipe", "shard"]),
        end=st.booleans(),
    )
    def race(
        self, works: tuple[str, str], before: int, order: list[int], changes: list[Any], loss: str, end: bool
    ) -> None:
        """One is stopped, the source changes, the other takes over; they go on in some order."""
        if loss and not any(self.writers):
            self.lose(loss)
        for label, name, content, there in changes[::2]:
            self.write(label, name, content) if there else self.unlink(f"{label}/{name}")
        self.begin(0, works[0])
        self.go_on(0, before)
        for label, name, content, there in changes[1::2]:
            self.write(label, name, content) if there else self.unlink(f"{label}/{name}")
        self.begin(1, works[1])
        for which in order:
            self.go_on(which, 1)
            self.no_row_is_wrong()
        if end:
            self.everything_is_right_in_the_end()

    def begin(self, which: int, work: str) -> None:
        """Start a writer, unless the last one of that number still writes; the lock of the other one is deleted."""
        if self.writers[which] is not None:
            return
        (self.cache / "lock").unlink(missing_ok=True)
        others = {"gc": lambda: gc(self.cache), "fix": lambda: verify(self.cache, fix=True)}
        self.writers[which] = writer = Writer(others.get(work, self.extract))
        writer.start()
        self.go_on(which, 1)

    def extract(self) -> FeatureCache:
        return extraction.extract(
            self.source, base="vgg19", weights=None, cache=self.cache, shard_rows=2, replace_source=True
        )

    def go_on(self, which: int, steps: int) -> None:
        for _ in range(steps):
            writer = self.writers[which]
            if writer is None:
                return
            writer.step()
            COUNTS["steps"] += 1
            if writer.done:
                self.writers[which] = None
                if writer.error is not None:
                    COUNTS["stopped_writers"] += 1
                    if not isinstance(writer.error, CacheError):
                        raise writer.error
                    assert "\n" not in str(writer.error)

    def finish(self, which: int) -> None:
        while self.writers[which] is not None:
            self.go_on(which, 1)

    def lose(self, what: str) -> None:
        """Damage that `verify --fix` mends by making the manifest anew, if there is something to make it from."""
        shards = sorted((self.cache / "shards").glob("*.h5"))
        if len(shards) > 1:
            self.damaged = True
            {"recipe": self.cache / "recipe.json", "shard": shards[0]}[what].unlink(missing_ok=True)

    @invariant()
    def no_row_is_wrong(self) -> None:
        """Whatever the writers have done so far, an image has the features of bytes that it had."""
        if not hasattr(self, "cache") or not (self.cache / "recipe.json").exists():
            return
        try:
            cache = FeatureCache(self.cache)
            listed = list(cache.usable)
            rows = {layer: np.asarray(cache.features(layer=layer)) for layer in standin.LAYERS}
        except CacheError:
            assert any(self.writers) or self.damaged
            return
        for i, entry in enumerate(listed):
            right = entry.digest in self.ever[entry.path] and all(
                np.array_equal(rows[layer][i], standin.features(entry.digest, 0, layer)) for layer in rows
            )
            COUNTS["wrong_rows"] += not right
            assert right, entry

    def everything_is_right_in_the_end(self) -> None:
        """With both writers gone, one extraction gives what the dict says, and nothing is unsound."""
        self.finish(0)
        self.finish(1)
        if (self.cache / "manifest.sqlite").exists() or list((self.cache / "shards").glob("*.h5")):
            with contextlib.suppress(CacheError):
                verify(self.cache, fix=True)
        cache = self.extract()
        self.damaged = False
        assert verify(self.cache).problems == []
        found = dict(zip(cache.paths(), np.asarray(cache.features(layer="deep")), strict=True))
        assert found.keys() == self.files.keys()
        for path, row in found.items():
            assert np.array_equal(row, standin.features(digest(self.files[path]), 0, "deep"))


TwoWriters.TestCase.settings = settings(
    max_examples=80 if FULL else 8,
    stateful_step_count=6 if FULL else 4,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
def test_a_writer_that_lost_its_lock_changes_nothing() -> None:
    """Stopped before its first commit, while another one lists other images and `gc` runs, it ends with one line."""
    for steps in range(1, 14):
        race = TwoWriters()
        race.start()
        race.write("a", 7, 9)
        race.begin(0, "extract")
        race.go_on(0, steps)
        race.unlink("a/0")
        race.write("b", 0, 8)
        for work in ("extract", "gc"):
            race.begin(1, work)
            race.finish(1)
            race.no_row_is_wrong()
        race.finish(0)
        race.no_row_is_wrong()
        race.everything_is_right_in_the_end()
        race.teardown()


class TestTwoWriters(TwoWriters.TestCase):
    """Two of extract, gc and verify --fix, in any order, each stopped before and after all that it does."""

    @classmethod
    def tearDownClass(cls) -> None:
        record("two writers whose lock was deleted, against a dict", **COUNTS)
