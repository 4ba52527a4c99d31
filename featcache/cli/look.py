"""``bases``, ``layers`` and ``info``: what there is."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from featcache.cli.app import Outcome, command, newest, printable, skipped_text, table
from featcache.options import LayersOptions, subset, words
from featcache.recipe import Recipe, fitting

_NAMES = 20
"""Of divided groups, in JSON."""


@command("bases", example="featcache bases")
def bases() -> Outcome:
    """List the applications of the installed Keras."""
    from featcache.bases import applications

    found = applications().values()
    data = {"bases": [{"name": a.name, "preprocess": a.preprocess, "image_size": a.image_size} for a in found]}
    rows = [["base", "preprocess", "image size"], *([a.name, a.preprocess, str(a.image_size)] for a in found)]
    return Outcome(data, table(rows, right={2}))


@command("layers", example="featcache layers vgg19 --image-size 256")
def layers(options: LayersOptions) -> Outcome:
    """List the layers a base can be cut at. Type, output shape, weights, and bytes per image unpooled."""
    from featcache.bases import list_layers
    from featcache.recipe import Request

    request = subset(options, Request)
    found = list_layers(request)
    total = sum(layer.parameters for layer in found)
    rows = [["layer", "type", "output", "weights", "parameters", "bytes/image"]]
    for layer in found:
        weights = " ".join("x".join(map(str, shape)) for shape in layer.weight_shapes)
        output = "x".join("?" if n is None else str(n) for n in layer.output_shape)
        size = "?" if layer.bytes_per_image is None else f"{layer.bytes_per_image:,}"
        rows.append([printable(layer.address), layer.type, output, weights, f"{layer.parameters:,}", size])
    text = f"{table(rows, right={4, 5})}\n{total:,} parameters in {len(found)} layers"
    return Outcome({"base": options.base, "layers": [asdict(layer) for layer in found], "parameters": total}, text)


@command("info", example="featcache info cache/photos-vgg19-1a2b3c4d")
def info(
    cache: Annotated[Path | None, typer.Argument(help="A cache. Default: the newest under cache/.")] = None,
) -> Outcome:
    """Show what a cache holds."""
    from featcache.cache import FeatureCache

    opened = FeatureCache(cache or newest())
    size = sum(shard.size for shard in opened.shards.values())
    heads = sorted(path.parent.name for path in (opened.path / "heads").glob("[!.]*/head.json"))
    divided = opened.divided_groups
    left_out = {split: int(opened.left_out(split)[1].sum()) for split in opened.splits if divided and split != "train"}
    data = {
        "cache": str(opened.path),
        "recipe": opened.recipe.to_dict(),
        "fingerprint": opened.recipe.fingerprint,
        "source": opened.source,
        "images": len(opened),
        "rows": opened.rows,
        "views": opened.views,
        "missing": opened.missing,
        "skipped": opened.skipped,
        "splits": opened.splits,
        "divided_groups": {"count": len(divided), "names": divided[:_NAMES], "left_out": left_out},
        "classes": opened.class_names,
        "layers": {name: list(shape) for name, shape in opened.layers.items()},
        "shards": len(opened.shards),
        "bytes": size,
        "heads": heads,
        "request": opened.description.get("request"),
        "versions": opened.description.get("versions"),
    }
    recipe = opened.recipe
    rows = [
        ["cache", str(opened.path)],
        ["source", opened.source["location"] or "unknown: run extract, which lists it again"],
        *([["read with", _read_with(opened.source["options"])]] if "options" in opened.source else []),
        ["images", f"{len(opened)} ({', '.join(f'{n} {split}' for split, n in opened.splits.items()) or 'none'})"],
        *([["divided groups", _divided(divided, left_out)]] if divided else []),
        ["rows", f"{opened.rows}, {opened.views} views of each training image"],
        ["missing", f"{opened.missing} rows: run extract again to go on" if opened.missing else "none"],
        ["classes", f"{len(opened.class_names)}: {', '.join(opened.class_names[:12])}"],
        ["layers", ", ".join(f"{n} {'x'.join(map(str, s))}" for n, s in opened.layers.items())],
        ["on disk", f"{size / 1e6:.1f} MB in {len(opened.shards)} shards"],
        ["heads", ", ".join(heads) or "none"],
        *_origin(recipe),
        ["recipe", recipe.fingerprint],
    ]  # fmt: skip
    text = table([[name, printable(value)] for name, value in rows])
    return Outcome(data, "\n".join(part for part in [text, skipped_text(opened.skipped)] if part))


def _divided(names: list[str], left_out: dict[str, int]) -> str:
    """Return which groups are in more than one split, and how many images that leaves out of scores."""
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    counts = ", ".join(f"{count} {split}" for split, count in left_out.items() if count) or "no"
    return f"{len(names)} have images in more than one split ({shown}); {counts} images do not count in scores"


def _read_with(options: dict[str, Any]) -> str:
    """Return the options of a source as the command line takes them."""
    from featcache.sources import SourceOptions

    return shlex.join(words(SourceOptions.from_dict(options)))


def _origin(recipe: Recipe) -> list[list[str]]:
    """Say how pixels became features."""
    if recipe.spec is not None:
        return [["features", f"from elsewhere, stored as {recipe.dtype}: {json.dumps(recipe.spec)}"]]
    return [
        ["pixels", f"{recipe.image_size[0]}x{recipe.image_size[1]}, {fitting(recipe)}, {recipe.interpolation}, "
                   f"preprocess {recipe.preprocess}"],
        ["features", f"{recipe.pooling} pooling, stored as {recipe.dtype}, {recipe.runtime} {recipe.precision}"],
    ]  # fmt: skip
