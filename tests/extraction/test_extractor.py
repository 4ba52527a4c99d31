import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import predicted_mean, random_image, write_image
from PIL import Image

from featcache.errors import BaseError
from featcache.extraction.extractor import Extractor
from featcache.images.augmentation import Augmentation
from featcache.recipe import Request
from featcache.sources.arrays import ArraySource
from featcache.sources.folders.folders import files_source


@pytest.fixture(params=[1, 3])
def passes(request: pytest.FixtureRequest, extractor: Extractor, monkeypatch: pytest.MonkeyPatch) -> int:
    """Have one or three forward passes at once."""
    monkeypatch.setattr(extractor, "passes", request.param)
    return request.param


@pytest.fixture(scope="module")
def extractor(oracle: Path) -> Extractor:
    return Extractor(Request(oracle, layers=("mix",), preprocess="none"))


def test_stream_keeps_order_and_names_failures(extractor: Extractor, tmp_path: Path, passes: int) -> None:
    """Results come in the order of the images; one that fails has its reason and no features."""
    paths = [write_image(tmp_path / f"{i}.png", random_image(i)) for i in range(11)]
    paths[4].write_text("no image")
    source = files_source(paths)
    done = list(extractor.stream(source, source.items, batch_size=3))
    assert [Path(one.item.path).name for one in done] == [path.name for path in paths]
    assert [i for i, one in enumerate(done) if one.reason] == [4]
    for i, one in enumerate(done):
        if i != 4:
            assert np.allclose(one.views[0]["mix"], predicted_mean(random_image(i)), rtol=1e-5)


def test_unwanted_images_are_hashed_but_not_computed(extractor: Extractor, tmp_path: Path) -> None:
    """An image of which no view is wanted comes back with its digest alone."""
    source = files_source([write_image(tmp_path / f"{i}.png", random_image(i)) for i in range(3)])
    first = [one.digest for one in extractor.stream(source, source.items)]
    wanted = lambda item, identity: () if identity == first[1] else (0,)  # noqa: E731
    again = list(extractor.stream(source, source.items, wanted=wanted))
    assert [sorted(one.views) for one in again] == [[0], [], [0]]
    assert [one.digest for one in again] == first


def test_many_unwanted_images_do_not_wait(extractor: Extractor) -> None:
    """One image in a half-filled batch does not hold back thousands that need nothing."""
    source = ArraySource("made", np.stack([random_image(i) for i in range(2)] + [random_image(9)] * 400), ["a"] * 402)
    read = []
    stream = extractor.stream(
        source,
        source.items,
        wanted=lambda item, _: (read.append(item), (0,) if item.path == "000" else ())[1],
        batch_size=4,
    )
    next(stream)
    assert len(read) < 120


def test_a_stretch_is_computed_by_itself(extractor: Extractor, tmp_path: Path, monkeypatch) -> None:
    """No batch spans two stretches, so that a later start at one gives the same batches, whatever failed before."""
    paths = [write_image(tmp_path / f"{i:02d}.png", random_image(i)) for i in range(20)]
    paths[1].write_text("no image")
    source, run = files_source(paths), extractor._run
    batches: list[list[str]] = []
    monkeypatch.setattr(
        extractor,
        "_run",
        lambda rows, size: (batches.append([Path(one.item.path).stem for one, *_ in rows]), run(rows, size))[1],
    )
    list(extractor.stream(source, source.items, batch_size=4, flush_every=8))
    assert [batch[0] for batch in batches] == ["00", "05", "08", "12", "16"]
    whole, batches[:] = batches[2:], []
    list(extractor.stream(source, source.items[8:], batch_size=4, flush_every=8))
    assert batches == whole


def test_views_straddle_batches(extractor: Extractor, passes: int) -> None:
    """Images with several views come out whole and in order, whatever the batch size."""
    policy = Augmentation(brightness=0.2)
    source = ArraySource("made", np.stack([random_image(i) for i in range(7)]), ["a"] * 7)
    reference = None
    for batch_size in (1, 2, 4, 5, 32):
        done = list(
            extractor.stream(
                source, source.items, wanted=lambda item, _: (0, 1, 2), augmentation=policy, batch_size=batch_size
            )
        )
        assert [one.item.path for one in done] == [item.path for item in source.items]
        assert all(sorted(one.views) == [0, 1, 2] for one in done)
        rows = np.array([[one.views[view]["mix"] for view in range(3)] for one in done])
        reference = rows if reference is None else reference
        assert np.allclose(rows, reference, rtol=1e-5)
    assert not np.allclose(reference[:, 1], reference[:, 2])


def test_passes_run_at_once(extractor: Extractor, monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    """As many batches are computed side by side as there are passes; each waits here for the others."""
    real, together = extractor._runtime, threading.Barrier(passes)

    def meeting(pixels: np.ndarray) -> dict[str, np.ndarray]:
        together.wait(20)
        return real(pixels)

    monkeypatch.setattr(extractor, "_runtime", meeting)
    source = ArraySource("made", np.stack([random_image(i) for i in range(24)]), ["a"] * 24)
    assert len(list(extractor.stream(source, source.items, batch_size=4))) == 24


def test_out_of_memory_halves_the_batch(extractor: Extractor, monkeypatch, caplog, passes: int) -> None:
    """When a batch does not fit, smaller ones do, and it is said."""
    import tensorflow as tf

    real, sizes = extractor._runtime, []

    def small(pixels: np.ndarray) -> dict[str, np.ndarray]:
        sizes.append(len(pixels))
        if len(pixels) > 4:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
        return real(pixels)

    monkeypatch.setattr(extractor, "_runtime", small)
    source = ArraySource("made", np.stack([random_image(i) for i in range(40)]), ["a"] * 40)
    done = list(extractor.stream(source, source.items, batch_size=16))
    expected = [predicted_mean(random_image(i)) for i in range(40)]
    assert np.allclose([one.views[0]["mix"] for one in done], expected, rtol=1e-5)
    assert "batch size of 8" in caplog.text
    assert 1 <= sizes.count(16) <= passes

    def never(pixels: np.ndarray) -> dict[str, np.ndarray]:
        raise MemoryError

    monkeypatch.setattr(extractor, "_runtime", never)
    with pytest.raises(BaseError, match="memory for one image"):
        list(extractor.stream(source, source.items, batch_size=16))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 32])
def test_batch_size_hardly_matters(extractor: Extractor, batch_size: int) -> None:
    """Features depend on the batch size in their last bits at most."""
    source = ArraySource("made", np.stack([random_image(i) for i in range(7)]), ["a"] * 7)
    done = list(extractor.stream(source, source.items, batch_size=batch_size))
    expected = [predicted_mean(random_image(i)) for i in range(7)]
    assert np.allclose([one.views[0]["mix"] for one in done], expected, rtol=1e-5)


def test_the_batch_size_is_tried_out_unless_given(extracting, photos: Path, tmp_path: Path, monkeypatch) -> None:
    """An extraction asks which is fastest for its rows, and computes in batches of that."""
    asked, sizes, real = [], [], Extractor._run
    monkeypatch.setattr(Extractor, "fastest_batch", lambda self, images: (asked.append(images), 5)[1])
    monkeypatch.setattr(Extractor, "_run", lambda self, rows, size: (sizes.append(size), real(self, rows, size))[1])
    extracting(photos, tmp_path / "c", batch_size=None)
    assert asked == [12]
    assert sizes == [5, 5, 5]
    extracting(photos, tmp_path / "d", batch_size=6)
    assert asked == [12]
    assert sizes[3:] == [6, 6]


def test_a_trial_runs_the_base(extractor: Extractor, monkeypatch, passes: int) -> None:
    """Each size is a batch of its own, run twice; the usual one is what few images get."""
    sizes, real = [], extractor._runtime
    monkeypatch.setattr(extractor, "_runtime", lambda pixels: (sizes.append(len(pixels)), real(pixels))[1])
    assert extractor.fastest_batch(100) == 32
    assert sizes == []
    assert extractor.fastest_batch(10**9) in (8, 16, 32, 64, 128)
    assert sorted(sizes) == sorted(2 * passes * [8, 16, 32, 64, 128])


def test_few_batches_are_read_ahead(extractor: Extractor, passes: int) -> None:
    """Reading stays a few batches ahead of what is consumed."""
    read = []

    class Counting(ArraySource):
        def read(self, item):
            read.append(item.path)
            return super().read(item)

    source = Counting("made", np.stack([random_image(i) for i in range(200)]), ["a"] * 200)
    stream = extractor.stream(source, source.items, batch_size=4)
    for _ in range(8):
        next(stream)
    assert len(read) <= 8 + 4 * (4 + 2 * passes)
    stream.close()


def test_overflow_of_float16_names_layer_and_remedy(oracle: Path) -> None:
    """Features that float16 cannot hold are an error, not inf."""
    import keras

    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(1e6, name="huge")])
    extractor = Extractor(Request(model, preprocess="none", dtype="float16"))
    source = ArraySource("made", np.stack([random_image(0)]), ["a"])
    with pytest.raises(BaseError, match=r"'huge' gives inf or NaN for image '000000'.*--dtype float32"):
        list(extractor.stream(source, source.items))


def test_grey_base_gets_grey_pixels(tmp_path: Path) -> None:
    """A base with one channel, or without a channel axis, sees colour images in grey."""
    import keras

    for shape in ((8, 8, 1), (8, 8)):
        model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(name="flat")])
        extractor = Extractor(Request(model, preprocess="none"))
        grey = np.full((8, 8), 77, np.uint8)
        Image.fromarray(grey).convert("RGB").save(tmp_path / "1.png")
        source = files_source([tmp_path / "1.png"])
        (done,) = extractor.stream(source, source.items)
        assert np.allclose(done.views[0]["flat"], 77, atol=0.6)
