"""Parts of an extraction, as jobs of an array leave them, and who commits them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from common import OPTIONS, content, make_photos
from conftest import random_image, write_image

from featcache.cache import FeatureCache
from featcache.cache.compaction import gc
from featcache.errors import CacheError, ImageError, OptionError
from featcache.extraction.engines.retries import TaskQueue
from featcache.extraction.engines.running import Runner
from featcache.extraction.engines.worker import KnownRows
from featcache.extraction.extracting import Extraction


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("many") / "photos")


def extraction(oracle: Path, source: Path, cache: Path, **options: object) -> Extraction:
    given = {"base": oracle, "layers": ["mix"], "preprocess": "none", "cache": cache, "batch_size": 4}
    return Extraction(source, **{**given, **OPTIONS, **options})


@pytest.fixture(scope="module")
def local(oracle: Path, many: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    cache = tmp_path_factory.mktemp("local") / "c"
    extraction(oracle, many, cache).run()
    return content(cache)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_parts_are_the_whole(oracle, many: Path, local, tmp_path: Path, order: tuple[int, ...]) -> None:
    """Three parts in any order, and an extract that commits them and computes nothing, are one local extract."""
    reports = [extraction(oracle, many, tmp_path / "c").run_part(part, 3) for part in order]
    assert sum(report.images for report in reports) == 40
    assert sorted(one["path"] for report in reports for one in report.skipped) == ["a/005.png", "b/020.png"]
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["parts"]
    done = extraction(oracle, many, tmp_path / "c").run().report
    assert (done.computed, len(done.skipped)) == (0, 2)
    assert content(tmp_path / "c") == local


def test_old_parts_wait_as_long_as_they_must(oracle, many: Path, local, tmp_path: Path) -> None:
    """Days pass before somebody commits: nothing of a part is litter; what belongs to none is, after a day."""
    extraction(oracle, many, tmp_path / "c").run_part(1, 1)
    (tmp_path / "c" / "parts" / ".tmp-draft").write_text("of a killed worker")
    for file in (tmp_path / "c" / "parts").iterdir():
        os.utime(file, (1, 1))
    done = extraction(oracle, many, tmp_path / "c").run().report
    assert (done.computed, len(done.skipped)) == (0, 2)
    assert content(tmp_path / "c") == local
    assert not (tmp_path / "c" / "parts").exists()


def test_a_missing_part_is_computed(oracle, many: Path, local, tmp_path: Path) -> None:
    """The last extract computes what no part brought, and nothing else."""
    first = extraction(oracle, many, tmp_path / "c").run_part(1, 2)
    done = extraction(oracle, many, tmp_path / "c").run().report
    assert 0 < done.computed < done.rows
    assert done.reused >= first.rows - 4  # copies
    assert content(tmp_path / "c") == local


def test_a_part_goes_on(oracle, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped and started again, a part computes only the tasks that it has not published."""
    calls: list[int] = []

    def stop(done: int, total: int) -> None:
        if done > 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extraction(oracle, many, tmp_path / "c", progress=stop).run_part(1, 2)
    published = len(list((tmp_path / "c" / "parts").glob("*.json")))
    real = Runner.run
    monkeypatch.setattr(
        Runner, "run", lambda self, tasks, *a, **k: calls.append(len(tasks)) or real(self, tasks, *a, **k)
    )
    report = extraction(oracle, many, tmp_path / "c").run_part(1, 2)
    assert 0 < published == report.tasks - len(calls)


def test_a_damaged_part_is_computed_again(oracle, many: Path, local, tmp_path: Path, caplog) -> None:
    """One flipped bit in a shard, or half a list of images, costs that part only."""
    for part in (1, 2, 3):
        extraction(oracle, many, tmp_path / "c").run_part(part, 3)
    shard = sorted((tmp_path / "c" / "parts").glob("*.h5"))[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    listed = next(file for file in (tmp_path / "c" / "parts").glob("*.json") if shard.name not in file.read_text())
    listed.write_text(listed.read_text().replace('", null]', '", nul]', 1))
    done = extraction(oracle, many, tmp_path / "c").run().report
    assert 0 < done.computed <= 16
    assert caplog.text.count("a part is computed again") == 2
    for file in (tmp_path / "c" / "parts").iterdir():
        file.unlink()  # shards whose part cannot be read are nobody's; a later run removes them
    (tmp_path / "c" / "parts").rmdir()
    assert content(tmp_path / "c") == local


def test_parts_of_other_splits_lack_no_view(oracle, many: Path, tmp_path: Path) -> None:
    """Images that were validation in a part and are training images now get their views."""
    extraction(oracle, many, tmp_path / "c", validation_split=0.5).run_part(1, 1)
    ours = extraction(oracle, many, tmp_path / "c", validation_split=0.1).run()
    fresh = extraction(oracle, many, tmp_path / "fresh", validation_split=0.1).run()
    assert np.array_equal(ours.features("train", views=True), fresh.features("train", views=True))


def test_changed_images_are_not_settled_by_parts(oracle, many: Path, tmp_path: Path) -> None:
    """An image that was changed after its part was done has its new features."""
    source = Path(shutil.copytree(many, tmp_path / "photos"))
    extraction(oracle, source, tmp_path / "c").run_part(1, 1)
    write_image(source / "a" / "001.png", random_image(999))
    done = extraction(oracle, source, tmp_path / "c").run().report
    assert done.computed in (1, 2)
    extraction(oracle, source, tmp_path / "fresh").run()
    ours, fresh = FeatureCache(tmp_path / "c"), FeatureCache(tmp_path / "fresh")
    assert np.array_equal(ours.features(views=True), fresh.features(views=True))


def test_parts_of_another_recipe_are_left_alone(oracle, many: Path, local, tmp_path: Path, caplog) -> None:
    """What was computed with other options does not get in."""
    extraction(oracle, many, tmp_path / "c", layers=["positive"]).run_part(1, 1)
    done = extraction(oracle, many, tmp_path / "c").run().report
    assert done.computed == len(local[2])
    assert "of another recipe" in caplog.text


def test_gc_spares_parts(oracle, many: Path, tmp_path: Path) -> None:
    """Parts that wait beside a cache are not what gc collects."""
    extraction(oracle, many, tmp_path / "c").run()
    extraction(oracle, many, tmp_path / "c", views=2).run_part(1, 1)
    before = sorted(path.name for path in (tmp_path / "c" / "parts").iterdir())
    assert gc(tmp_path / "c").files_removed == []
    assert sorted(path.name for path in (tmp_path / "c" / "parts").iterdir()) == before
    done = extraction(oracle, many, tmp_path / "c", views=2).run().report
    assert (done.computed, done.rows > 70) == (0, True)


def test_a_part_of_failing_images_fails(oracle, many: Path, tmp_path: Path) -> None:
    """With on_error="fail" a part ends at its first image that fails."""
    with pytest.raises(ImageError, match=r"a/005\.png"):
        extraction(oracle, many, tmp_path / "c", on_error="fail").run_part(1, 1)


@pytest.mark.parametrize(("part", "of"), [(0, 3), (4, 3)])
def test_parts_that_are_none(oracle, many: Path, tmp_path: Path, part: int, of: int) -> None:
    """Parts count from 1 to N."""
    with pytest.raises(OptionError, match="I from 1 to N"):
        extraction(oracle, many, tmp_path / "c").run_part(part, of)


def test_known_rows_are_exactly_those(oracle, many: Path, tmp_path: Path) -> None:
    """The file that other processes map knows the rows it was made of, and no others."""
    extraction(oracle, many, tmp_path / "c").run()
    keys = list(FeatureCache(tmp_path / "c").places)
    KnownRows.write(tmp_path / "known", keys[::2])
    known = KnownRows(tmp_path / "known")
    assert [key in known for key in keys] == [i % 2 == 0 for i in range(len(keys))]


def test_a_task_may_kill_three(oracle, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third dead worker ends a task, with a reason for each image; finding a guilty image starts the count anew."""
    plan = extraction(oracle, many, tmp_path / "c")
    job = plan._job()
    meta = plan._meta(job, plan._known(job))
    plan._todo(job, plan._known(job))
    work = plan._work(job, meta, 4)
    task = plan._tasks(job, range(40), work)[2]
    found = 0
    monkeypatch.setattr("featcache.extraction.engines.retries.culprit_count", lambda *_: found)
    losses = TaskQueue(work, [])
    assert [losses.killed(task), losses.killed(task)] == [None, None]
    found = 1
    assert [losses.killed(task), losses.killed(task)] == [None, None]
    outcome = losses.killed(task)
    assert outcome is not None
    assert outcome.images == [(None, "its task of 4 images killed 3 workers")] * 4


def test_a_file_that_is_no_part(tmp_path: Path) -> None:
    """Nonsense is an error of one line, not a traceback."""
    from featcache.extraction.engines.parts import read_part

    for text in ("", "[]", '{"shards": 3}', "\x00"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(CacheError, match="is damaged"):
            read_part(tmp_path / "x.json")


def test_a_suspect_is_decoded_elsewhere_first(oracle, many: Path, tmp_path: Path, monkeypatch) -> None:
    """A task at which a process died names what it was decoding: the guilty image is left out, the others have rows."""
    import sys

    from featcache.images import decode_crashes

    faulty = Path(__file__).parents[2] / "reliability" / "faulty.py"
    monkeypatch.setattr(decode_crashes, "probe_command", lambda: [sys.executable, str(faulty), "60", "--probe"])
    source = Path(shutil.copytree(many, tmp_path / "photos"))
    with (source / "a" / "001.png").open("ab") as file:
        file.write(b"crash")
    plan = extraction(oracle, source, tmp_path / "c")
    job = plan._job()
    todo, meta = plan._todo(job, plan._known(job)), plan._meta(job, plan._known(job))
    work = plan._work(job, meta, plan.batch_size)
    task = next(one for one in plan._tasks(job, todo, work) if "a/001.png" in [item.path for item in one.items])
    (tmp_path / "c" / "parts").mkdir(parents=True)
    died = b"".join(
        (len(name).to_bytes(2, "little") + name).ljust(4098, b"\0")
        for name in (item.path.encode() for item in task.items)
    )
    (tmp_path / "c" / "parts" / f"{task.name(work)}.decoding").write_bytes(died)
    report = plan.run_part(1, 1)
    reasons = {one["path"]: one["reason"] for one in report.skipped}
    assert reasons.pop("a/001.png") == "crashes the process that decodes it (signal 11)"
    assert reasons.keys() == {"a/005.png", "b/020.png"}
    assert {file.suffix for file in (tmp_path / "c" / "parts").iterdir()} == {".h5", ".json"}
    assert len(plan.run()) == 37


def test_images_that_were_exchanged_behind_a_part_are_found(oracle, tmp_path: Path) -> None:
    """Between a part and the extract that commits it two images change places, with their sizes and times."""
    source = make_photos(tmp_path / "photos")
    (source / "a" / "005.png").unlink()
    (source / "b" / "020.png").unlink()
    first, second, odd = source / "a" / "001.png", source / "b" / "022.png", tmp_path / "odd.png"
    for file in (first, second):
        file.write_bytes(file.read_bytes().ljust(4096, b"\0"))  # of equal size, times put back
        os.utime(file, (1_000_000_000, 1_000_000_000))
    extraction(oracle, source, tmp_path / "c").run_part(1, 1)
    first.rename(odd)
    second.rename(first)
    odd.rename(second)
    done = extraction(oracle, source, tmp_path / "c").run()
    again = extraction(oracle, source, tmp_path / "new").run()
    assert done.digests() == again.digests()
    assert done.report.computed <= 2
    np.testing.assert_array_equal(done.features(), again.features())
