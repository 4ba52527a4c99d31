"""Whether an exported model, loaded by others, says what the classifier says."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import ExportError, FeatcacheError, ImageError, SourceError
from featcache.images.decoding import PixelSpec, decode, load
from featcache.models.classifier import ImageClassifier
from featcache.models.evaluation import own_source
from featcache.models.export import clean
from featcache.sources import Item, Items, Source, digest, read_image
from featcache.sources.folders.folders import files_source
from featcache.sources.pairs import PairSource

_READ_AT_MOST = 20
"""How many times the images that are wanted may be read to find them."""


@dataclass(frozen=True)
class Images:
    """Images to compare on: encoded, as the model takes them, and what the classifier says of them, (n, classes).

    Pixels are uint8, each picture of its own size, or float32 of the base's size. The last `pieces` are cut from the
    first picture, to be of other sizes. Random pixels are not `real`; `origin` says in words where they come from.
    """

    contents: list[bytes]
    pixels: list[npt.NDArray[Any]]
    expected: npt.NDArray[np.float64]
    real: bool
    origin: str
    pieces: int

    @property
    def compared(self) -> int:
        """How many images there are, without random pixels and pieces."""
        return len(self.contents) - self.pieces if self.real else 0


def images_for(classifier: ImageClassifier, count: int, folder: str | None, pictures: str) -> Images:
    """Return at most `count` images of a folder, else of the classifier's source; random pixels if there are none.

    `pictures` says whether the model takes pictures of "any" size or of the base's ("fixed").
    """
    spec = classifier.extractor.spec
    at_least = spec.room if spec.decode == "reduced" else None
    contents, origin = [], ""
    if count and folder is not None:
        given = files_source([folder])
        rows = np.random.default_rng(0).permutation(len(given.items)).tolist()
        readable = _readable(given, rows[: _READ_AT_MOST * count], spec)
        contents = [content for *_, content in itertools.islice(readable, count)]
        origin = f"images of {folder}" if contents else f"none in {folder} can be read"
    elif count:
        contents, origin = _of_the_source(classifier, spec, count)
    real = bool(contents)
    if not real:
        why = origin or "none were asked for"
        contents, origin = _random(spec), f"random pixels: not compared on images: {why}"
    pieces = _pieces(decode(contents[0], spec.channels)) if pictures == "any" else []
    contents = contents + pieces
    pixels: list[npt.NDArray[Any]] = [
        decode(content, spec.channels, at_least) if pictures == "any" else load(content, spec) for content in contents
    ]
    said = classifier.predict_records(PairSource([(content, None) for content in contents]), progress=False)
    expected = np.array([list(one.probabilities.values()) for one in said], np.float64)
    return Images(contents, pixels, expected, real, origin, len(pieces))


def _pieces(pixels: npt.NDArray[np.uint8]) -> list[bytes]:
    """Return two pieces of a picture, a lower and a narrower one: a source may have pictures of one size only."""
    height, width = pixels.shape[:2]
    return [_png(pixels[: max(1, 2 * height // 3)]), _png(pixels[:, : max(1, width // 2)])]


def _of_the_source(classifier: ImageClassifier, spec: PixelSpec, count: int) -> tuple[list[bytes], str]:
    """Return images of the source's validation set (else of any) and where they come from, or none and why."""
    try:
        source, policy = own_source(classifier.head)
    except (FeatcacheError, KeyError, TypeError) as error:
        return [], "it is not known where its images lie" if isinstance(error, KeyError) else str(error)
    items = Items.of(source.items)
    candidates = policy.validation_candidates(items)
    others = np.random.default_rng(0).permutation(np.setdiff1d(np.arange(len(items)), candidates))
    held: list[bytes] = []
    rest: list[bytes] = []
    for item, identity, content in _readable(source, candidates[: _READ_AT_MOST * count].tolist(), spec):
        (held if policy.split_of(item, identity) == "validation" else rest).append(content)
        if len(held) == count:
            break
    if held:
        return held, f"validation images of {source.location}"
    readable = _readable(source, others[: _READ_AT_MOST * count].tolist(), spec)
    rest += [content for *_, content in itertools.islice(readable, max(0, count - len(rest)))]
    return rest[:count], f"images of {source.location}" if rest else f"none in {source.location} can be read"


def _readable(source: Source, rows: Iterable[int], spec: PixelSpec) -> Iterator[tuple[Item, bytes, bytes]]:
    """Yield those of a source's images, by their row, that can be decoded, with their digests."""
    items = Items.of(source.items)
    for item in (items[row] for row in rows):
        try:
            content = read_image(source, item)
            encoded = content if isinstance(content, bytes) else _png(content)
            load(encoded, spec)
        except (ImageError, SourceError):
            continue
        yield item, digest(content), encoded


def _png(array: npt.NDArray[Any]) -> bytes:
    """Return pixels as a PNG file."""
    import tensorflow as tf

    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.dtype != np.uint8:
        pixels = np.clip(np.rint(pixels * 255.0), 0, 255).astype(np.uint8)
    content: bytes = tf.io.encode_png(pixels).numpy()
    return content


def _random(spec: PixelSpec) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [_png(rng.integers(0, 256, (spec.height, spec.width, spec.channels), np.uint8)) for _ in range(8)]


def difference(kind: str, model: Path, images: Images, class_names: list[str]) -> tuple[float, int]:
    """Ask a model in a clean process: return how far it is from what is expected, and what it could not decode.

    `ExportError` if it cannot be loaded, gives no numbers, or names another class than its own most probable one.
    """
    found = asked(kind, model, images)
    worst = _distance(found["images"], images.expected)
    if "encoded" not in found:
        return worst, 0
    known = np.isfinite(found["encoded"]).all(axis=1)
    names = np.array([name.encode("utf-8", "surrogateescape") for name in class_names], dtype=bytes)
    if list(found["label"][known]) != list(names[found["encoded"][known].argmax(axis=1)]):
        raise ExportError(
            "The exported model names another class than the most probable one. Nothing was written. Report it."
        )
    unread = len(known) - int(known.sum())
    return max(worst, _distance(found["encoded"][known], images.expected[known])), unread


def _distance(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    if found.shape != expected.shape or not np.isfinite(found).all():
        raise ExportError(
            f"The exported model gives no probabilities: their shape is {found.shape} instead of {expected.shape}, "
            f"{np.count_nonzero(~np.isfinite(found))} are not finite. Report it, or choose another format."
        )
    return float(np.abs(found - expected).max(initial=0.0))


def asked(kind: str, model: Path, images: Images) -> dict[str, Any]:
    """Return what a model says in a process that has no featcache."""
    with tempfile.TemporaryDirectory() as folder:
        given, answers = Path(folder, "given.npz"), Path(folder, "answers.npz")
        np.savez(given, **inputs(images))
        command = [sys.executable, "-P", clean.__file__, kind, str(model), str(given), str(answers)]
        # The CPU, as float32 is not quite float32 on some GPUs, and this process may hold the memory of one.
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(command, capture_output=True, check=False, env=environment)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
            raise ExportError(
                f"The exported {kind} model does not load in a process of its own: {said[-1][:300]}. Choose another "
                "format, or report it."
            )
        with np.load(answers) as found:
            return dict(found)


def inputs(images: Images) -> dict[str, Any]:
    """Return what `featcache.models.export.clean.answers` takes; only JPEG and PNG are asked about as bytes."""
    decodable = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
    contents = [content if content.startswith(decodable) else b"" for content in images.contents]
    ends = np.cumsum([len(content) for content in contents])
    return {
        "pixels": np.concatenate([picture.ravel() for picture in images.pixels]),
        "shapes": np.array([picture.shape for picture in images.pixels]),
        "encoded": np.frombuffer(b"".join(contents), np.uint8),
        "ends": ends,
    }
