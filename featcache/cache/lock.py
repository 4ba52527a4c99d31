"""One writer at a time: a lock file that names its holder and works on network disks."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featcache.errors import CacheBusyError, CacheError
from featcache.files import TEMPORARY


@contextlib.contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold a folder's lock file, ``lock``, which says host, process and a random token.

    It is made by linking a complete file to its name, which is atomic on network disks too, where
    advisory locks are not to be had. A lock whose process no longer runs on this host is taken over,
    by one process at a time: the one that holds ``lock.takeover``.

    Raises
    ------
    CacheBusyError
        If another process holds it; the message says which.
    CacheError
        If the folder cannot be written.
    """
    lock = folder / "lock"
    if not _taken(lock):
        takeover = folder / "lock.takeover"
        holder = _read(lock)
        if holder is not None and not _dead(holder):
            raise _busy(lock, holder)
        if not _taken(takeover):
            raise _busy(takeover, _read(takeover) or {})
        try:
            holder = _read(lock)  # nobody else removes a lock now, and its holder is dead or gone
            if holder is not None and not _dead(holder):
                raise _busy(lock, holder)
            lock.unlink(missing_ok=True)
            if not _taken(lock):
                raise _busy(lock, _read(lock) or {})
        finally:
            takeover.unlink(missing_ok=True)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _busy(lock: Path, holder: dict[str, Any]) -> CacheBusyError:
    return CacheBusyError(
        f"Another process is writing {str(lock.parent)!r}: process {holder.get('pid', 'unknown')} on "
        f"{holder.get('host', 'an unknown host')}. Wait for it. If it no longer runs, delete "
        f"{str(lock)!r}."
    )


def _taken(lock: Path) -> bool:
    """Make a lock file that names this process; return whether it was free."""
    pid = os.getpid()
    mine = json.dumps({"host": socket.gethostname(), "pid": pid, "started": _started(pid)})
    draft = lock.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        draft.write_text(mine)
        try:
            os.link(draft, lock)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: exclusive creation is the next best
            return _created(lock, mine)
    except OSError as error:
        raise CacheError(
            f"The folder {str(lock.parent)!r} cannot be written: {error.strerror}. Free some space, mend its "
            "permissions, or choose another `cache`."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return True


def _created(lock: Path, content: str) -> bool:
    try:
        file = lock.open("x")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(content)
    except OSError:
        lock.unlink(missing_ok=True)
        raise
    return True


def _read(lock: Path) -> dict[str, Any] | None:
    """Return who holds a lock; None if it is gone, nobody one can tell of if it cannot be read."""
    try:
        value = json.loads(lock.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _dead(holder: dict[str, Any]) -> bool:
    """Whether a holder certainly no longer runs: same host, and no such process or a younger one."""
    if holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    started = _started(holder["pid"])
    return started is not None and started != holder.get("started")  # a zombie's is ""


def _started(pid: int) -> str | None:
    """Return a process's start time in clock ticks, where the system tells; nothing if it has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    except (OSError, IndexError):
        return None
