"""Words for messages: names, numbers, options as a shell takes them, and all that is wrong with a listing."""

from __future__ import annotations

import glob
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from featcache.errors import one_line


def quoted(name: str) -> str:
    """Return a name for a shell; one that no line can show as Python writes it."""
    return shlex.quote(name) if name.isprintable() else repr(name)


def shown(names: Iterable[str], most: int = 5, show: Callable[[str], str] = repr) -> str:
    """Return the first names of some, and how many more there are."""
    every = list(names)
    first = ", ".join(map(show, every[:most])) or "none"
    return first + (f" and {len(every) - most} more" if len(every) > most else "")


def number_of(count: int, one: str, several: str) -> str:
    """Return a number and what it counts: ``1 file is``, ``2,000 files are``."""
    return f"{count:,} {one if count == 1 else several}"


def reason(error: BaseException) -> str:
    """Return why something cannot be read, on one line."""
    return one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]


def split_words(folders: Sequence[str], splits: Sequence[str] = ("train", "test")) -> str:
    """Return an example of the option `--split` with folders that there are."""
    return " ".join(f"--split {split}={quoted(name)}" for split, name in zip(splits, folders, strict=False))


def excluded(*names: str) -> str:
    """Return the options that leave the first three files or folders out; ``[``, ``*``, ``?`` stand for themselves."""
    return " ".join(f"--exclude {quoted(glob.escape(name))}" for name in names[:3])


def classes_words(folders: Sequence[str]) -> str:
    """Return the option that says that folders are classes."""
    return f"--classes {quoted(','.join(folders))}" if len(folders) <= 8 else "--classes with all their names"


def command(source: str, *, images: str = "") -> str:
    """Return the command that takes something else as the source."""
    return f"`featcache extract {quoted(source)}{images and f' --images {quoted(images)}'}`"


class Problems:
    """What is wrong with a listing, collected so that it is reported together."""

    _SHOWN = 3

    def __init__(self) -> None:
        self._examples: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, example: str) -> None:
        """Note one problem of a kind, such as ``missing files``."""
        self.counts[kind] += 1
        if self.counts[kind] <= self._SHOWN:
            self._examples.setdefault(kind, []).append(example)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        return "; ".join(
            f"{count:,} {_singular(kind) if count == 1 else kind} "
            f"({', '.join(self._examples[kind])}{', …' if count > self._SHOWN else ''})"
            for kind, count in self.counts.items()
        )


def _singular(kind: str) -> str:
    """Return the singular of a kind of problems: ``missing files`` is missing file."""
    text = re.sub(r"\b(file|path|split|row|name|number|line|column)s\b", r"\1", kind, count=1)
    return text.replace(" that are ", " that is ").replace(" of their files", " of its file")
