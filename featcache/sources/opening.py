"""From what a user names to a source."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from featcache.errors import OptionError, SourceError, nearest
from featcache.sources.arrays import npy_source, npz_source
from featcache.sources.folders import content, folder_source
from featcache.sources.named import NAMED, named_source
from featcache.sources.pairs import PairSource
from featcache.sources.source import Selected, Source, class_names
from featcache.sources.tables import table_source
from featcache.sources.tars import SUFFIXES, TarSource

KINDS = (
    "a folder of class folders, of train/ and validation/ folders of those, or of images; a CSV file "
    f"(path,label[,split][,group]); arrays (.npz, or a folder of .npy); tar files; or {', '.join(NAMED)}"
)
"""What a source may be, for help and errors."""


def open_source(
    source: str | os.PathLike[str] | Source | Iterable[tuple[Any, Any]], *, classes: Iterable[str] | None = None
) -> Source:
    """Return the source that a name, a path or a list of images means.

    Parameters
    ----------
    source : str, path, Source or iterable of (image, label)
        One of

        - ``digits`` (embedded in scikit-learn), ``cifar10``, ``cifar100``, ``mnist`` or ``fashion_mnist`` (which
          Keras downloads);
        - a folder of class folders; one with ``train``, ``validation`` (``val``, ``valid``) and ``test`` folders of
          those; or one of images without labels;
        - a table, see `featcache.sources.tables.table_source`;
        - arrays, an ``.npz`` file or a folder of ``.npy`` files, see `featcache.sources.arrays.npz_source`;
        - a ``.tar`` file or a folder of them, see `featcache.sources.tars.TarSource`; they are the splits if all
          their names begin with those of splits;
        - pairs of an image and its label, see `featcache.sources.pairs.PairSource`.
    classes : iterable of str, optional
        Keep these classes only.

    Returns
    -------
    Source
        Folders in order of splits as `SPLITS` has them, classes alphanumerically as Keras has them, then
        paths; arrays by split; all others in their own order.

    Raises
    ------
    SourceError
        If it does not exist, is empty, or its layout is not one of these.
    OptionError
        If a class is not in the source.
    """
    opened: Source
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        opened = named_source(name) if name in NAMED else _at(Path(source))
    elif isinstance(source, Source):
        opened = source
    elif isinstance(source, Iterable):
        opened = PairSource(source)
    else:
        raise SourceError(f"Expected a source: {KINDS}; or (image, label) pairs. Received: {type(source).__name__}.")
    if classes is None:
        return opened
    wanted = list(dict.fromkeys(classes))
    if not wanted:
        raise OptionError(f"Expected at least one of the classes of {opened.location}. Received: none.")
    known = class_names(opened.items)
    for name in wanted:
        if name not in known:
            raise OptionError(f"Expected classes of {opened.location}. Received: {name!r} ({nearest(name, known)}).")
    keep = set(wanted)
    return Selected(opened, [item for item in opened.items if item.label in keep])


def _at(path: Path) -> Source:
    if path.is_dir():
        top = content(path)
        tars = [path / name for name in top.files if SUFFIXES.search(name)]
        if tars and not top.folders:
            return TarSource(tars, path)
        if not top.folders and any(name.lower().endswith(".npy") for name in top.files):
            return npy_source(path, top.files)
        return folder_source(path, top)
    if path.is_file():
        if SUFFIXES.search(path.name):
            return TarSource([path], path)
        if path.suffix.lower() == ".npz":
            return npz_source(path)
        if path.suffix.lower() in (".csv", ".tsv", ".txt"):
            return table_source(path)
    what = "is none of these" if path.exists() else "does not exist"
    raise SourceError(f"Expected a source: {KINDS}. Received: {str(path)!r}, which {what}.")
