"""Computing tasks, in whichever process: images through the base into shard files."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Container, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from featcache.cache.shard import Key, ShardBuilder, ShardInfo
from featcache.cache.writer import unwritten
from featcache.errors import CacheError, FeatcacheError, ImageError, SourceError
from featcache.extraction.engines.tasks import Done, Outcome, Task, Work
from featcache.images.decode_crashes import Journal
from featcache.sources import Item, Source

if TYPE_CHECKING:
    from featcache.extraction.extractor import Extractor


class Runner:
    """A base, which must be the recipe's, and a source, ready for tasks; rows that are `known` are not computed."""

    def __init__(self, work: Work, extractor: Extractor, source: Source, known: Container[Key]) -> None:
        if extractor.recipe != work.recipe:
            raise CacheError(
                f"The base is not the one that {str(work.folder)!r} was made with, although its name and time "
                f"stamps are the same: {'; '.join(work.recipe.differences(extractor.recipe))}. Choose another "
                "`cache`."
            )
        self.work, self.extractor, self.source, self._known = work, extractor, source, known
        self._opened_here = False

    @classmethod
    def load(cls, work: Work, known: Container[Key]) -> Runner:
        """Load the base and open the source, in a process that has neither."""
        from featcache.extraction.extractor import Extractor
        from featcache.system.startup import import_tensorflow

        import_tensorflow()
        runner = cls(work, Extractor(work.request), work.reader(), known)
        runner._opened_here = work.source is None
        return runner

    def run(
        self,
        tasks: Sequence[Task],
        folder: Path,
        journal: Journal,
        *,
        culprits: Mapping[str, str] | None = None,
        done: Done = lambda more: None,
    ) -> Generator[Outcome, None, None]:
        """Compute tasks one after the other and yield what became of each.

        No forward pass has images of two tasks, so that it does not matter who computes which. Images are
        decoded ahead across tasks. Interrupted, it yields what it has before it raises. Each task but the last has
        `Work.size` images; `culprits` must not be decoded here, for the reasons it has.
        """
        work, culprits = self.work, culprits or {}

        def wanted(item: Item, identity: bytes) -> list[int]:
            if item.path in culprits:
                raise ImageError(culprits[item.path])
            return [key.view for key in work.keys(item, identity) if key not in self._known]

        if self._opened_here:
            self._check_listing(tasks)
        stream = self.extractor.stream(
            self.source,
            itertools.chain.from_iterable(task.items for task in tasks),
            wanted=wanted,
            augmentation=work.augment,
            batch_size=work.batch_size,
            journal=journal,
            flush_every=work.size,
        )
        with contextlib.closing(stream):
            for task in tasks:
                shards = _Shards(work, folder)
                images: list[tuple[bytes | None, str | None]] = []
                failure = None
                try:
                    for extracted in itertools.islice(stream, len(task.items)):
                        item, identity = extracted.item, extracted.digest
                        images.append((identity, extracted.reason))
                        if extracted.reason is not None:
                            if work.on_error == "fail":
                                failure = f"{item.path}: {extracted.reason}"
                                break
                        elif identity is not None:
                            for view, features in extracted.views.items():
                                key = Key(identity, view, work.augmentation if view else "")
                                if key not in self._known:
                                    shards.append(key, item.path, list(features.values()))
                        done(1)
                    outcome = Outcome(task.number, shards.closed(), images, failure)
                except (KeyboardInterrupt, FeatcacheError) as error:
                    stream.close()
                    if not isinstance(error, CacheError):
                        yield Outcome(task.number, shards.closed(), images)
                    raise
                yield outcome
                if failure:
                    return

    def _check_listing(self, tasks: Sequence[Task]) -> None:
        """Raise `SourceError` if a source that was opened here is not the one that was listed."""
        listed = self.source.items
        for item in itertools.chain.from_iterable(task.items for task in tasks):
            if item.place >= len(listed) or listed[item.place]._replace(changes=0) != item._replace(changes=0):
                raise SourceError(
                    f"The source {self.source.location!r} changed while it was extracted: {item.path!r} is another "
                    "image now. Run `featcache extract` again."
                )


class _Shards:
    """The shards of one task, published as they fill."""

    def __init__(self, work: Work, folder: Path) -> None:
        self._work, self._folder = work, folder
        self._published: list[tuple[ShardInfo, list[Key]]] = []
        self._seen: set[Key] = set()
        self._builder = self._empty()

    def _empty(self) -> ShardBuilder:
        work = self._work
        return ShardBuilder(work.recipe, work.shapes, work.shard_rows, work.augmentation, work.compression)

    def append(self, key: Key, path: str, features: Sequence[npt.NDArray[Any]]) -> None:
        """Add a row, unless it is there: another image of the task may have been the same."""
        if key in self._seen:
            return
        if self._builder.full:
            self._publish()
        self._seen.add(key)
        self._builder.append(key.digest, path, dict(zip(self._work.shapes, features, strict=True)), key.view)

    def closed(self) -> list[tuple[ShardInfo, list[Key]]]:
        """Publish what is left and return all."""
        if len(self._builder):
            self._publish()
        return self._published

    def _publish(self) -> None:
        try:
            self._published.append(self._builder.publish(self._folder))
        except OSError as error:
            raise unwritten(self._work.folder, error) from None
        self._builder = self._empty()
