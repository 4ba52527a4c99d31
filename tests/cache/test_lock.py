import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from featcache.cache.lock import writer_lock
from featcache.errors import CacheBusyError, CacheError


def test_lock_is_held_and_given_back(tmp_path: Path) -> None:
    """While held the lock names this process; afterwards nothing is left."""
    with writer_lock(tmp_path):
        holder = json.loads((tmp_path / "lock").read_text())
        assert (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname())
    assert list(tmp_path.iterdir()) == []


def test_second_writer_is_told_who_holds_it(tmp_path: Path) -> None:
    """A second writer gets the process and host, and the lock stays."""
    with writer_lock(tmp_path):
        with (
            pytest.raises(CacheBusyError, match=f"process {os.getpid()} on {socket.gethostname()}"),
            writer_lock(tmp_path),
        ):
            raise AssertionError("both hold it")
        assert (tmp_path / "lock").exists()


def test_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    """A killed writer does not lock everybody out."""
    code = (
        f"import os\nfrom pathlib import Path\nfrom featcache.cache.lock import writer_lock\n"
        f"with writer_lock(Path({str(tmp_path)!r})):\n    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert (tmp_path / "lock").exists()
    with writer_lock(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_lock_of_another_host_is_respected(tmp_path: Path) -> None:
    """Nobody can tell from here whether a process of another host still runs."""
    (tmp_path / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x"}))
    with pytest.raises(CacheBusyError, match="process 1 on elsewhere"), writer_lock(tmp_path):
        pass


def test_reused_process_number_is_not_the_holder(tmp_path: Path) -> None:
    """A process that got a dead holder's number later does not hold the lock."""
    lock = {"host": socket.gethostname(), "pid": os.getpid(), "started": "1", "token": "x"}
    (tmp_path / "lock").write_text(json.dumps(lock))
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system does not tell when a process started")
    with writer_lock(tmp_path):
        pass


def test_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    """A folder that cannot be written is named."""
    with pytest.raises(CacheError, match="nowhere"), writer_lock(tmp_path / "nowhere"):
        pass


def test_lock_that_cannot_be_read_is_respected(tmp_path: Path) -> None:
    """Whoever holds a lock that says nothing may still be writing."""
    (tmp_path / "lock").write_text("")
    with pytest.raises(CacheBusyError, match="unknown"), writer_lock(tmp_path):
        pass
    assert (tmp_path / "lock").exists()


def test_dead_lock_is_taken_over_by_one(tmp_path: Path) -> None:
    """While one process takes a dead lock over, another does not."""
    dead = {"host": socket.gethostname(), "pid": 2**22 + 1, "started": "1"}
    (tmp_path / "lock").write_text(json.dumps(dead))
    (tmp_path / "lock.takeover").write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    with pytest.raises(CacheBusyError, match="process 7 on elsewhere"), writer_lock(tmp_path):
        pass
    (tmp_path / "lock.takeover").unlink()
    with writer_lock(tmp_path):
        pass


def test_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files cannot be linked, exclusive creation does."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with writer_lock(tmp_path):
        with pytest.raises(CacheBusyError), writer_lock(tmp_path):
            pass
        assert (tmp_path / "lock").exists()
    assert list(tmp_path.iterdir()) == []
