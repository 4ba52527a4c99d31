"""Files of another network of the same family, whose layers include all of the base's."""

import re
from pathlib import Path
from typing import Any

import h5py
import pytest

from featcache.bases import load_base
from featcache.errors import WeightsError
from featcache.recipe import Request


@pytest.fixture(scope="module")
def vgg19() -> Any:
    import keras

    return keras.applications.VGG19(include_top=False, weights=None, input_shape=(32, 32, 3))


def legacy_file(path: Path, model: Any, *, until: str = "") -> Path:
    """Write zeros in the legacy layout, which take no space, for a model's layers up to one."""
    with h5py.File(path, "w") as file:
        names = [layer.name for layer in model.layers]
        names = names[: names.index(until) + 1] if until else names
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            group, weights = file.create_group(name), model.get_layer(name).weights
            group.attrs["weight_names"] = [f"{name}/{weight.name}:0".encode() for weight in weights]
            for weight in weights:
                group.create_dataset(f"{name}/{weight.name}:0", shape=tuple(weight.shape), dtype="f4")
    return path


def loaded(base: Any, path: Path, *layers: str, **options: Any) -> str:
    return load_base(Request(base, weights=path, image_size=(32, 32), layers=layers, **options)).weights


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras"])
@pytest.mark.by_default(".h5")
def test_weights_of_vgg19_are_not_for_vgg16(tmp_path: Path, vgg19: Any, suffix: str) -> None:
    """VGG19 has every layer of VGG16, in equal shapes: its file is refused, cut or not; VGG19 itself takes it."""
    path = tmp_path / f"w{suffix}"
    if suffix == ".h5":
        legacy_file(path, vgg19)
    else:
        (vgg19.save if suffix == ".keras" else vgg19.save_weights)(path)
    assert loaded("vgg19", path)
    for cut in ((), ("block2_pool",)):
        with pytest.raises(WeightsError, match="'vgg16' lacks: block3_conv4, block4_conv4, block5_conv4") as caught:
            loaded("vgg16", path, *cut)
        assert "\n" not in str(caught.value)
        assert ("is called 'vgg19': use --base vgg19." in str(caught.value)) == (suffix == ".keras")


@pytest.mark.slow
def test_weights_of_resnet101_are_not_for_resnet50(tmp_path: Path) -> None:
    """The names and shapes of the deeper network include those of the other."""
    import keras

    deeper = keras.applications.ResNet101(include_top=False, weights=None, input_shape=(32, 32, 3))
    path = legacy_file(tmp_path / "w.h5", deeper)
    with pytest.raises(WeightsError, match=r"'resnet50' lacks: conv4_block7_1_conv, .* and \d+ more"):
        loaded("resnet50", path, "conv3_block1_out")
    assert loaded("resnet101", path, "conv3_block1_out")


def test_a_file_that_ends_with_a_siblings_layer(tmp_path: Path, vgg19: Any) -> None:
    """Nothing of the base comes after the layer that it lacks, but the name continues one of its blocks."""
    path = legacy_file(tmp_path / "w.h5", vgg19, until="block3_pool")
    with pytest.raises(WeightsError, match=r"'vgg16' lacks: block3_conv4\. It may be for another base"):
        loaded("vgg16", path, "block3_pool")
    assert loaded("vgg19", path, "block3_pool")


def test_the_published_file_is_vgg19s_alone(vgg19_weights: Path) -> None:
    """The real file of three blocks loads at each of its cuts, and not into VGG16."""
    for cut in ("block1_pool", "block2_pool", "block3_pool"):
        assert loaded("vgg19", vgg19_weights, cut)
    with pytest.raises(WeightsError, match="block3_conv4"):
        loaded("vgg16", vgg19_weights, "block3_pool")


def network(*names: str, nested: bool = False, name: str | None = None) -> Any:
    """Return a network of convolutions, the first five of them in a model of their own if asked for."""
    import keras

    if nested:
        names = (network(*names[:5]), *names[5:])  # type: ignore[assignment]
    layers = [keras.layers.Conv2D(3, 1, name=one) if isinstance(one, str) else one for one in names]
    return keras.Sequential([keras.Input((32, 32, 3)), *layers], name=name)


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras"])
@pytest.mark.parametrize("nested", [False, True])
def test_layers_behind_the_base_are_nothing_to_it(tmp_path: Path, suffix: str, nested: bool) -> None:
    """More convolutions after the base are allowed, between its layers they are not, whatever the file's layout."""
    before, after = tmp_path / f"before{suffix}", tmp_path / f"after{suffix}"
    save = "save_weights" if suffix == ".weights.h5" else "save"
    getattr(network("b1_a1", "b1_a2", "b2_a1", "b2_a2", "b2_a3", "aa_head", "b2_a4", nested=nested), save)(after)
    getattr(network("b1_a1", "b1_a2", "b1_a3", "b2_a1", "b2_a2", "b2_a3", "zz_head", nested=nested), save)(before)
    base = network("b1_a1", "b1_a2", "b2_a1", "b2_a2")
    assert loaded(base, after, preprocess="none")
    with pytest.raises(WeightsError, match=r"lacks: b1_a3\. It may be"):
        loaded(base, before, preprocess="none")


def test_a_name_with_a_line_break_stays_in_one_line(tmp_path: Path) -> None:
    """What a file calls its layers does not break the message."""
    path = legacy_file(tmp_path / "w.h5", network("a", "b"))
    with h5py.File(path, "r+") as file:
        file.attrs["layer_names"] = [b"a", b"x\ny", b"b"]
        group = file.create_group("x\ny")
        group.attrs["weight_names"] = [b"kernel"]
        group.create_dataset("kernel", shape=(2, 2), dtype="f4")
    with pytest.raises(WeightsError, match=re.escape("lacks: x y.")):
        loaded(network("a", "b"), path, preprocess="none")
