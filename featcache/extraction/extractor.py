"""Images → features with one base: what extraction, prediction and scikit-learn pipelines share."""

from __future__ import annotations

import collections
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as futures_wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.bases import Base, load_base
from featcache.bases.runtimes import compiled
from featcache.errors import BaseError, FeatcacheError, ImageError, about_image, one_line
from featcache.extraction.batching import fastest_batch, largest_batch
from featcache.extraction.profiling import Profile, step
from featcache.images.augmentation import Augmentation
from featcache.images.decode_crashes import Journal
from featcache.images.decoding import PixelSpec, load
from featcache.options import BATCH_SIZE, subset
from featcache.recipe import Recipe, Request
from featcache.sources import Item, Source, digest, read_image
from featcache.system.cpus import decoding_threads
from featcache.system.memory import available

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0


@dataclass(frozen=True)
class Extracted:
    """What became of one image: features by view and layer, in the recipe's dtype, or the reason why there are none.

    Its digest is None if it could not be read.
    """

    item: Item
    digest: bytes | None
    views: Mapping[int, Mapping[str, npt.NDArray[Any]]] = field(default_factory=dict)
    reason: str | None = None


@dataclass
class _Pending:
    """An image on its way through the base: which views are still to come."""

    item: Item
    digest: bytes | None = None
    reason: str | None = None
    pixels: list[tuple[int, npt.NDArray[np.float32]]] = field(default_factory=list)
    done: dict[int, dict[str, npt.NDArray[Any]]] = field(default_factory=dict)
    wanted: int = 0


_Row = tuple[_Pending, int, npt.NDArray[np.float32]]
"""An image, which view of it, and its pixels."""


class Extractor:
    """A base that is loaded, compiled and ready for images.

    `file` is the one that the base was loaded from, if that is not the request's; `passes` is how many forward passes
    this process is set up to run at once. `profile`, if set, is where `stream` notes what took how long.
    """

    def __init__(self, request: Request, base: Base | None = None, file: Path | None = None, passes: int = 1) -> None:
        self.request = request
        self.base: Base = load_base(request) if base is None else base
        self._runtime = compiled(self.base, request, file, passes)
        self.passes, self._decoding_threads = self._runtime.passes, decoding_threads(passes)
        base = self.base
        self.recipe = subset(
            request,
            Recipe,
            architecture=base.architecture,
            weights=base.weights,
            layers=base.canonical_layers,
            image_size=(base.height, base.width),
            preprocess=base.preprocess,
            decode=request.decode,
            crop=request.fraction,
        )
        self.spec = PixelSpec.of(self.recipe, base.channels, request.max_pixels)
        self.profile: Profile | None = None

    def fastest_batch(self, images: int) -> int:
        """Return the batch size for a number of images: 32, or for thousands whichever is fastest here and fits."""
        height, width, channels = self.spec.height, self.spec.width, self.spec.channels
        some = np.random.default_rng(0).uniform(0, 255, (8, height, width, channels)).astype(np.float32)

        def seconds(size: int) -> tuple[float, float]:
            pixels = np.resize(some, (size, *some.shape[1:]))
            times = [time.perf_counter()]
            with ThreadPoolExecutor(self.passes) as forward:
                for _ in range(2):
                    list(forward.map(lambda _: self.features(pixels, size), range(self.passes)))
                    times.append(time.perf_counter())
            return times[1] - times[0], times[2] - times[1]

        return fastest_batch(seconds, images, largest_batch(height * width, available(), self.passes), self.passes)

    @property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """Shape of one image's features by layer, the deepest last."""
        return self._runtime.shapes

    def features(self, pixels: npt.NDArray[np.float32], batch_size: int = BATCH_SIZE) -> dict[str, npt.NDArray[Any]]:
        """Return features of up to `batch_size` images as they are stored: by layer, one row for each image."""
        count = len(pixels)
        if count < batch_size:  # kernels for other batch sizes give other last bits
            padding = np.broadcast_to(pixels[:1], (batch_size - count, *pixels.shape[1:]))
            pixels = np.concatenate([pixels, padding])
        computed = self._runtime(pixels)
        with np.errstate(over="ignore"):  # an overflow is an inf, which `stream` names
            return {layer: values[:count].astype(self.recipe.dtype) for layer, values in computed.items()}

    def stream(
        self,
        source: Source,
        items: Iterable[Item],
        *,
        wanted: Callable[[Item, bytes], Sequence[int]] = lambda item, identity: (0,),
        augmentation: Augmentation | None = None,
        batch_size: int = BATCH_SIZE,
        journal: Journal | None = None,
        flush_every: int | None = None,
    ) -> Generator[Extracted, None, None]:
        """Yield what becomes of each image, in the order of `items`.

        Bytes are read once, hashed and decoded from the same buffer, ahead of the forward pass and in
        parallel; a few batches are in memory at a time. `wanted` says, from several threads, which views of an item
        with a digest to compute, or raises an `ImageError`; without any it is not decoded. `augmentation` makes views
        of 1 and above. `batch_size` does not change features beyond their last bits, and is halved for good when memory
        runs out. `journal` is where threads note what they decode. No forward pass has images of two stretches of
        `flush_every` items, so that to the last bit the features of an image depend on its own stretch only.

        An image whose decoding does not end is a `HungError`. `BaseError` if the base fails on every image of a batch
        and on a grey one, if features are not finite, or if memory runs out for a single image.
        """
        noted, profile = journal or Journal(), self.profile
        if profile is not None:
            profile.ready()

        def prepare(item: Item) -> _Pending:
            pending = _Pending(item)
            try:
                with step(profile, "read"):
                    content = read_image(source, item)
                    with about_image("read"):
                        pending.digest = digest(content)
                views = wanted(item, pending.digest)
                if views:
                    with step(profile, "decode"):
                        with noted.decoding(item.path):
                            plain = load(content, self.spec)
                        for view in views:
                            if view:
                                assert augmentation is not None
                                with about_image("augmented"):
                                    pending.pixels.append((view, augmentation.apply(plain, pending.digest, view)))
                            else:
                                pending.pixels.append((view, plain))
                pending.wanted = len(pending.pixels)
            except ImageError as error:
                pending.reason, pending.pixels = str(error), []
            return pending

        threads, passes = self._decoding_threads, self.passes
        waiting: collections.deque[_Pending] = collections.deque()
        rows: list[_Row] = []
        with (
            ThreadPoolExecutor(passes, "featcache-forward") as forward,
            contextlib.closing(
                mapped_ahead(threads, prepare, items, (2 + passes) * batch_size, noted.check)
            ) as prepared,
        ):
            running: collections.deque[Future[None]] = collections.deque()

            def compute(batch: list[_Row]) -> None:
                nonlocal batch_size
                while batch:
                    size = batch_size  # another thread may have found that less memory is left
                    now, batch = batch[:size], batch[size:]
                    batch_size = min(batch_size, self._run(now, size))

            def run(batch: list[_Row]) -> None:
                """Have a batch computed, as soon as no more than one waits for that."""
                wait_for_all_but(passes)
                running.append(forward.submit(compute, batch))

            def wait_for_all_but(some: int) -> None:
                while len(running) > some:
                    with step(profile, "forward"):
                        running.popleft().result()

            for count, pending in enumerate(_waited_for(prepared, profile), 1):
                waiting.append(pending)
                rows.extend((pending, view, pixels) for view, pixels in pending.pixels)
                pending.pixels = []
                while len(rows) >= (size := batch_size):
                    run(rows[:size])
                    rows = rows[size:]
                ended = flush_every is not None and count % flush_every == 0
                if rows and (ended or len(waiting) > 16 * batch_size):  # many that need nothing wait behind one
                    run(rows)
                    rows = []
                for done in _finished(waiting):
                    with step(profile, "write"):
                        yield done
            if rows:
                run(rows)
            wait_for_all_but(0)
            for done in _finished(waiting):
                with step(profile, "write"):
                    yield done

    def _run(self, rows: Sequence[_Row], batch_size: int) -> int:
        """Compute rows, padded to a batch size, and return the batch size that memory allows."""
        import tensorflow as tf

        size = batch_size if len(rows) > batch_size // 2 else max(2, 1 << (len(rows) - 1).bit_length())
        size = min(size, batch_size)
        try:
            features = self.features(np.stack([pixels for *_, pixels in rows]), size)
        except (tf.errors.ResourceExhaustedError, MemoryError):
            if size == 1:
                raise BaseError(
                    f"Not enough memory for one image at {self.base.height}x{self.base.width} pixels: "
                    f"{rows[0][0].item.path!r}. Choose a smaller `image_size`."
                ) from None
            half = size // 2
            log.warning("out of memory: continuing with a batch size of %d", half)
            parts = [rows[start : start + half] for start in range(0, len(rows), half)]
            return min(self._run(part, half) for part in parts)
        except FeatcacheError:
            raise
        except Exception as error:
            self._run_apart(rows, size, error)
            return batch_size
        self._check_finite(features, [pending.item.path for pending, *_ in rows])
        for i, (pending, view, _) in enumerate(rows):
            pending.done[view] = {layer: values[i] for layer, values in features.items()}
        return batch_size

    def _run_apart(self, rows: Sequence[_Row], size: int, failure: Exception) -> None:
        """Compute each row of a batch that failed alone, and leave the images out on which the base fails.

        If it fails on all of them, and on a grey picture, too, it is the base's fault: a `BaseError`.
        """
        reasons: list[tuple[_Pending, str]] = []
        for pending, view, pixels in rows:
            try:
                features = self.features(pixels[None], size)
            except Exception as error:
                reasons.append((pending, f"the base fails on it: {type(error).__name__}: {one_line(error)}"))
                continue
            self._check_finite(features, [pending.item.path])
            pending.done[view] = {layer: values[0] for layer, values in features.items()}
        said = f"{type(failure).__name__}: {one_line(failure)}"
        if len(reasons) == len(rows):
            spec = self.spec
            try:
                self.features(np.full((1, spec.height, spec.width, spec.channels), 127, np.float32), size)
            except Exception:
                raise BaseError(
                    f"The base fails on all {len(rows)} images of a batch, the first {rows[0][0].item.path!r}: {said}. "
                    "What was done before is kept."
                ) from None
        for pending, reason in reasons:
            pending.reason = reason
        if not reasons:
            log.warning("a batch failed and was computed again image by image: %s", said)

    def _check_finite(self, features: Mapping[str, npt.NDArray[Any]], owners: Sequence[str]) -> None:
        for layer, values in features.items():
            finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
            if not finite.all():
                advice = "check the base's weights and --preprocess"
                if "float16" in (self.recipe.dtype, self.recipe.precision):
                    option = "--dtype float32" if self.recipe.dtype == "float16" else "--precision float32"
                    advice = f"float16 ends at 65504: take {option}"
                raise BaseError(
                    f"Layer {layer!r} gives inf or NaN for image {owners[int(np.argmin(finite))]!r}; {advice}."
                )


def _waited_for(prepared: Iterator[_Pending], profile: Profile | None) -> Iterator[_Pending]:
    while True:
        with step(profile, "wait"):
            pending = next(prepared, None)
        if pending is None:
            return
        yield pending


def _finished(queue: collections.deque[_Pending]) -> Iterator[Extracted]:
    """Take the images off the queue's front whose views are all there."""
    while queue and (queue[0].reason is not None or len(queue[0].done) == queue[0].wanted):
        first = queue.popleft()
        yield Extracted(first.item, first.digest, {} if first.reason is not None else first.done, first.reason)


def mapped_ahead(
    workers: int, function: Callable[[Any], Any], items: Iterable[Any], window: int, check: Callable[[], None]
) -> Generator[Any, None, None]:
    """Map in threads, in order, at most `window` items ahead of the consumer; `check` while one is waited for.

    Python waits at its end for an executor's threads, and would for a hung one, for ever.
    """
    tasks: queue.SimpleQueue[tuple[Future[Any], Any] | None] = queue.SimpleQueue()
    pending: collections.deque[Future[Any]] = collections.deque()

    def work() -> None:
        while task := tasks.get():
            future, item = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(item))
                except BaseException as error:
                    future.set_exception(error)

    def first() -> Any:
        future = pending.popleft()
        while not futures_wait([future], CHECK_SECONDS).done:
            check()
        return future.result()

    threads = [threading.Thread(target=work, name=f"featcache-decode-{i}", daemon=True) for i in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for item in items:
            pending.append(Future())
            tasks.put((pending[-1], item))
            if len(pending) >= window:
                yield first()
        while pending:
            yield first()
    finally:
        for future in pending:
            future.cancel()
        for _ in threads:
            tasks.put(None)
        last = time.monotonic() + 5  # idle threads end at once, hung ones never
        for thread in threads:
            thread.join(max(0.0, last - time.monotonic()))
