"""The options that say how a source is to be read, of every command that names one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from featcache.sources import SourceOptions

Exclude = Annotated[list[str] | None, typer.Option(
    metavar="GLOB", help="Leave out files and folders of this name, at any depth, or at this path; repeat for several."
)]  # fmt: skip
Split = Annotated[list[str] | None, typer.Option(
    metavar="SPLIT=NAME", help="What the source calls train, validation or test, such as train=fold1; repeat for each."
)]  # fmt: skip
ImagesFolder = Annotated[str | None, typer.Option("--images", metavar="DIR", help="Where the images of a table are.")]
ImageColumn = Annotated[str | None, typer.Option(help="The column of a table that names the image.")]
LabelColumn = Annotated[str | None, typer.Option(help="The column of a table that names the class.")]
SplitColumn = Annotated[str | None, typer.Option(help="The column of a table that names the split.")]
GroupColumn = Annotated[str | None, typer.Option(
    help="The column of a table whose equal values stay in one split, such as patient."
)]  # fmt: skip
MaxPixels = Annotated[int, typer.Option(
    min=1, help="Skip images with more pixels. An image takes 6 to 9 bytes a pixel while it is decoded, a TIFF 17: "
    "2 GB for 250 million. Several are decoded at once."
)]  # fmt: skip


def source_options(
    exclude: list[str] | None,
    split: list[str] | None,
    images: str | None,
    image_column: str | None,
    label_column: str | None,
    split_column: str | None,
    group_column: str | None,
) -> SourceOptions:
    """Return what the options say; raise `OptionError` if that is not possible."""
    from featcache.sources import SourceOptions
    from featcache.sources.options import parse_splits

    return SourceOptions(
        exclude=exclude or (),
        splits=parse_splits(split),
        images=images,
        image_column=image_column,
        label_column=label_column,
        split_column=split_column,
        group_column=group_column,
    )
