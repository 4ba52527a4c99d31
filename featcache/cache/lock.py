"""One writer at a time: a lock file that names its holder and stops counting when that process ends.

The holder keeps an flock on the file, which the kernel frees when the process ends, in whichever container it ran.
Where there is none (some network disks, Windows) the holder touches the file every few seconds, and whoever finds it
untouched for longer takes it over. A lock can be lost: a user deletes it, or a holder is stopped for long. So nothing
depends on it alone: the manifest names the one writer whose changes count (`Manifest.claim`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from featcache.errors import CacheBusyError, CacheError, printable
from featcache.files.publishing import TEMPORARY

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)

BEAT = 5.0
"""Seconds between two touches of a lock by its holder."""

SILENT = 30.0
"""Seconds without a touch after which a lock that no flock protects may be taken over."""

_LARGEST = 4096
"""Bytes that a lock file has at most."""

_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}

_held: set[int] = set()
"""Descriptors whose flock this process holds."""


def _leave_to_parent() -> None:
    """Close the locks that a fork has copied: a child must not keep them when its parent ends."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


class Lock:
    """A lock on a folder that this process holds, with a token that no other holder has; use `writer_lock`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._file = folder, folder / "lock"
        self._descriptor, self._process = -1, os.getpid()
        self.token = uuid.uuid4().hex
        self._ended = threading.Event()
        self._written = False

    def check(self) -> None:
        """Raise `CacheBusyError` if this process has lost the lock: for what the manifest does not protect."""
        if not self._mine():
            raise taken_over(self.folder)

    def _mine(self) -> bool:
        try:
            with self._file.open("rb") as file:
                return (_parsed(file.read(_LARGEST + 1)) or {}).get("token") == self.token
        except OSError:
            return False

    def _acquire(self) -> None:
        for _ in range(100):  # each further try follows a change that another process made
            descriptor, made = _opened(self._file)
            if descriptor is None:
                continue
            try:
                locked = _flock(descriptor)
                content = os.read(descriptor, _LARGEST + 1)
                if locked is False:
                    raise _busy(self._file, _parsed(content) or {})
                if locked and not _is_at(descriptor, self._file):
                    continue  # its holder removed it meanwhile
                if made or self._may_replace(content, flocked=bool(locked)):
                    if locked or made:
                        self._write(descriptor, flocked=bool(locked))
                        if locked:
                            self._descriptor, descriptor = descriptor, -1
                            _held.add(self._descriptor)
                        return
                    self._set_aside(content)
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
        raise _busy(self._file, {})

    def _may_replace(self, content: bytes, *, flocked: bool) -> bool:
        """Whether nobody holds a lock that is there: its flock is free and proves that, or it stays untouched.

        Raise `CacheBusyError` if it is touched; return False if it is no longer there.
        """
        holder = _parsed(content)
        if holder is None:
            raise CacheError(
                f"The file {str(self._file)!r} is not a lock that featcache wrote. Delete it if nothing else writes "
                "this folder."
            )
        if flocked and (not holder or _on_this_machine(holder)):
            return True
        before = _touched(self._file)
        log.warning(
            "waiting up to %g s to see whether %s still writes %s", SILENT, _name(holder), printable(str(self._file))
        )
        end = time.monotonic() + SILENT
        while time.monotonic() < end:
            time.sleep(BEAT / 5)
            now = _touched(self._file)
            if now is None:
                return False
            if now != before:
                raise _busy(self._file, holder)
        return True

    def _set_aside(self, content: bytes) -> None:
        """Take a silent holder's lock out of the way, unless another process has done so meanwhile."""
        aside = self._file.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            self._file.rename(aside)
            if aside.read_bytes() != content and not self._file.exists():
                aside.rename(self._file)
            aside.unlink(missing_ok=True)

    def _write(self, descriptor: int, *, flocked: bool) -> None:
        self._written = True
        boot, namespace = _machine()
        mine = {"host": socket.gethostname(), "pid": self._process, "boot": boot, "namespace": namespace}
        mine |= {"kept": "flock" if flocked else "heartbeat", "token": self.token}
        try:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, json.dumps(mine).encode())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.unlink()
            raise

    def _beat(self) -> None:
        """Touch the lock until it is given back or lost."""
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):
                if self._descriptor >= 0 and os.utime in os.supports_fd:
                    os.utime(self._descriptor)
                elif self._mine():
                    os.utime(self._file)

    def _release(self) -> None:
        if os.getpid() != self._process:
            return  # a fork of the holder
        self._ended.set()
        with contextlib.suppress(OSError):
            if self._written and self._mine():
                self._file.unlink()
        if self._descriptor >= 0:
            _held.discard(self._descriptor)
            with contextlib.suppress(OSError):  # it was interrupted between these two
                os.close(self._descriptor)
            self._descriptor = -1


@contextlib.contextmanager
def writer_lock(folder: Path) -> Iterator[Lock]:
    """Hold a folder's lock file, ``lock``, which says host, process, boot id, pid namespace and a random token.

    A lock whose holder has ended is taken over: at once where the kernel knows that, else after `SILENT` seconds.
    """
    lock = Lock(folder)
    try:
        try:
            lock._acquire()
        except OSError as error:
            raise CacheError(
                f"The folder {str(folder)!r} cannot be written: {error.strerror}. Free some space, mend its "
                "permissions, or choose another `cache`."
            ) from None
        threading.Thread(target=lock._beat, name="featcache-lock", daemon=True).start()
        yield lock
    finally:
        try:
            lock._release()
        except KeyboardInterrupt:  # a second Ctrl-C
            lock._release()
            raise


def taken_over(folder: Path) -> CacheBusyError:
    """Return the error of a process that no longer holds a folder's lock."""
    return CacheBusyError(
        f"Another process has taken over writing {str(folder)!r}, so this one stops. Nothing that was committed is "
        "lost. Run the same command again when the other process is done."
    )


def _busy(lock: Path, holder: dict[str, Any]) -> CacheBusyError:
    return CacheBusyError(
        f"Another process is writing {str(lock.parent)!r}: {_name(holder)}. Wait for it, or end it if it hangs or is "
        f"stopped, then run this again. Do not delete {str(lock)!r}: it stops counting when that process ends."
    )


def _name(holder: dict[str, Any]) -> str:
    """Say who holds a lock; whatever a file says, it is short and printable."""
    pid, host, boot, namespace = (
        printable(str(holder.get(key) or "unknown"))[:100] for key in ("pid", "host", "boot", "namespace")
    )
    if _machine() == (boot, namespace):
        return f"process {pid} on {host}"
    return f"process {pid} on {host} (boot {boot}, pid namespace {namespace})"


def _opened(lock: Path) -> tuple[int | None, bool]:
    """Return a descriptor of the lock file, and whether this call made it; None if it came or went meanwhile."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with contextlib.suppress(FileExistsError):
        return os.open(lock, flags | os.O_CREAT | os.O_EXCL, 0o666), True
    try:
        if not stat.S_ISREG(lock.lstat().st_mode):
            raise CacheError(f"{str(lock)!r} must be a regular file and is none. Rename it, or choose another `cache`.")
        return os.open(lock, flags), False
    except FileNotFoundError:
        return None, False


def _flock(descriptor: int) -> bool | None:
    """Lock a file: True if it was free, False if another process has it, None where files have no flock."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _touched(lock: Path) -> tuple[int, int, int] | None:
    """Return what changes when a lock is touched or replaced; it is opened, as network disks ask the server then."""
    try:
        with lock.open("rb") as file:
            found = os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _parsed(content: bytes) -> dict[str, Any] | None:
    """Return what a lock file says, nothing of an empty one (its maker died); None if it is no lock of ours."""
    if not content:
        return {}
    try:
        value = json.loads(content) if len(content) <= _LARGEST else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _on_this_machine(holder: dict[str, Any]) -> bool:
    """Whether the kernel that says a holder's flock is free is the one that the holder ran on."""
    boot, _ = _machine()
    same = holder.get("boot") == boot if boot else holder.get("host") == socket.gethostname()
    return same and holder.get("kept") == "flock"


def _machine() -> tuple[str | None, str | None]:
    """Return the boot id, which containers of one machine share, and the pid namespace, which they do not."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return boot, str(Path("/proc/self/ns/pid").readlink()).removeprefix("pid:").strip("[]")
    except OSError:  # not Linux
        return None, None
