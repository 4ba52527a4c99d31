import hashlib
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import MIX, SHIFT, predicted_mean, predicted_relu_max, random_image

from featcache.bases import load_base, runtimes
from featcache.bases.runtimes import OpenVINORuntime, TensorFlowRuntime, faster_on_this_cpu
from featcache.bases.runtimes.tensorflow import pooled, preprocessed
from featcache.errors import BaseError, OptionError
from featcache.extraction import extracting as extraction
from featcache.extraction.extractor import Extractor
from featcache.recipe import Request
from featcache.sources.arrays import ArraySource

IMAGES = np.stack([random_image(i) for i in range(5)]).astype(np.float32)


@pytest.fixture(scope="module")
def base(oracle):
    return load_base(Request(oracle, layers=("mix", "positive"), preprocess="none"))


@pytest.mark.parametrize("mode", ["caffe", "torch", "tf"])
def test_preprocessing_is_keras_own(mode: str) -> None:
    """Each mode equals Keras' function bit for bit and leaves the pixels as they were."""
    import keras

    expected = keras.applications.imagenet_utils.preprocess_input(IMAGES.copy(), mode=mode)
    before = IMAGES.copy()
    assert np.allclose(np.asarray(preprocessed(IMAGES, mode)), expected, atol=1e-6)
    assert np.array_equal(IMAGES, before)


def test_rescale_and_none() -> None:
    """rescale divides by 255, none does nothing."""
    assert np.array_equal(np.asarray(preprocessed(IMAGES, "rescale")), IMAGES / np.float32(255))
    assert preprocessed(IMAGES, "none") is IMAGES


def test_pooling_of_maps_and_tokens() -> None:
    """Pooling is over all axes between the first and the last; vectors stay as they are."""
    maps = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    assert np.allclose(pooled(maps, "avg"), maps.mean(axis=(1, 2)))
    assert np.array_equal(pooled(maps, "max"), maps.max(axis=(1, 2)))
    assert np.array_equal(pooled(maps, "flatten"), maps.reshape(2, -1))
    assert pooled(maps, "none") is maps
    tokens = maps.reshape(2, 12, 5)
    assert np.allclose(pooled(tokens, "avg"), tokens.mean(axis=1))
    assert pooled(maps[:, 0, 0], "avg").shape == (2, 5)


def test_features_are_what_numpy_predicts(base) -> None:
    """Average- and max-pooled features of a known network come out as computed by hand."""
    mean = TensorFlowRuntime(base, "avg")(IMAGES)["mix"]
    assert np.allclose(mean, [predicted_mean(image) for image in IMAGES], rtol=1e-5)
    largest = TensorFlowRuntime(base, "max")(IMAGES)["positive"]
    assert np.allclose(largest, [predicted_relu_max(image) for image in IMAGES], rtol=1e-5)


def test_unpooled_maps(base) -> None:
    """Without pooling the map itself is stored."""
    runtime = TensorFlowRuntime(base, "none")
    assert runtime.shapes == {"mix": (8, 8, 4), "positive": (8, 8, 4)}
    assert np.allclose(runtime(IMAGES)["mix"], IMAGES @ MIX + SHIFT, rtol=1e-4, atol=1e-3)


def test_base_without_a_channel_axis() -> None:
    """A network that takes 28x28 gets its pixels without a channel axis."""
    import keras

    model = keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten(name="flat")])
    runtime = TensorFlowRuntime(load_base(Request(model, preprocess="none")), "avg")
    assert runtime(np.ones((2, 28, 28, 1), np.float32))["flat"].shape == (2, 784)


def test_layer_of_unknown_size_is_refused() -> None:
    """A layer whose output size depends on the data cannot be stored."""
    import keras

    class Ragged(keras.layers.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.boolean_mask(x, x[:, 0, 0, 0] > 0)[:, : tf.cast(x[0, 0, 0, 0], tf.int32)]

        def compute_output_shape(self, shape):
            return (shape[0], None, *shape[2:])

    model = keras.Sequential([keras.Input((8, 8, 3)), Ragged(name="ragged")])
    with pytest.raises(BaseError, match="ragged"):
        TensorFlowRuntime(load_base(Request(model, preprocess="none")), "none")


def convolutional() -> object:
    """Return a network of 16x16 with batch normalisation that has seen data, and a branch."""
    import keras

    keras.utils.set_random_seed(0)
    pixels = x = keras.Input((16, 16, 3))
    x = keras.layers.Normalization(mean=(120.0, 110.0, 100.0), variance=(60.0**2, 70.0**2, 80.0**2), name="scaled")(x)
    x = keras.layers.Conv2D(16, 3, name="conv")(x)
    x = keras.layers.BatchNormalization(name="normed")(x)
    x = keras.layers.ReLU(6.0, name="relu")(x)
    y = keras.layers.DepthwiseConv2D(3, padding="same", activation="swish", name="depth")(x)
    model = keras.Model(pixels, keras.layers.Add(name="sum")([x, y]))
    rng = np.random.default_rng(0)
    model.get_layer("normed").set_weights([rng.uniform(0.5, 1.5, 16) for _ in range(4)])
    return model


def recurrent() -> object:
    """Return a network that takes grey 16x16 without a channel axis, with a loop in it."""
    import keras

    keras.utils.set_random_seed(1)
    inner = keras.Sequential(
        [
            keras.Input((16, 16)),
            keras.layers.Rescaling(1 / 255, name="small"),
            keras.layers.LSTM(7, return_sequences=True, name="steps"),
        ],
        name="inner",
    )
    return keras.Sequential([keras.Input((16, 16)), inner, keras.layers.LayerNormalization(name="normed")])


def attentive() -> object:
    """Return a small transformer over rows of patches."""
    import keras

    keras.utils.set_random_seed(2)
    pixels = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0, name="scaled")(pixels)
    x = keras.layers.Conv2D(8, 4, 4, name="patches")(x)
    x = keras.layers.Reshape((16, 8), name="tokens")(x)
    y = keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    return keras.Model(pixels, keras.layers.LayerNormalization(name="normed")(keras.layers.Add(name="sum")([x, y])))


BASES = {
    "convolutional": (convolutional, ("conv", "relu", "sum")),
    "recurrent": (recurrent, ("inner/steps", "normed")),
    "attentive": (attentive, ("patches", "attention", "normed")),
}
RUNTIMES = [
    (TensorFlowRuntime, "float32", 1e-4),
    (TensorFlowRuntime, "bfloat16", 3e-2),
    (TensorFlowRuntime, "float16", 3e-3),
    (OpenVINORuntime, "float32", 1e-4),
    (OpenVINORuntime, "bfloat16", 3e-2),
]
BY_DEFAULT = (
    "convolutional-TensorFlowRuntime-float32-0.0001",
    "convolutional-TensorFlowRuntime-bfloat16-0.03",
    "convolutional-OpenVINORuntime-float32-0.0001",
    "attentive-OpenVINORuntime-float32-0.0001",
)


def available(kind: type, precision: str) -> None:
    """Skip where OpenVINO is not installed, or the CPU has no such arithmetic."""
    if kind is OpenVINORuntime:
        openvino = pytest.importorskip("openvino")
        name = {"float32": "FP32", "bfloat16": "BF16"}[precision]
        if name not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            pytest.skip(f"this CPU has no {precision}")


@pytest.mark.parametrize(("kind", "precision", "tolerance"), RUNTIMES)
@pytest.mark.parametrize("name", BASES)
@pytest.mark.by_default(
    "convolutional-TensorFlowRuntime-float32-0.0001",
    "convolutional-TensorFlowRuntime-bfloat16-0.03",
    "convolutional-OpenVINORuntime-float32-0.0001",
    "attentive-OpenVINORuntime-float32-0.0001",
)
def test_every_runtime_gives_plain_keras_numbers(name: str, kind: type, precision: str, tolerance: float) -> None:
    """All cuts of several kinds of networks, pooled in every way, are those of plain Keras, to the precision."""
    import keras

    available(kind, precision)
    build, layers = BASES[name]
    model = build()
    squeeze = len(model.input_shape) == 3
    pixels = np.random.default_rng(0).uniform(0, 255, (5, 16, 16, 1 if squeeze else 3)).astype(np.float32)
    inner = model.get_layer("inner") if name == "recurrent" else None
    base = load_base(Request(model, layers=layers, preprocess="none"))
    for pooling, reduce in (
        ("none", lambda x: x),
        ("flatten", lambda x: x.reshape(len(x), -1)),
        ("avg", lambda x: x.mean(axis=tuple(range(1, x.ndim - 1)))),
        ("max", lambda x: x.max(axis=tuple(range(1, x.ndim - 1)))),
    ):
        runtime = kind(base, pooling, precision)
        found = runtime(pixels)
        assert list(found) == list(runtime.shapes) == list(layers)
        for layer in layers:
            whole = inner if layer.startswith("inner/") else model
            cut = keras.Model(whole.inputs, whole.get_layer(layer.rpartition("/")[2]).output)
            expected = reduce(np.asarray(cut(pixels[..., 0] if squeeze else pixels, training=False)))
            assert found[layer].dtype == np.float32
            assert found[layer].shape == expected.shape == (5, *runtime.shapes[layer])
            error = np.abs(found[layer] - expected).max() / np.abs(expected).max()
            assert error <= tolerance, (layer, pooling)
            assert precision == "float32" or error > 0  # it did compute in something else


@pytest.mark.parametrize("kind", [TensorFlowRuntime, OpenVINORuntime])
def test_many_threads_get_their_own_features(base, kind: type) -> None:
    """Calls from several threads at once all end, each with what its pixels have by themselves."""
    if kind is OpenVINORuntime:
        pytest.importorskip("openvino")
    runtime = kind(base, "avg")
    pixels = np.random.default_rng(0).uniform(0, 255, (8, 4, base.height, base.width, base.channels)).astype(np.float32)
    expected = [next(iter(runtime(batch).values())) for batch in pixels]
    wrong: list[object] = []

    def call(number: int) -> None:
        try:
            for _ in range(25):
                found = next(iter(runtime(pixels[number]).values()))
                if not np.array_equal(found, expected[number]):
                    wrong.append(number)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_a_graph_is_optimised_once_however_many_threads_begin(base) -> None:
    """The first call is alone and has two images; TensorFlow would optimise the graph in each that began with it."""
    runtime, sizes, running, most = TensorFlowRuntime(base, "avg"), [], [], []
    original = runtime._forward

    def forward(pixels):
        sizes.append(len(pixels))
        running.append(None)
        most.append(len(running))
        if len(sizes) == 1:
            time.sleep(0.2)  # the others come
        found = original(pixels)
        running.pop()
        return found

    runtime._forward = forward
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: runtime(IMAGES)["mix"], range(4)))
    assert sizes == [2, 5, 5, 5, 5]
    assert most[1] == 1  # the second began after the first had ended
    assert all(np.allclose(one, [predicted_mean(image) for image in IMAGES], rtol=1e-5) for one in found)


@pytest.fixture
def kept(tmp_path: Path):
    """Return what makes a runtime of a small network with a weights file, and the request for it."""
    pytest.importorskip("openvino")
    file = tmp_path / "base.keras"
    convolutional().save(file)

    def make(**options: object):
        request = Request(file, layers=("conv", "sum"), preprocess="none", runtime="openvino", **options)
        return runtimes.compiled(load_base(request), request)

    return make


def test_a_converted_base_is_kept_beside_its_weights(kept, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run neither traces nor converts, and has the same features, bit for bit, in the same order."""
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype(np.float32)
    first = kept()
    expected = first(pixels)
    monkeypatch.setattr("featcache.bases.runtimes.openvino.frozen", lambda *_: pytest.fail("traced"))
    second = kept()
    assert second.shapes == first.shapes
    assert list(second.shapes) == ["conv", "sum"]
    found = second(pixels)
    assert all(np.array_equal(found[layer], expected[layer]) for layer in first.shapes)
    (file,) = tmp_path.glob("*.openvino")
    assert file.name.startswith("base.keras.")


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "other", "list", "nothing", "no xml", "replaced"])
@pytest.mark.by_default("cut", "other", "nothing", "replaced")
def test_a_kept_base_that_is_damaged_is_made_again(kept, tmp_path, monkeypatch, caplog, damage: str) -> None:
    """Whatever happened to the file, features are right, a line says so, and the file is whole again."""
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3)).astype(np.float32)
    expected = kept()(pixels)["sum"]
    (file,) = tmp_path.glob("*.openvino")
    sound = file.read_bytes()
    flipped = bytearray(sound)
    weights = sound.index(b"</net>") + 40
    flipped[weights : weights + 400] = bytes(byte ^ 0x40 for byte in flipped[weights : weights + 400])
    kept(pooling="max")
    (other,) = (one for one in tmp_path.glob("*.openvino") if one != file)
    about = json.loads(sound.split(b"\n")[1])
    made_of = json.dumps({key: about[key] for key in ("made_of", "outputs", "shapes")}).encode()
    changed = {
        "cut": sound[: len(sound) // 2],
        "empty": b"",
        "flipped": bytes(flipped),
        "other": b"x\n{}\ny",
        "replaced": other.read_bytes(),
    }
    for name, head in (("list", b"[]"), ("nothing", b"{}"), ("no xml", made_of)):
        content = head + b"\n" + sound.split(b"\n", 2)[2]
        changed[name] = hashlib.sha256(content).hexdigest().encode() + b"\n" + content
    file.write_bytes(changed[damage])
    assert np.array_equal(kept()(pixels)["sum"], expected)
    assert f"the converted base in {file} is not used and is made again" in caplog.text
    monkeypatch.setattr("featcache.bases.runtimes.openvino.frozen", lambda *_: pytest.fail("traced"))
    assert np.array_equal(kept()(pixels)["sum"], expected)


def test_another_base_is_kept_apart(kept, tmp_path) -> None:
    """Other weights under the same name, and another pooling, are never taken for what is kept."""
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    before = kept()(pixels)["sum"]
    kept(pooling="max")
    other = convolutional()
    other.get_layer("conv").set_weights([2 * values for values in other.get_layer("conv").get_weights()])
    other.save(tmp_path / "base.keras")
    after = kept()(pixels)["sum"]
    assert not np.allclose(after, before)
    assert np.allclose(after, kept()(pixels)["sum"])
    assert len(list(tmp_path.glob("*.openvino"))) == 3


def test_a_base_is_kept_where_that_can_be_done_only(kept, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written to, drawn weights and models in memory cost a conversion, and nothing else."""

    def full(*_: object) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr("featcache.bases.runtimes.openvino.publish", full)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    assert np.isfinite(kept()(pixels)["sum"]).all()
    monkeypatch.undo()
    for request in (
        Request(convolutional(), layers=("sum",), preprocess="none", runtime="openvino"),
        Request("MobileNetV2", weights=None, image_size=32, runtime="openvino"),
    ):
        monkeypatch.setattr("featcache.bases.runtimes.openvino._keep", lambda *_: pytest.fail("kept"))
        runtimes.compiled(load_base(request), request)
    assert list(tmp_path.glob("*.openvino")) == []


def test_precision_leaves_the_model_as_it_was() -> None:
    """The network that a runtime was made of computes in float32 as before, and so does the next runtime."""
    base = load_base(Request(convolutional(), layers=("sum",), preprocess="none"))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    before, exact = np.asarray(base.model(pixels)[0]), TensorFlowRuntime(base, "none")(pixels)["sum"]
    TensorFlowRuntime(base, "none", "bfloat16")
    assert np.array_equal(np.asarray(base.model(pixels)[0]), before)
    assert np.array_equal(TensorFlowRuntime(base, "none")(pixels)["sum"], exact)


def test_preprocessing_stays_float32_in_low_precision() -> None:
    """Pixels that bfloat16 cannot tell apart are scaled before they are rounded."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((2, 2, 3)),
            keras.layers.Normalization(mean=200.0, variance=1e-2, name="scaled"),
            keras.layers.Activation("relu", name="out"),
        ]
    )
    pixels = np.full((1, 2, 2, 3), 200.25, np.float32)
    (found,) = TensorFlowRuntime(load_base(Request(model, preprocess="none")), "avg", "bfloat16")(pixels).values()
    assert np.allclose(found, 2.5, rtol=1e-2)


@pytest.mark.parametrize("runtime", ["tensorflow", "openvino"])
def test_a_run_traces_its_base_once(runtime: str) -> None:
    """Whole batches, the last one and one of another size all go through one trace."""
    import keras

    if runtime == "openvino":
        pytest.importorskip("openvino")
    calls = []

    class Counting(keras.layers.Layer):
        def call(self, x):
            calls.append(x.shape)
            return x * 2.0

    model = keras.Sequential([keras.Input((8, 8, 3)), Counting(name="counting")])
    base = load_base(Request(model, preprocess="none"))
    calls.clear()
    kind = OpenVINORuntime if runtime == "openvino" else TensorFlowRuntime
    compiled = kind(base, "avg")
    extractor = Extractor.__new__(Extractor)
    extractor.__dict__.update(Extractor(Request(model, preprocess="none")).__dict__, _runtime=compiled)
    calls.clear()
    source = ArraySource("made", np.stack([random_image(i) for i in range(11)]), ["a"] * 11)
    done = [one for size in (4, 3) for one in extractor.stream(source, source.items, batch_size=size)]
    assert np.allclose(done[10].views[0]["counting"], 2 * random_image(10).mean(axis=(0, 1)), rtol=1e-5)
    assert len(done) == 22
    assert calls == []


def test_missing_openvino_says_what_to_install(monkeypatch: pytest.MonkeyPatch, base) -> None:
    """One line names the extra."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(OptionError, match=r"pip install 'featcache\[openvino\]'"):
        OpenVINORuntime(base, "avg")


def test_a_precision_that_the_cpu_lacks_is_refused(monkeypatch: pytest.MonkeyPatch, base) -> None:
    """OpenVINO would compute in float32 without a word."""
    openvino = pytest.importorskip("openvino")

    class Old(openvino.Core):
        def get_property(self, *_):
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "Core", Old)
    with pytest.raises(OptionError, match=r"cannot compute in bfloat16.*`precision`=float32"):
        OpenVINORuntime(base, "avg", "bfloat16")


def test_the_hint_says_what_openvino_would_bring(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Where the CPU has bfloat16 it is recommended, with its price; whoever uses OpenVINO or a GPU hears nothing."""
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    cpu = tmp_path / "cpuinfo"
    monkeypatch.setattr(runtimes, "_CPU_FLAGS", cpu)
    plain = faster_on_this_cpu(Request("vgg19"))
    assert "is --runtime openvino: 1.1 to 1.4 times" in plain
    assert "price" not in plain
    cpu.write_text("flags: sse avx512_bf16")
    low = faster_on_this_cpu(Request("vgg19"))
    assert "--precision bfloat16: 1.6 to 2.2 times" in low
    assert "export and fine-tune compute in float32" in low
    assert "another classifier, with a score of its own" in low
    assert faster_on_this_cpu(Request("vgg19", runtime="openvino")) is None
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    assert faster_on_this_cpu(Request("vgg19")) is None


def test_the_hint_comes_once_and_with_many_images_only(extracting, photos, tmp_path, monkeypatch, caplog) -> None:
    """A run of few images is over before another runtime is installed; one without work says nothing."""
    caplog.set_level("INFO")
    monkeypatch.setattr(runtimes, "faster_on_this_cpu", lambda request: "faster!")
    extracting(photos, tmp_path / "few")
    assert "faster!" not in caplog.text
    monkeypatch.setattr(extraction, "_HINT_ABOVE", 5)
    for _ in range(2):
        extracting(photos, tmp_path / "many")
    assert caplog.text.count("faster!") == 1
