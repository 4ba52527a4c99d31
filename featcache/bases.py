"""Frozen bases: found by name or file, cut at named layers, loaded with weights, digested.

Words: an *address* names a layer, ``outer/inner`` inside a nested model. A *canonical* name has
Keras' automatic number counted from the start of its own model (``conv2d_7`` → ``conv2d``), so that
building the same base twice gives the same recipe.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import json
import math
import random
import re
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import BaseError, FeatcacheError, OptionError, WeightsError, nearest
from featcache.recipe import Preprocess, Request, canonical_json
from featcache.startup import import_tensorflow

_MODES: tuple[Preprocess, ...] = ("caffe", "torch", "tf", "none")
_DEFAULT_SIZE = 224
_SIZES = {  # Keras' default input sizes where they are not 224 (a slow test compares them)
    "InceptionV3": 299, "InceptionResNetV2": 299, "Xception": 299, "NASNetLarge": 331,
    "EfficientNetB1": 240, "EfficientNetB2": 260, "EfficientNetB3": 300, "EfficientNetB4": 380,
    "EfficientNetB5": 456, "EfficientNetB6": 528, "EfficientNetB7": 600, "EfficientNetV2B1": 240,
    "EfficientNetV2B2": 260, "EfficientNetV2B3": 300, "EfficientNetV2S": 384, "EfficientNetV2M": 480,
    "EfficientNetV2L": 480,
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One layer of a base, for people to choose from.

    Attributes
    ----------
    address : str
        What ``--layer`` takes.
    type : str
        Keras class name.
    output_shape : tuple
        Without the batch axis; None where it depends on the image.
    weight_shapes : list of tuple
        One per weight tensor.
    parameters : int
        Number of values in them.
    bytes_per_image : int or None
        Of the unpooled output in float32.
    """

    address: str
    type: str
    output_shape: tuple[int | None, ...]
    weight_shapes: list[tuple[int, ...]]
    parameters: int
    bytes_per_image: int | None


@dataclass(frozen=True)
class Application:
    """One Keras application.

    Attributes
    ----------
    name : str
        The constructor's name.
    build : callable
        The constructor.
    preprocess : str
        What its own module's ``preprocess_input`` does: caffe, torch, tf or none.
    image_size : int
        Side of the square images it was made for, in pixels.
    """

    name: str
    build: Callable[..., Any]
    preprocess: Preprocess
    image_size: int


@dataclass(frozen=True)
class Base:
    """A frozen network, cut at one or more layers.

    Attributes
    ----------
    name : str
        For people.
    model : keras.Model
        From preprocessed pixels to a list of the layers' outputs, in the order of `layers`.
    layers : tuple of str
        Addresses of the cuts, in the network's order: the last is the deepest.
    canonical_layers : tuple of str
        The same with automatic numbers counted from the network's own start.
    height, width, channels : int
        Of the images it takes; `squeeze` says that it takes them without a channel axis.
    preprocess : str
        Settled: never ``auto``.
    architecture, weights : str
        SHA-256, 64 hex digits.
    parameters : int
        Number of weight values up to the deepest cut.
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


@cache
def applications() -> dict[str, Application]:
    """Return every application of the installed Keras by its constructor's name."""
    import_tensorflow()
    import keras

    found = {}
    for name, build in sorted(vars(keras.applications).items()):
        if name[:1].isupper() and callable(build):
            module = getattr(keras.applications, build.__module__.rpartition(".")[2])
            mode = _mode_of(module.preprocess_input)
            found[name] = Application(name, build, mode, _SIZES.get(name, _DEFAULT_SIZE))
    return found


def _mode_of(preprocess_input: Callable[..., Any]) -> Preprocess:
    """Say which of Keras' modes an application's own preprocessing is, by what it does to pixels."""
    import keras

    pixels = np.random.default_rng(0).uniform(0, 255, (1, 2, 2, 3)).astype(np.float32)
    result = preprocess_input(pixels.copy())
    for mode in _MODES:
        expected = (
            pixels if mode == "none" else keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode=mode)
        )
        if np.array_equal(result, expected):
            return mode
    raise BaseError(f"Expected one of Keras' preprocessing modes. Received: {preprocess_input.__module__}.")


def find_application(name: str) -> Application:
    """Return the application a name means; case, ``-`` and ``_`` do not count.

    Raises
    ------
    BaseError
        If there is none; the message has the nearest names.
    """
    known = {_folded(app): app for app in applications()}
    if _folded(name) not in known:
        raise BaseError(
            f"Expected a Keras application or a .keras / .h5 model file. Received: base={name!r} "
            f"({nearest(name, applications())})."
        )
    return applications()[known[_folded(name)]]


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


# Loading


def load_base(request: Request) -> Base:
    """Build a base, cut it and load its weights.

    Parameters
    ----------
    request : Request
        Which base, where to cut, which weights.

    Returns
    -------
    Base
        Holding only what lies before the deepest cut.

    Raises
    ------
    BaseError
        If the base or a layer does not exist, or cannot be cut.
    WeightsError
        If weights are missing, do not fit or would be loaded in part.
    OptionError
        If `image_size` or `preprocess` is needed, or does not fit.
    """
    import_tensorflow()
    import keras

    model, application = _network(request)
    shape = _input_shape(model, request)
    pixels, calls = _traced(model, None if request.canonical else request.layers, shape)
    canonical = _canonical_addresses(calls)
    shown = canonical if application else {address: address for address in calls}
    layers = _resolve(request.layers, calls, shown, canonical, by_canonical_name=request.canonical)
    cut = keras.Model(pixels, [calls[layer].output for layer in layers], name=model.name)
    cut.trainable = False
    if request.weights not in (None, "imagenet", "none"):
        names = {address.rpartition("/")[2]: name.rpartition("/")[2] for address, name in canonical.items()}
        load_weights_by_name(cut, Path(str(request.weights)), names)
    return Base(
        name=request.base_name,
        model=cut,
        layers=tuple(shown[layer] for layer in layers),
        canonical_layers=tuple(canonical[layer] for layer in layers),
        height=shape[0],
        width=shape[1],
        channels=shape[2] if len(shape) == 3 else 1,
        squeeze=len(shape) == 2,
        preprocess=_settled_preprocess(request, cut, application, shape),
        architecture=architecture_digest(cut),
        weights=weights_digest(cut),
        parameters=cut.count_params(),
    )


def list_layers(request: Request) -> list[Layer]:
    """Return every layer of a base that can be cut at, in the network's order, nested ones too.

    The weights of an application are not loaded. Errors are those of `load_base`.
    """
    import_tensorflow()
    if not (request.in_memory or request.is_file):
        request = replace(request, weights="none")
    model, application = _network(request)
    _, calls = _traced(model, None, _input_shape(model, request))
    shown = _canonical_addresses(calls) if application else {address: address for address in calls}
    return [_described(shown[address], called) for address, called in calls.items() if called.output is not None]


def _described(address: str, called: _Call) -> Layer:
    output = tuple(called.output.shape[1:])
    weights = [] if _is_graph(called.layer) else getattr(called.layer, "weights", [])
    shapes = [tuple(int(n) for n in weight.shape) for weight in weights]
    return Layer(
        address=address,
        type=type(called.layer).__name__,
        output_shape=output,
        weight_shapes=shapes,
        parameters=sum(math.prod(shape) for shape in shapes),
        bytes_per_image=None if None in output else 4 * math.prod(output),
    )


def _network(request: Request) -> tuple[Any, Application | None]:
    """Return the whole network (of an application: with the weights asked for, unless from a file)."""
    import keras

    if keras.config.image_data_format() != "channels_last":
        raise BaseError("Expected Keras' image_data_format to be channels_last. Received: channels_first.")
    if request.in_memory or request.is_file:
        if request.settings:
            raise OptionError(
                f"Expected base settings with an application only. Received: {sorted(request.settings)} "
                f"with {request.base_name!r}."
            )
        if request.in_memory:
            if not isinstance(request.base, keras.Model):
                raise BaseError(
                    f"Expected base to be a name, a file or a keras.Model. Received: {type(request.base).__name__}."
                )
            return copied(request.base), None
        if request.weights in ("imagenet", "none"):
            raise OptionError(
                f"Expected no weights, or a weights file, with the model file {str(request.base)!r}, which "
                f"has its own. Received: weights={request.weights!r}."
            )
        return _model_file(Path(str(request.base))), None
    application = find_application(str(request.base))
    size = request.size or (application.image_size,) * 2
    settings: dict[str, Any] = {
        "include_top": False,
        "input_shape": (*size, 3),
        **request.settings,
        "weights": "imagenet" if request.weights in (None, "imagenet") else None,
    }
    known = set(inspect.signature(application.build).parameters)
    for name in request.settings:
        if name not in known or name in ("weights", "input_tensor", "input_shape"):
            possible = sorted(known - {"weights", "input_tensor", "input_shape"})
            raise OptionError(f"Expected a setting of {application.name}: {', '.join(possible)}. Received: {name!r}.")
    try:
        with _seeded(request.seed):
            return application.build(**settings), application
    except FeatcacheError:
        raise
    except Exception as error:  # Keras raises bare Exception where a download fails
        text = " ".join(str(error).split())
        if "URL fetch failure" in text:
            raise WeightsError(
                f"Expected to download the ImageNet weights of {application.name}. Received: no connection "
                "or no such file. Name a local file with --weights FILE, or --weights none for an untrained base."
            ) from None
        raise BaseError(f"Keras cannot build {application.name}: {text[:300]}") from None


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Make fresh weights depend on the seed alone: Keras draws each initialiser's seed from `random.randint`.

    Other threads (a dask worker's, for one) draw at the same time, and must not draw from the same numbers.
    """
    here, own, shared = threading.get_ident(), random.Random(seed), random.randint

    def randint(a: int, b: int) -> int:
        return (own.randint if threading.get_ident() == here else shared)(a, b)

    random.randint = randint
    try:
        yield
    finally:
        random.randint = shared


def _model_file(path: Path) -> Any:
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:
        raise BaseError(
            f"Expected a Keras model file (.keras or .h5) that loads in safe mode. Received: {str(path)!r}: "
            f"{_line(error)}"
        ) from None


def copied(model: Any) -> Any:
    """Return a copy with weights of its own, so that nothing done to it leaves a mark on the caller's model.

    Raises
    ------
    BaseError
        If it is neither a functional nor a sequential model.
    """
    import keras

    try:
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        _settle(copy)
    except Exception as error:
        raise BaseError(
            f"Expected a functional or sequential model. Received: {type(model).__name__}: {_line(error)}"
        ) from None
    return copy


def _input_shape(model: Any, request: Request) -> tuple[int, ...]:
    """Return (height, width, channels) or (height, width) of the images a network takes."""
    if not _is_graph(model):
        raise BaseError(
            f"Expected a functional or sequential Keras model. Received: {type(model).__name__}, whose "
            "layers cannot be told apart."
        )
    try:
        inputs = model.inputs
    except Exception:
        inputs = None
    if not inputs:
        raise BaseError(f"Expected a base with a known input shape. Received: {model.name!r}. Build it first.")
    if len(inputs) != 1:
        raise BaseError(f"Expected a base with one input. Received: {model.name!r} with {len(inputs)}.")
    shape = tuple(inputs[0].shape[1:])
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise BaseError(
            "Expected a base that takes images: (height, width), or with 1 or 3 channels. "
            f"Received: {model.name!r}, which takes {shape}."
        )
    size = request.size or shape[:2]
    if None in size:
        raise OptionError(f"Expected --image-size, as {model.name!r} takes images of any size. Received: none.")
    if any(fixed not in (None, given) for fixed, given in zip(shape[:2], size, strict=True)):
        raise OptionError(
            f"Expected the image size {shape[0]}x{shape[1]} of {model.name!r}. Received: {size[0]}x{size[1]}."
        )
    return (*(int(n) for n in size), *(int(n) for n in shape[2:]))


def _settled_preprocess(
    request: Request, cut: Any, application: Application | None, shape: tuple[int, ...]
) -> Preprocess:
    mode = request.preprocess
    if mode == "auto":
        if application:
            inside = request.settings.get("include_preprocessing", True)
            if application.preprocess == "none" and not inside:
                raise OptionError(
                    f"Expected --preprocess, as {application.name} was built without its own. Received: auto."
                )
            return application.preprocess
        if not any(type(layer).__name__ in ("Rescaling", "Normalization") for layer in _leaves(cut)):
            raise OptionError(
                f"Expected --preprocess none, caffe, torch, tf or rescale for {request.base_name!r}, which has "
                "no Rescaling or Normalization layer of its own. Received: auto."
            )
        return "none"
    if mode in ("caffe", "torch") and shape[2:] != (3,):
        raise OptionError(f"Expected three channels for --preprocess {mode}. Received: a base that takes {shape}.")
    return mode


# Cutting


def _is_graph(layer: Any) -> bool:
    """Whether a layer is a model whose layers can be called one by one."""
    import keras

    functional = isinstance(layer, keras.Model) and hasattr(layer, "operations")
    return functional or isinstance(layer, keras.Sequential)


@dataclass(frozen=True)
class _Call:
    """What calling one layer of a network gave: `output` is None where that has no one meaning."""

    layer: Any
    output: Any


def _traced(model: Any, wanted: Sequence[str] | None, shape: tuple[int, ...]) -> tuple[Any, dict[str, _Call]]:
    """Call a network's layers anew on a fresh input and note every output under its address.

    A nested model is opened only where a wanted address leads into it (None: everywhere), because the
    tensors of its own graph are not those it has inside the outer one.
    """
    import keras

    pixels = keras.Input(shape, name="pixels")
    calls: dict[str, _Call] = {}

    def run(graph: Any, tensor: Any, prefix: str) -> Any:
        outputs: dict[str, Any] = {}

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            address = prefix + layer.name
            opened = _is_graph(layer) and (wanted is None or any(name.startswith(address + "/") for name in wanted))
            output = run(layer, args[0], address + "/") if opened else layer(*args, **kwargs)
            once = address not in calls and hasattr(output, "shape")
            calls[address] = _Call(layer, output if once else None)
            outputs[layer.name] = output
            return output

        for layer in graph.layers:
            if isinstance(layer, keras.layers.InputLayer):
                calls[prefix + layer.name] = _Call(layer, tensor)
                outputs[layer.name] = tensor
        if isinstance(graph, keras.Sequential):
            name = graph.inputs[0].name  # it keeps its InputLayer to itself
            calls[prefix + name] = _Call(keras.layers.InputLayer(shape=tensor.shape[1:], name=name), tensor)
            for layer in graph.layers:
                tensor = call(layer, tensor)
            return tensor
        # Only its calls matter: the model that cloning returns may be rewired to inputs of its own.
        keras.models.clone_model(graph, input_tensors=tensor, clone_function=lambda layer: layer, call_function=call)
        results = [outputs[name] for name in graph.output_names]
        return results if len(results) > 1 else results[0]

    try:
        run(model, pixels, "")
    except Exception as error:
        raise BaseError(
            f"Expected a base that takes images of {shape}. Received: {model.name!r}: {_line(error)}"
        ) from None
    return pixels, calls


def _canonical_addresses(calls: Mapping[str, _Call]) -> dict[str, str]:
    """Return each address with automatic numbers counted from the network's own start."""
    siblings: dict[tuple[str, str], list[tuple[int, str]]] = {}
    own: dict[str, str] = {}
    for address, called in calls.items():
        prefix, _, name = address.rpartition("/")
        kind = _snake_case(type(called.layer).__name__)
        number = re.fullmatch(rf"{re.escape(kind)}(?:_(\d+))?", name)
        own[address] = name
        if number:
            siblings.setdefault((prefix, kind), []).append((int(number[1] or 0), address))
    for (_, kind), numbered in siblings.items():
        for rank, (_, address) in enumerate(sorted(numbered)):
            own[address] = f"{kind}_{rank}" if rank else kind

    def full(address: str) -> str:
        prefix = address.rpartition("/")[0]
        return f"{full(prefix)}/{own[address]}" if prefix else own[address]

    return {address: full(address) for address in calls}


def canonical_names(model: Any) -> dict[str, str]:
    """Return each layer of a network by name, with automatic numbers counted from its own start."""
    return _canonical_addresses({layer.name: _Call(layer, None) for layer in model.layers})


def fresh_weights(model: Any, seed: int) -> list[npt.NDArray[Any]]:
    """Return weights for a network as its initialisers draw them from a seed.

    Layers that only scale their inputs (`Normalization`) keep the statistics that they have.
    """
    import keras

    with _seeded(seed):
        fresh = keras.models.clone_model(model)
    for ours, theirs in zip(_leaves(fresh), _leaves(model), strict=True):
        if isinstance(theirs, keras.layers.Normalization):
            ours.set_weights(theirs.get_weights())
    weights: list[npt.NDArray[Any]] = fresh.get_weights()
    return weights


def _snake_case(name: str) -> str:
    """Return a class name as Keras writes it in automatic layer names."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _resolve(
    wanted: Sequence[str],
    calls: Mapping[str, _Call],
    shown: Mapping[str, str],
    canonical: Mapping[str, str],
    *,
    by_canonical_name: bool,
) -> list[str]:
    """Return the addresses that names mean, in the network's order, once each."""
    by_name = {name: address for address, name in canonical.items()}
    if not by_canonical_name:
        by_name |= {address: address for address in calls}
        by_name |= {name: address for address, name in shown.items()}
    chosen = set()
    for name in wanted or [shown[list(calls)[-1]]]:
        if name not in by_name:
            raise BaseError(f"Expected a layer of the base. Received: {name!r} ({nearest(name, shown.values())}).")
        if calls[by_name[name]].output is None:
            raise BaseError(f"Expected a layer with one output. Received: {name!r}, which is used more than once.")
        chosen.add(by_name[name])
    return [address for address in calls if address in chosen]


# Weights


def load_weights_by_name(model: Any, path: Path, names: Mapping[str, str]) -> None:
    """Load a weights file into a network, layer by layer name, all of it or not at all.

    Parameters
    ----------
    model : keras.Model
        Changed in place, once every layer with weights has been matched.
    path : Path
        Legacy ``.h5`` (weights or whole model), ``.weights.h5`` or ``.keras``.
    names : mapping
        Canonical name of every layer of the whole network, which may reach beyond `model`.

    Raises
    ------
    WeightsError
        If the file is Theano-ordered, or if for any layer with weights it has nothing, or tensors of
        another number or shape.
    """
    layers = [layer for layer in _leaves(model) if layer.weights]
    twice = sorted(name for name, n in Counter(layer.name for layer in layers).items() if n > 1)
    if twice:
        raise WeightsError(
            f"Expected layers that a file can be matched with by name. Received: a base in which {_several(twice)} "
            "occurs more than once. Load its weights with Keras and save it as one .keras file."
        )
    with _open_weights(path) as file:
        stored = _stored_weights(file, path)
        missing, odd, plan = [], [], []
        for layer in layers:
            name = _name_in_file(layer, names, stored)
            tensors = stored.get(name)
            variables = list(layer.trainable_weights) + list(layer.non_trainable_weights)
            if not tensors:
                missing.append(name)
                continue
            have, want = [tuple(t.shape) for t in tensors], [tuple(v.shape) for v in variables]
            if have != want:
                odd.append(f"{name} has {have}, expected {want}")
            plan.append((variables, tensors))
        if len(missing) == len(layers) and layers:
            raise WeightsError(
                f"Expected weights for {_several(missing)}. Received: {str(path)!r}, which has none of these "
                f"{len(layers)} layers (it has {_several(list(stored), 6)}). Is it for another base?"
            )
        if missing:
            raise WeightsError(
                f"Expected weights for all {len(layers)} layers up to the cut. Received: {str(path)!r}, which "
                f"lacks {_several(missing)}. Cut before them with --layer, or take another file."
            )
        if odd:
            raise WeightsError(
                f"Expected weights of the base's shapes. Received: {str(path)!r}, where {_several(odd, 3)}. "
                "Is it for other settings of the base (--base-set)?"
            )
        values = [[np.asarray(tensor) for tensor in tensors] for _, tensors in plan]
    for (variables, _), arrays in zip(plan, values, strict=True):
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
    _settle(model)


def _settle(model: Any) -> None:
    """Let layers that keep statistics (`Normalization`) use those that were just put into their weights."""
    for layer in _leaves(model):
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def _name_in_file(layer: Any, names: Mapping[str, str], stored: Mapping[str, Any]) -> str:
    """Return the name under which a file has a layer.

    Automatic numbers depend on what else the writing process had built (and started at 1 in Keras 2):
    where the file has as many of a kind as the network, they are matched in order.
    """
    kind = _snake_case(type(layer).__name__)
    numbered = re.compile(rf"{re.escape(kind)}(?:_(\d+))?")
    canonical = names.get(layer.name, layer.name)
    own = numbered.fullmatch(canonical)
    if own and numbered.fullmatch(layer.name):
        matches: list[tuple[int, str]] = sorted(
            (int(m[1] or 0), name) for name in stored if stored[name] and (m := numbered.fullmatch(name))
        )
        if len(matches) == sum(1 for name in names.values() if numbered.fullmatch(name)):
            return matches[int(own[1] or 0)][1]
    return canonical if canonical in stored else str(layer.name)


def _several(names: Sequence[str], most: int = 24) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _leaves(model: Any) -> Iterator[Any]:
    """Yield every layer of a network that is not itself a network."""
    for layer in model.layers:
        if _is_graph(layer):
            yield from _leaves(layer)
        else:
            yield layer


@contextlib.contextmanager
def _open_weights(path: Path) -> Iterator[Any]:
    import h5py

    try:
        content: Any = path
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(content, "r") as file:
            yield file
    except WeightsError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"Expected a sound Keras weights file (.h5, .weights.h5 or .keras). Received: {str(path)!r}: {_line(error)}"
        ) from None


def _stored_weights(file: Any, path: Path) -> dict[str, list[Any]]:
    """Return the file's tensors (still on disk) by layer name; none for a name that several layers have."""
    import h5py

    root = file.get("model_weights", file)
    backend = root.attrs.get("backend", b"")
    backend = backend.decode() if isinstance(backend, bytes) else str(backend)
    if backend == "theano" or re.search(r"(^|_)th_(kernels|dim_ordering)", path.name):
        raise WeightsError(
            f"Expected kernels in TensorFlow's order. Received: {str(path)!r}, which was written by Theano: its "
            "kernels are flipped. Take the file with 'tf_kernels' in its name."
        )
    by_place: dict[tuple[str, str], list[Any]] = {}
    layers = _text_attribute(root, "layer_names")
    for layer in layers:
        for name in _text_attribute(root[layer], "weight_names"):
            tensor = root[layer][name]
            inner = name.rpartition("/")[0].rpartition("/")[2]
            if inner and inner != layer:  # layers of a nested model lie side by side in the outer one's group
                by_place.setdefault((layer, inner), []).append(tensor)
            else:
                by_place.setdefault(("", layer), []).append(tensor)

    def visit(place: str, group: Any) -> None:
        if isinstance(group, h5py.Group) and "vars" in group and len(group["vars"]):
            name = group["vars"].attrs.get("name", group.attrs.get("name"))
            if name is not None:
                name = name.decode() if isinstance(name, bytes) else str(name)
                by_place[place, name] = [group["vars"][str(i)] for i in range(len(group["vars"]))]

    if not layers:
        file.visititems(visit)
    stored: dict[str, list[Any]] = {}
    for (_, name), tensors in by_place.items():
        stored[name] = [] if name in stored else tensors
    return stored


def _text_attribute(group: Any, name: str) -> list[str]:
    """Return a list of names that Keras may have split over ``name0``, ``name1``, …"""
    parts = [name] if name in group.attrs else []
    while f"{name}{len(parts)}" in group.attrs:
        parts.append(f"{name}{len(parts)}")
    values = [value for part in parts for value in group.attrs[part]]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


# Digests


def custom_layers(model: Any) -> list[str]:
    """Return the kinds of a network's layers that are not Keras' own, or that safe mode refuses."""
    kinds = {type(layer) for layer in _leaves(model)}
    own = {kind.__name__ for kind in kinds if not kind.__module__.startswith("keras.") or kind.__name__ == "Lambda"}
    return sorted(own)


def architecture_digest(model: Any) -> str:
    """Return SHA-256 of a network's structure, free of names, initialisers and training settings."""
    return hashlib.sha256(canonical_json(_structure(model.get_config())).encode()).hexdigest()


_IRRELEVANT = re.compile(
    r"(name|trainable|seed|module|build_config|compile_config|.*_(initializer|regularizer|constraint))"
)


def _structure(config: Any) -> Any:
    """Return a model's config with layers named by position, and without what decides no number."""
    position = {}
    if isinstance(config, Mapping) and isinstance(config.get("layers"), list):
        position = {layer.get("name"): f"#{i}" for i, layer in enumerate(config["layers"]) if "name" in layer}

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            kind = str(value.get("class_name"))
            if kind.endswith("DTypePolicy"):
                return {"class_name": kind, "config": value.get("config")}
            if kind in ("Functional", "Sequential") and value is not config:
                return {"class_name": kind, "config": _structure(value.get("config"))} | {
                    key: plain(value[key]) for key in ("inbound_nodes",) if key in value
                }
            if "keras_history" in value:
                source, *rest = value["keras_history"]
                return [position.get(source, source), *rest]
            return {str(k): plain(v) for k, v in value.items() if not _IRRELEVANT.fullmatch(str(k))}
        if isinstance(value, list | tuple):
            if (
                len(value) == 3
                and isinstance(value[0], str)
                and value[0] in position
                and all(isinstance(n, int) for n in value[1:])
            ):
                return [position[value[0]], *value[1:]]  # an entry of input_layers or output_layers
            return [plain(v) for v in value]
        return value

    return json.loads(json.dumps(plain(config), default=lambda thing: type(thing).__name__))


def weights_digest(model: Any) -> str:
    """Return SHA-256 over dtype, shape and values of every weight tensor, in the network's order."""
    total = hashlib.sha256()
    for layer in model.layers:
        for variable in layer.weights:
            tensor: npt.NDArray[Any] = np.ascontiguousarray(variable.numpy())
            total.update(f"{tensor.dtype.str} {tensor.shape}\n".encode())
            total.update(tensor.data if tensor.size else b"")
    return total.hexdigest()


def _line(error: object) -> str:
    """Return an error's text on one line, at a readable length."""
    return " ".join(str(error).split())[:300]
