"""``report``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from featcache.cli.app import Outcome, command, printable, progress


@command("report", example="featcache report cache/photos-vgg19-1a2b3c4d/heads/logreg-block5_pool")
def report(
    subject: Annotated[Path, typer.Argument(
        metavar="MODEL|CACHE",
        help="The folder of a head, of a fine-tuned model, or of a cache, whose best head answers.",
    )],
    out: Annotated[Path | None, typer.Option(
        help="The HTML file. Default: report.html in that folder."
    )] = None,
    png: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the charts as PNG files, too.")] = None,
    projection: Annotated[Literal["tsne", "pca"], typer.Option(
        "--map", help="What lays the map of the features out."
    )] = "tsne",
    audit: Annotated[bool, typer.Option(
        "--audit", help="Show what audit finds in the cache, too, with pictures: time grows with the square."
    )] = False,
) -> Outcome:  # fmt: skip
    """Write one HTML page of answers. How good it is, where it fails, what it was made of."""
    from featcache.report import write_report

    with progress("comparing and reading images" if audit else "reading images") as shown:
        found = write_report(subject, out=out, png=png, projection=projection, audit=audit, progress=shown)
    data: dict[str, Any] = {
        **asdict(found),
        "path": str(found.path),
        "pngs": [str(path) for path in found.pngs],
    }
    lines = [f"{printable(str(found.path))}: {found.bytes / 1e6:.1f} MB, {', '.join(found.sections)}"]
    if found.accuracy is not None:
        lines.append("accuracy {accuracy:.4f} on {n} {split} images".format(**found.accuracy))
    if found.findings is not None:
        counts = [f"{count} {kind}" for kind, count in found.findings.items() if count]
        lines.append(f"audit: {', '.join(counts) or 'nothing found'}")
    lines += map(printable, found.notes)
    lines += [printable(str(path)) for path in found.pngs]
    return Outcome(data, "\n".join(lines))
