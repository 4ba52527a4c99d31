"""How the value of an option is written on a command line, and read from there."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featcache.errors import OptionError


@dataclass(eq=False, repr=False)
class Form:
    """How the value of an option is written on a command line.

    Typer parses a `kind` (None: the option's own type); `read` makes of that, and of the option's name for messages,
    what Python takes; `write` returns a text for each time that the option is given, None for one without a value.
    """

    kind: Any
    read: Callable[[Any, str], Any]
    write: Callable[[Any], Sequence[str | None]]


def _same(value: Any, option: str) -> Any:
    return value


def _text(value: Any) -> list[str]:
    return [str(value)]


def _read_repeated(values: Sequence[str] | None, option: str) -> tuple[str, ...]:
    return tuple(values or ())


def key_values(pairs: Iterable[str] | None, option: str) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` options: numbers, true, false, none, text; commas make a tuple."""
    parsed: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise OptionError(f"Expected {option} KEY=VALUE. Received: {pair!r}.")
        parts = [_parsed(part.strip()) for part in value.split(",") if part.strip()]
        parsed[key.strip()] = parts[0] if len(parts) == 1 and "," not in value else tuple(parts)
    return parsed


def _parsed(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _write_pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={plain(value)}" for key, value in values.items()]


def plain(value: Any) -> str:
    """Return a value as `key_values` reads it."""
    if isinstance(value, list | tuple):
        return ",".join(map(plain, value)) + ("," if len(value) == 1 else "")
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _read_splits(pairs: Sequence[str] | None, option: str) -> dict[str, list[str]] | None:
    found: dict[str, list[str]] = {}
    for pair in pairs or ():
        split, equals, name = pair.partition("=")
        if not equals:
            raise OptionError(f"{option} takes a split and the name of its folder, such as train=fold1: {pair!r}.")
        found.setdefault(split.strip(), []).append(name)
    return found or None


def _write_splits(splits: Mapping[str, str | Sequence[str]]) -> list[str]:
    listed = {split: [names] if isinstance(names, str) else names for split, names in splits.items()}
    return [f"{split}={name}" for split, names in listed.items() for name in names]


def _read_names(text: str | None, option: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    rows = list(csv.reader([text], skipinitialspace=True))
    return tuple(name for name in (cell.strip() for cell in (rows[0] if rows else ())) if name)


def _write_names(names: Sequence[str]) -> list[str]:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return [line.getvalue()]


def _read_size(text: str | None, option: str) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.lower().split("x")]
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise OptionError(f"Expected {option} N or HxW in pixels. Received: {text!r}.")
    return int(parts[0]), int(parts[-1])


def _write_size(size: int | Sequence[int]) -> list[str]:
    return [str(size) if isinstance(size, int) else "x".join(map(str, size))]


def _read_share(text: str | None, option: str) -> tuple[str, float] | None:
    if text is None:
        return None
    ((split, share),) = key_values([text], option).items()
    if isinstance(share, bool) or not isinstance(share, int | float):
        raise OptionError(f"Expected {option} SPLIT=PART, such as validation=0.2. Received: {text!r}.")
    return split, float(share)


def _read_numbers(text: str | None, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise OptionError(f"Expected {option} with whole numbers, such as 1,5,10. Received: {text!r}.") from None


def _write_weights(weights: Any) -> list[str]:
    return ["none" if weights is None else "./none" if str(weights) == "none" else str(weights)]


VALUE = Form(None, _same, _text)
"""A number, or one of a few words."""
TEXT = Form(str | None, _same, _text)
PATH = Form(Path | None, _same, _text)
FLAG = Form(bool, _same, lambda value: [None])
NEGATIVE = Form(bool, lambda value, option: not value, lambda value: [None])
"""A flag that sets False."""
REPEATED = Form(list[str] | None, _read_repeated, list)
PAIRS = Form(list[str] | None, key_values, _write_pairs)
SPLITS = Form(list[str] | None, _read_splits, _write_splits)
NAMES = Form(str | None, _read_names, _write_names)
SIZE = Form(str | None, _read_size, _write_size)
SHARE = Form(str | None, _read_share, lambda value: ["{}={}".format(*value)])
NUMBERS = Form(str | None, _read_numbers, lambda values: [",".join(map(str, values))])
WEIGHTS = Form(str | None, lambda text, option: None if text == "none" else text, _write_weights)
"""Weights of a base; none is None, random ones."""
CACHE = Form(Path | None, _same, _text)
"""A cache, on the command line the newest one where none is named."""
CACHES = Form(list[Path] | None, _same, _text)

FORM_OF_TYPE = {
    "bool": FLAG,
    "str": TEXT,
    "str | None": TEXT,
    "str | Path | None": TEXT,
    "str | Augmentation | None": TEXT,
    "PathLike | None": PATH,
    "Sequence[str]": REPEATED,
    "Sequence[str] | None": REPEATED,
    "str | Sequence[str] | None": REPEATED,
    "Sequence[int]": NUMBERS,
    "Mapping[str, Any] | None": PAIRS,
    "int | tuple[int, int] | None": SIZE,
}
"""Forms of the options that have no other one."""
