"""``verify``, ``gc`` and ``export-cache``: looking after a cache."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from featcache.cli.app import DONE, FAILED, Outcome, command, newest, printable


@command("verify", example="featcache verify cache/photos-vgg19-1a2b3c4d --fix")
def verify(
    cache: Annotated[Path | None, typer.Argument(help="A cache. Default: the newest under cache/.")] = None,
    fix: Annotated[bool, typer.Option(
        "--fix", help="Drop what is broken, so that extract computes it again; rebuild a lost manifest or recipe."
    )] = False,
) -> Outcome:  # fmt: skip
    """Check a cache. Reads all of it, and compares every checksum and every row."""
    from featcache.cache.care import verify as run

    report = run(cache or newest(), fix=fix)
    lines = [
        f"{report.shards} shards, {report.rows} rows, {report.blocks} blocks, {report.bytes / 1e6:.1f} MB: "
        f"{len(report.problems)} problems"
    ]
    lines += [f"fixed: {one.where}: {one.what}" for one in report.fixed]
    lines += [f"  {one.where}: {one.what}" for one in report.problems]
    if report.orphans:
        lines.append(f"{len(report.orphans)} shard files of a stopped run are in no manifest; gc removes them")
    if report.fixed:
        lines.append("run extract again: it computes what was dropped")
    error = ""
    if report.problems:
        error = (
            f"{len(report.problems)} problems were found in {str(report.cache)!r}. "
            "Run `featcache verify --fix`, then `featcache extract` again."
        )
    text = "\n".join(printable(line) for line in lines)
    return Outcome({**asdict(report), "sound": not report.problems}, text, FAILED if report.problems else DONE, error)


@command("gc", example="featcache gc --dry-run")
def gc(
    cache: Annotated[Path | None, typer.Argument(help="A cache. Default: the newest under cache/.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> Outcome:
    """Remove what is not needed any more. Rows of images that left the source, and files that stopped runs left."""
    from featcache.cache.compaction import collect

    report = collect(cache or newest(), dry_run=dry_run)
    text = (
        f"{report.rows_dropped} rows and {len(report.files_removed)} files "
        f"{'would be' if dry_run else 'were'} removed, {report.shards_rewritten} shards rewritten, "
        f"{report.bytes_freed / 1e6:.1f} MB freed; {report.rows_kept} rows stay"
    )
    return Outcome(asdict(report), text)


@command("export-cache", example="featcache export-cache --to features.npz")
def export_cache(
    cache: Annotated[Path | None, typer.Argument(help="A cache. Default: the newest under cache/.")] = None,
    to: Annotated[Path, typer.Option(metavar="FILE.h5|FILE.npz", help="The file to write.")] = ...,  # type: ignore[assignment]
    layer: Annotated[list[str] | None, typer.Option(help="Which features; repeat for several. Default: all.")] = None,
) -> Outcome:
    """Write features and labels to one file. X, y, paths and class names; HDF5 or npz, and read back to compare."""
    from featcache.cache.export import export_cache as run

    report = run(cache or newest(), to, layers=layer or ())
    arrays = [f"{name} {'x'.join(map(str, shape))}" for name, shape in report.arrays.items()]
    text = "\n".join(printable(line) for line in [*arrays, f"{report.bytes / 1e6:.1f} MB in {report.path}"])
    return Outcome(asdict(report), text)
