"""Images that crash or hang the process that decodes them: who was decoding what, and one image alone."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from featcache.errors import HungError, ImageError
from featcache.files.reading import read_plain
from featcache.images.decoding import PixelSpec
from featcache.sources import Item, Source, digest, read_image
from featcache.system.startup import python_command

LIMIT = 60.0
"""Seconds after which the decoding of one image is taken to have no end."""

_SLOT = 4098  # a byte count and a path
_REASONS = ("crashes the process that decodes it", "decoding did not end within")


def is_decode_crash(reason: str | None) -> bool:
    """Whether this is why an image must only be decoded in a process of its own."""
    return reason is not None and reason.startswith(_REASONS)


class Journal:
    """The file that names the images being decoded, one slot per thread: it survives the process.

    It is made when the first image is decoded and removed at the end, unless decoding has not ended then. Without a
    file only hangs are noticed. `suspects` are what a former process was decoding when it died.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.suspects = set() if file is None else _suspects(file)
        self._descriptor: int | None = None
        self._lock, self._slots, self._mine = threading.Lock(), itertools.count(), threading.local()
        self._active: dict[int, tuple[str, float]] = {}

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        opened = self._descriptor is not None
        if self._file is not None and not self._active and (opened or kind is None):
            with contextlib.suppress(OSError):
                os.unlink(self._file)  # noqa: PTH108
        with self._lock:
            if self._descriptor is not None and not self._active:  # else a hung thread may still write
                os.close(self._descriptor)
                self._descriptor = None

    @contextlib.contextmanager
    def decoding(self, path: str) -> Iterator[None]:
        """Note that this thread decodes an image."""
        if not hasattr(self._mine, "slot"):
            self._mine.slot = next(self._slots)
        slot: int = self._mine.slot
        name = os.fsencode(path)[: _SLOT - 2]
        self._active[slot] = path, time.monotonic()
        self._write(struct.pack("<H", len(name)) + name, slot)
        try:
            yield
        finally:
            self._write(b"\0\0", slot)
            del self._active[slot]

    def check(self) -> None:
        """Raise `HungError` if an image has been decoded for longer than `LIMIT`."""
        now = time.monotonic()
        hung = sorted(path for path, start in list(self._active.values()) if now - start > LIMIT)
        if hung:
            raise HungError(
                f"The decoding of {', '.join(map(repr, hung))} did not end within {LIMIT:g} s. Run the same "
                "extraction again: it records the image and resumes."
            )

    def _write(self, content: bytes, slot: int) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):  # a full disk is the shards' to report
            if self._descriptor is None:
                with self._lock:
                    if self._descriptor is None:
                        self._descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            if hasattr(os, "pwrite"):  # Windows has none: there, nobody is suspected
                os.pwrite(self._descriptor, content, slot * _SLOT)


def _suspects(file: Path) -> set[str]:
    try:
        content = read_plain(file, most=2**20 * _SLOT)
    except (OSError, ValueError):
        return set()
    found = set()
    for start in range(0, len(content) - 1, _SLOT):
        (length,) = struct.unpack_from("<H", content, start)
        if length:
            found.add(os.fsdecode(content[start + 2 : start + 2 + length]))
    return found


class Probe:
    """A process that decodes suspects, one at a time; another takes its place when it dies."""

    def __init__(self, spec: PixelSpec) -> None:
        self._command = [*probe_command(), json.dumps(asdict(spec))]
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()

    def reason(self, content: bytes) -> str | None:
        """Return why an image must not be decoded here; None if its decoding ends, well or with an error."""
        if self._child is None:
            self._child = child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
            assert child.stdout is not None
            child.stdout.read(1)  # it is ready, or could not even start
        child, late = self._child, threading.Event()
        assert child.stdin is not None and child.stdout is not None

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(LIMIT, stop)
        timer.daemon = True
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(struct.pack("<Q", len(content)) + content)
                child.stdin.flush()
            answered = child.stdout.read(1)
        finally:
            timer.cancel()
        if answered:
            return None
        self._child = None
        child.communicate()
        code = child.returncode
        if late.is_set():
            return f"{_REASONS[1]} {LIMIT:g} s"
        return f"{_REASONS[0]} ({f'signal {-code}' if code < 0 else f'exit code {code}'})"


def find_culprits(
    spec: PixelSpec, source: Source, items: Iterable[Item]
) -> Generator[tuple[Item, bytes, str], None, None]:
    """Yield the images that kill the process that decodes them alone, or never end, with their digests and why."""
    with Probe(spec) as probe:  # a process starts with the first item
        for item in items:
            with contextlib.suppress(ImageError):
                content = read_image(source, item)
                reason = probe.reason(content) if isinstance(content, bytes) else None
                if reason is not None:
                    yield item, digest(content), reason


def probe_command() -> list[str]:
    """Return the command of the process that decodes suspects, which takes a `PixelSpec` as JSON."""
    return python_command("featcache.images.decode_crashes", "probe")


def probe() -> None:
    """Decode images from standard input; write a byte when ready, and one after each image."""
    from featcache.images import decoding as images
    from featcache.system.startup import import_tensorflow

    images.take_over_pillow()
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    spec = PixelSpec(**json.loads(sys.argv[-1]))
    import_tensorflow()
    os.write(answers, b".")
    while header := sys.stdin.buffer.read(8):
        if hasattr(signal, "alarm"):
            signal.alarm(int(2 * LIMIT) + 1)  # should nobody be left to end this
        with contextlib.suppress(Exception):
            images.load(sys.stdin.buffer.read(struct.unpack("<Q", header)[0]), spec)
        os.write(answers, b".")
