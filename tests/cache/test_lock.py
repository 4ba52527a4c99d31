import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from featcache.cache import lock as locks
from featcache.cache.lock import Lock, writer_lock
from featcache.errors import CacheBusyError, CacheError

HOLDER = """
import os, sys, time
from pathlib import Path
from featcache.cache.lock import Lock, writer_lock
with writer_lock(Path(sys.argv[1])):
    {then}
"""
STAY = 'print("held", flush=True); time.sleep(60)'


@contextlib.contextmanager
def holder(folder: Path, *before: str, then: str = STAY) -> Iterator[subprocess.Popen[str]]:
    """Run another process that holds the lock of a folder, and kill it in the end."""
    command = [*before, sys.executable, "-c", HOLDER.format(then=then), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def busy(folder: Path) -> str:
    """Return what a second writer is told."""
    with pytest.raises(CacheBusyError) as caught, writer_lock(folder):
        raise AssertionError("both hold it")
    return str(caught.value)


@pytest.fixture
def heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take flock away, as Windows does, and make hearts beat fast."""
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "BEAT", 0.05)
    monkeypatch.setattr(locks, "SILENT", 0.5)


def test_lock_is_held_and_given_back(tmp_path: Path) -> None:
    """While held the lock names host, process, boot and pid namespace; afterwards nothing is left."""
    with writer_lock(tmp_path) as lock:
        said = json.loads((tmp_path / "lock").read_text())
        assert (said["pid"], said["host"], said["token"]) == (os.getpid(), socket.gethostname(), lock.token)
        if Path("/proc/self/ns/pid").exists():
            assert said["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            assert str(Path("/proc/self/ns/pid").readlink()) == f"pid:[{said['namespace']}]"
        lock.check()
    assert list(tmp_path.iterdir()) == []


def test_second_writer_is_told_who_holds_it(tmp_path: Path) -> None:
    """A second writer gets one line with everything that names the holder, and the lock stays."""
    with writer_lock(tmp_path):
        message = busy(tmp_path)
        assert f"process {os.getpid()} on {socket.gethostname()}" in message
        assert "boot" not in message  # of this machine's own processes
        assert "Do not delete" in message
        assert "\n" not in message
        assert (tmp_path / "lock").exists()


def test_lock_of_a_dead_process_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed writer locks nobody out, and no signal is sent to find that it is dead."""
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
        assert (tmp_path / "lock").exists()
        monkeypatch.setattr(os, "kill", None)
        with writer_lock(tmp_path):
            assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_process_number_says_nothing(tmp_path: Path) -> None:
    """A live holder whose number is unknown here, as in another container of the same host name, keeps its lock."""
    with holder(tmp_path) as process:
        said = json.loads((tmp_path / "lock").read_text())
        with (tmp_path / "lock").open("r+") as file:  # the very file, as the holder's flock is on it
            file.write(json.dumps({**said, "pid": 2**22 + 1}).ljust(400))
        assert f"process {2**22 + 1}" in busy(tmp_path)
        process.kill()
        process.wait()
        with writer_lock(tmp_path):
            pass


def test_lock_holds_across_pid_namespaces(tmp_path: Path) -> None:
    """A holder in another pid namespace with the same host name is not taken for dead."""
    isolated = ["unshare", "-rpf", "--kill-child", "--mount-proc"]
    try:
        subprocess.run([*isolated, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no pid namespaces here: {error}")
    with holder(tmp_path, *isolated):
        assert f"process {json.loads((tmp_path / 'lock').read_text())['pid']} on" in busy(tmp_path)
    time.sleep(0.2)  # the namespace's processes die with it
    with writer_lock(tmp_path):
        pass


def test_a_stopped_process_keeps_its_lock(tmp_path: Path) -> None:
    """A holder that is stopped is waited for or ended, and its lock is free once it is dead."""
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        assert "end it if it hangs or is stopped" in busy(tmp_path)
        process.kill()
        process.wait()
        with writer_lock(tmp_path):
            pass


def test_a_fork_keeps_no_lock(tmp_path: Path) -> None:
    """What a holder has forked neither holds the lock after the holder's death nor removes it."""
    then = """
    if not os.fork():
        print("held", flush=True)  # the child, which has closed its copy by now
    time.sleep(60)"""
    with holder(tmp_path, then=then.strip()) as process:
        busy(tmp_path)
        process.kill()
        process.wait()
        with writer_lock(tmp_path) as lock:
            lock.check()
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    with writer_lock(tmp_path) as lock:
        child = os.fork()
        if not child:
            lock._release()
            os._exit(0)
        os.waitpid(child, 0)
        lock.check()


def test_a_second_interrupt_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the lock is given back does not leave it with a process that goes on, such as a notebook's."""
    mine, calls = Lock._mine, []

    def interrupted(self: Lock) -> bool:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return mine(self)

    with pytest.raises(KeyboardInterrupt), writer_lock(tmp_path):
        monkeypatch.setattr(Lock, "_mine", interrupted)
    assert not (tmp_path / "lock").exists()
    with writer_lock(tmp_path) as lock:
        lock.check()


def test_a_process_removes_only_its_own_lock(tmp_path: Path) -> None:
    """Whoever lost its lock leaves that of the next holder alone, and is told so when it asks."""
    with writer_lock(tmp_path) as lock:
        (tmp_path / "lock").unlink()
        with writer_lock(tmp_path) as other:
            with pytest.raises(CacheBusyError, match="has taken over"):
                lock.check()
            lock._release()
            other.check()
            busy(tmp_path)


def test_a_stale_takeover_is_in_nobodys_way(tmp_path: Path) -> None:
    """What a process left that died while it took a lock over changes nothing."""
    (tmp_path / "lock.takeover").write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1}))
    with holder(tmp_path) as process:
        process.kill()
        process.wait()
        with writer_lock(tmp_path):
            pass


@pytest.mark.parametrize(
    "content", [b"[" * 4000, b'{"a":' * 800, b"x" * 10_000_000, b"{}" + b" " * 5000, b"5", b"null", b"[]", b"\xff\0"]
)
def test_what_is_no_lock_is_refused(tmp_path: Path, content: bytes) -> None:
    """Nested, huge or other content under the lock's name is one plain line, and is left as it is."""
    (tmp_path / "lock").write_bytes(content)
    with (
        pytest.raises(CacheError, match=r"is not a lock that featcache wrote\. Delete it") as caught,
        writer_lock(tmp_path),
    ):
        pass
    assert not isinstance(caught.value, CacheBusyError)
    assert (tmp_path / "lock").read_bytes() == content


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    """A folder, a link or a pipe under the lock's name is one plain line, and nothing hangs."""
    lock, other = tmp_path / "lock", tmp_path / "other"
    other.write_text("mine")
    {"folder": lock.mkdir, "link": lambda: lock.symlink_to(other), "fifo": lambda: os.mkfifo(lock)}[kind]()
    with pytest.raises(CacheError, match="must be a regular file"), writer_lock(tmp_path):
        pass
    assert other.read_text() == "mine"


def test_empty_lock_is_taken_over(tmp_path: Path) -> None:
    """A process that died as it made its lock is dead."""
    (tmp_path / "lock").write_text("")
    with writer_lock(tmp_path) as lock:
        lock.check()


def test_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    """A folder that cannot be written is named."""
    with pytest.raises(CacheError, match="nowhere"), writer_lock(tmp_path / "nowhere"):
        pass


def test_a_lock_that_cannot_be_written_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk the folder is named, and no empty lock stays."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(CacheError, match="No space left"), writer_lock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [None, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_flock_a_heartbeat_holds_the_lock(
    tmp_path: Path, heartbeat: None, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """Where files cannot be locked, a holder that touches its lock keeps it, and gives it back."""
    if number is not None:
        import fcntl

        def refuse(*_: object) -> None:
            raise OSError(number, "no locks")

        monkeypatch.setattr(locks, "fcntl", fcntl)
        monkeypatch.setattr(fcntl, "flock", refuse)
    with writer_lock(tmp_path) as lock:
        assert f"process {os.getpid()} on" in busy(tmp_path)
        lock.check()
    assert list(tmp_path.iterdir()) == []


def test_without_flock_a_silent_lock_is_taken_over(tmp_path: Path, heartbeat: None) -> None:
    """A lock that nobody touches is taken over, and its holder, should it wake up, leaves it alone."""
    with writer_lock(tmp_path) as lock:
        lock._ended.set()  # as if it was stopped
        with writer_lock(tmp_path) as other:
            lock._release()
            other.check()
    assert list(tmp_path.iterdir()) == []


def test_of_two_that_take_a_silent_lock_over_one_does(tmp_path: Path, heartbeat: None) -> None:
    """A process that found a lock silent does not take the one that another process has made since."""
    (tmp_path / "lock").write_text(json.dumps({"host": "elsewhere", "pid": 1, "kept": "heartbeat"}))
    old = (tmp_path / "lock").read_bytes()
    with writer_lock(tmp_path) as lock:
        locks.Lock(tmp_path)._set_aside(old)
        lock.check()


@pytest.mark.parametrize("said", [{"boot": "another", "kept": "flock"}, {"kept": "flock"}, {}])
def test_another_machines_lock_counts_while_it_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, str]
) -> None:
    """An flock may not reach other machines: a lock from elsewhere is respected while touched, and no longer."""
    monkeypatch.setattr(locks, "BEAT", 0.05)
    monkeypatch.setattr(locks, "SILENT", 0.5)
    lock, ended = tmp_path / "lock", threading.Event()
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "token": "x", **said}))

    def touch() -> None:
        while not ended.wait(0.05):
            os.utime(lock)

    heart = threading.Thread(target=touch)
    heart.start()
    assert "process 1 on elsewhere" in busy(tmp_path)
    ended.set()
    heart.join()
    with writer_lock(tmp_path) as mine:
        mine.check()


def test_what_a_lock_says_is_printable(tmp_path: Path) -> None:
    """Names in a lock file reach a terminal escaped and short."""
    said = {"host": "h\n\x1b[31m" + "x" * 1000, "pid": "[" * 500, "boot": ["a", {}], "namespace": 5}
    message = str(locks._busy(tmp_path / "lock", said))
    assert "\x1b" not in message
    assert "\n" not in message
    assert len(message) < 1000
