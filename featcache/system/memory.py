"""How much memory there is for this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def available(root: Path = Path("/")) -> int | None:
    """Return how many bytes of memory this process may still take, or None where the system does not say.

    On Linux, what the kernel could give without swapping (``MemAvailable``), or what a control group leaves if that
    is less. Elsewhere the free pages, if there is such a number. `root` is the folder that has ``proc`` and ``sys``.
    """
    system = kilobytes(root / "proc/meminfo", "MemAvailable")
    known = [*_groups(root), *([] if system is None else [system])]
    return min(known) if known else _free_pages()


def _free_pages() -> int | None:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return free if free >= 0 else None


def _groups(root: Path) -> Iterator[int]:
    """Yield what each control group with a limit that this process is in leaves to it: version 2, then version 1."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        mount = root / "sys/fs/cgroup"
        if number == "0" and not controllers:
            files = ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            mount = mount / "memory"
        else:
            continue
        inner = PurePosixPath(path.strip("/"))
        for group in (inner, *inner.parents):
            left = _left(mount / group, *files)
            if left is not None:
                yield left


def _left(group: Path, limit_file: str, usage_file: str, reclaimable: str) -> int | None:
    """Return the limit of a group less what it uses and cannot drop; None if it has no limit."""
    limit, usage = (_text(group / limit_file) or "").strip(), (_text(group / usage_file) or "").strip()
    if not limit.isdecimal() or not usage.isdecimal():
        return None
    inactive = 0
    for line in (_text(group / "memory.stat") or "").splitlines():
        if line.startswith(f"{reclaimable} "):
            inactive = int(line.split()[1])
    return max(0, int(limit) - max(0, int(usage) - inactive))


def kilobytes(path: Path, name: str) -> int | None:
    """Return the bytes of a line ``Name:  1234 kB``."""
    for line in (_text(path) or "").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
