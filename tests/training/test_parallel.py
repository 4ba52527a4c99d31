import logging
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from featcache.errors import HeadError, OptionError
from featcache.training import parallel
from featcache.training.parallel import Failure, check_jobs, run_all


def _work(task: object) -> object:
    if isinstance(task, np.ndarray):
        return type(task).__name__, float(task.sum())
    if task == "refuse":
        raise HeadError("too little")
    if task == "break":
        raise ValueError("two\nlines")
    if task == "warn":
        logging.getLogger("featcache.heads").warning("%d percent", 7)
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return task, os.environ.get("OMP_NUM_THREADS")


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order_and_errors_are_results(jobs: int) -> None:
    """Each task has its result or the reason it failed, in one line, and is handed over at once."""
    seen = []
    found = run_all(_work, ["a", "refuse", "break", "b"], jobs=jobs, done=lambda i, result: seen.append((i, result)))
    assert [found[0][0], found[3][0]] == ["a", "b"]
    assert isinstance(found[1], Failure)
    assert found[1].reason == "too little"
    assert found[2].reason == "ValueError: two lines"
    assert sorted(i for i, _ in seen) == [0, 1, 2, 3]
    assert all(result is found[i] for i, result in seen)


def test_a_process_that_dies_takes_no_other_task_with_it() -> None:
    """The task that kills its process is named, and the others have their results."""
    found = run_all(_work, ["a", "die", "b", "c"], jobs=2)
    assert [found[i][0] for i in (0, 2, 3)] == ["a", "b", "c"]
    assert "killed" in found[1].reason


def test_processes_share_arrays_and_threads(tmp_path) -> None:
    """Mapped arrays reach the processes as maps, and threads are divided among them."""
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(100, 3))
    mapped[:] = 1
    assert run_all(_work, [mapped, mapped], jobs=2) == [("memmap", 300.0)] * 2
    assert run_all(_work, ["a", "b"], jobs=2)[0][1] == str(max(1, (os.cpu_count() or 2) // 2))


def test_what_processes_say_is_said_here(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """A warning in a process reaches this process's log, and nothing goes past it to the terminal."""
    run_all(_work, ["warn", "a"], jobs=2)
    assert "7 percent" in caplog.text
    assert "percent" not in capfd.readouterr().err


def test_jobs_are_a_number() -> None:
    """None, or one and more processes."""
    check_jobs(None)
    check_jobs(2)
    with pytest.raises(OptionError, match="`jobs` must be 1 or more"):
        check_jobs(0)


def test_processes_end_at_once_when_they_are_told_to() -> None:
    """After that no worker is left, and the next run starts others."""
    assert run_all(_pid, [0, 1], jobs=2) != [os.getpid()] * 2
    before = _children()
    parallel.end_workers()
    assert before
    assert not _children() & before
    assert all(isinstance(pid, int) for pid in run_all(_pid, [0, 1], jobs=2))
    parallel.end_workers()


def _pid(task: int) -> int:
    time.sleep(0.2)
    return os.getpid()


def _children() -> set[int]:
    """Return the processes of this one that wait for work."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            line = (folder / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if parent == os.getpid() and b"LokyProcess" in line:
            found.add(int(folder.name))
    return found
