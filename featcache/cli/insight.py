"""``report``, ``audit``, ``neighbors`` and ``advise``: what people look at."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from featcache.cli.app import Cache, Outcome, command, newest, printable, progress
from featcache.display import text_table
from featcache.errors import OptionError

if TYPE_CHECKING:
    from featcache.insight.advice import Advice
    from featcache.insight.audit import Cleaned

Layer = Annotated[str | None, typer.Option(help="Which features. Default: the deepest layer.")]


@command("audit", example="featcache audit cache/photos-vgg19-1a2b3c4d --out findings.csv")
def audit(
    cache: Cache = None,
    layer: Layer = None,
    labels: bool = True,
    out: Path | None = None,
    page: Annotated[Path | None, typer.Option("--report", metavar="PAGE.html")] = None,
    apply: Annotated[Path | None, typer.Option(metavar="DROP.csv")] = None,
    top: Annotated[int, typer.Option(min=1)] = 10,
    most: Annotated[int, typer.Option(min=1)] = 1_000_000,
    confirm: Annotated[Path | None, typer.Option(metavar="CACHE")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> Outcome:
    """Find bad data, worst first. Copies, leaks between splits, wrong labels, unusable and odd images, rare classes.

    labels: Look for label errors, which trains five heads and needs cleanlab: pip install 'featcache[audit]'.
    out: Write all findings to a .csv file, a line for each image; with --apply, the cleaned source.
    page: Write them with pictures, in the cache's report; see report --audit.
    apply: Look for nothing; write the source to --out as a table (path,label,split,group) without the images that
        this file names in its column path. With a column action, drop drops, relabel takes the label in new_label,
        keep or nothing keeps: findings of --out with actions filled in. Images are never touched.
    top: How many findings of each kind to show.
    most: Compare at most this many images, drawn at random: time grows with the square.
    confirm: A cache of the same images with another base: relabelling is suggested only for labels that the features
        of both contradict, with the same class. Without it: look.
    seed: For folds and samples.
    """
    from featcache.insight import audit as auditing

    chosen = cache or newest()
    if apply is not None:
        if out is None:
            raise OptionError("--apply writes a table, so it needs --out FILE.csv. Add it.")
        if page is not None:
            raise OptionError("--apply and --report cannot be used together. Write the report first, without --apply.")
        return _cleaned(auditing.clean(chosen, apply, out))
    if out is not None and out.suffix.lower() != ".csv":
        raise OptionError(f"--out must be a .csv file. Received: {str(out)!r}.")
    if page is not None:
        from featcache.insight.report.page import check_installed

        check_installed()
    with progress("comparing images") as shown:
        report = auditing.audit(
            chosen, layer=layer, labels=labels, most=most, confirm=confirm, seed=seed, progress=shown
        )
    text = report.to_text(top)
    if out is not None:
        from featcache.files.publishing import publish

        out.parent.mkdir(parents=True, exist_ok=True)
        publish(out, report.to_csv().encode("utf-8", "surrogateescape"))
        text += f"\nall findings in {printable(str(out))}"
    if page is not None:
        from featcache.insight.report import report as write_report

        with progress("reading images") as shown:
            write_report(chosen, out=page, audit=report, progress=shown)
        text += f"\nthe worst with pictures in {printable(str(page))}"
    written = {name: None if path is None else str(path) for name, path in (("out", out), ("report", page))}
    return Outcome({**report.to_dict(), **written}, text)


def _cleaned(made: Cleaned) -> Outcome:
    line = f"{made.images:,} images in {printable(str(made.path))}: {made.dropped:,} dropped, "
    line += f"{made.relabelled:,} relabelled"
    line += f", {len(made.gone):,} whose files are gone left out" if made.gone else ""
    line += f"; new classes: {', '.join(map(printable, made.new_classes))}" if made.new_classes else ""
    data = asdict(made)
    return Outcome({"out": str(data.pop("path")), **data}, line)


@command("neighbors", example="featcache neighbors cache/photos-vgg19-1a2b3c4d cat.jpg --png similar.png")
def neighbors(
    cache: Annotated[Path, typer.Argument()],
    image: Annotated[str, typer.Argument()],
    top_k: Annotated[int, typer.Option(min=1)] = 10,
    layer: Layer = None,
    png: Path | None = None,
) -> Outcome:
    """Show the images most similar to one. By the cosine of their features.

    cache: A cache.
    image: A file, or the path of an image of the cache.
    top_k: How many.
    png: Write a contact sheet of them, the image first.
    """
    from featcache.insight.neighbors import contact_sheet
    from featcache.insight.neighbors import neighbors as run

    if png is not None and png.suffix.lower() != ".png":
        raise OptionError(f"--png must be a .png file. Received: {str(png)!r}.")
    found = run(cache, image, top_k=top_k, layer=layer)
    if png is not None:
        contact_sheet(cache, found, png)
    rows = [["similarity", "label", "split", "path"]]
    rows += [
        [f"{one.similarity:.4f}", printable(one.label or ""), one.split or "", printable(one.path)]
        for one in found.neighbors
    ]
    data = {**found.to_dict(), "png": None if png is None else str(png)}
    return Outcome(data, text_table(rows, right={0}) + (f"\n{printable(str(png))}" if png is not None else ""))


@command("advise", example="featcache advise cache/photos-vgg19-1a2b3c4d")
def advise(cache: Cache = None, seed: Annotated[int, typer.Option(min=0)] = 0) -> Outcome:
    """Say what to do next, and why. More data, another layer, augmentation or fine-tuning; and what cannot be told.

    seed: For everything random.
    """
    from featcache.insight.advice import advise as run

    with progress("training heads", "heads") as shown:
        found = run(cache or newest(), seed=seed, progress=shown)
    return Outcome(found.to_dict(), _advice(found))


def _advice(found: Advice) -> str:
    """Return layers, learning curve, ways to go on, and the recommendation last, where it is seen."""
    from featcache.heads.showing import accuracy_interval

    held = found.held_out
    layers = [["layer", "accuracy", "95 %"]]
    layers += [[printable(one["layer"]), f"{one['accuracy']:.4f}", accuracy_interval(one)] for one in found.layers]
    parts = [f"ridge heads on {held['images']:,} images held out of {held['from']}, chance {held['chance']:.4f}"]
    parts.append(text_table(layers, right={1, 2}))
    if found.curve:
        rows = [["images", "accuracy", "sd of draws", "95 %", ""]]
        for one in found.curve:
            spread = f"{one['accuracy_sd']:.4f}" if one["draws"] > 1 else ""
            rows.append([f"{one['images']:,}", f"{one['accuracy']:.4f}", spread, accuracy_interval(one), "measured"])
        for one in found.extrapolation:
            gain = "{:+.4f} to {:+.4f}".format(*one["gain_ci95"])
            what = f"extrapolated gain of {one['times']} times the images"
            rows.append([f"{one['images']:,}", f"{one['accuracy']:.4f}", "", gain, what])
        parts.append(text_table(rows, right={0, 1, 2, 3}))
    for way in found.ways:
        parts.append(f"{way.name}: {_EXPECTED[way.expected]}: {printable(way.reason)}")
        if way.command and way.command != found.command:
            parts.append(f"  {printable(way.command)}")
    parts += [f"note: {printable(note)}" for note in found.notes]
    parts.append(f"recommended: {printable(found.recommendation)}")
    parts += [f"  because {printable(reason)}" for reason in found.reasons]
    return "\n".join([*parts, *([f"next: {printable(found.command)}"] if found.command else [])])


_EXPECTED = {"helps": "can be expected to help", "no": "not expected to help", "unknown": "not known"}


@command("report", example="featcache report cache/photos-vgg19-1a2b3c4d/heads/logreg-block5_pool")
def report(
    subject: Annotated[Path, typer.Argument(metavar="MODEL|CACHE")],
    out: Path | None = None,
    png: Annotated[Path | None, typer.Option(metavar="DIR")] = None,
    projection: Annotated[Literal["tsne", "pca"], typer.Option("--map")] = "tsne",
    audit: Annotated[bool, typer.Option("--audit")] = False,
) -> Outcome:
    """Write one HTML page of answers. How good it is, where it fails, what it was made of.

    subject: The folder of a head, of a fine-tuned model, or of a cache, whose best head answers.
    out: The HTML file. Default: report.html in that folder.
    png: Write the charts as PNG files, too.
    projection: What lays the map of the features out.
    audit: Show what audit finds in the cache, too, with pictures: time grows with the square.
    """
    from featcache.insight.report import report as write_report

    with progress("comparing and reading images" if audit else "reading images") as shown:
        found = write_report(subject, out=out, png=png, projection=projection, audit=audit, progress=shown)
    data: dict[str, Any] = {**asdict(found), "path": str(found.path), "pngs": [str(path) for path in found.pngs]}
    lines = [f"{printable(str(found.path))}: {found.bytes / 1e6:.1f} MB, {', '.join(found.sections)}"]
    if found.accuracy is not None:
        lines.append("accuracy {accuracy:.4f} on {n} {split} images".format(**found.accuracy))
    if found.findings is not None:
        counts = [f"{count} {kind}" for kind, count in found.findings.items() if count]
        lines.append(f"audit: {', '.join(counts) or 'nothing found'}")
    lines += map(printable, found.notes)
    lines += [printable(str(path)) for path in found.pngs]
    return Outcome(data, "\n".join(lines))
