import os
import subprocess
import sys

import pytest

from featcache.system import cpus
from featcache.system.cpus import MOST_PASSES, decoding_threads, gpus, pass_side_by_side, threads_each


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without TensorFlow, without a GPU, where nobody has divided anything, with 16 processors."""
    monkeypatch.setattr(sys, "modules", {name: it for name, it in sys.modules.items() if name != "tensorflow"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "")
    monkeypatch.setattr(cpus, "count", lambda: 16)
    monkeypatch.setattr(cpus, "available", lambda: None)


@pytest.mark.parametrize(
    ("count", "memory", "passes", "threads"),
    [
        (1, None, 1, 1),
        (2, None, 2, 1),
        (16, None, MOST_PASSES, 2),
        (16, 24 << 30, 6, 2),
        (8, 12 << 30, 3, 2),
        (8, 1, 1, 8),
    ],
)
def test_passes_have_a_part_of_the_processors_each(monkeypatch, count, memory, passes, threads) -> None:
    """There are as many passes as processors, or fewer with more threads each, as many as the memory holds."""
    monkeypatch.setattr(cpus, "count", lambda: count)
    monkeypatch.setattr(cpus, "available", lambda: memory)
    assert (pass_side_by_side(), os.environ["TF_NUM_INTRAOP_THREADS"]) == (passes, str(threads))
    assert decoding_threads(passes) == passes * threads + 1


@pytest.mark.parametrize("reason", ["TensorFlow", "GPU", "threads"])
def test_one_pass_where_that_is_not_for_us_to_say(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """A TensorFlow that is loaded, a GPU, and a number of threads that somebody has set stay as they are."""
    if reason == "TensorFlow":
        monkeypatch.setitem(sys.modules, "tensorflow", sys)
    elif reason == "GPU":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    else:
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    before = os.environ["TF_NUM_INTRAOP_THREADS"]
    assert (pass_side_by_side(), os.environ["TF_NUM_INTRAOP_THREADS"]) == (1, before)
    assert decoding_threads() == (6 if reason == "threads" else 17)


def test_workers_divide_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker has its part, one thread at least, or what was set."""
    assert [threads_each(workers) for workers in (1, 3, 16, 40)] == [16, 5, 1, 1]
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "4")
    assert threads_each(16) == 4


@pytest.mark.parametrize(("devices", "expected"), [("", []), ("-1", []), ("0,2", ["0", "2"]), ("GPU-ab", ["GPU-ab"])])
def test_gpus_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch, devices: str, expected: list[str]) -> None:
    """What CUDA_VISIBLE_DEVICES names, as TensorFlow would see it."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    assert gpus() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which processors a process may use")
def test_a_job_has_the_processors_it_was_given() -> None:
    """A process that is kept on one processor counts one."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from featcache.system import cpus; "
        "print(cpus.count())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
