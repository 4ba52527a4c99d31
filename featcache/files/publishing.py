"""Publish files whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import io
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

TEMPORARY = ".tmp-"
"""How names of files begin that were not published (yet); safe to delete when nobody writes."""

RACY_NS = 2_000_000_000
"""How recent a change may be that a later one could have the same time as: two seconds on FAT, less elsewhere."""


def change_stamp(status: os.stat_result, *, settled: bool = False) -> int:
    """Return 64 bits that are other ones after a file was written to, replaced or exchanged; 0 if nobody can know.

    They are mixed from inode and ctime, which no program can set back, and serve to decide whether a file is read
    again, as git's index does; another machine may see others for the same file. Windows has no ctime: there
    they are of the file's number and its creation, so that a file written in place with its time stamp put back is
    taken for unchanged. A change within the last two seconds gives 0, as another one could have the same time, unless
    `settled` says that there will be none.
    """
    latest = status.st_mtime_ns if os.name == "nt" else status.st_ctime_ns
    young = not settled and latest > time.time_ns() - RACY_NS
    return 0 if young else hash((status.st_ctime_ns, status.st_ino))


@contextlib.contextmanager
def draft_of(target: Path, suffix: str = "") -> Iterator[Path]:
    """Yield a free name beside a target, for a file or a folder; what is still there at the end is deleted."""
    draft = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}{suffix}"
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        with contextlib.suppress(OSError):
            draft.unlink()


def publish(path: Path, content: bytes | memoryview, *, check: Callable[[Path], None] | None = None) -> None:
    """Write or replace a file so that any reader at any moment sees all of it or nothing.

    Temporary file in the same folder → write → fsync → close → `check`, which may raise → rename → fsync of the folder.
    """
    with draft_of(path) as draft:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(draft)
        draft.replace(path)
    sync_folder(path.parent)


def publish_json(path: Path, value: Any) -> None:
    """Publish a value as indented JSON."""
    publish(path, (json.dumps(value, indent=2) + "\n").encode())


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How cells begin that spreadsheet programs compute."""


def is_formula(text: str) -> bool:
    """Return whether a spreadsheet program would compute a cell."""
    return text.startswith(_FORMULA)


def quoted_cell(text: str) -> str:
    """Return a cell that no spreadsheet program computes: with an apostrophe before a formula.

    One more apostrophe before those that such a text has already, so that `unquoted_cell` undoes it for every text.
    """
    return f"'{text}" if is_formula(text.lstrip("'")) else text


def unquoted_cell(text: str) -> str:
    """Return what `quoted_cell` was given."""
    return text[1:] if text.startswith("'") and is_formula(text.lstrip("'")) else text


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV that every reader divides into the same cells, whatever is in them.

    Lines end in a line feed. Python's writer quotes only the line break it ends lines with; a carriage return
    without quotes ends a line for readers.
    """
    lines = []
    for row in rows:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\r\n").writerow(row)
        lines.append(text.getvalue()[:-2] + "\n")
    return "".join(lines)


def swap_folder(draft: Path, target: Path, *, rescue: Callable[[Path], Any] | None = None) -> None:
    """Put a complete folder in the place of another, which is deleted after `rescue` was called with it.

    If the system can exchange two names (Linux, most file systems), a reader or a kill at any moment finds one of
    the two. Elsewhere a kill between two renames leaves the old one beside `target`, as ``NAME.old-…``, which nothing
    removes. Raise `OSError` if `draft` cannot take the place: the old folder is where it was then; or if `rescue`
    raises it: the old folder is kept beside the new one.
    """
    beside = target.with_name(f"{target.name}.old-{uuid.uuid4().hex[:8]}")
    aside: Path | None = draft
    if not (target.is_dir() and _exchange(draft, target)):
        aside = _renamed(draft, target, beside)
    sync_folder(target.parent)
    if aside is None:
        return
    try:
        if rescue is not None:
            rescue(aside)
    except OSError:
        if aside != beside:
            aside.rename(beside)
        log.warning("what was in %s before is kept in %s", target, beside)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _renamed(draft: Path, target: Path, beside: Path) -> Path | None:
    """Rename the old folder away and the new one into its place; return where the old one is, if there was one."""
    try:
        target.rename(beside)
    except FileNotFoundError:
        draft.rename(target)
        return None
    try:
        draft.rename(target)
    except BaseException:
        with contextlib.suppress(OSError):  # somebody else's is there now
            beside.rename(target)
        raise
    return beside


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; return False, with nothing done, where that is not possible."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old C library
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(call(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that nothing changes a second name, or copy it where that is not possible; a link stays a link."""
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        if not (source.is_file() or source.is_symlink()):
            raise
        shutil.copy2(source, target, follow_symlinks=False)
        if not source.is_symlink():
            sync_file(target)


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    with contextlib.suppress(OSError):  # Windows cannot open folders; some network disks refuse
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
