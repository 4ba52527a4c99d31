"""Parts: tasks that other processes have done, in the cache's folder ``parts`` until somebody commits them.

``<task>.json`` says in its first line what the part is of (fingerprint, location, augmentation, shards), then of each
image ``[path, size, mtime_ns, digest, reason]``; the shards lie beside it. ``<task>.decoding`` and ``<task>.guilty``
are there while a task is at work: what is being decoded, and which images killed whoever did.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from featcache import poison
from featcache.cache.inspection import inspect
from featcache.cache.shard import Key, ShardInfo
from featcache.cache.writer import unwritten
from featcache.engines.running import Done, Runner
from featcache.engines.tasks import Outcome, Task, Work
from featcache.errors import CacheError, ImageError
from featcache.files import publish, publish_json
from featcache.sources import Item


class Image(NamedTuple):
    """An image of a part, as it was when it was read."""

    path: str
    size: int
    mtime_ns: int
    digest: bytes | None
    reason: str | None


class Part(NamedTuple):
    """A part that was read, every byte of its shards checked."""

    fingerprint: str
    location: str
    shards: list[tuple[ShardInfo, list[Key]]]
    images: list[Image]


def parts_folder(cache: Path) -> Path:
    """Return where a cache's parts lie."""
    return cache / "parts"


def run_part(runner: Runner, task: Task, done: Done = lambda more: None) -> Outcome:
    """Do a task and publish it as a part, unless that is there already.

    Images that were being decoded when a process died at this task are decoded by another process first; those that
    kill that, too, are recorded with their reason and left out.

    Raises
    ------
    CacheError
        If it cannot be written.
    """
    work = runner.work
    folder, name = parts_folder(work.folder), task.name(work)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(CacheError, FileNotFoundError):
            part = read_part(folder / f"{name}.json")
            done(len(task.items))
            return Outcome(task.number, part.shards, [(image.digest, image.reason) for image in part.images])
        with poison.Journal(folder / f"{name}.decoding") as journal:
            guilty = _find_guilty(runner, task, journal.suspects, folder / f"{name}.guilty")
            (outcome,) = runner.run([task], folder, journal, guilty=guilty, done=done)
        if outcome.failure is None:
            _publish(folder / f"{name}.json", work, task, outcome)
        (folder / f"{name}.guilty").unlink(missing_ok=True)
    except OSError as error:
        raise unwritten(work.folder, error) from None
    return outcome


def guilty_count(work: Work, task: Task) -> int:
    """Return how many images have been found to kill who decodes them since this task was begun."""
    return len(_guilty(parts_folder(work.folder) / f"{task.name(work)}.guilty"))


def forget(work: Work, task: Task) -> None:
    """Remove what is noted of a task whose part was committed, or that was given up."""
    folder, name = parts_folder(work.folder), task.name(work)
    for ending in ("json", "guilty", "decoding"):
        with contextlib.suppress(OSError):
            (folder / f"{name}.{ending}").unlink(missing_ok=True)


def read_part(file: Path) -> Part:
    """Read a part and every byte of its shards.

    Raises
    ------
    CacheError
        If anything in it is not as it was written.
    """
    try:
        head, *lines = file.read_text().splitlines()
        described = json.loads(head)
        images = [Image(path, size, stamp, digest and bytes.fromhex(digest), reason)
                  for path, size, stamp, digest, reason in map(json.loads, lines)]  # fmt: skip
        names = [os.path.basename(name) for name in described["shards"]]  # noqa: PTH119
        moved = file.parent.with_name("shards")  # where they are if a driver was killed as it committed them
        contents = [
            inspect(next((f for f in (file.parent / n, moved / n) if f.exists()), file.parent / n)) for n in names
        ]
        if len(images) != described["images"] or any(
            found.recipe.fingerprint != described["fingerprint"] for found in contents
        ):
            raise ValueError("it does not hold what it says")
        shards = [(found.info, found.keys) for found in contents]
        return Part(described["fingerprint"], described["location"], shards, images)
    except (ValueError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:200]
        raise CacheError(f"Expected a part of a cache. Received: {str(file)!r}: {text}. Run extract again.") from None


def _publish(file: Path, work: Work, task: Task, outcome: Outcome) -> None:
    head = {
        "fingerprint": work.recipe.fingerprint,
        "location": work.location,
        "shards": [info.name for info, _ in outcome.shards],
        "images": len(task.items),
    }
    images = (
        [item.path, item.size, item.mtime_ns, identity and identity.hex(), reason]
        for item, (identity, reason) in zip(task.items, outcome.images, strict=True)
    )
    publish(file, "".join(json.dumps(line) + "\n" for line in (head, *images)).encode())


def _find_guilty(runner: Runner, task: Task, suspects: set[str], file: Path) -> dict[str, str]:
    """Return the images of a task that must not be decoded here, and why."""
    guilty = _guilty(file)
    suspected = [item for item in task.items if item.path in suspects - guilty.keys()]
    if suspected:
        before = len(guilty)
        guilty.update(probed(runner, suspected))
        if len(guilty) > before:
            publish_json(file, guilty)
            poison.blamed()
    return guilty


def probed(runner: Runner, items: list[Item]) -> Iterator[tuple[str, str]]:
    """Yield path and reason of the images that kill the process that decodes them alone."""
    with poison.Probe(runner.extractor.spec) as probe:
        for item in items:
            with contextlib.suppress(ImageError):
                content = runner.source.read(item)
                reason = probe.reason(content) if isinstance(content, bytes) else None
                if reason is not None:
                    yield item.path, reason


def _guilty(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
