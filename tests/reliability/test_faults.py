"""A fault at any step from a file to its features costs that image alone, and says which it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import predicted_mean, random_image, write_image
from recording import record

from featcache import fit_head
from featcache.errors import BaseError
from featcache.extraction import extractor as extracting_module
from featcache.extraction.extractor import Extractor
from featcache.images import decoding as images
from featcache.images import resizing
from featcache.images.augmentation import Augmentation
from featcache.models.classifier import ImageClassifier
from featcache.recipe import Request
from featcache.sources import files
from featcache.sources.folders.folders import files_source

COUNT, BAD = 9, 4
FLIP = Augmentation(flip=True)
FAULTS = [
    MemoryError,
    RuntimeError,
    ValueError,
    OSError,
    OverflowError,
    RecursionError,
    KeyError,
    TypeError,
    AssertionError,
    StopIteration,
    SystemError,
]
STEPS: dict[str, tuple[Any, str]] = {
    "open": (files, "sole_content"),
    "digest": (extracting_module, "digest"),
    "header": (images, "_opened"),
    "EXIF": (images, "_has_exif"),
    "decode": (images, "_decoded_by_tensorflow"),
    "resize": (resizing, "resized"),
    "crop": (resizing, "_cropped_to_aspect"),
    "pad": (resizing, "_within"),
    "augmentation": (Augmentation, "apply"),
    "batch": (Extractor, "features"),
}
counted = {"tries": 0, "named": 0, "right_all_the_same": 0, "others_lost": 0}
at_work = threading.local()


@pytest.fixture(scope="module")
def extractors(oracle: Path) -> dict[str, Extractor]:
    """Return the oracle for every way of resizing."""
    options: dict[str, Any] = {"base": oracle, "layers": ("mix",), "preprocess": "none"}
    return {resize: Extractor(Request(**options, resize=resize)) for resize in ("stretch", "crop", "pad")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults")
    for i in range(COUNT):
        write_image(root / "a" / f"{i}.png", random_image(i) if i != BAD else np.full((8, 8, 3), 77, np.uint8))
    return root


@pytest.fixture
def noting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each thread know whether it is at work on the bad image."""
    real = extracting_module.read_image

    def read(source: Any, item: Any) -> Any:
        at_work.bad = item.path.endswith(f"{BAD}.png")
        return real(source, item)

    monkeypatch.setattr(extracting_module, "read_image", read)


def faulty(real: Callable[..., Any], error: type[BaseException]) -> Callable[..., Any]:
    """Return a function that raises when it is called for the bad image, alone or in a batch."""

    def called(*arguments: Any, **options: Any) -> Any:
        batch = next((one for one in arguments if isinstance(one, np.ndarray) and one.ndim == 4), None)
        if getattr(at_work, "bad", False) if batch is None else (batch == 77).all(axis=(1, 2, 3)).any():
            raise error("a fault\nof two lines")
        return real(*arguments, **options)

    return called


@pytest.mark.parametrize("step", STEPS)
def test_a_fault_costs_its_image_alone(
    step: str, extractors: dict[str, Extractor], folder: Path, noting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised about an image at a step, it has a reason of one line, and the others their features."""
    engine, (owner, name) = extractors.get(step, extractors["stretch"]), STEPS[step]
    source, real = files_source([folder]), getattr(owner, name)
    for error in FAULTS:
        if (step, error) == ("batch", MemoryError):  # what halves the batch, and names the image that is too large
            continue
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, faulty(real, error))
            found = list(engine.stream(source, source.items, wanted=lambda *_: (0, 1), augmentation=FLIP, batch_size=4))
        assert [one.item for one in found] == list(source.items)
        bad, expected = found[BAD], predicted_mean(np.full((8, 8, 3), 77))
        named = bad.reason is not None and "\n" not in bad.reason
        counted["tries"] += 1
        counted["named"] += named
        if not named:  # a header that Pillow cannot read, or a picture that only TensorFlow cannot
            assert step in ("header", "EXIF", "decode"), error
            assert np.allclose(bad.views[0]["mix"], expected, atol=1e-3)
            counted["right_all_the_same"] += 1
        for i, one in enumerate(found):
            right = one.reason is None and np.allclose(one.views[0]["mix"], predicted_mean(random_image(i)), atol=1e-3)
            counted["others_lost"] += i != BAD and not right
    assert counted["named"] + counted["right_all_the_same"] == counted["tries"]
    assert counted["others_lost"] == 0
    if step == list(STEPS)[-1]:
        record("faults at every step of the pixel path", **counted)


@pytest.mark.parametrize("error", [RuntimeError, ZeroDivisionError])
def test_a_base_that_always_fails_ends_the_run(
    error: type[Exception], extractors: dict[str, Extractor], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails for every image and for a grey one is not the images' fault: one line names the batch's first."""

    def fails(*_: Any) -> Any:
        raise error("no device")

    source = files_source([folder])
    monkeypatch.setattr(Extractor, "features", fails)
    with pytest.raises(BaseError, match=r"fails on all 4 images of a batch, the first '.*0\.png': .*no device"):
        list(extractors["stretch"].stream(source, source.items, batch_size=4))


def test_a_fault_that_passes_loses_nothing(
    extractors: dict[str, Extractor], folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A batch that fails once is computed again, and that is said."""
    real, calls = Extractor.features, []

    def fails_once(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("try again")
        return real(*arguments)

    source = files_source([folder])
    monkeypatch.setattr(Extractor, "features", fails_once)
    found = list(extractors["stretch"].stream(source, source.items, batch_size=4))
    assert [one.reason for one in found] == [None] * COUNT
    assert "computed again image by image: RuntimeError: try again" in caplog.text


def test_ctrl_c_in_a_decoder_ends_the_run(
    extractors: dict[str, Extractor], folder: Path, noting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is no fault of an image is not taken for one."""
    source = files_source([folder])
    monkeypatch.setattr(images, "_decoded_by_tensorflow", faulty(images._decoded_by_tensorflow, KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        list(extractors["stretch"].stream(source, source.items, batch_size=4))


def test_extract_and_predict_skip_it(
    extracting: Callable[..., Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`extract` records the image with its reason and tries it again when memory was short; so do predict, evaluate."""
    head = fit_head(extracting(photos, tmp_path / "whole"), "ridge")
    classifier, real = ImageClassifier.load(head.path), resizing.resized
    bad = images.decode((photos / "dark" / "d1.png").read_bytes(), 3)

    def resized(pixels: Any, spec: Any) -> Any:
        if np.array_equal(pixels, bad):
            raise MemoryError
        return real(pixels, spec)

    with monkeypatch.context() as patch:
        patch.setattr(resizing, "resized", resized)
        skipped = extracting(photos, tmp_path / "c").report.skipped
        predicted = list(classifier.predict_records(photos))
        scored = classifier.evaluate()
    reason = "not enough memory: it cannot be resized with what is free"
    assert skipped == [{"path": "dark/d1.png", "reason": reason}]
    assert [one.reason for one in predicted if one.reason] == [reason]
    assert [one["reason"] for one in scored["skipped"]] == [reason]
    report = extracting(photos, tmp_path / "c").report
    assert (report.computed, report.skipped) == (1, [])


def test_an_image_above_the_limit_is_tried_again_when_it_is_raised(
    extracting: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    """The limit is in no recipe: the same cache gets the rows of larger images when it is raised, and of no others."""
    write_image(photos / "light" / "large.png", random_image(1, side=40))
    first = extracting(photos, tmp_path / "c", max_pixels=1000)
    limit = "40x40 pixels are more than the limit of 1,000; a higher max_pixels (--max-pixels) includes it"
    assert first.report.skipped == [{"path": "light/large.png", "reason": limit}]
    again = extracting(photos, tmp_path / "c", max_pixels=1599)
    assert (again.report.computed, len(again.report.skipped)) == (0, 1)
    raised = extracting(photos, tmp_path / "c", max_pixels=1600)
    assert (raised.report.computed, raised.report.skipped) == (1, [])
    assert raised.recipe == first.recipe
    head = fit_head(raised, "ridge")
    found = list(ImageClassifier.load(head.path, max_pixels=1000).predict_records(photos))
    assert [one.reason for one in found if one.reason] == [limit]
