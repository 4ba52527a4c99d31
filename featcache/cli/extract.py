"""``extract``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from featcache.cli import supervision
from featcache.cli.app import DONE, SKIPPED, Outcome, command, log, printable, progress, skipped_text
from featcache.display import plural
from featcache.errors import OptionError
from featcache.options import ExtractOptions, subset
from featcache.system.cpus import pass_side_by_side

if TYPE_CHECKING:
    from featcache.extraction.extracting import ExtractionPlan, ExtractionReport, PartReport


@command("extract", example="featcache extract photos/ --base mobilenetv2 --pooling avg")
def extract(
    options: ExtractOptions,
    part: Annotated[str | None, typer.Option(metavar="I/N", rich_help_panel="Running")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", rich_help_panel="Running")] = False,
) -> Outcome:
    """Run a frozen base over images, once. What the cache has already is not computed again.

    part: Compute the I-th of N parts only, for job arrays. A last extract without it commits all of them.
    dry_run: Say what would be done, and write nothing.
    """
    from featcache.extraction.extracting import Extraction

    passes = pass_side_by_side() if options.engine == "local" else 1
    extraction = subset(options, Extraction, passes=passes, on_culprit=supervision.culprit_found)
    if dry_run:
        return _planned(extraction.plan())
    with progress("extracting") as shown:
        extraction = replace(extraction, progress=shown)
        if part is not None:
            return _published(extraction.run_part(*_part(part)))
        result = extraction.run()
    report = result.report
    if report.profile is not None:
        log.info("%s", _where_the_time_went(report))
    for text in report.warnings:
        log.warning("%s", text)
    data = {
        "cache": str(report.cache),
        "recipe": result.recipe.fingerprint,
        **{name: getattr(report, name) for name in ("images", "rows", "computed", "reused", "skipped")},
        "layers": {name: list(shape) for name, shape in result.layers.items()},
        "classes": result.class_names,
        "splits": result.splits,
        **{name: getattr(report, name) for name in ("seconds", "images_per_second", "bytes", "warnings", "profile")},
    }
    splits = ", ".join(f"{n} {split}" for split, n in result.splits.items()) or "none of them readable"
    layers = _shapes(result.layers)
    lines = [
        f"{plural(report.images, 'image')} ({splits}) of {plural(len(result.class_names), 'class')}: {report.computed} "
        f"{'rows ' if options.views else ''}computed, {report.reused} reused, {len(report.skipped)} skipped in "
        f"{report.seconds:.1f} s",
        f"{layers}; {report.bytes / 1e6:.1f} MB in {printable(str(report.cache))}",
        skipped_text(report.skipped),
    ]
    return Outcome(data, "\n".join(line for line in lines if line), SKIPPED if report.skipped else DONE)


def _shapes(layers: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in layers.items())


def _published(report: PartReport) -> Outcome:
    text = (
        f"part {report.part}/{report.of}: {plural(report.images, 'image')} in {plural(report.tasks, 'task')}, "
        f"{plural(report.rows, 'row')}, {len(report.skipped)} skipped in {report.seconds:.1f} s; extract without "
        f"--part commits them to {printable(str(report.cache))}"
    )
    return Outcome(asdict(report), text, SKIPPED if report.skipped else DONE)


def _where_the_time_went(report: ExtractionReport) -> str:
    from featcache.extraction.profiling import AHEAD, STEPS

    assert report.profile is not None
    seconds, bottleneck = report.profile["seconds"], report.profile["bottleneck"]
    own = ", ".join(f"{name} {seconds[name]:.1f} s" for name in STEPS)
    ahead = ", ".join(f"{name} {seconds[name]:.1f} s" for name in AHEAD)
    if not any(seconds.values()):
        return f"profile: nothing to compute in {report.seconds:.1f} s"
    return f"profile of {report.seconds:.1f} s: {own}; ahead, in all threads: {ahead}; bottleneck: {bottleneck}"


def _planned(plan: ExtractionPlan) -> Outcome:
    if not plan.rows_to_compute:
        return Outcome({**asdict(plan), "dry_run": True}, f"nothing to compute: {printable(str(plan.cache))}")
    text = (
        f"{plural(plan.images, 'image')}, {plural(plan.rows_to_compute, 'row')} to compute: {plan.bytes / 1e6:.1f} MB "
        f"({plan.bytes_free / 1e9:.1f} GB free), about {plan.seconds:.0f} s at {plan.images_per_second:.0f} images/s\n"
        f"{_shapes(plan.layers)}; in {printable(str(plan.cache))}"
    )
    return Outcome({**asdict(plan), "dry_run": True}, text)


def _part(text: str) -> tuple[int, int]:
    part, _, of = text.partition("/")
    if not (part.isdecimal() and of.isdecimal()):
        raise OptionError(f"--part must be I/N, such as 1/8. Received: {text!r}.")
    return int(part), int(of)
