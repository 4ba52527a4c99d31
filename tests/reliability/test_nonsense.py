"""Values that make no sense behind checksums that are right: said as damage in one line, or harmless, never obeyed."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import nonsense
import numpy as np
import pytest
import standin
from conftest import hunt
from recording import record

from featcache.cache import FeatureCache
from featcache.cache.compaction import gc
from featcache.cache.verification import verify
from featcache.errors import FeatcacheError
from featcache.extraction import extracting as extraction
from featcache.models.predictions import Answering, PredictionFile
from featcache.saved import base as base_folder
from featcache.sources import digest

SHOW = os.environ.get("NONSENSE_SHOW")
LIMIT_SECONDS, LIMIT_BYTES = 120, 4 * 2**30


def extract(root: Path, **options: Any) -> FeatureCache:
    return extraction.extract(
        root / "photos",
        base="vgg19",
        weights=None,
        cache=root / "cache",
        shard_rows=5,
        views=1,
        augment="flip",
        **options,
    )


@pytest.fixture(scope="module", autouse=True)
def _stand_in() -> Iterator[None]:
    # they keep the real one
    for name in ("models.classifier", "insight.neighbors", "insight.report.writing", "training"):
        importlib.import_module(f"featcache.{name}")
    module = type(sys)("featcache.extraction.extractor")
    module.__dict__.update(Extractor=standin.Extractor, Extracted=standin.Extracted, Progress=object)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "featcache.extraction.extractor", module)
        yield


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with photos and their cache, which has everything a cache can have."""
    from featcache import compare, fit_head

    root = tmp_path_factory.mktemp("sound")
    for i in range(12):
        file = root / "photos" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"bad" if i == 11 else f"image {i // 2 if i < 4 else i}".encode())
    extract(root)
    (root / "photos" / "a" / "new.png").write_bytes(b"a new one")
    cache = extract(root)
    fit_head(cache, "ridge", layer="deep")
    compare(cache, ["ridge", "centroid"], layers=["deep"], jobs=1)
    assert verify(root / "cache").problems == []
    return root


@pytest.fixture
def room(sound: Path, tmp_path: Path) -> Callable[[], Path]:
    """Return a maker of copies of that folder, of which the last one is there."""

    def make() -> Path:
        shutil.rmtree(tmp_path / "room", ignore_errors=True)
        shutil.copytree(sound, tmp_path / "room", symlinks=True)
        return tmp_path / "room"

    return make


class Endless(BaseException):
    """Something waits or counts for ever; nothing of ours catches it."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Turn a hang or a huge allocation into an exception that nobody expects."""

    def late(*_: Any) -> None:
        raise Endless

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, hard))
    signal.alarm(LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Tries:
    """What became of each try."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.bad: dict[str, str] = {}

    def attempt(self, what: str, call: Callable[[], Any]) -> tuple[str, Any]:
        """Do something with a file that has nonsense in it; return whether that was said, or nobody expected it."""
        try:
            with bounded():
                return "harmless", call()
        except FeatcacheError as error:
            text = str(error)
            if "\n" in text or not text:
                return self._unexpected(what, error)
            return "damage said", text
        except Exception as error:
            return self._unexpected(what, error)

    def _unexpected(self, what: str, error: Exception) -> tuple[str, None]:
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        file = frame.tb_frame.f_code.co_filename if frame else ""
        kind = f"{type(error).__name__} in {Path(file).name}:{frame.tb_lineno if frame else 0}"
        self.bad.setdefault(kind, f"{what}: {str(error)[:200]}")
        if SHOW == "raise":
            raise error
        return "unexpected", None

    def count(self, outcomes: list[str]) -> None:
        """Count a try by the worst that came of it."""
        order = ["wrong reads", "unexpected", "damage said", "harmless"]
        self.counts[min(outcomes, key=order.index)] += 1

    def done(self, what: str) -> None:
        """Record the counts, and fail if something was not expected."""
        counts = {name: self.counts[name] for name in ("damage said", "harmless", "unexpected", "wrong reads")}
        record(what, tries=sum(self.counts.values()), **counts)
        if SHOW:
            print(len(self.bad), "kinds:", json.dumps(self.bad, indent=1))
        assert not self.bad, json.dumps(self.bad, indent=1)
        assert not counts["wrong reads"]


def right(root: Path, cache: FeatureCache) -> bool:
    """Whether all features that a cache gives are those of the file that it says they are of."""
    for layer in standin.LAYERS:
        for path, row in zip(cache.paths(), np.asarray(cache.features(layer=layer)), strict=True):
            if not (root / "photos" / path).is_file():
                continue  # a path that nobody has
            expected = standin.features(digest((root / "photos" / path).read_bytes()), 0, layer)
            if row.shape != expected.shape or not np.array_equal(row, expected):
                return False
    return True


def info(root: Path) -> None:
    """Run the command, as it prints nearly all that a cache says."""
    from typer.testing import CliRunner

    from featcache.cli import app

    result = CliRunner().invoke(app, ["info", str(root / "cache"), "--json", "--debug"])
    logging.getLogger("featcache").handlers = []  # they write to what the runner has closed
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception


def try_cache(tries: Tries, root: Path, what: str, seed: int, *, all_of_it: bool) -> None:
    """Do everything with a cache that has nonsense in it; what is read must be right, or be found by `verify`."""
    outcomes = []

    def attempt(name: str, call: Callable[[], Any]) -> Any:
        outcome, value = tries.attempt(f"{what}: {name}", call)
        outcomes.append(outcome)
        return value if outcome == "harmless" else None

    read = attempt("read", lambda: right(root, FeatureCache(root / "cache")))
    report = attempt("verify", lambda: verify(root / "cache"))
    if report is not None and report.problems:
        outcomes.append("damage said")
    if read is False and report is not None and not report.problems:
        outcomes.append("wrong reads")
        tries.bad.setdefault("wrong reads", what)
    others = {
        "info": lambda: info(root),
        "gc": lambda: gc(root / "cache", dry_run=True),
        "extract": lambda: extract(root),
        "gc for good": lambda: gc(root / "cache"),
        "mend": lambda: mended(root),
    }
    for name in others if all_of_it else [list(others)[seed % len(others)]]:
        attempt(name, others[name])
    tries.count(outcomes)


def mended(root: Path) -> None:
    """Mend a cache and extract again: then all is as it should be, unless it was said that that is not possible."""
    report = verify(root / "cache", fix=True)
    assert not report.problems, report.problems
    cache = extract(root, replace_source=True)
    assert len(cache) == 12
    assert right(root, cache)


def test_nonsense_in_manifests(room: Callable[[], Path]) -> None:
    """A short form of the hunt below."""
    in_manifests(room, 50, 1000)


@hunt
@pytest.mark.slow
def test_nonsense_in_manifests_at_length(room: Callable[[], Path]) -> None:
    """Whatever a manifest says behind right checksums is said as damage or harmless, in every command that reads it."""
    in_manifests(room, 600, 0)


def in_manifests(room: Callable[[], Path], count: int, first: int) -> None:
    tries = Tries()
    for seed in range(first, first + count):
        root, rng = room(), random.Random(seed)
        what = nonsense.change_manifest(root / "cache" / "manifest.sqlite", rng)
        try_cache(tries, root, f"{seed}: {what}", seed, all_of_it=count > 100)
    tries.done("fuzz behind checksums, manifests")


def test_nonsense_in_heads(room: Callable[[], Path]) -> None:
    """A short form of the hunt below."""
    in_heads(room, 20, 1000)


@hunt
@pytest.mark.slow
def test_nonsense_in_heads_at_length(room: Callable[[], Path]) -> None:
    """Whatever a head's card or estimator says is said as damage or harmless, when it is loaded, listed and asked."""
    in_heads(room, 250, 0)


def in_heads(room: Callable[[], Path], count: int, first: int) -> None:
    from featcache.heads.store import Head
    from featcache.insight.report.subject import open_subject, standings

    tries, rows = Tries(), np.linspace(0, 60_000, 48, dtype=np.float32).reshape(3, 16)
    for seed in range(first, first + count):
        root, rng = room(), random.Random(seed)
        folder = root / "cache" / "heads" / "ridge-deep"
        if seed % 3:
            what = nonsense.change_card(folder / "head.json", rng, nonsense.signed)
        else:
            what = nonsense.change_estimator(folder, rng)
        outcomes = []
        outcome, head = tries.attempt(f"{seed}: {what}: load", lambda folder=folder: Head.load(folder))
        outcomes.append(outcome)
        if outcome == "harmless":
            asked = tries.attempt(f"{seed}: {what}: predict", lambda head=head: head.predict_proba(rows))
            outcomes.append(asked[0])
            if asked[0] == "harmless":
                assert asked[1].shape == (3, 2)
        cache = FeatureCache(root / "cache")
        listed = tries.attempt(f"{seed}: {what}: list", lambda c=cache: standings(c, open_subject(c.path)))
        outcomes.append(listed[0])
        if seed % 5 == 0:
            outcomes.append(tries.attempt(f"{seed}: {what}: info", lambda root=root: info(root))[0])
        tries.count(outcomes)
    tries.done("fuzz behind checksums, heads")


def test_nonsense_in_cards(room: Callable[[], Path]) -> None:
    """A short form of the hunt below."""
    in_cards(room, 30, 1000)


@hunt
@pytest.mark.slow
def test_nonsense_in_cards_at_length(room: Callable[[], Path]) -> None:
    """Recipes, cards of bases and models, kept results, parts and unfinished predictions are doubted alike."""
    in_cards(room, 300, 0)


def in_cards(room: Callable[[], Path], count: int, first: int) -> None:
    tries = Tries()
    kinds = [in_recipe, in_base_card, in_model_card, in_result, in_part, in_predictions]
    for seed in range(first, first + count):
        kinds[seed % len(kinds)](tries, room(), random.Random(seed), seed)
    tries.done("fuzz behind checksums, cards")


def in_recipe(tries: Tries, root: Path, rng: random.Random, seed: int) -> None:
    what = nonsense.change_card(root / "cache" / "recipe.json", rng, nonsense.fingerprinted)
    try_cache(tries, root, f"{seed}: {what}", seed, all_of_it=False)


def in_base_card(tries: Tries, root: Path, rng: random.Random, seed: int) -> None:
    what = nonsense.change_card(root / "cache" / "base" / "base.json", rng, nonsense.signed)
    outcomes = []
    for call in (lambda: base_folder.problem(root / "cache" / "base", standin.RECIPE), lambda: verify(root / "cache")):
        outcome, found = tries.attempt(f"{seed}: {what}", call)
        outcomes.append("damage said" if isinstance(found, str) or getattr(found, "problems", ()) else outcome)
    tries.count(outcomes)


def in_model_card(tries: Tries, root: Path, rng: random.Random, seed: int) -> None:
    from featcache.models.folder import FOLDER, PixelModel

    request = json.loads((root / "cache" / "recipe.json").read_text())["request"]
    scores = {"accuracy": 0.5, "accuracy_ci95": [0.1, 0.9], "n": 2}
    card = {
        "class_names": ["a", "b"],
        "trained_classes": [0, 1],
        "pixels": [8, 8, 3, "stretch", "bilinear", "accurate"],
        "metrics": {"validation": scores},
        "before": {"validation": scores},
        "after": {"validation": scores},
        "recipe": standin.RECIPE.to_dict(),
        "request": request,
        "head": {"clf": "ridge", "layer": "deep", "params": {}},
        "options": {"epochs": 1},
        "seconds": 1.5,
        "history": {"head": {}, "fine_tune": {"loss": [1.0]}},
        "listing": {"seed": 0},
        "source": {"name": "x", "location": "/x"},
        "cache": "/nowhere",
    }
    folder, _ = FOLDER.write(root / "cache" / "heads" / "m", lambda path: path.write_bytes(b"m"), card, [b"x" * 32])
    what = nonsense.change_card(folder / "model.json", rng, nonsense.signed)

    def reached() -> None:
        raise FeatcacheError("as far as Keras")

    with mock.patch("featcache.system.startup.import_tensorflow", reached):
        outcomes = [tries.attempt(f"{seed}: {what}", lambda: PixelModel.load(folder))]
    tries.count(["harmless" if text == "as far as Keras" else outcome for outcome, text in outcomes])


def in_result(tries: Tries, root: Path, rng: random.Random, seed: int) -> None:
    from featcache import compare
    from featcache.insight.report.subject import open_subject, standings

    file = rng.choice(sorted((root / "cache" / "results").glob("*.json")))
    what = nonsense.change_card(file, rng, nonsense.kept_result)
    cache = FeatureCache(root / "cache")
    outcomes = [tries.attempt(f"{seed}: {what}: list", lambda: standings(cache, open_subject(cache.path)))[0]]
    with mock.patch("featcache.training.comparison.keep", lambda *_: None):
        again = tries.attempt(
            f"{seed}: {what}: compare", lambda: compare(cache, ["ridge", "centroid"], layers=["deep"], jobs=1)
        )
    tries.count([*outcomes, again[0]])


def in_part(tries: Tries, root: Path, rng: random.Random, seed: int) -> None:
    for i in range(6):
        (root / "photos" / "a" / f"more {i}.png").write_bytes(b"one more %d" % i)
    extraction.Extraction(
        source=root / "photos",
        base="vgg19",
        weights=None,
        cache=root / "cache",
        shard_rows=5,
        views=1,
        augment="flip",
    ).run_part(1, 1)
    what = nonsense.change_card(rng.choice(sorted((root / "cache" / "parts").glob("*.json"))), rng)
    outcomes = []
    for call in (lambda: right(root, extract(root)), lambda: bool(not verify(root / "cache").problems)):
        outcome, sound = tries.attempt(f"{seed}: {what}", call)
        outcomes.append("wrong reads" if sound is False else outcome)
    tries.count(outcomes)


def in_predictions(tries: Tries, root: Path, rng: random.Random, seed: int) -> None:
    from featcache.models.predictions import Prediction

    out = root / ("p.csv" if seed % 2 else "p.jsonl")
    one = Prediction("x.png", "a", 0.75, {"a": 0.75, "b": 0.25}, top=(("a", 0.75),))
    with PredictionFile(out, Answering(["a", "b"]), {"model": "m"}) as file:
        file.append([one] * 3)
    what = nonsense.change_card(root / f"{out.name}.partial.json", rng)

    def resume() -> int:
        with PredictionFile(out, Answering(["a", "b"]), {"model": "m"}) as file:
            return file.resumed

    outcome, rows = tries.attempt(f"{seed}: {what}", resume)
    tries.count(["wrong reads" if outcome == "harmless" and rows not in (0, 3) else outcome])
