import os
import signal

import numpy as np
import pytest

from featcache.errors import HeadError
from featcache.train.parallel import Failure, run_all


def _work(task: object) -> object:
    if isinstance(task, np.ndarray):
        return type(task).__name__, float(task.sum())
    if task == "refuse":
        raise HeadError("too little")
    if task == "break":
        raise ValueError("two\nlines")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return task, os.environ.get("OMP_NUM_THREADS")


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_come_in_order_and_errors_are_results(jobs: int) -> None:
    """Each task has its result or the reason it failed, in one line, and progress counts all."""
    seen = []
    found = run_all(
        _work, ["a", "refuse", "break", "b"], jobs=jobs, progress=lambda done, total: seen.append((done, total))
    )
    assert [found[0][0], found[3][0]] == ["a", "b"]
    assert isinstance(found[1], Failure)
    assert found[1].reason == "too little"
    assert found[2].reason == "ValueError: two lines"
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


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
