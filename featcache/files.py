"""Publish files whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp-"
"""How names of files begin that were not published (yet); safe to delete when nobody writes."""


def publish(path: Path, content: bytes | memoryview, *, check: Callable[[Path], None] | None = None) -> None:
    """Write a file so that any reader at any moment sees all of it or nothing.

    Temporary file in the same folder → write → fsync → close → `check` → rename → fsync of the folder.

    Parameters
    ----------
    path : Path
        Final place; an existing file is replaced.
    content : bytes
        All of it.
    check : callable, optional
        Called with the closed temporary file; may raise to stop its publication.

    Raises
    ------
    OSError
        If it cannot be written (no space, no permission); nothing is left behind.
    """
    temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def publish_json(path: Path, value: Any) -> None:
    """Publish a value as indented JSON."""
    publish(path, (json.dumps(value, indent=2) + "\n").encode())


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


def swap_folder(draft: Path, target: Path) -> None:
    """Put a complete folder in another's place; a kill between the two renames leaves both beside it."""
    aside = draft.with_name(draft.name + "-old")
    with contextlib.suppress(FileNotFoundError):
        target.rename(aside)
    draft.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    with contextlib.suppress(OSError):  # Windows cannot open folders; some network disks refuse
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
