"""Bases whose features NumPy can predict, small image folders, and the real data where it is."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
from PIL import Image

from featcache.files import publishing as files

SIDE = 8
MIX = np.array([[1.0, -2.0, 0.5, 0.0], [0.25, 1.0, -1.0, 2.0], [0.0, 0.5, 1.5, -0.5]], np.float32)
SHIFT = np.array([3.0, -1.0, 0.0, 7.0], np.float32)

IMAGE, QUOTE = "<img src=x onerror=alert(1)>", '"; DROP'
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
"""Class names that would run, or end a text, where they are not escaped; flags of Chromium."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make all cases of a test slow but those that `by_default` names; each of its names must be a case."""
    cases: dict[tuple[str, tuple[str, ...]], set[str]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and (marker := item.get_closest_marker("by_default")):
            case = item.callspec.id
            cases.setdefault((item.nodeid.partition("[")[0], marker.args), set()).add(case)
            if case not in marker.args:
                item.add_marker(pytest.mark.slow)
    for (name, named), found in cases.items():
        if len(found) > 1 and not set(named) <= found:  # of one case alone, by its name, nothing can be said
            raise pytest.UsageError(f"{name} has no case {sorted(set(named) - found)}")


def on_terminal(argument: str, code: str) -> bytes:
    """Return what Python code, run with an argument, writes to standard error where that is a terminal."""
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code, argument], stderr=theirs, check=True)
    os.close(theirs)
    text = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(ours, 65_536):
            text += piece
    os.close(ours)
    return text


def slow(*values: Any) -> Any:
    """Return a case of `parametrize` that the default run leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow)


def crossed(rows: Sequence[Any], columns: Sequence[Any]) -> list[Any]:
    """Return all pairs for `parametrize`: the default run takes those with the first of either, so each value once."""
    return [(a, b) if a == rows[0] or b == columns[0] else slow(a, b) for a in rows for b in columns]


def predicted_mean(image: np.ndarray) -> np.ndarray:
    """Return the average-pooled features of the oracle's layer `mix` for an 8x8 RGB image."""
    return image.astype(np.float64).mean(axis=(0, 1)) @ MIX + SHIFT


def predicted_relu_max(image: np.ndarray) -> np.ndarray:
    """Return the max-pooled features of the oracle's layer `positive`."""
    return np.maximum(image.astype(np.float64) @ MIX + SHIFT, 0).max(axis=(0, 1))


hunt = pytest.mark.skipif(
    "FEATCACHE_RELIABILITY" not in os.environ,
    reason="minutes of attacks: set FEATCACHE_RELIABILITY, see docs/reliability.md",
)
"""Marks the long form of a test that has a short one; the counts in docs/reliability.md are of the long forms."""


@pytest.fixture(autouse=True)
def _library_log() -> Iterator[None]:
    """Undo what the command line did to the library's logger."""
    yield
    log = logging.getLogger("featcache")
    log.handlers, log.propagate = [], True
    log.setLevel(logging.NOTSET)
    logging.getLogger("featcache.skipped").setLevel(logging.NOTSET)


@pytest.fixture
def nothing_racy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files that are seconds old count as old, as those of users are."""
    monkeypatch.setattr(files, "RACY_NS", -(10**15))


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model file: a 1x1 convolution `mix` with known weights, then `positive` (ReLU)."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3), name="pixels"),
            keras.layers.Conv2D(4, 1, name="mix"),
            keras.layers.ReLU(name="positive"),
        ],
        name="oracle",
    )
    model.get_layer("mix").set_weights([MIX[None, None], SHIFT])
    path = tmp_path_factory.mktemp("oracle") / "oracle.keras"
    model.save(path)
    return path


def random_image(seed: int, side: int = SIDE) -> np.ndarray:
    """Return seeded RGB pixels."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def write_image(path: Path, pixels: np.ndarray) -> Path:
    """Write pixels as PNG, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of two classes, dark and light, with six images each."""
    root = tmp_path / "photos"
    for i in range(6):
        write_image(root / "dark" / f"d{i}.png", random_image(i) // 4)
        write_image(root / "light" / f"l{i}.png", 255 - random_image(100 + i) // 4)
    return root


@pytest.fixture
def split_photos(tmp_path: Path) -> Path:
    """Return a folder with train (20 a class) and validation (5 a class) of dark and light images."""
    root = tmp_path / "split"
    for split, count in (("train", 20), ("validation", 5)):
        for i in range(count):
            seed = i + (1000 if split == "validation" else 0)
            write_image(root / split / "dark" / f"d{i}.png", random_image(seed) // 3)
            write_image(root / split / "light" / f"l{i}.png", 255 - random_image(seed + 500) // 3)
    return root


@pytest.fixture(scope="session")
def extracting(oracle: Path) -> Callable[..., object]:
    """Return `extract` with the oracle as base, cut at `mix`, small batches."""
    from featcache.extraction.extracting import extract

    def run(source: object, cache: Path, **options: object) -> object:
        return extract(
            source,
            **{"base": oracle, "layers": ["mix"], "preprocess": "none", "cache": cache, "batch_size": 4, **options},
        )

    return run


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask exported models in this process, which takes no seconds to start."""
    from featcache.models.export import clean, comparison

    def asked(kind: str, model: Path, images: Any) -> dict[str, Any]:
        return clean.answers(kind, str(model), comparison.inputs(images))

    monkeypatch.setattr(comparison, "asked", asked)


@pytest.fixture(scope="session")
def data() -> Path:
    """Return the folder of real photographs and weights, or skip."""
    root = Path(os.environ.get("FEATCACHE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / "cats_dogs").is_dir():
        pytest.skip(f"no real data in {root}: set FEATCACHE_DATA")
    return root


@pytest.fixture(scope="session")
def vgg19_weights(data: Path) -> Path:
    """Return the VGG19 file that has blocks 1 to 3 only."""
    return data / "weights" / "vgg19_blocks1-3_tf_dim_ordering_tf_kernels_notop.h5"


@pytest.fixture(scope="session")
def mobilenet_weights(data: Path) -> Path:
    """Return the MobileNetV2 file, alpha 0.35."""
    return data / "weights" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., object]:
    """Return a maker of caches: so many images of each class, in three splits, the classes so far apart."""

    from featcache.cache import FeatureCache

    def make(
        name: str = "cache",
        *,
        each: Sequence[int] = (60, 30, 30),
        classes: int = 3,
        width: int = 8,
        apart: float = 1.5,
        seed: int = 0,
        ids: int = 0,
        layers: Sequence[str] = ("features",),
    ) -> object:
        rng = np.random.default_rng(seed)
        splits = np.repeat(["train", "validation", "test"], np.multiply(each, classes)).tolist()
        y = np.concatenate([np.arange(count * classes) % classes for count in each])
        means = np.random.default_rng(99).normal(size=(classes, width)) * apart
        X = {
            layer: (means[y] * (i + 1) / len(layers) + rng.normal(size=(len(y), width))).astype(np.float32)
            for i, layer in enumerate(layers)
        }
        names = [f"{ids + i:06d}" for i in range(len(y))]
        digests = [(ids + i).to_bytes(32, "big") for i in range(len(y))]
        return FeatureCache.from_arrays(
            X,
            y,
            names,
            {"made": name},
            path=tmp_path / name,
            splits=splits,
            digests=digests,
            class_names=[f"c{i}" for i in range(classes)],
        )

    return make


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return Debian's Chromium, or skip."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install 'featcache[test]'")
    from selenium.common.exceptions import WebDriverException

    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    except WebDriverException as error:
        pytest.skip(f"the browser does not start: {error.msg}")
    yield started
    started.quit()


@pytest.fixture(scope="session")
def hostile_head(extracting: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a head on images whose classes and files have names that are markup, with mistakes on validation."""
    from featcache import compare, fit_head

    folder = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    rows = ["path,label,split"]
    for split, count in (("train", 12), ("validation", 8)):
        for i in range(count):
            for number, label in enumerate((IMAGE, QUOTE, "plain")):
                seed = int(rng.integers(2**31))
                look = (number if i % 4 or split == "train" else number + 1) % 3  # every fourth looks like another
                name = f"{split}-{i}-{number}-{['<b>x', 'q', 'p'][number]}.png"
                write_image(folder / "images" / name, random_image(seed) // 6 + np.uint8(80 * look))
                cell = label.replace('"', '""')
                rows.append(f'images/{name},"{cell}",{split}')
    shutil.copy(folder / "images" / "train-0-0-<b>x.png", folder / "images" / f"copy {IMAGE}.png")
    (folder / "images" / f"torn {IMAGE}.png").write_text("no image")
    quoted = QUOTE.replace('"', '""')
    rows += [f'"images/copy {IMAGE}.png","{quoted}",validation', f"images/torn {IMAGE}.png,plain,train"]
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    extracting(folder / "table.csv", folder / "cache", layers=["mix", "positive"], views=2, augment="flip,rotation=0.1")
    compare(folder / "cache", ["ridge", "centroid"], jobs=1)
    head = fit_head(folder / "cache", "dense", params={"epochs": 5, "hidden": 8})
    assert head.path is not None
    return head.path


@pytest.fixture(scope="session")
def hostile_report(hostile_head: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of that head, with an audit of its images."""
    from featcache.insight.report import report as write_report

    return write_report(hostile_head, out=tmp_path_factory.mktemp("page") / "report.html", audit=True).path


@pytest.fixture
def hostile_folder(tmp_path: Path) -> tuple[Path, Path]:
    """Return a folder with a Python file for every module there is, and the file that each adds its name to."""
    root, mark = tmp_path / "hostile", tmp_path / "executed"
    root.mkdir()
    installed = {name for name in packages_distributions() if name.isidentifier()}
    for name in (sys.stdlib_module_names | installed) - {"featcache"}:
        (root / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write({name!r} + '\\n')\n")
    return root, mark
