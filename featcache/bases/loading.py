"""A request becomes a base: built or loaded, cut, with weights and digests."""

from __future__ import annotations

import inspect
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.bases.cutting import Call, canonical_addresses, canonical_names, is_graph, leaves, resolve, traced
from featcache.bases.digests import architecture_digest, weights_digest
from featcache.bases.keras_applications import (
    Application,
    are_imagenet_statistics,
    as_for_imagenet,
    find_application,
    normalization,
)
from featcache.bases.model_files import model_file
from featcache.bases.weights import load_weights_by_name, normalization_statistics, seeded, settle
from featcache.bases.weights_files import readable_config
from featcache.errors import BaseError, FeatcacheError, OptionError, WeightsError, one_line
from featcache.options import LayersOptions, Preprocess, subset, takes
from featcache.recipe import Request
from featcache.system.startup import import_tensorflow
from featcache.system.status import doing

_log = logging.getLogger("featcache")


@dataclass(frozen=True)
class Layer:
    """One layer of a base, for people to choose from: `address` is what ``--layer`` takes.

    Shapes are without the batch axis; None where a size depends on the image. Bytes are those of the unpooled output
    in float32.
    """

    address: str
    type: str
    output_shape: tuple[int | None, ...]
    weight_shapes: list[tuple[int, ...]]
    parameters: int
    bytes_per_image: int | None


@dataclass(frozen=True)
class Base:
    """A frozen network up to its deepest cut: from preprocessed pixels to a list of the outputs of `layers`.

    `layers` are addresses in the network's order, in `canonical_layers` with automatic numbers counted from the
    network's own start. `squeeze` says that it takes images without a channel axis. Digests are SHA-256 in hex.
    """

    name: str
    model: Any
    layers: tuple[str, ...]
    canonical_layers: tuple[str, ...]
    height: int
    width: int
    channels: int
    squeeze: bool
    preprocess: Preprocess
    architecture: str
    weights: str
    parameters: int

    @classmethod
    def of(
        cls, name: str, model: Any, layers: tuple[str, ...], canonical: tuple[str, ...], preprocess: Preprocess
    ) -> Base:
        """Return a network that is cut, with its digests."""
        height, width, *channels = (int(n) for n in model.inputs[0].shape[1:])
        digests, count = (architecture_digest(model), weights_digest(model)), model.count_params()
        size = (height, width, channels[0] if channels else 1, not channels)
        return cls(name, model, layers, canonical, *size, preprocess, *digests, count)


def load_base(request: Request) -> Base:
    """Build a base, cut it and load its weights.

    It raises `BaseError` if base or layer do not exist or cannot be cut, `WeightsError` if weights are missing or do
    not fit, and `OptionError` if `image_size` or `preprocess` is needed or does not fit.
    """
    import_tensorflow()
    with doing(f"loading the base {request.base_name}"):
        return _loaded(request)


def _loaded(request: Request) -> Base:
    import keras

    model, application = _network(request)
    shape = _input_shape(model, request)
    pixels, calls = traced(model, None if request.canonical else request.layers, shape)
    canonical = canonical_addresses(calls)
    shown = canonical if application else {address: address for address in calls}
    layers = resolve(request.layers, calls, shown, canonical, by_canonical_name=request.canonical)
    cut = keras.Model(pixels, [calls[layer].output for layer in layers], name=model.name)
    cut.trainable = False
    if request.weights not in (None, "imagenet"):
        names = {address.rpartition("/")[2]: name.rpartition("/")[2] for address, name in canonical.items()}
        load_weights_by_name(cut, Path(str(request.weights)), names, model)
    own, canonical_layers = (tuple(names[layer] for layer in layers) for names in (shown, canonical))
    return Base.of(request.base_name, cut, own, canonical_layers, _settled_preprocess(request, cut, application, shape))


@takes(LayersOptions)
def list_layers(options: LayersOptions) -> list[Layer]:
    """List the layers that a base can be cut at, in its order, without loading an application's weights.

    Returns
    -------
    list of Layer
        Address, type, output shape of one image, shapes and number of weights, and bytes per image unpooled.

    Raises
    ------
    BaseError
        If there is no such base, or it cannot be cut.
    OptionError
        If `image_size` is needed, or does not fit.
    """
    return layers_of(subset(options, Request))


def layers_of(request: Request) -> list[Layer]:
    """Return every layer of a base that can be cut at, in its order, without loading an application's weights."""
    import_tensorflow()
    model, application = _network(request, download=False)
    _, calls = traced(model, None, _input_shape(model, request))
    shown = canonical_addresses(calls) if application else {address: address for address in calls}
    return [_described(shown[address], called) for address, called in calls.items() if called.output is not None]


def _described(address: str, called: Call) -> Layer:
    output = tuple(called.output.shape[1:])
    weights = [] if is_graph(called.layer) else getattr(called.layer, "weights", [])
    shapes = [tuple(int(n) for n in weight.shape) for weight in weights]
    size = None if None in output else 4 * math.prod(output)
    return Layer(address, type(called.layer).__name__, output, shapes, sum(map(math.prod, shapes)), size)


def _network(request: Request, *, download: bool = True) -> tuple[Any, Application | None]:
    """Return the whole network (of an application: with the weights asked for, unless from a file)."""
    import keras

    if keras.config.image_data_format() != "channels_last":
        raise BaseError("Keras is set to image_data_format='channels_first'. Set it to 'channels_last' in keras.json.")
    if request.in_memory or request.is_file:
        if request.base_params:
            raise OptionError(
                f"`base_params` are for an application only, and {request.base_name!r} is a model: "
                f"{sorted(request.base_params)}. Leave them out."
            )
        if request.weights is None:
            raise OptionError(
                f"{request.base_name!r} is a model with weights of its own, but `weights` is None, which draws random "
                "ones. Leave `weights` out, or name a weights file."
            )
        if request.in_memory:
            if not isinstance(request.base, keras.Model):
                raise BaseError(
                    f"`base` must be a name, a file or a keras.Model. Received: {type(request.base).__name__}."
                )
            return copied(request.base), None
        return model_file(Path(str(request.base))), None
    application = find_application(str(request.base))
    network = _built(application, request, download=download)
    return (as_for_imagenet(network) if _is_for_imagenet(network, request) else network), application


def _is_for_imagenet(network: Any, request: Request) -> bool:
    """Whether an application is to be the graph that Keras builds for its ImageNet weights, where that is another."""
    layer = normalization(network)
    if layer is None or request.weights in (None, "imagenet"):
        return layer is not None and request.weights is not None
    path = Path(str(request.weights))
    statistics = normalization_statistics(layer, path, canonical_names(network), network)
    if not (statistics and are_imagenet_statistics(*statistics)):
        return False
    config = readable_config(path)
    if config and config.count('"Rescaling"') == 1:
        _log.warning(
            f"{str(path)!r} has the statistics of Keras' ImageNet weights, so {request.base_name} gets the second "
            "Rescaling layer that these need. The model saved in the file has only one: if it was trained like that, "
            f"use it as it is: --base {path}"
        )
    return True


def _built(application: Application, request: Request, *, download: bool) -> Any:
    size = request.size or (application.image_size,) * 2
    settings: dict[str, Any] = {
        "include_top": False,
        "input_shape": (*size, 3),
        **request.base_params,
        "weights": "imagenet" if download and request.weights == "imagenet" else None,
    }
    possible = set(inspect.signature(application.build).parameters) - {"weights", "input_tensor", "input_shape"}
    for name in request.base_params:
        if name not in possible:
            listed = ", ".join(sorted(possible))
            raise OptionError(f"{application.name} has no parameter {name!r}. Its `base_params` are: {listed}.")
    try:
        with seeded(request.seed):
            return application.build(**settings)
    except FeatcacheError:
        raise
    except Exception as error:  # Keras raises bare Exception where a download fails
        if "URL fetch failure" in " ".join(str(error).split()):
            raise WeightsError(
                f"The ImageNet weights of {application.name} cannot be downloaded: no connection, or no such "
                "file. Give a local file as `weights`, or None (on the command line none) for an untrained base."
            ) from None
        raise BaseError(f"Keras cannot build {application.name}: {one_line(error)}") from None


def copied(model: Any) -> Any:
    """Return a copy with weights of its own, so that nothing done to it leaves a mark on the caller's model."""
    import keras

    try:
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        settle(copy)
    except Exception as error:
        raise BaseError(
            f"The base must be a functional or sequential model. Received: {type(model).__name__}: {one_line(error)}"
        ) from None
    return copy


def _input_shape(model: Any, request: Request) -> tuple[int, ...]:
    """Return (height, width, channels) or (height, width) of the images a network takes."""
    if not is_graph(model):
        raise BaseError(
            f"The base must be a functional or sequential Keras model. Received: {type(model).__name__}, whose "
            "layers cannot be found."
        )
    try:
        inputs = model.inputs
    except Exception:
        inputs = None
    if not inputs:
        raise BaseError(f"The model {model.name!r} has no input shape yet. Build it first.")
    if len(inputs) != 1:
        raise BaseError(f"The base must have one input. Received: {model.name!r}, which has {len(inputs)}.")
    shape = tuple(inputs[0].shape[1:])
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise BaseError(
            "The base must take images: (height, width), or with 1 or 3 channels. "
            f"Received: {model.name!r}, which takes {shape}."
        )
    size = request.size or shape[:2]
    if None in size:
        raise OptionError(f"{model.name!r} takes images of any size. Choose one with `image_size`.")
    if any(fixed not in (None, given) for fixed, given in zip(shape[:2], size, strict=True)):
        raise OptionError(
            f"{model.name!r} takes images of {shape[0]}x{shape[1]} only. Received: `image_size`={size[0]}x{size[1]}."
        )
    return (*(int(n) for n in size), *(int(n) for n in shape[2:]))


def _settled_preprocess(
    request: Request, cut: Any, application: Application | None, shape: tuple[int, ...]
) -> Preprocess:
    mode = request.preprocess
    if mode == "auto":
        if application:
            inside = request.base_params.get("include_preprocessing", True)
            if application.preprocess == "none" and not inside:
                raise OptionError(f"`preprocess` must be given, because {application.name} was built without its own.")
            return application.preprocess
        if not any(type(layer).__name__ in ("Rescaling", "Normalization") for layer in leaves(cut)):
            raise OptionError(
                f"`preprocess` must be given for {request.base_name!r}, which has no Rescaling or Normalization "
                "layer: none, caffe, torch, tf or rescale."
            )
        return "none"
    if mode in ("caffe", "torch") and shape[2:] != (3,):
        raise OptionError(f"`preprocess`={mode} is for three channels, but the base takes {shape}. Choose another.")
    return mode
