"""Folders as they are looked into, on disk or in a tar, and words about them for messages."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from featcache.sources.names import known_splits

_NOT_IMAGES = (
    ".txt", ".xml", ".json", ".jsonl", ".csv", ".tsv", ".html", ".htm", ".md", ".yaml", ".yml", ".log", ".ini", ".cfg",
    ".py", ".ipynb", ".pdf", ".doc", ".docx", ".xls", ".xlsx", ".mat", ".npy", ".npz", ".h5", ".pkl", ".pt", ".zip",
    ".gz", ".tar", ".mp4", ".avi", ".mov", ".wav", ".mp3", ".aae", ".xmp", ".rar", ".7z", ".tgz", ".mkv", ".webm",
    ".m4v", ".toml", ".sh", ".bat", ".exe", ".db", ".sqlite", ".bin", ".onnx", ".pth", ".ckpt", ".keras", ".tflite",
    ".idx", ".tfw", ".jgw", ".pgw", ".wld", ".dbf", ".shp", ".lnk", ".url", ".crdownload", ".pptx", ".ppt", ".tex",
    ".js", ".css",
)  # fmt: skip
"""How names of files end that are certainly no images; a folder of nothing else is no class."""

PACKED = (".zip", ".rar", ".7z", ".gz", ".tgz", ".tar")
"""How names of files end that may have images inside."""

_DEEP = 16


class Look(NamedTuple):
    """What lies in a folder: its folders (in one with an image, maybe some), a file that may be an `image`, an `other`
    one that is certainly none; of a folder that was looked into as a whole, files that may be `tables`.
    """

    folders: Sequence[str]
    image: str | None = None
    other: str | None = None
    tables: Sequence[str] = ()


class Tree(Protocol):
    """Folders, on disk or in a tar."""

    where: str

    def look(self, path: str, *, whole: bool = False) -> Look:
        """Return what lies in a folder, given by its path with a slash at its end (the top is ""); maybe `whole`."""
        ...


def may_be_image(name: str) -> bool:
    """Whether a file is not certainly something else."""
    return not name.lower().endswith(_NOT_IMAGES)


def wrapped(tree: Tree, path: str, wanted: Collection[str] = (), *, stop_at_splits: bool = False) -> str:
    """Return the path below folders that hold one folder of folders and nothing else; `wanted` ones are classes."""
    for _ in range(_DEEP):
        here = tree.look(path, whole=True)
        if here.image or here.other or len(here.folders) != 1 or here.folders[0] in wanted:
            break
        if stop_at_splits and known_splits(here.folders):
            break
        below = tree.look(f"{path}{here.folders[0]}/")
        if below.image or below.other or not below.folders:
            break
        path = f"{path}{here.folders[0]}/"
    return path


def split_words(folders: Sequence[str], splits: Sequence[str] = ("train", "test")) -> str:
    """Return an example of the option `--split` with folders that there are."""
    return " ".join(f"--split {split}={quoted(name)}" for split, name in zip(splits, folders, strict=False))


def exclude_words(names: Sequence[str]) -> str:
    """Return the options that leave names out, of the first three."""
    return " ".join(map(excluded, names[:3]))


def excluded(name: str) -> str:
    """Return the option that leaves out a file or folder, in whose name ``[``, ``*`` and ``?`` stand for themselves."""
    return f"--exclude {quoted(glob.escape(name))}"


def classes_words(folders: Sequence[str]) -> str:
    """Return the option that says that folders are classes."""
    return f"--classes {quoted(','.join(folders))}" if len(folders) <= 8 else "--classes with all their names"


def quoted(name: str) -> str:
    """Return a name for a shell; one that no line can show as Python writes it."""
    return shlex.quote(name) if name.isprintable() else repr(name)


def shown(names: Collection[str]) -> str:
    """Return the first names of some, for a message."""
    first = ", ".join(repr(name) for name in list(names)[:5]) or "none"
    return first + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def number_of(count: int, one: str, several: str) -> str:
    """Return a number and what it counts: ``1 file is``, ``2,000 files are``."""
    return f"{count:,} {one if count == 1 else several}"
