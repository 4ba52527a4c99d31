"""Run the command line with a stand-in base, and die where told.

    python standin.py [--log FILE] [--die POINT:WHEN:N] [--limit BYTES] [--slow SECONDS] COMMAND …

The stand-in makes features from an image's digest, without TensorFlow, so that a process starts in
half a second: what is tried here is the cache, not the network. Everything else is the product's.

``--log`` appends a line per computed row; ``--die fsync:before:3`` kills the process at the third
fsync; ``--limit`` makes every file end at so many bytes, as a full disk would;
``--slow`` waits before each image.
"""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featcache.cache.manifest import Manifest
from featcache.errors import ImageError
from featcache.images.decoding import PixelSpec
from featcache.recipe import Recipe
from featcache.sources import Item, Source, digest

LAYERS = {"shallow": (3, 2), "deep": (16,)}
RECIPE = Recipe("0" * 64, "1" * 64, tuple(LAYERS), "avg", (8, 8), "stretch", "bilinear", "none", "float32")


def features(identity: bytes, view: int, layer: str) -> np.ndarray:
    """Return the stand-in's features of a view of an image: its digest, hashed and spread out."""
    count = int(np.prod(LAYERS[layer]))
    content = hashlib.shake_256(identity + f"{view} {layer}".encode()).digest(2 * count)
    return np.frombuffer(content, "<u2").astype(np.float32).reshape(LAYERS[layer])


@dataclass
class Extracted:
    item: Item
    digest: bytes | None
    views: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    reason: str | None = None


class Model:
    """Stands in for a base's network."""

    layers: tuple[()] = ()

    def save(self, path: Path) -> None:
        path.write_bytes(b"a network")


class Base:
    """Stands in for `featcache.bases.Base`."""

    name, layers, parameters, model = "stand-in", tuple(LAYERS), 2, Model()
    architecture, weights = RECIPE.architecture, RECIPE.weights


class Extractor:
    """Stands in for `featcache.extraction.extractor.Extractor`."""

    log: Path | None = None
    slow = 0.0
    spec = PixelSpec(8, 8, 3)

    def __init__(self, request: Any, **_: Any) -> None:
        self.request, self.recipe, self.layers, self.base = request, RECIPE, LAYERS, Base()

    def fastest_batch(self, images: int) -> int:
        return 32

    def stream(self, source: Source, items: list[Item], *, wanted: Callable[..., Any], **_: Any) -> Iterator[Extracted]:
        for item in items:
            time.sleep(self.slow)
            try:
                content = source.read(item)
            except ImageError as error:
                yield Extracted(item, None, reason=str(error))
                continue
            identity = digest(content)
            if isinstance(content, bytes) and content.startswith(b"bad"):
                yield Extracted(item, identity, reason="not an image: its content is text")
                continue
            views = wanted(item, identity)
            if self.log is not None and views:
                with self.log.open("ab") as log:
                    log.write(b"".join(f"{identity.hex()} {view}\n".encode() for view in views))
            yield Extracted(item, identity, {v: {name: features(identity, v, name) for name in LAYERS} for v in views})


def install() -> None:
    """Put the stand-in in the place of `featcache.extraction.extractor`."""
    module = types.ModuleType("featcache.extraction.extractor")
    module.__dict__.update(Extractor=Extractor, Extracted=Extracted, Progress=Any)
    sys.modules["featcache.extraction.extractor"] = module


POINTS = {
    "write": (Path, "open"),
    "fsync": (os, "fsync"),
    "rename": (Path, "replace"),
    "unlink": (Path, "unlink"),
    "commit": (Manifest, "commit"),
    "listing": (Manifest, "replace_listing"),
}


def die_at(point: str, when: str, count: int) -> None:
    """Kill this process before, or after, the given use of a function; a write is cut in half."""
    owner, name = POINTS[point]
    real = getattr(owner, name)
    uses = 0

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        nonlocal uses
        if point == "write" and (arguments[1:2] or ("",))[0] != "xb":
            return real(*arguments, **options)
        uses += 1
        if uses < count:
            return real(*arguments, **options)
        if when == "before":
            kill()
        result = real(*arguments, **options)
        if point == "write":

            def half(content: Any, write: Any = result.write) -> None:
                write(memoryview(content)[: len(content) // 2])
                result.flush()
                kill()

            return _HalfWriter(result, half)
        kill()
        return result

    setattr(owner, name, wrapped)


class _HalfWriter:
    """A file whose first write stops half way, for good."""

    def __init__(self, file: Any, write: Callable[[Any], None]) -> None:
        self._file, self.write = file, write

    def __enter__(self) -> _HalfWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def main() -> None:
    arguments = sys.argv[1:]
    while arguments and arguments[0].startswith("--"):
        option, value = arguments[0], arguments[1]
        arguments = arguments[2:]
        if option == "--log":
            Extractor.log = Path(value)
        elif option == "--slow":
            Extractor.slow = float(value)
        elif option == "--die":
            point, when, count = value.split(":")
            die_at(point, when, int(count))
        elif option == "--limit":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(value), resource.RLIM_INFINITY))
    install()
    from featcache.cli import main as command_line

    sys.argv = ["featcache", *arguments]
    print("started", flush=True)
    command_line()


if __name__ == "__main__":
    main()
