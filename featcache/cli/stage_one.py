"""``extract``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from featcache.cli.app import (
    DONE,
    SKIPPED,
    Outcome,
    command,
    log,
    printable,
    progress,
    settings,
    skipped_text,
)
from featcache.cli.source import (
    Exclude,
    GroupColumn,
    ImageColumn,
    ImagesFolder,
    LabelColumn,
    MaxPixels,
    Split,
    SplitColumn,
)
from featcache.errors import OptionError
from featcache.processors import pass_side_by_side
from featcache.profiling import AHEAD, STEPS
from featcache.recipe import MAX_PIXELS, Dtype, Fill, Interpolation, Pooling, Precision, Preprocess, Resize, Runtime

if TYPE_CHECKING:
    from featcache.extraction import ExtractionPlan, ExtractionReport, PartReport


@command("extract", example="featcache extract photos/ --base mobilenetv2 --pooling avg")
def extract(
    source: Annotated[str, typer.Argument(
        help="A folder of class folders, or of train/, validation/ and test/ folders of those; a table "
        "(.csv, .tsv, .txt, .jsonl); arrays (.npz, or a folder of .npy); a .tar file or a folder of them; digits "
        "(embedded), cifar10, cifar100, mnist or fashion_mnist (downloaded)."
    )] = "digits",
    base: Annotated[str, typer.Option(help="A Keras application, or a .keras / .h5 model file.")] = "vgg19",
    base_set: Annotated[list[str] | None, typer.Option(
        "--base-set", metavar="KEY=VALUE", help="An argument of the application, such as alpha=0.35."
    )] = None,
    weights: Annotated[str | None, typer.Option(
        help="imagenet (default of an application), none (seeded), or a file, loaded by layer name."
    )] = None,
    layer: Annotated[list[str] | None, typer.Option(
        help="Where to cut; outer/inner inside a nested model; repeat for several. Default: the base's output."
    )] = None,
    pooling: Annotated[Pooling, typer.Option(help="What becomes of spatial maps.")] = "avg",
    image_size: Annotated[str | None, typer.Option(
        metavar="N|HxW", help="Pixels. Default: the base's own."
    )] = None,
    resize: Annotated[Resize, typer.Option(help="How images of another shape are fitted.")] = "stretch",
    interpolation: Annotated[Interpolation, typer.Option(help="How pixels are interpolated.")] = "bilinear",
    preprocess: Annotated[Preprocess, typer.Option(
        help="How pixels are scaled; auto: as the application's own module does."
    )] = "auto",
    dtype: Annotated[Dtype, typer.Option(help="How features are stored.")] = "float32",
    runtime: Annotated[Runtime, typer.Option(
        help="What executes the base; openvino: on the CPU, needs featcache[openvino]."
    )] = "tensorflow",
    precision: Annotated[Precision, typer.Option(help="In what the network computes.")] = "float32",
    fast_decode: Annotated[bool, typer.Option(
        "--fast-decode", help="Decode a JPEG at the smallest eighth, quarter or half that is not below the image size."
    )] = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    classes: Annotated[str | None, typer.Option(metavar="A,B", help="Keep these classes only.")] = None,
    exclude: Exclude = None,
    split: Split = None,
    images: ImagesFolder = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
    group_column: GroupColumn = None,
    validation_split: Annotated[float | None, typer.Option(
        help="Part that becomes validation where the source brings no split (default 0.2)."
    )] = None,
    test_split: Annotated[float | None, typer.Option(
        help="Part that becomes test where the source brings no test set."
    )] = None,
    test_from: Annotated[str | None, typer.Option(
        metavar="SPLIT=PART", help="Make a part of a split the test set: validation=0.2."
    )] = None,
    seed: Annotated[int, typer.Option(help="For the split, and for --weights none.")] = 0,
    views: Annotated[int, typer.Option(min=0, help="Augmented views of each training image.")] = 0,
    augment: Annotated[str | None, typer.Option(
        metavar="SPEC", help="How: flip,rotation=0.2,zoom=0.3,shift=0.3,brightness=0.1,contrast=0.1,crop=0.2."
    )] = None,
    fill: Annotated[Fill, typer.Option(help="What appears beyond an augmented image's edges.")] = "nearest",
    batch_size: Annotated[int | None, typer.Option(
        min=1, help="Images per forward pass. Default: 32, or for thousands of images the fastest in a short trial."
    )] = None,
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows per file at most: what a kill can cost.")] = 4096,
    compression: Annotated[Literal["none", "zstd", "lz4"], typer.Option(
        help="How new shards are stored, without loss; needs featcache[compression]."
    )] = "none",
    engine: Annotated[Literal["local", "processes", "dask"], typer.Option(
        help="Where shards are computed: here, in processes of this machine, or on a dask cluster (featcache[dask])."
    )] = "local",
    workers: Annotated[int | None, typer.Option(
        min=1, help="Processes. Default: one for each GPU, else one for each processor, 8 at most."
    )] = None,
    scheduler: Annotated[str | None, typer.Option(
        metavar="ADDRESS", help="Of a dask cluster, tcp://host:8786. Default: one is started for this run."
    )] = None,
    shard: Annotated[str | None, typer.Option(
        metavar="I/N", help="Compute the I-th of N parts only, for job arrays; a last extract without it commits all."
    )] = None,
    on_error: Annotated[Literal["skip", "fail"], typer.Option(
        help="Whether an unreadable image is recorded and skipped, or ends the run."
    )] = "skip",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try skipped images again.")] = False,
    rehash: Annotated[bool, typer.Option(
        "--rehash", help="Read every file, even where size and time stamp are unchanged."
    )] = False,
    replace_source: Annotated[bool, typer.Option(
        "--replace-source", help="Let the cache go over to a source it shares no image with."
    )] = False,
    cache: Annotated[Path | None, typer.Option(
        help="The cache's own folder. Default: cache/<source>-<base>-<fingerprint>."
    )] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time went.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
) -> Outcome:  # fmt: skip
    """Run a frozen base over images, once. What the cache has already is not computed again."""
    from featcache.extraction import Extraction
    from featcache.sources.options import parse_splits

    extraction = Extraction(
        source,
        base=base,
        settings=settings(base_set, "--base-set"),
        weights=weights,
        layers=layer or (),
        pooling=pooling,
        image_size=_size(image_size),
        resize=resize,
        interpolation=interpolation,
        preprocess=preprocess,
        dtype=dtype,
        precision=precision,
        runtime=runtime,
        fast_decode=fast_decode,
        max_pixels=max_pixels,
        classes=None if classes is None else [name.strip() for name in classes.split(",") if name.strip()],
        exclude=exclude or (),
        splits=parse_splits(split),
        images=images,
        image_column=image_column,
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
        validation_split=validation_split,
        test_split=test_split,
        test_from=_part(test_from),
        seed=seed,
        views=views,
        augment=augment,
        fill=fill,
        batch_size=batch_size,
        shard_rows=shard_rows,
        compression=compression,
        engine=engine,
        workers=workers,
        scheduler=scheduler,
        on_error=on_error,
        retry_failed=retry_failed,
        rehash=rehash,
        replace_source=replace_source,
        cache=cache,
        profile=profile,
    )
    if engine == "local":
        pass_side_by_side()
    if dry_run:
        return _planned(extraction.plan())
    if shard is not None:
        with progress("extracting") as shown:
            return _published(extraction.run_part(*_share(shard), shown))
    with progress("extracting") as shown:
        result = extraction.run(shown)
    report = result.report
    if report.profile is not None:
        log.info("%s", _where_the_time_went(report))
    for text in report.warnings:
        log.warning("%s", text)
    data = {
        "cache": str(report.cache),
        "recipe": result.recipe.fingerprint,
        "images": report.images,
        "rows": report.rows,
        "computed": report.computed,
        "reused": report.reused,
        "skipped": report.skipped,
        "layers": {name: list(shape) for name, shape in result.layers.items()},
        "classes": result.class_names,
        "splits": result.splits,
        "seconds": report.seconds,
        "images_per_second": report.images_per_second,
        "bytes": report.bytes,
        "warnings": report.warnings,
        "profile": report.profile,
    }
    splits = ", ".join(f"{n} {split}" for split, n in result.splits.items()) or "none of them readable"
    layers = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in result.layers.items())
    lines = [
        f"{report.images} images ({splits}) of {len(result.class_names)} classes: {report.computed} "
        f"{'rows ' if views else ''}computed, {report.reused} reused, {len(report.skipped)} skipped in "
        f"{report.seconds:.1f} s",
        f"{layers}; {report.bytes / 1e6:.1f} MB in {printable(str(report.cache))}",
        skipped_text(report.skipped),
    ]
    return Outcome(data, "\n".join(line for line in lines if line), SKIPPED if report.skipped else DONE)


def _published(report: PartReport) -> Outcome:
    text = (
        f"part {report.part}/{report.of}: {report.images} images in {report.tasks} tasks, {report.rows} rows, "
        f"{len(report.skipped)} skipped in {report.seconds:.1f} s; extract without --shard commits them to "
        f"{printable(str(report.cache))}"
    )
    return Outcome(asdict(report), text, SKIPPED if report.skipped else DONE)


def _where_the_time_went(report: ExtractionReport) -> str:
    assert report.profile is not None
    seconds, bottleneck = report.profile["seconds"], report.profile["bottleneck"]
    own = ", ".join(f"{name} {seconds[name]:.1f} s" for name in STEPS)
    ahead = ", ".join(f"{name} {seconds[name]:.1f} s" for name in AHEAD)
    if not any(seconds.values()):
        return f"profile: nothing to compute in {report.seconds:.1f} s"
    return f"profile of {report.seconds:.1f} s: {own}; ahead, in all threads: {ahead}; bottleneck: {bottleneck}"


def _planned(plan: ExtractionPlan) -> Outcome:
    layers = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in plan.layers.items())
    if not plan.rows_to_compute:
        return Outcome({**asdict(plan), "dry_run": True}, f"nothing to compute: {printable(str(plan.cache))}")
    text = (
        f"{plan.images} images, {plan.rows_to_compute} rows to compute: {plan.bytes / 1e6:.1f} MB "
        f"({plan.bytes_free / 1e9:.1f} GB free), about {plan.seconds:.0f} s at {plan.images_per_second:.0f} images/s\n"
        f"{layers}; in {printable(str(plan.cache))}"
    )
    return Outcome({**asdict(plan), "dry_run": True}, text)


def _share(text: str) -> tuple[int, int]:
    part, _, of = text.partition("/")
    if not (part.isdecimal() and of.isdecimal()):
        raise OptionError(f"Expected --shard I/N, such as 1/8. Received: {text!r}.")
    return int(part), int(of)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() for part in parts):
        raise OptionError(f"Expected --image-size N or HxW in pixels. Received: {text!r}.")
    return int(parts[0]), int(parts[-1])


def _part(text: str | None) -> tuple[str, float] | None:
    if text is None:
        return None
    parsed = settings([text], "--test-from")
    (split, part), *_ = parsed.items()
    if not isinstance(part, int | float):
        raise OptionError(f"Expected --test-from SPLIT=PART, such as validation=0.2. Received: {text!r}.")
    return split, float(part)
