import os
import sys
import threading
import time

import numpy as np
import pytest
from peak_memory import INTERVAL, Peak

from featcache.system.memory import available

MB = 10**6
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Return a function that writes files below a root without a number of free pages, and returns the root."""

    def no_pages(name):
        raise ValueError(name)

    def write(**files):
        for path, text in FILES.items():
            if path in files:
                place = tmp_path / text
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(files[path])
        return tmp_path

    monkeypatch.setattr(os, "sysconf", no_pages)
    return write


V2, V1 = "sys/fs/cgroup/", "sys/fs/cgroup/memory/"
FILES = {
    "meminfo": "proc/meminfo",
    "cgroup": "proc/self/cgroup",
    "status": "proc/self/status",
    **{
        f"{level}_{short}": f"{V2}{folder}{name}"
        for level, folder in (("root", ""), ("outer", "a/"), ("inner", "a/b/"))
        for short, name in (("max", "memory.max"), ("now", "memory.current"), ("stat", "memory.stat"))
    },
    **{
        f"{level}_{short}": f"{V1}{folder}{name}"
        for level, folder in (("root1", ""), ("inner1", "a/b/"))
        for short, name in (("max", "memory.limit_in_bytes"), ("now", "memory.usage_in_bytes"), ("stat", "memory.stat"))
    },
}
MEMINFO = "MemTotal:       16000 kB\nMemFree:         100 kB\nMemAvailable:    8000 kB\nBuffers:  1 kB\n"


def test_without_groups_it_is_what_the_kernel_says(fake) -> None:
    """MemAvailable, in bytes."""
    assert available(fake(meminfo=MEMINFO)) == 8000 * 1024


def test_version_2_leaves_limit_less_use(fake) -> None:
    """What a group uses counts, but for the files that it has not used of late."""
    files = {"meminfo": MEMINFO, "cgroup": "0::/a/b\n", "inner_max": "5000000\n", "inner_now": "3000000\n"}
    assert available(fake(**files)) == 2000000
    assert available(fake(inner_stat="anon 7\ninactive_file 400000\nactive_file 100000\n")) == 2400000


def test_a_parent_may_leave_less(fake) -> None:
    """The tightest of a group and its parents decides, whether or not the group itself has a limit."""
    files = {"meminfo": MEMINFO, "cgroup": "0::/a/b\n", "inner_max": "max\n", "inner_now": "5\n"}
    assert available(fake(**files)) == 8000 * 1024
    assert available(fake(outer_max="900\n", outer_now="200\n")) == 700
    assert available(fake(root_max="600\n", root_now="500\n")) == 100


def test_a_loose_limit_does_not_count(fake) -> None:
    """What the kernel has is the most there is."""
    assert available(fake(meminfo=MEMINFO, cgroup="0::/a/b\n", inner_max="99000000000", inner_now="1")) == 8000 * 1024


def test_a_group_that_is_full_leaves_nothing(fake) -> None:
    """Use above the limit is 0 bytes left, not fewer."""
    assert available(fake(meminfo=MEMINFO, cgroup="0::/a/b\n", inner_max="100", inner_now="300")) == 0


def test_version_1(fake) -> None:
    """The memory controller's folder is read; its huge default limit is none."""
    files = {"meminfo": MEMINFO, "cgroup": "9:name=systemd:/x\n4:cpu,memory:/a/b\n1:pids:/y\n0::/\n"}
    root = fake(**files, inner1_max="9223372036854771712\n", inner1_now="3000\n")
    assert available(root) == 8000 * 1024
    assert available(fake(root1_max="5000\n", root1_now="4000\n")) == 1000
    assert available(fake(root1_stat="inactive_file 1\ntotal_inactive_file 500\n")) == 1500


@pytest.mark.parametrize("path", ["/elsewhere/c", "/../c"])
def test_a_group_that_is_not_shown_is_the_one_that_is(fake, path) -> None:
    """In a container that sees its own group only, as the root, that one's limit counts."""
    assert available(fake(meminfo=MEMINFO, cgroup=f"0::{path}\n", root_max="5000", root_now="4000")) == 1000


def test_a_limit_alone_is_enough(fake) -> None:
    """Without MemAvailable, what the group leaves is the answer."""
    assert available(fake(meminfo="MemTotal: 5 kB\n", cgroup="0::/a/b", inner_max="5000", inner_now="4000")) == 1000


def test_nothing_is_known(fake) -> None:
    """Without files and free pages there is no answer."""
    assert available(fake()) is None


def test_without_files_free_pages_are_the_answer(tmp_path, monkeypatch) -> None:
    """Elsewhere it is the number of free pages times their size."""
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert available(tmp_path) == 4096000


@LINUX
def test_this_machine_has_memory() -> None:
    """Here there is a number, not above the memory there is."""
    left = available()
    assert left is not None
    assert 0 < left <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@LINUX
def test_peak_sees_an_array() -> None:
    """100 MB that are written count, also after they are given back."""
    with Peak() as peak:
        array = np.ones(100 * MB, np.uint8)
        assert array[::4096].all()
        time.sleep(5 * INTERVAL)  # long enough to be seen
        del array
    assert peak.increase is not None
    assert 90 * MB <= peak.increase < 200 * MB
    assert peak.peak is not None
    assert peak.peak > peak.increase


@LINUX
def test_peak_does_not_see_a_mapped_file(tmp_path) -> None:
    """100 MB of a file that is mapped and read do not count."""
    path = tmp_path / "zeros"
    np.zeros(100 * MB, np.uint8).tofile(path)
    mapped = np.memmap(path, np.uint8, "r")
    with Peak() as peak:
        assert int(mapped[::4096].sum()) == 0
    assert peak.increase is not None
    assert peak.increase < 20 * MB


def test_peak_of_an_unknown_system(fake) -> None:
    """Where the system does not say, there is no number and no thread."""
    before = threading.active_count()
    with Peak(fake()) as peak:
        assert threading.active_count() == before
    assert peak.peak is None
    assert peak.increase is None


def test_peak_can_be_used_again(fake) -> None:
    """Each block has its own start, and its thread ends with it, also where the block fails."""
    peak, before = Peak(fake(status="RssAnon:\t  100 kB\n")), threading.active_count()
    with pytest.raises(KeyError), peak:
        fake(status="RssAnon:\t  300 kB\n")
        raise KeyError
    assert (peak.peak, peak.increase) == (300 * 1024, 200 * 1024)
    with peak:
        fake(status="RssAnon:\t  250 kB\n")
    assert (peak.peak, peak.increase) == (300 * 1024, 0)
    assert threading.active_count() == before
