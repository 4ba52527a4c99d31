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
    advisory locks are not to be had. A lock whose process no longer runs on this host is taken over.

    Raises
    ------
    CacheBusyError
        If another process holds it; the message says which.
    CacheError
        If the folder cannot be written.
    """
    lock = folder / "lock"
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid()),
            "token": uuid.uuid4().hex}  # fmt: skip
    draft = folder / f"{TEMPORARY}{mine['token']}"
    try:
        draft.write_text(json.dumps(mine))
    except OSError as error:
        raise CacheError(
            f"Expected a folder that can be written. Received: {str(folder)!r}: {error.strerror}. "
            "Choose another --cache."
        ) from None
    try:
        for _ in range(10):
            try:
                os.link(draft, lock)
                break
            except FileExistsError:
                holder = _read(lock)
                if holder is not None and not _dead(holder):
                    raise CacheBusyError(
                        f"Expected to be the only writer of {str(folder)!r}. Received: it is being written by "
                        f"process {holder.get('pid')} on {holder.get('host')}. Wait for it; if it no longer "
                        f"runs, delete {str(lock)!r}."
                    ) from None
                _set_aside(lock, holder)
        else:
            raise CacheBusyError(f"Expected to take over {str(lock)!r}. Received: others take it first. Try again.")
    finally:
        draft.unlink(missing_ok=True)
    try:
        yield
    finally:
        if (_read(lock) or {}).get("token") == mine["token"]:
            lock.unlink(missing_ok=True)


def _read(lock: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(lock.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


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
    return started is not None and started != holder.get("started")


def _started(pid: int) -> str | None:
    """Return a process's start time in clock ticks, where the system tells."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _set_aside(lock: Path, holder: dict[str, Any] | None) -> None:
    """Remove a dead holder's lock, but not one that another process took in the meantime."""
    aside = lock.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        lock.rename(aside)
        if _read(aside) != holder:
            with contextlib.suppress(FileExistsError):
                os.link(aside, lock)
        aside.unlink()
