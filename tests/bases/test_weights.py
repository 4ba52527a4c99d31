from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featcache.bases import load_base
from featcache.errors import WeightsError
from featcache.recipe import Request

SMALL = {"base": "vgg19", "weights": None, "image_size": (32, 32)}


def legacy_file(path: Path, model: Any, *, skip: str = "", backend: str = "tensorflow", flip: bool = False) -> Path:
    """Write a model's weights in the legacy layout, leaving out the layers whose name starts with `skip`."""
    with h5py.File(path, "w") as file:
        layers = [layer for layer in model.layers if not (skip and layer.name.startswith(skip))]
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        file.attrs["backend"] = backend.encode()
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/w{i}:0".encode() for i in range(len(layer.weights))]
            group.attrs["weight_names"] = names
            for name, weight in zip(names, layer.weights, strict=True):
                group[name.decode()] = weight.numpy()[..., ::-1] if flip else weight.numpy()
    return path


@pytest.fixture(scope="module")
def vgg() -> Any:
    import keras

    return keras.applications.VGG19(include_top=False, weights=None, input_shape=(32, 32, 3))


def digest_of(path: Path, *layers: str) -> str:
    return load_base(Request("vgg19", weights=path, image_size=(32, 32), layers=layers, seed=99)).weights


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras", "-model.h5"])
def test_weights_from_every_file_kind(tmp_path: Path, vgg: Any, suffix: str) -> None:
    """Legacy weights, Keras 3 weights and whole models give the same base as the model in memory."""
    path = tmp_path / f"w{suffix}"
    if suffix == ".h5":
        legacy_file(path, vgg)
    elif suffix == ".weights.h5":
        vgg.save_weights(path)
    else:
        vgg.save(path)
    expected = load_base(Request(vgg, layers=("block2_pool",), preprocess="caffe")).weights
    assert digest_of(path, "block2_pool") == expected


def test_partial_file_names_what_is_missing(tmp_path: Path, vgg: Any) -> None:
    """A file that lacks block 5 loads up to block 4 and is refused beyond, by layer name."""
    path = legacy_file(tmp_path / "w.h5", vgg, skip="block5")
    assert digest_of(path, "block4_pool")
    with pytest.raises(WeightsError, match="no weights for block5_conv1, block5_conv2, block5_conv3, block5_conv4"):
        digest_of(path)


def test_no_match_at_all(tmp_path: Path, vgg: Any) -> None:
    """A file for another base is refused, saying what each side has."""
    path = legacy_file(tmp_path / "w.h5", vgg)
    with pytest.raises(WeightsError, match="nor for any other"):
        load_base(Request("mobilenetv2", weights=path, image_size=(32, 32)))


@pytest.mark.slow
def test_other_shapes(tmp_path: Path) -> None:
    """Weights for another width of the base are refused with both shapes."""
    import keras

    model = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.35)
    path = legacy_file(tmp_path / "w.h5", model)
    with pytest.raises(WeightsError, match=r"\(3, 3, 3, 16\).*expected \[\(3, 3, 3, 32\)\]"):
        load_base(Request("mobilenetv2", weights=path, image_size=(32, 32)))


@pytest.mark.parametrize(("name", "backend"), [("w.h5", "theano"), ("vgg19_th_kernels.h5", "tensorflow")])
def test_theano_files_are_refused(tmp_path: Path, vgg: Any, name: str, backend: str) -> None:
    """Flipped kernels of equal shape would load without a word."""
    with pytest.raises(WeightsError, match="Theano"):
        digest_of(legacy_file(tmp_path / name, vgg, backend=backend), "block1_pool")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 half a zip"])
def test_files_that_are_no_weights(tmp_path: Path, content: bytes) -> None:
    """Whatever a weights file holds, it ends in one error."""
    (tmp_path / "w.h5").write_bytes(content)
    with pytest.raises(WeightsError, match="weights file"):
        digest_of(tmp_path / "w.h5", "block1_pool")


def test_layers_numbered_by_another_process(tmp_path: Path) -> None:
    """Automatic names are matched in order, whatever number the writing process had reached."""
    import keras

    def network() -> Any:
        return keras.Sequential([keras.Input((8, 8, 3)), *(keras.layers.Conv2D(3, 1) for _ in range(3))])

    written = network()
    path = legacy_file(tmp_path / "w.h5", written)
    network()
    read = load_base(Request(network(), weights=path, preprocess="none"))
    assert read.weights == load_base(Request(written, preprocess="none")).weights


def test_seeded_weights_leave_pythons_random_alone() -> None:
    """Building an untrained base does not disturb the caller's random numbers."""
    import random

    random.seed(5)
    expected = random.random()
    random.seed(5)
    load_base(Request(**SMALL, layers=("block1_conv1",)))
    assert random.random() == expected


def test_threads_that_build_at_once_have_the_weights_of_their_seeds() -> None:
    """What another thread builds or draws meanwhile changes no weight of an untrained base."""

    def built(seed: int) -> str:
        return load_base(Request(**SMALL, layers=("block1_conv2",), seed=seed)).weights

    alone = [built(seed) for seed in range(4)]
    assert len(set(alone)) == 4
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(built, range(4))) == alone


def test_name_that_two_layers_share_is_refused(tmp_path: Path) -> None:
    """A file cannot be matched by name where an inner and an outer layer have the same one."""
    import keras

    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 1, name="conv")], name="inner")
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, keras.layers.Conv2D(3, 1, name="conv")(inner(x)))
    model.save(tmp_path / "m.keras")
    with pytest.raises(WeightsError, match="conv occurs more than once"):
        load_base(Request(tmp_path / "m.keras", weights=tmp_path / "m.keras", preprocess="none"))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.by_default("0", "1", "2", "3")
def test_damaged_weights_file_loads_nothing_or_all(tmp_path: Path, vgg: Any, seed: int) -> None:
    """Flipped bytes in a weights file end in a WeightsError or in a base, never in another exception."""
    path = legacy_file(tmp_path / "w.h5", vgg, skip="block3")
    content = bytearray(path.read_bytes())
    for place in np.random.default_rng(seed).integers(0, 30_000, 40):
        content[place] ^= 0xFF
    path.write_bytes(content)
    try:
        digest_of(path, "block2_pool")
    except WeightsError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("where", ["memory", "nested", "model file", "weights file"])
def test_adapted_normalization_is_taken_over(tmp_path: Path, where: str) -> None:
    """A layer that scales by the statistics of its training data scales by these in the base, too."""
    import keras

    layers = [keras.layers.Normalization(name="statistics"), keras.layers.Conv2D(2, 1, name="mix")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    pixels = np.random.default_rng(0).uniform(0, 255, (20, 8, 8, 3)).astype(np.float32)
    model.get_layer("statistics").adapt(pixels)
    if where == "nested":
        model = keras.Sequential([keras.Input((8, 8, 3)), model, keras.layers.ReLU()])
    expected = model.predict(pixels, verbose=0)
    weights, base = "imagenet", model
    if where == "model file":
        base = tmp_path / "model.keras"
        model.save(base)
    if where == "weights file":
        weights = tmp_path / "all.weights.h5"
        model.save_weights(weights)
        fresh = [keras.layers.Normalization(name="statistics"), keras.layers.Conv2D(2, 1, name="mix")]
        base = keras.Sequential([keras.Input((8, 8, 3)), *fresh])
    layer = model.layers[-1].name
    loaded = load_base(Request(base=base, weights=weights, layers=(layer,), preprocess="none", pooling="none"))
    assert np.allclose(loaded.model.predict(pixels, verbose=0), expected, atol=1e-4)


# Tensors within a layer


def scaled_network() -> Any:
    """Return a network whose batch normalisation has four tensors of one shape."""
    import keras

    layers = [keras.layers.Conv2D(3, 1, name="conv"), keras.layers.BatchNormalization(name="bn")]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    rng = np.random.default_rng(3)
    model.set_weights([rng.uniform(0.5, 1.5, value.shape).astype(np.float32) for value in model.get_weights()])
    return model


def named_file(path: Path, model: Any, spell: dict[str, str], order: list[int]) -> Path:
    """Write a legacy file whose batch normalisation lies in another order, its names spelled in another way."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            chosen = [layer.weights[i] for i in order] if layer.name == "bn" else layer.weights
            group = file.create_group(layer.name)
            names = [spell.get(w.name, "{layer}/" + w.name + ":0").format(layer=layer.name) for w in chosen]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, chosen, strict=True):
                group[name] = weight.numpy()
    return path


def loaded_from(path: Path) -> Any:
    """Return the weights that a fresh network of this kind has from a file."""
    import keras

    layers = [keras.layers.Conv2D(3, 1, name="conv"), keras.layers.BatchNormalization(name="bn")]
    fresh = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    return load_base(Request(fresh, weights=path, preprocess="none")).model.get_weights()


KERAS_1 = {
    "gamma": "{layer}_gamma_1:0",
    "beta": "{layer}_beta_1:0",
    "moving_mean": "{layer}_running_mean:0",
    "moving_variance": "{layer}_running_std:0",
    "kernel": "{layer}_W_1:0",
    "bias": "{layer}_b_1:0",
}


@pytest.mark.parametrize("spell", [{}, KERAS_1, {"gamma": "m/{layer}/gamma", "beta": "m/{layer}/beta_2"}])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [1, 0, 2, 3], [3, 2, 1, 0]])
def test_tensors_are_matched_by_their_names(tmp_path: Path, spell: dict[str, str], order: list[int]) -> None:
    """Whatever order a layer's tensors lie in, each goes where its name says, in the spelling of Keras 1, 2 and 3."""
    model = scaled_network()
    loaded = loaded_from(named_file(tmp_path / "w.h5", model, spell, order))
    assert all(np.array_equal(a, b) for a, b in zip(loaded, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    "spell",
    [
        {"gamma": "{layer}/weight", "beta": "{layer}/bias"},
        {name: "{layer}/w_" + str(i) for i, name in enumerate(["gamma", "beta", "moving_mean", "moving_variance"])},
        {"gamma": "{layer}/beta:0", "beta": "{layer}/beta_1:0"},
    ],
)
def test_names_that_do_not_tell_are_refused(tmp_path: Path, spell: dict[str, str]) -> None:
    """Tensors of equal shape whose names do not say which is which are refused, with both lists of names."""
    path = named_file(tmp_path / "w.h5", scaled_network(), spell, [0, 1, 2, 3])
    with pytest.raises(WeightsError, match=r"bn has .*, expected gamma, beta, moving_mean, moving_variance"):
        loaded_from(path)


def test_numbered_tensors_with_a_negative_variance_are_refused(tmp_path: Path) -> None:
    """Files of Keras 3 only number tensors; a mean in the place of a variance is seen where it is negative."""
    model = scaled_network()
    values = model.get_layer("bn").get_weights()
    model.get_layer("bn").set_weights([*values[:3], -values[3]])
    model.save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(WeightsError, match=r"negative values for .*bn/moving_variance"):
        loaded_from(tmp_path / "w.weights.h5")


def test_bfloat16_weights(tmp_path: Path) -> None:
    """Weights that were stored as bfloat16 are these numbers, not their bits."""
    import keras

    def network(dtype: str) -> Any:
        return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 1, name="conv", dtype=dtype)])

    written = network("bfloat16")
    written.save_weights(tmp_path / "w.weights.h5")
    base = load_base(Request(network("float32"), weights=tmp_path / "w.weights.h5", preprocess="none"))
    assert np.array_equal(base.model.get_weights()[0], written.get_weights()[0].astype(np.float32))


@pytest.mark.parametrize("kind", ["link", "virtual", "text"])
def test_tensors_from_elsewhere_are_refused(tmp_path: Path, kind: str) -> None:
    """A file's tensors are numbers in the file itself: no link leads to another file of the machine."""
    path = named_file(tmp_path / "w.h5", scaled_network(), {}, [0, 1, 2, 3])
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["kernel"] = np.ones((1, 1, 3, 3), np.float32)
    with h5py.File(path, "r+") as file:
        del file["conv/conv/kernel:0"]
        if kind == "link":
            file["conv/conv/kernel:0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "kernel")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((1, 1, 3, 3), np.float32)
            layout[...] = h5py.VirtualSource(str(tmp_path / "other.h5"), "kernel", (1, 1, 3, 3))
            file["conv/conv"].create_virtual_dataset("kernel:0", layout)
        else:
            file["conv/conv"].create_dataset("kernel:0", data=np.full((1, 1, 3, 3), b"x"))
    with pytest.raises(WeightsError, match=r"own|numbers are expected"):
        loaded_from(path)


def test_layers_that_keras_2_named_with_a_slash(tmp_path: Path) -> None:
    """DenseNet's first layers were called `conv1/conv` and `conv1/bn` in Keras 2: today `conv1_conv` and `conv1_bn`."""
    import keras

    def network() -> Any:
        layers = [keras.layers.Conv2D(3, 1, name="conv1_conv"), keras.layers.BatchNormalization(name="conv1_bn")]
        return keras.Sequential([keras.Input((8, 8, 3)), *layers])

    written = network()
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = [b"conv1/conv", b"conv1/bn"]
        for layer in written.layers:
            group = file.create_group(layer.name.replace("_", "/"))
            names = [f"{layer.name.replace('_', '/')}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = weight.numpy()
    base = load_base(Request(network(), weights=tmp_path / "w.h5", preprocess="none"))
    assert base.weights == load_base(Request(written, preprocess="none")).weights


# Files of early Keras 3


def without_names(path: Path) -> Path:
    """Take away what Keras 3 wrote from about 3.5 on: the layers' names."""

    def forget(_: str, group: Any) -> None:
        group.attrs.pop("name", None)

    with h5py.File(path, "r+") as file:
        file.visititems(forget)
    return path


@pytest.mark.parametrize("root", ["layers", "_layer_checkpoint_dependencies"])
@pytest.mark.slow
def test_files_without_names_load_by_structure(tmp_path: Path, root: str) -> None:
    """Layers of early Keras 3 are found by class and rank, whatever numbers this process has reached."""
    import keras

    def network() -> Any:
        return keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3), alpha=0.35)

    written = network()
    rng = np.random.default_rng(0)
    written.set_weights([rng.uniform(0.5, 1.5, value.shape) for value in written.get_weights()])
    written.save_weights(tmp_path / "w.weights.h5")
    path = without_names(tmp_path / "w.weights.h5")
    with h5py.File(path, "r+") as file:
        file.move("layers", "moved")
        file.move("moved", root)
    base = load_base(
        Request("mobilenetv2", base_params={"alpha": 0.35}, weights=path, image_size=(32, 32), layers=("block_4_add",))
    )
    plain = network()
    plain.load_weights(path)
    assert base.weights == load_base(Request(plain, layers=("block_4_add",), preprocess="tf")).weights
    assert base.weights == load_base(Request(written, layers=("block_4_add",), preprocess="tf")).weights


def test_files_without_names_of_nested_models(tmp_path: Path) -> None:
    """Inner layers are counted within their own model."""
    import keras

    def network() -> Any:
        inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 1), keras.layers.Conv2D(3, 1)])
        return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 1), inner, keras.layers.Conv2D(3, 1)])

    written = network()
    written.save_weights(tmp_path / "w.weights.h5")
    path = without_names(tmp_path / "w.weights.h5")
    base = load_base(Request(network(), weights=path, preprocess="none"))
    assert base.weights == load_base(Request(written, preprocess="none")).weights


def test_files_without_names_must_have_as_many_layers(tmp_path: Path, vgg: Any) -> None:
    """Where the base has another number of layers of a class, nobody can say which is which."""
    vgg.save_weights(tmp_path / "w.weights.h5")
    path = without_names(tmp_path / "w.weights.h5")
    assert digest_of(path) == load_base(Request(vgg, preprocess="caffe")).weights
    with h5py.File(path, "r+") as file:
        del file["layers/conv2d_7"]
    with pytest.raises(WeightsError, match=r"early Keras 3.*15 conv2d layers and the base has 16"):
        digest_of(path, "block1_pool")
