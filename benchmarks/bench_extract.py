"""Extraction beside plain Keras on the same images, beside what decoding and the forward pass alone allow, and PyTorch.

All ways of one base take turns, so that they meet the same machine, each in a process of its own. TensorFlow is
imported before the clock starts; building the base, loading its weights and compiling it are measured. Both then do
it once more, warm: plain Keras predicts, ours computes features and does not store them. Weights are drawn at random
from a seed: speed does not depend on them. Features of every way are compared with plain Keras'.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from keeping import RESULTS, keep

BATCH = 32
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}  # of the largest feature


@dataclass(frozen=True)
class Case:
    """A base: the application, its image size, where it is cut, and what PyTorch calls it."""

    base: str
    size: int
    layer: str | None
    torch: str


CASES = {
    "mobilenetv2": Case("MobileNetV2", 160, None, "mobilenet_v2"),
    "vgg19": Case("VGG19", 160, "block2_pool", "vgg19"),
    "resnet50": Case("ResNet50", 224, None, "resnet50"),
    "densenet121": Case("DenseNet121", 160, None, "densenet121"),
}
WAYS = ("tensorflow float32", "tensorflow bfloat16", "openvino float32", "openvino bfloat16")


def linked(data: Path, count: int | None, folder: Path) -> int:
    """Make a folder of class folders with links to so many images, evenly chosen; return how many.

    Where more are wanted than there are, the same files are written again with other bytes behind their end, so that
    they are other images for a cache and the same for a decoder.
    """
    from featcache.sources.opening import open_source

    items = [item for item in open_source(data).items if item.label is not None]
    count = count or len(items)
    for number in range(count):
        again, place = divmod(number, len(items))
        item = items[place if count > len(items) else number * len(items) // count]
        target = folder / str(item.label) / f"{number:06d}{Path(item.path).suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if again:
            target.write_bytes((data / item.path).read_bytes() + bytes(again))
        else:
            target.symlink_to((data / item.path).resolve())
    return count


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds a call took, and what it returned."""
    begin = time.perf_counter()
    found = function()
    return time.perf_counter() - begin, found


def network(case: Case, size: int) -> tuple[Any, Any]:
    """Return the whole network with fresh weights, and the part that is used, with average pooling."""
    import keras

    from featcache.bases import find_application

    keras.utils.set_random_seed(0)
    whole = find_application(case.base).build(include_top=False, weights=None, input_shape=(size, size, 3))
    output = whole.output if case.layer is None else whole.get_layer(case.layer).output
    return whole, keras.Model(whole.input, keras.layers.GlobalAveragePooling2D()(output))


def plain_keras(case: Case, size: int, data: str, weights: str, to: str) -> dict[str, float]:
    """Compute average-pooled features as the usual script does, in this process, and write them to a file.

    Return the seconds from building the network to its last prediction, and those of predicting once more.
    """
    tensorflow_ready()
    import keras
    import tensorflow as tf

    from featcache.bases import find_application

    module = find_application(case.base).build.__module__.rpartition(".")[2]
    preprocess = getattr(keras.applications, module).preprocess_input

    def predicted(model: Any) -> np.ndarray:
        files = keras.utils.image_dataset_from_directory(data, shuffle=False, verbose=False).file_paths
        images = tf.data.Dataset.from_tensor_slices(files).map(pixels, tf.data.AUTOTUNE).batch(BATCH)
        result: np.ndarray = model.predict(images.map(preprocess).prefetch(2), verbose=0)
        return result

    def pixels(path: Any) -> Any:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE")  # as `load_img`
        return tf.image.resize(image, (size, size))

    def everything() -> tuple[Any, np.ndarray]:
        whole, model = network(case, size)
        whole.load_weights(weights)
        return model, predicted(model)

    seconds, (model, features) = timed(everything)
    np.save(to, features)
    return {"seconds": seconds, "warm": timed(lambda: predicted(model))[0]}


def tensorflow_ready() -> None:
    """Import TensorFlow and have it start."""
    from featcache.system.startup import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    tf.constant(0.0).numpy()


def apart(*arguments: str) -> dict[str, Any]:
    """Return the JSON that this script prints last in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit((done.stderr.strip().splitlines() or ["killed"])[-1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def decoded(data: Path, size: int) -> int:
    """Read, decode and resize all images in as many threads as extraction does, and nothing else."""
    from featcache.extraction.extractor import mapped_ahead
    from featcache.images.decoding import PixelSpec, load
    from featcache.sources.opening import open_source
    from featcache.system.cpus import decoding_threads

    source, spec = open_source(data), PixelSpec(size, size, 3)
    images = mapped_ahead(
        decoding_threads(), lambda item: load(source.read(item), spec), source.items, 3 * BATCH, lambda: None
    )
    return sum(1 for _ in images)


def torch_rates(case: Case, size: int, batches: int) -> dict[str, float]:
    """Return images per second of forward passes in PyTorch, eager and with channels last, in this process."""
    import torch
    import torchvision

    network = getattr(torchvision.models, case.torch)(weights=None)
    maps = list(network.children())[:-2] if case.torch == "resnet50" else [network.features]
    network = torch.nn.Sequential(*maps) if case.layer is None else network.features[:10]  # VGG19's first two blocks
    network.eval()
    pixels, rates = torch.rand(BATCH, 3, size, size), {}
    for name, layout in (("eager", torch.contiguous_format), ("channels_last", torch.channels_last)):
        network.to(memory_format=layout)
        images = pixels.to(memory_format=layout)
        with torch.inference_mode():
            network(images).mean(dim=(2, 3))
            seconds, _ = timed(lambda images=images: [network(images).mean(dim=(2, 3)) for _ in range(batches)])
        rates[f"torch {name} forward"] = batches * BATCH / seconds
    return rates


def possible(way: str) -> bool:
    """Whether this machine can go a way."""
    runtime, precision = way.split()
    if runtime == "tensorflow":
        return True
    if importlib.util.find_spec("openvino") is None:
        return False
    import openvino

    kinds = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return precision == "float32" or "BF16" in kinds


def extracted(arguments: dict[str, Any], batches: int) -> dict[str, Any]:
    """Extract in this process as the command line does, and compute batches that are in memory already."""
    from featcache.extraction.extracting import Extraction
    from featcache.extraction.extractor import Extractor
    from featcache.recipe import Request
    from featcache.sources.opening import open_source
    from featcache.system.cpus import pass_side_by_side

    passes = pass_side_by_side()
    tensorflow_ready()
    seconds, cache = timed(Extraction(**arguments, validation_split=0.0, profile=True, passes=passes).run)
    size = arguments["image_size"]
    asked = {key: arguments[key] for key in ("base", "weights", "image_size", "runtime", "precision")}
    extractor = Extractor(Request(**asked, layers=tuple(arguments["layers"])), passes=passes)
    pixels, passes = np.random.default_rng(0).uniform(0, 255, (BATCH, size, size, 3)), extractor.passes
    pixels = pixels.astype(np.float32)
    with ThreadPoolExecutor(passes) as side_by_side:

        def forward(count: int) -> None:
            list(side_by_side.map(lambda _: extractor.features(pixels, BATCH), range(count)))

        forward(passes)
        alone, _ = timed(lambda: forward(batches))
    source = open_source(arguments["source"])
    warm, _ = timed(lambda: collections.deque(extractor.stream(source, source.items, batch_size=BATCH), 0))
    return {
        "seconds": seconds,
        "warm": warm,
        "forward": batches * BATCH / alone,
        "passes": passes,
        "profile": cache.report.profile,
    }


def compare(
    data: Path, case: Case, *, size: int, ways: Sequence[str], repeat: int, count: int, batches: int
) -> dict[str, Any]:
    """Measure one base in all ways; return images per second by turn, differences of features, and profiles."""
    from featcache.cache import FeatureCache

    rates: dict[str, list[float]] = {}
    differences: dict[str, float] = {}
    profiles: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        weights, plain = str(Path(scratch) / "base.weights.h5"), str(Path(scratch) / "plain.npy")
        network(case, size)[0].save_weights(weights)
        layers = [] if case.layer is None else [case.layer]
        arguments = {"source": str(data), "base": case.base, "weights": weights, "image_size": size, "layers": layers}
        for turn in range(repeat):
            found = apart("--plain", case.base.lower(), str(size), str(data), weights, plain)
            expected = np.load(plain)
            rates.setdefault("plain Keras", []).append(count / found["seconds"])
            rates.setdefault("plain Keras, warm", []).append(count / found["warm"])
            rates.setdefault("decode", []).append(count / timed(lambda: decoded(data, size))[0])
            if importlib.util.find_spec("torchvision"):  # PyTorch crashes where TensorFlow came first
                for name, rate in apart("--torch", case.base.lower(), str(size), str(batches)).items():
                    rates.setdefault(name, []).append(rate)
            for way in ways:
                runtime, precision = way.split()
                cache = f"{scratch}/{way} {turn}"
                asked = {**arguments, "cache": cache, "runtime": runtime, "precision": precision}
                found = apart("--ours", json.dumps(asked), str(batches))
                rates.setdefault(f"{way} forward", []).append(found["forward"])
                rates.setdefault(way, []).append(count / found["seconds"])
                rates.setdefault(f"{way}, warm", []).append(count / found["warm"])
                profiles.setdefault(way, []).append(found["profile"])
                features = np.asarray(FeatureCache(cache).features())
                differences[way] = max(
                    differences.get(way, 0.0), float(np.abs(features - expected).max() / np.abs(expected).max())
                )
                if differences[way] > TOLERANCE[precision]:
                    raise SystemExit(f"{case.base} {way}: features differ by {differences[way]:.1e} of the largest one")
    return {
        "images": count,
        "image_size": size,
        "rates": rates,
        "differences": differences,
        "profiles": profiles,
        **ratios(rates, ways),
    }


def ratios(rates: dict[str, list[float]], ways: Sequence[str]) -> dict[str, Any]:
    """Return, turn by turn, each way against plain Keras and against decoding and forward pass one after the other."""
    beside: dict[str, list[float]] = {}
    beside_warm: dict[str, list[float]] = {}
    share: dict[str, list[float]] = {}
    share_warm: dict[str, list[float]] = {}
    for way in ways:
        beside[way] = [a / b for a, b in zip(rates[way], rates["plain Keras"], strict=True)]
        beside_warm[way] = [a / b for a, b in zip(rates[way], rates["plain Keras, warm"], strict=True)]
        for shares, name in ((share, way), (share_warm, f"{way}, warm")):
            parts = zip(rates[name], rates["decode"], rates[f"{way} forward"], strict=True)
            shares[way] = [ours * (1 / decode + 1 / forward) for ours, decode, forward in parts]
    return {
        "beside_plain_keras": beside,
        "beside_warm_keras": beside_warm,
        "share_of_ceiling": share,
        "share_of_ceiling_warm": share_warm,
    }


def middle(values: Sequence[float], digits: int) -> str:
    """Return the median and the range of some values."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def shown(name: str, found: dict[str, Any]) -> str:
    """Return the table of one base."""
    lines = [f"{name} at {found['image_size']}, {found['images']} images, images per second: median (range)"]
    for way, rates in found["rates"].items():
        line = f"  {way:28} {middle(rates, 0):>22}"
        if way in found["differences"]:
            line += (
                f"  {middle(found['beside_plain_keras'][way], 2):>18} x plain Keras"
                f"  {middle(found['beside_warm_keras'][way], 2):>18} x warm"
                f"  {middle(found['share_of_ceiling'][way], 2):>18} of decode + forward"
                f"  {middle(found['share_of_ceiling_warm'][way], 2):>18} warm"
                f"  differs by {found['differences'][way]:.0e}"
            )
        lines.append(line)
    for way, profiles in found["profiles"].items():
        seconds = {step: statistics.median(one["seconds"][step] for one in profiles) for step in profiles[0]["seconds"]}
        parts = ", ".join(f"{step} {value:.1f}" for step, value in seconds.items())
        lines.append(f"  {way:28} seconds: {parts}; bottleneck: {profiles[-1]['bottleneck']}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for each base, and keep the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--ours", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--plain", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help="a folder of class folders, or of splits of those")
    parser.add_argument("--images", type=int, help="how many of them, default all")
    parser.add_argument("--bases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="runtime and precision")
    parser.add_argument("--image-size", type=int, help="instead of each base's own")
    parser.add_argument("--batches", type=int, default=8, help="of each forward pass alone, in each turn")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--to", type=Path, default=RESULTS / "extract.json")
    options = parser.parse_args(arguments)
    if options.torch:
        print(json.dumps(torch_rates(CASES[options.torch[0]], int(options.torch[1]), int(options.torch[2]))))
        return
    if options.ours:
        print(json.dumps(extracted(json.loads(options.ours[0]), int(options.ours[1]))))
        return
    if options.plain:
        name, side, *paths = options.plain
        print(json.dumps(plain_keras(CASES[name], int(side), *paths)))
        return
    if options.data is None:
        parser.error("--data is needed")
    ways = [way for way in options.ways if possible(way)]
    result: dict[str, Any] = {
        "bases": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        count = linked(options.data, options.images, Path(folder))
        for name in options.bases:
            case = CASES[name]
            found = compare(
                Path(folder),
                case,
                size=options.image_size or case.size,
                ways=ways,
                repeat=options.repeat,
                count=count,
                batches=options.batches,
            )
            result["bases"][name] = found
            print(shown(name, found), flush=True)
            keep(options.to, result, "tensorflow", "keras", "openvino", "torch", "torchvision", "numpy")


if __name__ == "__main__":
    main()
