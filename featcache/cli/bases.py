"""``bases`` and ``layers``: what can be cut, and where."""

from __future__ import annotations

from dataclasses import asdict

from featcache.cli.app import Outcome, command, printable
from featcache.display import plural, text_table
from featcache.options import LayersOptions, subset


@command("bases", example="featcache bases")
def bases() -> Outcome:
    """List the applications of the installed Keras."""
    from featcache.bases import applications

    found = applications().values()
    data = {"bases": [{"name": a.name, "preprocess": a.preprocess, "image_size": a.image_size} for a in found]}
    rows = [["base", "preprocess", "image size"], *([a.name, a.preprocess, str(a.image_size)] for a in found)]
    return Outcome(data, text_table(rows, right={2}))


@command("layers", example="featcache layers vgg19 --image-size 256")
def layers(options: LayersOptions) -> Outcome:
    """List the layers a base can be cut at. Type, output shape, weights, and bytes per image unpooled."""
    from featcache.bases import layers_of
    from featcache.recipe import Request

    request = subset(options, Request)
    found = layers_of(request)
    total = sum(layer.parameters for layer in found)
    rows = [["layer", "type", "output", "weights", "parameters", "bytes/image"]]
    for layer in found:
        weights = " ".join("x".join(map(str, shape)) for shape in layer.weight_shapes)
        output = "x".join("?" if n is None else str(n) for n in layer.output_shape)
        size = "?" if layer.bytes_per_image is None else f"{layer.bytes_per_image:,}"
        rows.append([printable(layer.address), layer.type, output, weights, f"{layer.parameters:,}", size])
    text = f"{text_table(rows, right={4, 5})}\n{total:,} parameters in {plural(len(found), 'layer')}"
    return Outcome({"base": options.base, "layers": [asdict(layer) for layer in found], "parameters": total}, text)
