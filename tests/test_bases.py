import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from featcache import bases
from featcache.bases import applications, find_application, list_layers, load_base
from featcache.errors import BaseError, OptionError, WeightsError
from featcache.recipe import Request

SMALL = {"base": "vgg19", "weights": "none", "image_size": (32, 32)}


@pytest.fixture(scope="module")
def nested() -> Any:
    """Return a classifier around a VGG19, with scaling in front of it."""
    import keras

    inner = keras.applications.VGG19(include_top=False, weights=None, input_shape=(32, 32, 3))
    pixels = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.GlobalAveragePooling2D()(inner(x))
    return keras.Model(pixels, keras.layers.Dense(3, name="classes")(x))


def test_every_application_has_a_known_preprocessing() -> None:
    """All applications of the installed Keras are there, each with its own module's mode."""
    found = applications()
    assert len(found) >= 40
    modes = {name: app.preprocess for name, app in found.items()}
    assert modes["VGG19"] == modes["ResNet50"] == "caffe"
    assert modes["DenseNet121"] == "torch"
    assert modes["MobileNetV2"] == modes["Xception"] == modes["ResNet50V2"] == "tf"
    assert modes["EfficientNetB0"] == modes["ConvNeXtTiny"] == modes["MobileNetV3Small"] == "none"


@pytest.mark.parametrize("name", ["vgg19", "VGG19", "mobilenet_v2", "MobileNetV2", "MobileNetV3Small", "nasnet-mobile"])
def test_names_are_forgiving(name: str) -> None:
    """Case, - and _ do not count."""
    assert find_application(name).name.lower() == name.lower().replace("_", "").replace("-", "")


def test_unknown_application_gets_the_nearest() -> None:
    """A misspelt name is answered with the names it could have been."""
    with pytest.raises(BaseError, match="nearest: ResNet50"):
        load_base(Request("resnet5O"))


def test_default_sizes_are_keras_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application's default size is the one Keras takes for a network with a top, where Keras has one."""
    from keras.src.applications import imagenet_utils

    class SizeError(Exception):
        """Carries the size before anything is built."""

    def obtain_input_shape(shape: object, default_size: int, *others: object, **more: object) -> None:
        raise SizeError(default_size)

    monkeypatch.setattr(imagenet_utils, "obtain_input_shape", obtain_input_shape)
    told = 0
    for name, app in applications().items():
        try:
            assert app.build(weights=None).input_shape[1] is None, name
        except SizeError as size:
            assert size.args == (app.image_size,), name
            told += 1
    assert told >= 30


def test_parameter_counts() -> None:
    """A cut holds what lies before it: VGG19 at block2_pool has 260,160 parameters."""
    assert load_base(Request(**SMALL, layers=("block2_pool",))).parameters == 260_160
    assert load_base(Request("mobilenetv2", weights="none", image_size=(32, 32))).parameters == 2_257_984
    assert load_base(Request("densenet121", weights="none", image_size=(32, 32))).parameters == 7_037_504


def test_layers_come_in_the_networks_order() -> None:
    """The order in which layers are named does not matter; each comes once."""
    base = load_base(Request(**SMALL, layers=("block2_pool", "block1_pool", "block2_pool")))
    assert base.layers == ("block1_pool", "block2_pool")


def test_wrong_layer_gets_the_nearest() -> None:
    """A misspelt layer is answered with the nearest ones."""
    with pytest.raises(BaseError, match="nearest: block2_pool"):
        load_base(Request(**SMALL, layers=("blok2_pool",)))


@pytest.mark.parametrize("name", ["vgg19", "mobilenetv3small", "efficientnetb0", "densenet121"])
def test_building_twice_is_the_same_recipe(name: str) -> None:
    """Keras numbers layers on and on in a process; the digests and canonical names do not notice."""
    request = Request(name, weights="none", image_size=(32, 32))
    first, second = load_base(request), load_base(request)
    assert first.architecture == second.architecture
    assert first.weights == second.weights
    assert first.layers == second.layers == first.canonical_layers


def test_digests_tell_bases_apart() -> None:
    """Another seed is other weights; another cut, size or setting another architecture."""
    one = load_base(Request(**SMALL, layers=("block1_pool",)))
    assert load_base(Request(**SMALL, layers=("block1_pool",), seed=1)).weights != one.weights
    assert load_base(Request(**SMALL, layers=("block1_conv2",))).architecture != one.architecture
    larger = Request("vgg19", weights="none", image_size=(64, 64), layers=("block1_pool",))
    assert load_base(larger).architecture != one.architecture


def test_saved_model_is_the_same_base(tmp_path: Path) -> None:
    """A base saved as .keras and loaded has the digests of the one it was."""
    import keras

    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()])
    model.save(tmp_path / "m.keras")
    live = load_base(Request(model, preprocess="none"))
    file = load_base(Request(tmp_path / "m.keras", preprocess="none"))
    assert (live.architecture, live.weights) == (file.architecture, file.weights)


def test_activation_is_part_of_the_architecture() -> None:
    """Networks of equal shapes with another activation are another base."""
    import keras

    def digest_with(activation: str) -> str:
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation=activation)])
        return load_base(Request(model, preprocess="none")).architecture

    assert digest_with("relu") != digest_with("tanh")


def test_wiring_is_part_of_the_architecture() -> None:
    """The same layers connected otherwise are another base."""
    import keras

    def digest_with(swap: bool) -> str:
        x = keras.Input((8, 8, 3))
        y = keras.layers.Conv2D(3, 1)(x)
        out = keras.layers.Subtract()([x, y] if swap else [y, x])
        return load_base(Request(keras.Model(x, out), preprocess="none")).architecture

    assert digest_with(True) != digest_with(False)


def test_dtype_policy_is_part_of_the_architecture() -> None:
    """Networks that compute in another precision are another base."""
    import keras

    def digest_with(dtype: str) -> str:
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, dtype=dtype)])
        return load_base(Request(model, preprocess="none")).architecture

    assert digest_with("float32") != digest_with("mixed_bfloat16")


def test_callers_model_is_left_alone(nested: Any) -> None:
    """Cutting a model in memory adds nothing to its layers."""
    before = [len(layer._inbound_nodes) for layer in nested.layers]
    load_base(Request(nested, layers=("classes",)))
    assert [len(layer._inbound_nodes) for layer in nested.layers] == before


def test_nested_layer_by_address(nested: Any) -> None:
    """`outer/inner` cuts inside a nested model, keeping what comes before it in the outer one."""
    import keras

    base = load_base(Request(nested, layers=("vgg19/block2_pool",)))
    assert base.parameters == 260_160
    assert base.preprocess == "none"  # the Rescaling layer is inside
    inner = nested.get_layer("vgg19")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    expected = keras.Model(inner.inputs, inner.get_layer("block2_pool").output)([pixels / 255])
    assert np.allclose(base.model(pixels), expected, atol=1e-5)


def test_outer_and_inner_layers_in_one_pass(nested: Any) -> None:
    """Layers inside and outside a nested model can be cut at together."""
    base = load_base(Request(nested, layers=("classes", "vgg19/block1_pool", "vgg19")))
    assert base.layers == ("vgg19/block1_pool", "vgg19", "classes")


def test_layers_list_has_nested_addresses(nested: Any) -> None:
    """The list of layers shows inner ones by address, and every one of them can be cut at."""
    described = {layer.address: layer for layer in list_layers(Request(nested))}
    assert described["vgg19/block1_conv1"].weight_shapes == [(3, 3, 3, 64), (64,)]
    assert described["vgg19/block1_pool"].bytes_per_image == 16 * 16 * 64 * 4
    assert described["classes"].output_shape == (3,)


def test_input_layer_can_be_cut_at() -> None:
    """Raw pixels are features too."""
    import keras

    model = keras.Sequential([keras.Input((8, 8, 1), name="pixels"), keras.layers.Conv2D(4, 3, name="conv")])
    assert load_base(Request(model, layers=("pixels", "conv"), preprocess="none")).layers == ("pixels", "conv")


def test_layer_used_twice_is_refused() -> None:
    """A shared layer has no one output."""
    import keras

    x = keras.Input((8, 8, 3))
    shared = keras.layers.Conv2D(3, 1, name="shared")
    model = keras.Model(x, shared(shared(x)))
    with pytest.raises(BaseError, match="more than once"):
        load_base(Request(model, layers=("shared",), preprocess="none"))


@pytest.mark.parametrize("shape", [(8,), (8, 8, 4), (8, 8, 8, 3)])
def test_bases_that_take_no_images(shape: tuple[int, ...]) -> None:
    """A network for something else than images is refused with its input shape."""
    import keras

    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten()])
    with pytest.raises(BaseError, match="takes images"):
        load_base(Request(model, preprocess="none"))


def test_two_inputs_are_refused() -> None:
    """A base takes one image."""
    import keras

    a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    with pytest.raises(BaseError, match="one input"):
        load_base(Request(keras.Model([a, b], keras.layers.Add()([a, b])), preprocess="none"))


def test_model_without_its_own_scaling_needs_preprocess() -> None:
    """Nobody can guess how a model file wants its pixels."""
    import keras

    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(OptionError, match="Expected --preprocess"):
        load_base(Request(model))


def test_free_image_size_must_be_given() -> None:
    """A network for images of any size needs one; a network of a fixed size refuses another."""
    import keras

    free = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(OptionError, match="--image-size"):
        load_base(Request(free, preprocess="none"))
    assert load_base(Request(free, preprocess="none", image_size=(9, 11))).width == 11
    fixed = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(OptionError, match="8x8"):
        load_base(Request(fixed, preprocess="none", image_size=(9, 9)))


def test_unknown_setting_gets_the_known_ones() -> None:
    """A misspelt constructor argument is answered with the possible ones."""
    with pytest.raises(OptionError, match=r"alpha.*Received: 'alfa'"):
        load_base(Request("mobilenetv2", {"alfa": 1}, "none"))


def test_size_too_small_is_keras_message() -> None:
    """What Keras refuses comes through on one line."""
    with pytest.raises(BaseError, match="at least 32x32"):
        load_base(Request("vgg19", weights="none", image_size=(16, 16)))


def test_damaged_model_file(tmp_path: Path) -> None:
    """A file that is no model is an error, not a traceback."""
    (tmp_path / "m.keras").write_bytes(b"PK nonsense")
    with pytest.raises(BaseError, match="loads in safe mode"):
        load_base(Request(tmp_path / "m.keras"))


def test_model_that_would_run_code_is_refused(tmp_path: Path) -> None:
    """A Lambda layer in a model file is not unpickled."""
    import keras

    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(tmp_path / "m.keras")
    with pytest.raises(BaseError, match="safe mode"):
        load_base(Request(tmp_path / "m.keras", preprocess="none"))


# Weights by name


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
    with pytest.raises(WeightsError, match="lacks block5_conv1, block5_conv2, block5_conv3, block5_conv4"):
        digest_of(path)


def test_no_match_at_all(tmp_path: Path, vgg: Any) -> None:
    """A file for another base is refused, saying what each side has."""
    path = legacy_file(tmp_path / "w.h5", vgg)
    with pytest.raises(WeightsError, match="none of these"):
        load_base(Request("mobilenetv2", weights=path, image_size=(32, 32)))


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


def test_imagenet_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the download fails, the message names --weights FILE."""
    import dataclasses

    def fail(**_: object) -> None:
        raise Exception("URL fetch failure on https://example.org: None -- no route")

    real = find_application("vgg19")
    offline = {"VGG19": dataclasses.replace(real, build=fail)}
    monkeypatch.setattr(bases, "applications", lambda: offline)
    monkeypatch.setattr(bases.inspect, "signature", lambda _: json)  # settings are not looked at
    monkeypatch.setattr(json, "parameters", {}, raising=False)
    with pytest.raises(WeightsError, match="--weights FILE"):
        load_base(Request("vgg19"))


def test_seeded_weights_leave_pythons_random_alone() -> None:
    """Building an untrained base does not disturb the caller's random numbers."""
    import random

    random.seed(5)
    expected = random.random()
    random.seed(5)
    load_base(Request(**SMALL, layers=("block1_conv1",)))
    assert random.random() == expected


def test_name_that_two_layers_share_is_refused(tmp_path: Path) -> None:
    """A file cannot be matched by name where an inner and an outer layer have the same one."""
    import keras

    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 1, name="conv")], name="inner")
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, keras.layers.Conv2D(3, 1, name="conv")(inner(x)))
    model.save(tmp_path / "m.keras")
    with pytest.raises(WeightsError, match="conv occurs more than once"):
        load_base(Request(tmp_path / "m.keras", weights=tmp_path / "m.keras", preprocess="none"))


def test_scaling_inside_a_nested_model_counts() -> None:
    """A model that scales in an inner model needs no preprocessing named."""
    import keras

    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255)], name="inner")
    x = keras.Input((8, 8, 3))
    assert load_base(Request(keras.Model(x, keras.layers.Conv2D(3, 1)(inner(x))))).preprocess == "none"


def test_canonical_names_are_not_mistaken_for_others() -> None:
    """A recipe's names mean layers by rank, also where this process gave the same names to other layers."""
    import keras

    keras.layers.Dense(1)  # moves the counter on
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(pixels)
    hidden = keras.layers.Dense(4, name="dense_1")
    model = keras.Model(pixels, keras.layers.Dense(2, name="dense_2")(hidden(x)))
    base = load_base(Request(model, layers=("dense", "dense_1"), preprocess="none", canonical=True))
    assert base.layers == ("dense_1", "dense_2")


@pytest.mark.parametrize("seed", range(12))
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
    weights, base = None, model
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
