"""Files that are no files, too few file descriptors, and values of other kinds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.bases.file_kinds import other_kind
from featcache.cache import FeatureCache
from featcache.cache.verification import verify
from featcache.errors import CacheDamagedError, CacheError, FeatcacheError, HeadError, WeightsError
from featcache.extraction.engines.parts import found_part, read_part
from featcache.files.reading import read_json
from featcache.files.values import list_of, matching, number, record, text, whole
from featcache.heads.store import Head
from featcache.recipe import Request
from featcache.saved import base as base_folder
from featcache.training.results import keep, kept


class Endless(BaseException):
    """Something waits or counts for ever; nothing of ours catches it."""


@contextlib.contextmanager
def hurried(seconds: int = 60) -> Iterator[None]:
    """Raise where something waits for ever."""

    def late(*_: Any) -> None:
        raise Endless

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _socket(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # a socket's path must be short
    try:
        socket.socket(socket.AF_UNIX).bind(file.name)
    finally:
        os.chdir(here)


def _sparse(file: Path, content: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(content)
        try:
            opened.truncate(10 * 2**40)
        except OSError as error:
            pytest.skip(f"no files of 10 TB here: {error}")


ODD: dict[str, Callable[[Path, bytes], Any]] = {
    "a named pipe": lambda file, content: os.mkfifo(file),
    "a device": lambda file, content: file.symlink_to("/dev/zero"),
    "a folder": lambda file, content: file.mkdir(),
    "a socket": lambda file, content: _socket(file),
    "a link to nothing": lambda file, content: file.symlink_to("nowhere"),
    "an empty file": lambda file, content: file.write_bytes(b""),
    "10 TB of nothing": lambda file, content: _sparse(file, b""),
    "10 TB that begin as they should": _sparse,
}


@pytest.fixture
def filled(made: Callable[..., Any]) -> Path:
    """Return a cache with a head and a result."""
    from featcache import fit_head

    cache = made(each=(10, 5, 5))
    fit_head(cache, "centroid")
    keep(cache.path, {"x": 1}, {"y": 2})
    path: Path = cache.path
    return path


def replaced(file: Path, odd: str) -> None:
    content = file.read_bytes()
    file.unlink()
    ODD[odd](file, content)


@pytest.mark.parametrize("odd", ODD)
def test_a_cache_whose_files_are_none(filled: Path, odd: str) -> None:
    """What lies in the place of a shard, the manifest or the recipe is named on one line; nothing waits or reads on."""
    shard = next((filled / "shards").iterdir())
    for file in (shard, filled / "manifest.sqlite", filled / "recipe.json", filled / "manifest.sqlite-journal"):
        if file.suffix == ".sqlite-journal" and not odd.startswith(("a named", "a device", "a folder", "a socket")):
            continue
        if file.name == "manifest.sqlite" and odd == "10 TB that begin as they should":
            continue  # SQLite reads as much of a file as its head says: it is sound
        copy = filled.with_name(f"{file.name} copy")
        shutil.copytree(filled, copy)
        place = copy / file.relative_to(filled)
        if not place.exists():
            place.write_bytes(b"")
        replaced(place, odd)
        with hurried(), pytest.raises(CacheError) as raised:
            np.asarray(FeatureCache(copy).features())
        assert "\n" not in str(raised.value)
        with hurried(), contextlib.suppress(CacheError):
            assert verify(copy).problems
        with hurried(), contextlib.suppress(CacheError):
            assert not verify(copy, fix=True).problems
        shutil.rmtree(copy)


@pytest.mark.parametrize("odd", ODD)
def test_a_head_whose_files_are_none(filled: Path, odd: str) -> None:
    """The same of a head's card, its estimator and what it was trained on; of a kept result, there is none then."""
    folder = filled / "heads" / "centroid-features"
    for name in ("head.json", "model.skops", "trained_on.bin"):
        copy = filled.with_name(name)
        shutil.copytree(folder, copy)
        replaced(copy / name, odd)
        with hurried(), pytest.raises(HeadError) as raised:
            Head.load(copy)
        assert "\n" not in str(raised.value)
    (result,) = (filled / "results").iterdir()
    replaced(result, odd)
    with hurried():
        assert kept(filled, {"x": 1}) is None


@pytest.mark.parametrize("odd", ["a named pipe", "a device", "a socket"])
def test_weights_that_are_no_file(tmp_path: Path, odd: str) -> None:
    """Weights are opened only if they are a file."""
    (tmp_path / "w.h5").write_bytes(b"")
    replaced(tmp_path / "w.h5", odd)
    with hurried(), pytest.raises(WeightsError, match=f"is {odd}, not a file"):
        Request("vgg19", weights=tmp_path / "w.h5").to_dict()
    with hurried():
        assert f"is {odd}, not a file" in str(other_kind(tmp_path / "w.h5"))


@contextlib.contextmanager
def few_files(count: int) -> Iterator[None]:
    """Let this process open so many files more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free
    os.close(probe)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1 + count, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for descriptor in taken[len(taken) - count :] if count else []:
            os.close(descriptor)
            taken.remove(descriptor)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


def contents(folder: Path) -> dict[str, str]:
    """Return names and digests of all files."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_too_many_open_files_are_no_damage(filled: Path) -> None:
    """Whatever runs out of file descriptors says so: nothing is called damaged, moved, deleted or made again."""
    from featcache.files.publishing import publish_json

    about = {"name": "b", "architecture": "", "weights": "", "layers": ["features"]}
    base_folder.fill(filled / "base", about, lambda file: file.write_bytes(b"a network"))
    (filled / "parts").mkdir()
    shard = next((filled / "shards").iterdir())
    shutil.copy(shard, filled / "parts")
    fingerprint = FeatureCache(filled).recipe.fingerprint
    publish_json(filled / "parts" / "x.json", {"fingerprint": fingerprint, "shards": [shard.name], "images": []})
    cache, before = FeatureCache(filled), contents(filled)
    assert cache.shards

    class Task:
        items, number = (), 0

        def name(self, work: Any) -> str:
            return "x"

    class Work:
        folder = filled

    calls: dict[str, Callable[[], Any]] = {
        "read": lambda: np.asarray(cache.features()),
        "open": lambda: FeatureCache(filled),
        "verify": lambda: verify(filled, fix=True).problems or None,
        "head": lambda: Head.load(filled / "heads" / "centroid-features").clf,
        "result": lambda: kept(filled, {"x": 1}) or pytest.fail("it would be computed again"),
        "part": lambda: read_part(filled / "parts" / "x.json"),
        "found part": lambda: found_part(Work(), Task()),  # type: ignore[arg-type]
    }
    for call in calls.values():
        call()  # whatever is imported late, is now
    cache._stored_features._maps.clear()
    said = set()
    for count in range(6):
        for name, call in calls.items():
            with few_files(count):
                try:
                    assert call() is not False
                except FeatcacheError as error:
                    kind, message = type(error), str(error)
                else:
                    continue
            assert kind is not CacheDamagedError, (name, message)
            assert "damaged" not in message, (name, message)
            said.add((name, "ulimit" in message or "Check the disk" in message))
        cache._stored_features._maps.clear()
        assert contents(filled) == before
    assert {name for name, advised in said if advised} == set(calls)
    for call in calls.values():
        call()


def test_a_huge_or_deeply_nested_card_is_refused(tmp_path: Path) -> None:
    """JSON of a gigabyte is not read, and nesting is no RecursionError."""
    file = tmp_path / "x.json"
    for content in ("[" * 100_000, '{"a":' * 100_000):
        file.write_text(content)
        with pytest.raises(ValueError, match="nested too deeply"):
            read_json(file)
    with file.open("wb") as opened:
        opened.truncate(2**30)
    with pytest.raises(ValueError, match="more than the"):
        read_json(file)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (whole(1, 9), [1, 9], [0, 10, True, 1.0, "1", None, 10**400]),
        (number(0, 1), [0, 1, 0.5], [-0.1, 1.5, float("nan"), float("inf"), True, "0", None]),
        (text, ["", "ö", "\udcff"], [1, None, "\ud800", b"x"]),
        (matching(r"[0-9a-f]{4}\.h5", "x"), ["00ff.h5"], ["../00ff.h5", "00ff.h5\n", "/00ff.h5", "", None]),
        (list_of(text, least=1, distinct=True), [["a"], ["a", "b"]], [[], ["a", "a"], "ab", [1], {"a": 1}, None]),
        (record({"a": whole()}, {"b": text}), [{"a": 1}, {"a": 1, "b": "", "c": []}], [{}, [], {"a": 1, "b": 2}, None]),
    ],
)
def test_kinds_of_values(kind: Any, good: list[Any], bad: list[Any]) -> None:
    """What is of a kind passes; what is not is named on one short line."""
    for value in good:
        kind(value, "it")
        kind(json.loads(json.dumps(value)), "it")
    for value in bad:
        with pytest.raises(ValueError, match="it") as raised:
            kind(value, "it")
        assert len(str(raised.value).splitlines()) == 1
        assert len(str(raised.value)) < 200
