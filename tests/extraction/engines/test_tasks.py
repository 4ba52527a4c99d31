"""Cutting a source into tasks, and what other processes can be told of it."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from featcache.cache.shard import SHARD_BYTES
from featcache.errors import OptionError, SourceError
from featcache.extraction import extractor
from featcache.extraction.engines.running import Runner
from featcache.extraction.engines.tasks import cut, in_order, task_size, travelling
from featcache.extraction.extracting import Extraction
from featcache.sources.arrays import ArraySource
from featcache.sources.opening import open_source
from featcache.system import startup


def test_tasks_are_shards_of_whole_batches_where_bytes_are_the_limit() -> None:
    """A task fills a shard; large maps make tasks of whole batches, one batch at least."""
    assert task_size(4, views=0, shard_rows=4096, batch_size=32) == 4096
    assert task_size(4, views=3, shard_rows=100, batch_size=32) == 25
    assert task_size(4, views=3, shard_rows=1, batch_size=32) == 1
    assert task_size(SHARD_BYTES // 81, views=0, shard_rows=4096, batch_size=32) == 64
    assert task_size(SHARD_BYTES // 5, views=0, shard_rows=4096, batch_size=32) == 32
    assert task_size(2 * SHARD_BYTES, views=9, shard_rows=4096, batch_size=32) == 32


def test_what_is_left_is_cut_as_it_was(photos: Path) -> None:
    """When some tasks are done, the others have the same images as before, whichever those were."""
    source = open_source(photos)
    whole = cut(in_order(range(12), [item.path for item in source.items], shuffled=True), source.items, 3)
    assert sorted(position for task in whole for position in task.positions) == list(range(12))
    left = [*whole[0].positions, *whole[2].positions]
    again = cut(in_order(left, [item.path for item in source.items], shuffled=True), source.items, 3)
    assert [[*task.items] for task in again] == [[*whole[0].items], [*whole[2].items]]
    listed = cut(in_order(range(12), [item.path for item in source.items], shuffled=False), source.items, 5)
    assert [task.positions for task in listed] == [(0, 1, 2, 3, 4), (5, 6, 7, 8, 9), (10, 11)]


def test_files_travel_without_their_listing(photos: Path) -> None:
    """Other processes get what reads a file, and none of the million items it was listed with."""
    source = open_source(photos, classes=["dark"])
    there = pickle.loads(pickle.dumps(travelling(source, photos, "processes")))
    assert list(there.items) == []
    assert there.read(source.items[0]) == (photos / source.items[0].path).read_bytes()


def test_others_are_opened_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays in a file and sets with a name do not travel: the other process opens them again."""
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    assert travelling(open_source("x.npz"), "x.npz", "dask") is None
    assert travelling(open_source("digits"), "digits", "dask") is None


@pytest.mark.parametrize("engine", ["processes", "dask"])
def test_what_is_in_memory_stays_here(oracle: Path, photos: Path, tmp_path: Path, engine: str) -> None:
    """Arrays, pairs and models in memory are refused with one line that names the local engine."""
    import keras

    arrays = ArraySource("made", np.zeros((2, 8, 8, 3), np.uint8), ["a", "b"])
    model = keras.saving.load_model(oracle)
    for source, base in ((arrays, oracle), ([(np.zeros((8, 8, 3), np.uint8), "a")], oracle), (photos, model)):
        with pytest.raises(OptionError, match=r"in memory.*`engine` local") as caught:
            Extraction(source, base=base, preprocess="none", engine=engine, cache=tmp_path / "c").run()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "threads"}, "local, processes or dask"),
        ({"engine": "processes", "workers": 0}, "`workers` must be 1 or more"),
        ({"workers": 2}, "for the engine processes"),
        ({"engine": "dask", "workers": 2, "scheduler": "tcp://x:1"}, "without `scheduler`"),
        ({"engine": "processes", "scheduler": "tcp://x:1"}, "for the engine dask only"),
    ],
)
def test_options_that_do_not_go_together(photos: Path, options: dict[str, object], said: str) -> None:
    """Each is an error before anything is read."""
    with pytest.raises(OptionError, match=said):
        Extraction(photos, base="vgg19", **options)


def test_missing_dask_is_one_line(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dask the message says what to install."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "distributed" else real(name))
    with pytest.raises(OptionError, match=r"pip install 'featcache\[dask\]'"):
        Extraction(photos, base="vgg19", engine="dask")


def test_a_worker_finds_that_a_source_it_opened_is_not_the_listed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays that were replaced after they were listed end the task, instead of getting each other's labels."""
    file, images, labels = tmp_path / "a.npz", np.zeros((6, 8, 8, 3), np.uint8), np.arange(6) % 2
    np.savez(file, x_train=images, y_train=labels)
    listed = open_source(file)
    np.savez(file, x_train=images, y_train=np.roll(labels, 1))
    monkeypatch.setattr(extractor, "Extractor", lambda request: SimpleNamespace(recipe="same"))
    monkeypatch.setattr(startup, "import_tensorflow", lambda: None)
    work = SimpleNamespace(request=None, recipe="same", source=None, reader=lambda: open_source(file))
    runner = Runner.load(work, set())
    with pytest.raises(SourceError, match="changed while it was extracted"):
        next(runner.run([SimpleNamespace(items=listed.items)], tmp_path, None))
