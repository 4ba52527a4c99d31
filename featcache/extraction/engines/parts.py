"""Parts: tasks that other processes have done, in the cache's folder ``parts`` until somebody commits them.

``<task>.json`` says what a part is of (fingerprint), which shards it has (they lie beside it), and digest and reason
of each of the task's images, as `Outcome` has them. ``<task>.decoding`` and ``<task>.guilty`` are there while a task
is at work: what is being decoded, and which images killed whoever did.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from featcache.cache.checks import shard_name
from featcache.cache.shard import Key, ShardInfo, inspect
from featcache.cache.writer import unwritten
from featcache.errors import CacheDamagedError, CacheError, one_line
from featcache.extraction.engines.running import Runner
from featcache.extraction.engines.tasks import Done, Outcome, Task, Work
from featcache.files.publishing import publish, publish_json
from featcache.files.reading import read_json, trouble
from featcache.files.values import list_of, mapping_of, maybe, record, row, sha256, text
from featcache.images.decode_crashes import Journal, find_culprits

log = logging.getLogger(__name__)

_IMAGE = row(maybe(sha256), maybe(text))
_PART = record({"fingerprint": sha256, "shards": list_of(shard_name), "images": list_of(_IMAGE)})


class Part(NamedTuple):
    """A part that was read, every byte of its shards checked."""

    fingerprint: str
    shards: list[tuple[ShardInfo, list[Key]]]
    images: list[tuple[bytes | None, str | None]]


def parts_folder(cache: Path) -> Path:
    """Return where a cache's parts lie."""
    return cache / "parts"


def run_part(
    runner: Runner, task: Task, done: Done = lambda more: None, on_culprit: Callable[[], None] = lambda: None
) -> Outcome:
    """Do a task and publish it as a part, unless that is there already; `CacheError` if it cannot be written.

    Images that were being decoded when a process died at this task are decoded by another process first; those that
    kill that, too, are recorded with their reason and left out, and `on_culprit` is called.
    """
    work = runner.work
    folder, name = parts_folder(work.folder), task.name(work)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = found_part(work, task)
        if found is not None:
            done(len(task.items))
            return found
        with Journal(folder / f"{name}.decoding") as journal:
            culprits = _not_to_be_decoded(runner, task, journal.suspects, folder / f"{name}.guilty", on_culprit)
            (outcome,) = runner.run([task], folder, journal, culprits=culprits, done=done)
        if outcome.failure is None:
            described = {
                "fingerprint": work.recipe.fingerprint,
                "shards": [info.name for info, _ in outcome.shards],
                "images": [[identity and identity.hex(), reason] for identity, reason in outcome.images],
            }
            publish(folder / f"{name}.json", json.dumps(described).encode())
        (folder / f"{name}.guilty").unlink(missing_ok=True)
    except OSError as error:
        raise unwritten(work.folder, error) from None
    return outcome


def found_part(work: Work, task: Task) -> Outcome | None:
    """Return what a former run has published of a task; what is damaged is removed."""
    file = parts_folder(work.folder) / f"{task.name(work)}.json"
    if not file.exists() or not all(item.mtime_ns for item in task.items):  # 0: nobody knows whether it has changed
        return None
    try:
        part = read_part(file)
        if len(part.images) != len(task.items):
            raise CacheDamagedError(
                f"The part {str(file)!r} has {len(part.images)} images instead of {len(task.items)}."
            )
    except CacheDamagedError as error:
        discard(file, error)
        return None
    return Outcome(task.number, part.shards, part.images, found=True)


def discard(file: Path, error: CacheDamagedError) -> None:
    """Remove a damaged part, and say so."""
    log.warning("a part is computed again: %s", error)
    for name in shard_names(file):
        (file.parent / name).unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def shard_names(file: Path) -> list[str]:
    """Return the names of a part's shards; none if it is damaged."""
    with contextlib.suppress(OSError, ValueError):
        return list(_described(file)["shards"])
    return []


def culprit_count(work: Work, task: Task) -> int:
    """Return how many images have been found to kill who decodes them since this task was begun."""
    return len(_read_culprits(parts_folder(work.folder) / f"{task.name(work)}.guilty"))


def forget(work: Work, task: Task) -> None:
    """Remove what is noted of a task whose part was committed, or that was given up."""
    folder, name = parts_folder(work.folder), task.name(work)
    for ending in ("json", "guilty", "decoding"):
        with contextlib.suppress(OSError):
            (folder / f"{name}.{ending}").unlink(missing_ok=True)


def read_part(file: Path) -> Part:
    """Read a part and every byte of its shards.

    `CacheDamagedError` if anything in it is not as it was written, `CacheError` if it cannot be read for a reason that
    says nothing of it, such as too many open files.
    """
    try:
        described = _described(file)
        images = [(digest and bytes.fromhex(digest), reason) for digest, reason in described["images"]]
        moved = file.parent.with_name("shards")  # where they are if a driver was killed as it committed them
        contents = []
        for name in described["shards"]:
            contents.append(inspect((moved if (moved / name).exists() else file.parent) / name))
        if any(found.recipe.fingerprint != described["fingerprint"] for found in contents):
            raise ValueError("its shards are of another recipe")
        return Part(described["fingerprint"], [(found.info, found.keys) for found in contents], images)
    except (OSError, ValueError) as error:
        if (reason := trouble(error)) is not None:
            raise CacheError(f"The part {str(file)!r} cannot be read: {reason}") from None
        raise CacheDamagedError(
            f"The part {str(file)!r} is damaged: {one_line(error)}. Run `featcache extract` again."
        ) from None


def _described(file: Path) -> Any:
    """Return what a part says of itself."""
    described = read_json(file)
    _PART(described, "")
    return described


def _not_to_be_decoded(
    runner: Runner, task: Task, suspects: set[str], file: Path, on_culprit: Callable[[], None]
) -> dict[str, str]:
    """Return the images of a task that must not be decoded here, and why."""
    culprits = _read_culprits(file)
    suspected = [item for item in task.items if item.path in suspects - culprits.keys()]
    found = find_culprits(runner.extractor.spec, runner.source, suspected)
    if new := {item.path: reason for item, _, reason in found}:
        culprits |= new
        publish_json(file, culprits)
        on_culprit()
    return culprits


def _read_culprits(file: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = read_json(file)
        mapping_of(text)(found, "")
    except (OSError, ValueError):
        return {}
    return found
