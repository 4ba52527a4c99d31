"""Writing a cache: one process at a time, a shard and its rows at once."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from featcache.cache.description import check_recipe, describe, read_description
from featcache.cache.listing import Entry
from featcache.cache.lock import writer_lock
from featcache.cache.manifest import Manifest, has_shards
from featcache.cache.shard import Key, ShardBuilder, ShardInfo
from featcache.errors import CacheError, mending
from featcache.files.publishing import publish_json, sync_folder
from featcache.recipe import FORMAT_VERSION, Recipe, other_format
from featcache.system.versions import versions


class CacheWriter:
    """A cache, opened for writing; use `open_for_writing`. What it has of its manifest, says `Manifest`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self._manifest = path, manifest
        self.changing, self.holding = manifest.changing, manifest.holding
        self.listing, self.meta, self.stored = manifest.listing, manifest.meta, manifest.stored
        self.replace_listing = manifest.replace_listing

    @classmethod
    @contextlib.contextmanager
    def open_for_writing(cls, path: Path, recipe: Recipe, request: Mapping[str, Any] | None) -> Iterator[CacheWriter]:
        """Make or open a cache of a recipe, which must be its own if it is there, and hold its lock.

        `request` is the normalised one that led to the recipe, kept so that an equal one need not load the base.
        """
        described = path / "recipe.json"
        try:
            if path.is_dir() and not described.exists() and _strangers(path):
                raise CacheError(
                    f"The folder {str(path)!r} is no cache and has other files in it. Choose another `cache`."
                )
            (path / "shards").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(
                f"The folder {str(path)!r} cannot be written: {error.strerror}. Choose another `cache`."
            ) from None
        with writer_lock(path) as lock:
            known = read_description(path) if described.exists() else None
            if known is not None and known.get("format") != FORMAT_VERSION:
                raise CacheError(other_format(f"The cache {str(path)!r}", known.get("format")))
            if known is not None:
                check_recipe(path, Recipe.from_dict(known["recipe"]), recipe, asked=(known.get("request"), request))
            index = path / "manifest.sqlite"
            if has_shards(path) and not (index.is_file() and index.stat().st_size):
                raise CacheError(
                    f"The cache {str(path)!r} has shards but no manifest. Run {mending(path)}: it makes a "
                    "new one from the shards."
                )
            manifest = Manifest(index, create=True)
            try:
                manifest.claim(lock.token)
                if manifest.meta().get("fingerprint", recipe.fingerprint) != recipe.fingerprint:
                    raise CacheError(
                        f"The cache {str(path)!r} is damaged: recipe.json and manifest have different recipes. Run "
                        f"{mending(path)}."
                    )
                if known is None or (request is not None and known.get("request") != request):
                    with manifest.changing():
                        publish_json(described, describe(recipe, request, versions()))
                yield cls(path, manifest)
            finally:
                manifest.close()

    def commit(self, builder: ShardBuilder | None, entries: Sequence[tuple[int, Entry]]) -> None:
        """Publish a shard and commit its rows, together with the images it settles.

        Raise `CacheError` if the disk is full, `CacheBusyError` if another process has taken over; nothing is lost
        then.
        """
        with self._writing():
            if builder is not None and len(builder):
                info, keys = builder.publish(self.path / "shards")
                self._manifest.commit(info, keys, entries)
            elif entries:
                self._manifest.commit(None, [], entries)

    def add(self, file: Path, info: ShardInfo, keys: Sequence[Key], entries: Sequence[tuple[int, Entry]] = ()) -> None:
        """Commit the rows of a shard that was published as `file`, which is moved to its place if it lies elsewhere."""
        place = self.path / "shards" / info.name
        with self._writing(), self.changing():
            if file != place:
                file.replace(place)
                sync_folder(place.parent)
            self._manifest.commit(info, keys, entries)

    def replace_shards(self, old: Mapping[int, ShardInfo], builders: Iterable[ShardBuilder]) -> None:
        """Publish new shards, put them in the place of old ones in one transaction, then delete those."""
        published: list[tuple[ShardInfo, list[Key]]] = []
        with self._writing():
            try:
                for builder in builders:
                    published.append(builder.publish(self.path / "shards"))
            except BaseException:
                with contextlib.suppress(CacheError):  # the first error counts
                    self.remove(self.path / "shards" / info.name for info, _ in published)
                raise
            self._manifest.replace_shards(old, published)  # interrupted here, gc deletes what is not in it
            self.remove(self.path / "shards" / info.name for info in old.values())

    def remove(self, files: Iterable[Path]) -> None:
        """Delete files and folders, but for shards that the manifest names.

        Another process may have published a shard of the same bytes, and so of the same name.
        """
        with self.changing():
            names = self._manifest.shard_names()
            for file in files:
                if file.is_dir():
                    shutil.rmtree(file, ignore_errors=True)
                elif file.name not in names:
                    file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Say what an error means: another process has taken over and cleaned up, or the disk is full."""
        try:
            yield
        except (OSError, CacheError) as error:
            with self.holding():
                raise (unwritten(self.path, error) if isinstance(error, OSError) else error) from None


def unwritten(path: Path, error: OSError) -> CacheError:
    """Return the error of a cache whose disk does not take a shard."""
    return CacheError(
        f"The shard {str(path)!r} cannot be written: {error.strerror or error}. Free some space and run "
        "the same command again: it resumes where it stopped."
    )


def _strangers(path: Path) -> bool:
    """Whether a folder holds anything that an interrupted creation of a cache would not have left."""
    ours = {"shards", "lock", "manifest.sqlite", "manifest.sqlite-journal", "heads", "results"}
    ours |= {"damaged", "decoding", "parts"}
    return any(entry.name not in ours and not entry.name.startswith(".tmp-") for entry in path.iterdir())
