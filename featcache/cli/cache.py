"""``info``, ``verify``, ``gc`` and ``export-cache``: looking at a cache, and after it."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featcache.cli.app import DONE, FAILED, Cache, Outcome, command, newest, printable, skipped_text
from featcache.display import plural, text_table
from featcache.errors import mending

if TYPE_CHECKING:
    from featcache.cache import FeatureCache
    from featcache.cache.verification import Recomputed
from featcache.files.reading import read_json
from featcache.recipe import Recipe

_NAMES = 20
"""Of divided groups, in JSON."""


@command("info", example="featcache info cache/photos-vgg19-1a2b3c4d")
def info(cache: Cache = None) -> Outcome:
    """Show what a cache holds."""
    from featcache.cache import FeatureCache

    opened = FeatureCache(cache or newest())
    size = sum(shard.size for shard in opened.shards.values())
    heads = _heads(opened)
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
        ["rows", f"{opened.rows}, with {plural(opened.views, 'view')} of each training image"],
        [
            "missing",
            f"{plural(opened.missing, 'row')}: run extract again to compute the rest" if opened.missing else "none",
        ],
        ["classes", f"{len(opened.class_names)}: {', '.join(opened.class_names[:12])}"],
        ["layers", ", ".join(f"{n} {'x'.join(map(str, s))}" for n, s in opened.layers.items())],
        ["on disk", f"{size / 1e6:.1f} MB in {plural(len(opened.shards), 'shard')}"],
        ["heads", "; ".join(_head(opened.path / "heads" / name) for name in heads) or "none"],
        *_base(opened.description.get("request"), recipe),
        *_origin(recipe),
        ["recipe", recipe.fingerprint],
    ]
    text = text_table([[name, printable(value)] for name, value in rows])
    return Outcome(data, "\n".join(part for part in [text, skipped_text(opened.skipped)] if part))


def _base(asked: dict[str, Any] | None, recipe: Recipe) -> list[list[str]]:
    """Say which base it is, and whose weights it has."""
    if recipe.spec is not None:
        return []
    if asked is None:
        return [["base", "a model in memory"]]
    words = recipe.words(asked)
    return [["base", words["base"]], ["weights", words["weights"]]]


def _heads(cache: FeatureCache) -> list[str]:
    return sorted(path.parent.name for path in (cache.path / "heads").glob("[!.]*/head.json"))


def _head(folder: Path) -> str:
    """Return a head's name with its accuracy on validation, as far as its card can be read."""
    try:
        metrics = read_json(folder / "head.json")["metrics"]["validation"]
        return f"{folder.name} {metrics['accuracy']:.4f} (n={metrics['n']})"
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name


def _divided(names: list[str], left_out: dict[str, int]) -> str:
    """Return which groups are in more than one split, and how many images that leaves out of scores."""
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    counts = ", ".join(f"{count} {split}" for split, count in left_out.items() if count) or "no"
    return f"{len(names)} have images in more than one split ({shown}); {counts} images do not count in scores"


def _read_with(options: dict[str, Any]) -> str:
    """Return the options of a source as the command line takes them."""
    from featcache.options import words
    from featcache.sources.options import SourceOptions

    return shlex.join(words(SourceOptions.from_dict(options)))


def _origin(recipe: Recipe) -> list[list[str]]:
    """Say how pixels became features."""
    from featcache.recipe import fitting

    if recipe.spec is not None:
        return [["features", f"from elsewhere, stored as {recipe.dtype}: {json.dumps(recipe.spec)}"]]
    size = "x".join(map(str, recipe.image_size))
    pixels = f"{size}, {fitting(recipe)}, {recipe.interpolation}, preprocess {recipe.preprocess}"
    features = f"{recipe.pooling} pooling, stored as {recipe.dtype}, {recipe.runtime} {recipe.precision}"
    return [["pixels", pixels], ["features", features]]


@command("list", example="featcache list cache")
def list_all(folder: Annotated[Path, typer.Argument()] = Path("cache")) -> Outcome:
    """List the caches in a folder. Images, heads, base, and in words what differs between their recipes.

    folder: Where the caches are.
    """
    from featcache.cache.overview import differing, list_caches

    caches = list_caches(folder)
    words = differing(caches)
    data = [
        {
            "cache": str(cache.path),
            "source": cache.source["location"],
            "images": len(cache),
            "missing": cache.missing,
            "heads": _heads(cache),
            "recipe": said,
        }
        for cache, said in zip(caches, words, strict=True)
    ]
    rows = [
        [
            str(cache.path),
            plural(len(cache), "image") + (f", {plural(cache.missing, 'row')} missing" if cache.missing else ""),
            plural(len(_heads(cache)), "head"),
            ", ".join(value if name == "base" else f"{name} {value}" for name, value in said.items()),
        ]
        for cache, said in zip(caches, words, strict=True)
    ]
    return Outcome({"caches": data}, text_table([[printable(cell) for cell in row] for row in rows]))


@command("verify", example="featcache verify cache/photos-vgg19-1a2b3c4d --fix")
def verify(
    cache: Cache = None,
    fix: Annotated[bool, typer.Option("--fix")] = False,
    recompute: Annotated[int, typer.Option(min=0, metavar="N")] = 0,
    seed: int = 0,
) -> Outcome:
    """Check a cache. Reads all of it, and compares every checksum and every row.

    fix: Drop what is broken, so that extract computes it again; rebuild a lost manifest or recipe.
    recompute: Also compute the features of N images again and compare them. Reads the source and loads the base.
    seed: Draws these images.
    """
    from featcache.extraction.recomputation import verify as run

    report = run(cache or newest(), fix=fix, recompute=recompute, seed=seed)
    lines = [
        f"{plural(report.shards, 'shard')}, {plural(report.rows, 'row')}, {plural(report.blocks, 'block')}, "
        f"{report.bytes / 1e6:.1f} MB: {plural(len(report.problems), 'problem')}"
    ]
    lines += [f"fixed: {one.where}: {one.what}" for one in report.fixed]
    lines += [f"  {one.where}: {one.what}" for one in report.problems]
    if report.orphans:
        lines.append(f"{len(report.orphans)} shard files of a stopped run are in no manifest; gc removes them")
    new = report.recomputed
    differing = new is not None and bool(new.differing) and not new.fixed
    if new is not None:
        lines += _recomputed(new)
    elif recompute:
        lines.append("no features were computed again, as the cache has problems")
    if report.fixed or (new is not None and new.fixed):
        lines.append("run extract again: it computes what was dropped")
    error = ""
    if report.problems:
        error = (
            f"{plural(len(report.problems), 'problem')} found in {str(report.cache)!r}. "
            f"Run {mending(report.cache)}, then extract into it again."
        )
    elif new is not None and differing:
        error = (
            f"{len(new.differing)} images of {str(report.cache)!r} have rows that are not theirs. Run the same command "
            "with --fix, then `featcache extract` again."
        )
    text = "\n".join(printable(line) for line in lines)
    sound = not report.problems and not differing
    return Outcome({**asdict(report), "sound": sound}, text, DONE if sound else FAILED, error)


def _recomputed(found: Recomputed) -> list[str]:
    """Return the lines that say what computing features again found."""
    lines = [
        f"{plural(found.rows, 'row')} of {plural(found.images, 'image')} computed again: the largest difference is "
        f"{found.largest_difference:.2g} of the largest feature, different images: {len(found.differing)}"
    ]
    lines += [f"  {'dropped' if found.fixed else 'differs'}: {path}" for path in found.differing]
    lines += [f"  changed or gone since it was extracted, which is no damage: {path}" for path in found.changed]
    return [*lines, found.note] if found.note else lines


@command("gc", example="featcache gc --dry-run")
def gc(cache: Cache = None, dry_run: Annotated[bool, typer.Option("--dry-run")] = False) -> Outcome:
    """Remove what is not needed any more. Rows of images that left the source, and files that stopped runs left.

    dry_run: Only say what would be removed.
    """
    from featcache.cache.compaction import gc as run

    report = run(cache or newest(), dry_run=dry_run)
    text = (
        f"{plural(report.rows_dropped, 'row')} and {plural(len(report.files_removed), 'file')} "
        f"{'would be' if dry_run else 'were'} removed, {plural(report.shards_rewritten, 'shard')} rewritten, "
        f"{report.bytes_freed / 1e6:.1f} MB freed; {plural(report.rows_kept, 'row')} kept"
    )
    return Outcome(asdict(report), text)


@command("export-cache", example="featcache export-cache --to features.npz")
def export_cache(
    cache: Cache = None,
    to: Annotated[Path, typer.Option(metavar="FILE.h5|FILE.npz")] = ...,  # type: ignore[assignment]
    layer: list[str] | None = None,
) -> Outcome:
    """Write features and labels to one file. X, y, paths and class names; HDF5 or npz, and read back to compare.

    to: The file to write.
    layer: Which features; repeat for several. Default: all.
    """
    from featcache.cache.export import export_cache as run

    report = run(cache or newest(), to, layers=layer or ())
    arrays = [f"{name} {'x'.join(map(str, shape))}" for name, shape in report.arrays.items()]
    text = "\n".join(printable(line) for line in [*arrays, f"{report.bytes / 1e6:.1f} MB in {report.path}"])
    return Outcome(asdict(report), text)
