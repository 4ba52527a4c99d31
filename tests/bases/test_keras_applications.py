import dataclasses
import json

import pytest

from featcache.bases import applications, find_application, keras_applications, load_base, loading
from featcache.errors import BaseError, WeightsError
from featcache.recipe import Request


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


def test_imagenet_without_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the download fails, the message names --weights FILE."""

    def fail(**_: object) -> None:
        raise Exception("URL fetch failure on https://example.org: None -- no route")

    real = find_application("vgg19")
    offline = {"VGG19": dataclasses.replace(real, build=fail)}
    monkeypatch.setattr(keras_applications, "applications", lambda: offline)
    monkeypatch.setattr(loading.inspect, "signature", lambda _: json)  # settings are not looked at
    monkeypatch.setattr(json, "parameters", {}, raising=False)
    with pytest.raises(WeightsError, match="a local file as `weights`"):
        load_base(Request("vgg19"))
