"""Verifying a cache, and mending it from its shards, which describe themselves."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from featcache.cache.description import describe, read_description
from featcache.cache.listing import Listing
from featcache.cache.lock import taken_over, writer_lock
from featcache.cache.manifest import Manifest, has_shards
from featcache.cache.rows import RowTable
from featcache.cache.shard import ShardContents, ShardInfo, inspect, named_by_content
from featcache.errors import CacheDamagedError, CacheError, OptionError
from featcache.files.publishing import draft_of, publish_json, sync_folder
from featcache.files.reading import trouble
from featcache.recipe import FORMAT_VERSION, Recipe, other_format
from featcache.saved import base as base_folder
from featcache.sources import Digests

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it was written: the file, relative to the cache, and what is wrong with it."""

    where: str
    what: str


@dataclass(frozen=True)
class Recomputed:
    """What computing features of some images anew found.

    `largest_difference` is a part of the layer's largest feature; `differing` are paths of images that have other rows,
    `changed` of images that have changed or gone, which is no damage; `note` says what could not be compared, and why.
    """

    images: int
    rows: int
    largest_difference: float
    differing: list[str]
    changed: list[str]
    note: str
    fixed: bool


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` read and found: sound shards of the manifest, their rows, blocks and bytes, and problems.

    `problems` are those that are left; `orphans`, which a killed run leaves, are shards that the manifest does not
    know.
    """

    cache: Path
    shards: int
    rows: int
    blocks: int
    bytes: int
    problems: list[Problem]
    fixed: list[Problem]
    orphans: list[str]
    recomputed: Recomputed | None = None


def verify(path: Path, *, fix: bool = False) -> VerifyReport:
    """Read all of a cache and check every checksum, every row and that all agree.

    `fix` moves what is broken to ``damaged``, and makes the manifest, and ``recipe.json`` if need be, from the sound
    shards, so that the next extraction computes the rest. The listing is kept if it is sound. Raise `CacheError` if
    nothing is left to mend it from, or it cannot be read now.
    """
    try:
        return _verified(path, fix=fix)
    except OSError as error:
        if (reason := trouble(error)) is None:
            raise
        raise CacheError(f"{str(error.filename or path)!r} cannot be read or written: {reason}") from None


_AGAIN = 5
"""How often a cache is read again that has changed while it was read."""


def _moment(path: Path) -> tuple[Any, ...] | None:
    """Return what is another after every change of a manifest, None if it cannot be read."""
    with contextlib.suppress(CacheError):
        manifest = Manifest(path / "manifest.sqlite")
        try:
            meta = manifest.meta()
        finally:
            manifest.close()
        return (meta.get("version"), meta.get("writer"), meta.get("commits"), meta.get("rows"))
    return None


def _verified(path: Path, *, fix: bool) -> VerifyReport:
    if not (path / "recipe.json").exists() and not has_shards(path):
        raise CacheError(f"There is no cache in {str(path)!r}. Name the folder of one.")
    found = _Findings(path)
    for _ in range(_AGAIN):  # what another process commits meanwhile looks like damage
        if not found.problems or found.moment == (now := _moment(path)) or now is None:
            break
        found = _Findings(path)
    if not fix or not found.problems:
        return found.report([])
    with writer_lock(path) as lock, _claimed(path / "manifest.sqlite", lock.token) as claimed:
        found = _Findings(path)
        if found.problems:
            _mend(found, lock.token, claimed)
        return _Findings(path).report(found.problems)


Holding = Callable[[], contextlib.AbstractContextManager[None]]
"""Keeps other processes from writing; raises `CacheBusyError` if one has written since."""


@contextlib.contextmanager
def _claimed(file: Path, token: str) -> Iterator[Holding]:
    """Claim a manifest that is to be replaced; of one that is too damaged, notice if another one takes its place."""
    manifest, before = None, _stamp(file)
    if before is not None:
        with contextlib.suppress(CacheDamagedError):
            manifest = Manifest(file).claim(token)

    @contextlib.contextmanager
    def unchanged() -> Iterator[None]:
        if _stamp(file) != before:
            raise taken_over(file.parent)
        yield

    try:
        yield unchanged if manifest is None else manifest.holding
    finally:
        if manifest is not None:
            manifest.close()


def _stamp(file: Path) -> tuple[int, int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        found = file.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns
    return None


class _Findings:
    """A cache as far as it can be read, each part None where it is damaged, and what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.bad: set[str] = set()
        self.sound: dict[str, ShardContents] = {}
        self.moment = _moment(self.path)
        self.files = sorted(file.name for file in (self.path / "shards").glob("*.h5"))
        self._read_manifest()
        self.recipe = self._read_recipe()
        known = {} if self.shards is None else {info.name: info for info in self.shards.values()}
        self.orphans = [] if self.shards is None else [name for name in self.files if name not in known]
        for name in sorted({*self.files, *known}):
            self._read_shard(name, known.get(name))
        if self.recipe is None and self.sound:
            counted = Counter(contents.recipe.fingerprint for contents in self.sound.values())
            chosen = counted.most_common(1)[0][0]
            self.recipe = next(c.recipe for c in self.sound.values() if c.recipe.fingerprint == chosen)
        for name, contents in list(self.sound.items()):
            if self.recipe is not None and contents.recipe != self.recipe:
                self._shard_problem(name, f"it is of another recipe: {self.recipe.differences(contents.recipe)}")
        if self.places is not None and self.shards is not None:
            self._compare_rows(self.places, self.shards)
        self._check_base()

    def report(self, before: Iterable[Problem]) -> VerifyReport:
        """Return what was found, given what was wrong before it was mended."""
        counted = [self.sound[name].info for name in self.sound if name not in self.orphans]
        return VerifyReport(
            cache=self.path,
            shards=len(counted),
            rows=sum(info.rows for info in counted),
            blocks=sum(len(sums) for info in counted for sums in info.checksums.values()),
            bytes=sum(info.size for info in counted),
            problems=self.problems,
            fixed=[problem for problem in before if problem not in self.problems],
            orphans=self.orphans,
        )

    def _problem(self, where: str, what: str) -> None:
        if Problem(where, what) not in self.problems[-1:]:
            self.problems.append(Problem(where, what))

    def _shard_problem(self, name: str, what: str) -> None:
        self.sound.pop(name, None)
        self.bad.add(name)
        if name not in self.orphans:
            self._problem(f"shards/{name}", what)

    def _attempt(self, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except CacheDamagedError as error:
            self._problem("manifest.sqlite", _reason(error))
            return None

    def _read_manifest(self) -> None:
        self.meta: dict[str, Any] | None = None
        self.entries: Listing | None = None
        self.places: RowTable | None = None
        self.shards: dict[int, ShardInfo] | None = None
        file = self.path / "manifest.sqlite"
        if not file.is_file():
            self._problem(file.name, "it is missing")
            return
        if (manifest := self._attempt(lambda: Manifest(file))) is None:
            return
        for text in self._attempt(manifest.integrity) or []:
            self._problem(file.name, text)
        self.meta = self._attempt(manifest.meta)
        self.entries = self._attempt(lambda: manifest.listing().load())
        self.places = self._attempt(manifest.rows)
        self.shards = self._attempt(manifest.shards)
        manifest.close()
        missing = {"fingerprint", "layers", "source", "listing"} - set(self.meta or {})
        if missing and self.meta is not None and (self.places or self.entries):
            self._problem(file.name, f"it does not say {', '.join(sorted(missing))}")
            self.meta = None
        if self.entries is not None:
            names = Digests.of_texts(self.entries.paths)
            if (names.find(names.rows) != np.arange(len(names))).any():
                self._problem(file.name, "it lists an image twice")

    def _read_recipe(self) -> Recipe | None:
        try:
            described = read_description(self.path)
            recipe = Recipe.from_dict(described["recipe"])
        except (CacheDamagedError, OptionError) as error:
            self._problem("recipe.json", _reason(error))
            return None
        except CacheError as error:
            if (self.path / "recipe.json").is_file():  # it cannot be read now, which says nothing of it
                raise
            self._problem("recipe.json", _reason(error))
            return None
        if described.get("format") != FORMAT_VERSION:
            raise CacheError(other_format(f"The cache {str(self.path)!r}", described.get("format")))
        wanted = recipe.fingerprint if self.meta is None else self.meta.get("fingerprint", recipe.fingerprint)
        if not recipe.fingerprint == described.get("fingerprint") == wanted:
            self._problem("recipe.json", "it does not have its fingerprint")
            return None
        return recipe

    def _read_shard(self, name: str, known: ShardInfo | None) -> None:
        try:
            contents = inspect(self.path / "shards" / name)
        except CacheDamagedError as error:
            return self._shard_problem(name, _reason(error))
        wrong = ""
        if known is not None:
            same = contents.info.checksums.keys() == known.checksums.keys() and all(
                np.array_equal(sums, known.checksums[layer]) for layer, sums in contents.info.checksums.items()
            )
            if not same or replace(contents.info, checksums={}) != replace(known, checksums={}):
                wrong = "it is not the file that the manifest describes"
        if self.meta is not None and [[n, list(s)] for n, s in contents.layers.items()] != self.meta.get("layers"):
            wrong = f"it has layers {contents.layers}, the manifest others"
        if wrong and not named_by_content(self.path / "shards" / name):
            return self._shard_problem(name, wrong)
        if wrong:  # it is what it was when it was written, so the manifest is wrong
            self._problem("manifest.sqlite", f"it describes shards/{name} wrongly")
        self.sound[name] = replace(contents, paths=[])  # of millions of rows they would be many
        return None

    def _check_base(self) -> None:
        """Check the copy of the base, if there is one: heads work without it where the base still is."""
        folder = self.path / base_folder.NAME
        if folder.exists() and self.recipe is not None:
            wrong = base_folder.problem(folder, self.recipe)
            if wrong is not None:
                self._problem(base_folder.NAME, wrong)

    def _compare_rows(self, places: RowTable, shards: dict[int, ShardInfo]) -> None:
        for number in sorted(shards.keys() | places.numbers):
            listed = places.of_shard(number)
            if number not in shards:
                self._problem("manifest.sqlite", f"{listed.stop - listed.start} rows are not where the manifest says")
            elif (name := shards[number].name) in self.sound:
                sound = self.sound[name]
                rows = listed.stop - listed.start
                if rows != len(sound.views):
                    self._problem(f"shards/{name}", f"the manifest has {rows} of its {len(sound.views)} rows")
                    continue
                policies = places.policies_of(number)
                astray = (places.digests[listed] != sound.digests).any(axis=1) | (places.views[listed] != sound.views)
                if astray.any() or policies - {sound.augmentation}:
                    count = int(astray.sum()) or rows
                    self._problem(f"shards/{name}", f"{count} rows are not where the manifest says")


def _reason(error: Exception) -> str:
    """Return what is damaged from a message, without where, and without what to do about it."""
    text = str(error).partition(". Run `")[0]
    return text.partition(" is damaged: ")[2] or text


def _mend(found: _Findings, token: str, holding: Holding) -> None:
    """Make a manifest (and a recipe) anew from the sound shards, and set the rest aside."""
    path, recipe = found.path, found.recipe
    if recipe is None:
        raise CacheError(
            f"Nothing can be mended in {str(path)!r}: it has neither a sound recipe nor a sound shard. "
            "Extract into another `cache`."
        )
    meta, entries = found.meta, found.entries
    layers = [[[name, list(shape)] for name, shape in contents.layers.items()] for contents in found.sound.values()]
    if meta is None or entries is None:
        kept = {key: value for key, value in (meta or {}).items() if key in ("layers", "views")}
        meta = {"layers": [], "source": {"name": "", "location": ""}, "listing": {}, **kept}
        entries = Listing.of([])
    if layers:
        meta["layers"] = layers[0]
    with draft_of(path / "manifest.sqlite") as draft:
        manifest = Manifest(draft, create=True)
        try:
            manifest.claim(token)
            own = {"format": FORMAT_VERSION, "fingerprint": recipe.fingerprint, "rows": 0}
            manifest.replace_listing(entries, {**meta, **own})
            for name, contents in found.sound.items():
                if name not in found.orphans:
                    manifest.commit(contents.info, contents.keys, [])
            for name in found.orphans:
                if name in found.sound and not _all_in(manifest.rows(), found.sound[name]):
                    manifest.commit(found.sound[name].info, found.sound[name].keys, [])
        finally:
            manifest.close()
        with holding():  # a process that lost the lock finds that this is another file, or waits until it is
            _replace(found, recipe, draft)


def _replace(found: _Findings, recipe: Recipe, draft: Path) -> None:
    """Set aside what is damaged, and put the new manifest in its place."""
    path, wrong = found.path, {problem.where for problem in found.problems}
    for name in sorted(found.bad):
        if os.path.lexists(path / "shards" / name):
            _set_aside(path, path / "shards" / name)
    if base_folder.NAME in wrong:
        _set_aside(path, path / base_folder.NAME)
    if "recipe.json" in wrong:
        if (path / "recipe.json").exists():
            _set_aside(path, path / "recipe.json")
        publish_json(path / "recipe.json", describe(recipe, None, {}))
    target = path / "manifest.sqlite"
    if target.name in wrong and target.exists():
        _set_aside(path, target)
    with contextlib.suppress(FileNotFoundError):  # a journal would be applied to the new file
        _set_aside(path, target.with_name(target.name + "-journal"))
    draft.replace(target)
    sync_folder(path)


def _all_in(rows: RowTable, contents: ShardContents) -> bool:
    """Whether rows have all keys of a shard."""
    return all(
        (rows.find(contents.digests[contents.views == view], view, contents.augmentation if view else "") >= 0).all()
        for view in np.unique(contents.views).tolist()
    )


def _set_aside(path: Path, file: Path) -> None:
    """Move a file, or the folder of the base, into the folder ``damaged``."""
    (path / "damaged").mkdir(exist_ok=True)
    place = path / "damaged" / file.name
    if place.exists():
        place = place.with_name(f"{uuid.uuid4().hex[:8]}-{file.name}")
    file.rename(place)
    log.warning("moved %s to %s", file, place)
