"""Reading files that may have been replaced: only regular files of a plausible size, and JSON that Python can hold.

What is wrong with a file is a `ValueError`. What says nothing of the file, such as too many open files, is an
`OSError`, and `trouble` tells them apart from damage.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

CARD_BYTES = 64 * 2**20
"""What a file of JSON has at most."""

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
_KINDS |= dict.fromkeys((stat.S_IFCHR, stat.S_IFBLK), "a device")

_TROUBLE = {
    errno.EMFILE: "Raise the limit, such as with `ulimit -n 4096`",
    errno.ENFILE: "Close other programs",
    errno.ENOMEM: "Free some memory",
    errno.EACCES: "Mend its permissions",
    errno.EPERM: "Mend its permissions",
    errno.EIO: "Check the disk",
    errno.ETIMEDOUT: "Check the network disk",
    getattr(errno, "ESTALE", errno.EIO): "Check the network disk",
}


def trouble(error: BaseException) -> str | None:
    """Return why a file cannot be read, and what to do, if the reason says nothing of what is in it; else None."""
    if isinstance(error, MemoryError):
        return "not enough memory. Free some, and run the command again."
    number = error.errno if isinstance(error, OSError) else None
    if number is None or number not in _TROUBLE:
        return None
    return f"{os.strerror(number)}. {_TROUBLE[number]}, and run the command again."


def odd_file(path: str | os.PathLike[str]) -> str | None:
    """Return what a path leads to if it is there and no regular file, without opening it."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return None
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


def open_plain(path: str | os.PathLike[str], *, most: int | None = None, size: int | None = None) -> BufferedReader:
    """Open a regular file of at most `most` and exactly `size` bytes; nothing else is waited for or read from."""
    kind = odd_file(path)
    if kind is not None:
        raise ValueError(f"it is {kind}, not a file")
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
    try:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is not a regular file")
        if size is not None and found.st_size != size:
            raise ValueError(f"it has {found.st_size} bytes instead of {size}")
        if most is not None and found.st_size > most:
            raise ValueError(f"it has {found.st_size} bytes, more than the {most} that are plausible")
    except BaseException:
        file.close()
        raise
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_plain(path: str | os.PathLike[str], *, most: int | None = None, size: int | None = None) -> bytes:
    """Return what is in a regular file; parameters and errors are those of `open_plain`."""
    with open_plain(path, most=most, size=size) as file:
        return file.read()


def read_json(path: Path, *, most: int = CARD_BYTES) -> Any:
    """Return what a file of JSON says; parameters and errors are those of `open_plain`."""
    return parsed(read_plain(path, most=most))


def parsed(content: str | bytes) -> Any:
    """Return what JSON says; raise `ValueError` if it is none, or nested too deeply."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
