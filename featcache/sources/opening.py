"""From what a user names to a source."""

from __future__ import annotations

import bisect
import itertools
import logging
import mimetypes
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import OptionError, SourceError, nearest
from featcache.sources.arrays import npy_source, npz_source
from featcache.sources.files import FileSource
from featcache.sources.folders.folders import files_source, folder_source
from featcache.sources.folders.hints import slips, twins
from featcache.sources.folders.trees import Folders, content
from featcache.sources.folders.versions import joined_versions, warn_of_series, warn_of_split_names
from featcache.sources.messages import number_of
from featcache.sources.named import NAMED, named_source
from featcache.sources.names import TABLES, TAR_NAME, Exclusion
from featcache.sources.options import NO_OPTIONS, SourceOptions
from featcache.sources.pairs import PairSource, images_of
from featcache.sources.source import Item, Items, Selected, Source, class_names
from featcache.sources.tables.metadata import check_unread, metadata_source
from featcache.sources.tables.tables import table_source
from featcache.sources.tars import TarSource
from featcache.system.status import doing

log = logging.getLogger(__name__)

Images = str | os.PathLike[str] | bytes | npt.NDArray[Any] | Source | Iterable[Any]
"""What is predicted: paths, encoded files, pixels, PIL images, or an iterable of these; or a source."""

KINDS = (
    "a folder of class folders, of train/ and validation/ folders of those, or of images; a table "
    f"(.csv, .tsv, .txt, .jsonl); arrays (.npz, or a folder of .npy); tar files; or {', '.join(NAMED)}"
)
"""What a source may be, for help and errors."""


def open_source(
    source: str | os.PathLike[str] | Source | Iterable[tuple[Any, Any]],
    *,
    classes: Iterable[str] | None = None,
    options: SourceOptions = NO_OPTIONS,
) -> Source:
    """Return the source that a name, a path or a list of images means (`KINDS`, or (image, label) pairs).

    Folders are in order of splits as `SPLITS` has them, classes alphanumerically as Keras has them, then paths; arrays
    by split; all others in their own order. `classes` keeps these only; where all folders of a source are among them,
    they are classes, whatever they look like.
    """
    opened: Source
    wanted = None if classes is None else list(dict.fromkeys(classes))
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        with doing(f"listing {name}"):
            opened = _named(name, options) if _is_set(name) else _at(Path(source), options, wanted)
    elif isinstance(source, Source):
        options.check("a source that is open already")
        opened = source
    elif isinstance(source, Iterable):
        options.check("(image, label) pairs")
        opened = PairSource(source)
    else:
        raise SourceError(f"`source` must be {KINDS}; or (image, label) pairs. Received: {type(source).__name__}.")
    return _of_classes(opened, wanted)


def describe(source: Source) -> dict[str, Any]:
    """Return what `reopen` needs, for JSON: ``name``, ``location`` and, if there are any, ``options``."""
    origin = source
    while isinstance(origin, Selected):
        origin = origin.origin
    options = getattr(origin, "options", NO_OPTIONS).to_dict()
    return {"name": source.name, "location": source.location, **({"options": options} if options else {})}


def reopen(described: Mapping[str, Any], *, classes: Iterable[str] | None = None) -> Source:
    """Open a source again as it was opened when `describe` described it."""
    location = described.get("location")
    if not location:
        raise SourceError("It is not known where the images lie.")
    options = SourceOptions.from_dict(described.get("options", {}))
    wanted = None if classes is None else list(dict.fromkeys(classes))
    opened = _named(location, options) if location in NAMED else _at(Path(location), options, wanted)
    return _of_classes(opened, wanted)


def _is_set(name: str) -> bool:
    """Whether a name means a set; what lies here under that name wins, and it is said."""
    if name in NAMED and os.path.lexists(name):
        log.warning("%s is read from here, as there is something of that name: the public set is not used", name)
        return False
    return name in NAMED


def _named(name: str, options: SourceOptions) -> Source:
    options.check(f"the set {name}")
    return named_source(name)


def _of_classes(opened: Source, wanted: Sequence[str] | None) -> Source:
    """Return a source with the wanted classes only, and say which of all are hardly different by name."""
    known, where = class_names(opened.items), opened.location
    for group in twins(known):
        log.warning("%s: classes whose names look alike are kept apart: %s", where, ", ".join(map(ascii, group)))
    if isinstance(opened.items, Items):
        counts = dict(zip(known, opened.items.labels.counts.tolist(), strict=True))
        for pair in slips(counts):
            rare, common = (f"{name!r} ({number_of(counts[name], 'image', 'images')})" for name in pair)
            log.warning("%s: the class %s may be %s: they are kept apart", where, rare, common)
    if wanted is None:
        return opened
    if not wanted:
        raise OptionError(f"`classes` is empty, so no image of {where} is left. Name at least one class.")
    for name in wanted:
        if name not in known:
            raise OptionError(f"{where} has no class {name!r} ({nearest(name, known)}).")
    listed = Items.of(opened.items)
    return Selected(opened, listed.take(np.flatnonzero(listed.labels.among(wanted) >= 0)))


def _at(path: Path, options: SourceOptions, classes: Collection[str] | None) -> Source:
    opened = _opened(path, options, classes)
    if isinstance(opened, FileSource | TarSource):
        warn_of_series(str(path), opened.items)
        if options.split_column is None:
            warn_of_split_names(str(path), opened.items)
        opened.items = joined_versions(str(path), opened.items)
    return opened


def _opened(
    path: Path, options: SourceOptions, classes: Collection[str] | None = None, *, labelled: bool = True
) -> Source:
    if path.is_dir():
        tree = Folders(path, Exclusion(options.exclude))
        top = tree.content("")
        tars = [path / name for name in top.files if TAR_NAME.search(name)]
        if tars and not top.folders:
            return TarSource(tars, path, options, classes=classes, labelled=labelled)
        if not top.folders and any(map(_is_array_name, top.files)):
            options.check("arrays")
            return npy_source(path, top.files)
        if listed := metadata_source(tree, options):
            return listed
        source = folder_source(tree, options, classes=classes)
        if labelled:
            check_unread(tree, source, options)
        return source
    if path.is_file():
        if TAR_NAME.search(path.name):
            return TarSource([path], path, options, classes=classes, labelled=labelled)
        if path.suffix.lower() == ".npz":
            options.check("arrays")
            return npz_source(path)
        if path.suffix.lower() in TABLES:
            return table_source(path, options, labelled=labelled)
    if not path.exists():
        raise SourceError(
            f"The source {str(path)!r} does not exist. Name a file or folder, or one of {', '.join(NAMED)}."
        )
    raise SourceError(f"{str(path)!r} is no source of images. A source is {KINDS}.")


def open_images(images: Images, *, options: SourceOptions = NO_OPTIONS) -> Source:
    """Return the images that are named, to be predicted, in the order given: their labels and splits are ignored.

    Each is a file; a folder, for all files below it; a table, arrays, a tar file, a folder of nothing but arrays or tar
    files (and what does not have an image's name), or the name of a set; or an image in memory, as `PairSource` takes
    it. Paths are as they are given, or the folder as it is given and what is below; of the others as `open_source` has
    them, after ``<what was given>/`` if there is more than one argument; of images in memory their position.
    """
    if isinstance(images, Source):
        options.check("a source that is open already")
        return images
    given = images_of(images)
    parts: list[tuple[str, Source]] = []
    position = 0
    for kind, group in itertools.groupby(given, _kind_of):
        members = list(group)
        if kind == "memory":
            options.check("images in memory")
            parts.append(("", PairSource(((image, None) for image in members), first=position)))
        elif kind == "file":
            options.check("images and folders", "exclude")
            parts.append(("", files_source(members, exclude=options.exclude)))
        else:
            for one in members:
                name = os.fspath(one)
                try:
                    opened = _named(name, options) if _is_set(name) else _opened(Path(name), options, labelled=False)
                    parts.append((f"{name}/", opened))
                except SourceError as error:  # a note among images, say: it is skipped, with the reason
                    if not Path(name).is_file():
                        raise
                    if len(given) == 1:
                        raise SourceError(f"{name!r} is no image, nor a table of images: {error}") from None
                    parts.append(("", files_source([name])))
        position += len(members)
    if len(parts) == 1:
        return parts[0][1]
    return _Chain(parts) if parts else files_source([])


class _Chain:
    """Sources one after the other, their paths after a prefix each."""

    def __init__(self, parts: Sequence[tuple[str, Source]]) -> None:
        self.name, self.location = "images", str(Path().absolute())
        self.sequential = any(source.sequential for _, source in parts)
        self._sources = [source for _, source in parts]
        self._starts = list(itertools.accumulate((len(source.items) for source in self._sources), initial=0))
        found = ((prefix + item.path, item) for prefix, source in parts for item in source.items)
        self.items = Items.of(item._replace(path=path, place=place) for place, (path, item) in enumerate(found))

    def read(self, item: Item, /) -> bytes | npt.NDArray[Any]:
        """Return what the source has for it."""
        part = bisect.bisect_right(self._starts, item.place) - 1
        source = self._sources[part]
        return source.read(source.items[item.place - self._starts[part]])


def _kind_of(given: Any) -> str:
    """Return what an image to predict is: in ``memory``, a ``file`` or folder of files, or another ``source``."""
    if not isinstance(given, str | os.PathLike):
        return "memory"
    return "file" if _is_plain(Path(given)) else "source"


def _is_plain(path: Path) -> bool:
    """Whether a path is a file that may be an image, or a folder of such files."""
    if _is_set(str(path)):
        return False
    if path.is_dir():
        top = content(path)
        tars, arrays = (any(map(is_one, top.files)) for is_one in (TAR_NAME.search, _is_array_name))
        images = any((mimetypes.guess_type(name)[0] or "").startswith("image/") for name in top.files)
        return bool(top.folders) or tars == arrays or images
    if not path.exists():
        return True
    return not (TAR_NAME.search(path.name) or path.suffix.lower() in (".npz", *TABLES))


def _is_array_name(name: str) -> bool:
    return name.lower().endswith(".npy")
