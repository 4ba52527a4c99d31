"""Kinds of values: what a file of ours may say, checked when it is read.

A kind is a function of a value and its name; it raises `ValueError`, with one line, if the value is of another kind.
Kinds are put together like ``record({"rows": whole(1), "names": list_of(text)})``.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

Kind = Callable[[Any, str], None]

MOST = 2**63 - 1


def wrong(value: Any, name: str, expected: str) -> ValueError:
    """Return the error for a value of another kind, which may be huge or nested."""
    return ValueError(f"{name} is {reprlib.repr(value)}, not {expected}")


def anything(value: Any, name: str) -> None:
    """Whatever JSON can say."""


def text(value: Any, name: str) -> None:
    """A text of UTF-8, or with the characters that Python keeps for bytes of file names that are not."""
    try:
        if not isinstance(value, str):
            raise wrong(value, name, "a text")
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise wrong(value, name, "valid text") from None


def path(value: Any, name: str) -> None:
    """A text that may be a path."""
    text(value, name)
    if "\0" in value:
        raise wrong(value, name, "a path")


def _kind(accepts: Callable[[Any], bool], expected: str) -> Kind:
    """Return the kind of values that a function accepts."""

    def check(value: Any, name: str) -> None:
        if not accepts(value):
            raise wrong(value, name, expected)

    return check


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)


truth = _kind(lambda value: isinstance(value, bool), "true or false")

measured = _kind(_is_number, "a number")
"""The kind of numbers that may be infinite or no number at all, as losses are."""


def whole(low: int = 0, high: int = MOST) -> Kind:
    """Return the kind of whole numbers in a range, both ends included."""
    return _kind(lambda value: _is_whole(value) and low <= value <= high, f"a whole number from {low} to {high}")


def number(low: float = -math.inf, high: float = math.inf) -> Kind:
    """Return the kind of finite numbers in a range, both ends included."""
    expected = "a finite number" if low == -math.inf else f"a number from {low:g} to {high:g}"
    return _kind(lambda value: _is_number(value) and low <= value <= high and not _is_infinite(value), expected)


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)  # a whole number may be too large to ask


def matching(pattern: str, expected: str) -> Kind:
    """Return the kind of texts that a regular expression matches whole."""
    compiled = re.compile(pattern)
    return _kind(lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None, expected)


sha256 = matching(r"[0-9a-f]{64}", "a SHA-256 in hexadecimal")


def one_of(*possible: str) -> Kind:
    """Return the kind of some texts."""
    return _kind(lambda value: isinstance(value, str) and value in possible, f"one of {', '.join(possible)}")


def maybe(kind: Kind) -> Kind:
    """Return a kind of which there may be none."""

    def check(value: Any, name: str) -> None:
        if value is not None:
            kind(value, name)

    return check


def list_of(kind: Kind, *, least: int = 0, distinct: bool = False) -> Kind:
    """Return the kind of lists of a kind; distinct ones must be hashable."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, list | tuple) or len(value) < least:
            raise wrong(value, name, f"a list of {least} or more" if least else "a list")
        for i, one in enumerate(value):
            kind(one, f"{name}[{i}]")
        if distinct and len(set(value)) < len(value):
            raise wrong(value, name, "a list without repetitions")

    return check


def row(*kinds: Kind) -> Kind:
    """Return the kind of lists of one value of each kind."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            raise wrong(value, name, f"a list of {len(kinds)}")
        for i, (one, kind) in enumerate(zip(value, kinds, strict=True)):
            kind(one, f"{name}[{i}]")

    return check


def mapping_of(kind: Kind) -> Kind:
    """Return the kind of objects whose values are of a kind."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, Mapping):
            raise wrong(value, name, "an object")
        for key, one in value.items():
            text(key, f"a key of {name}")
            kind(one, f"{name}.{key}")

    return check


def record(required: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None) -> Kind:
    """Return the kind of objects that have some keys and may have others; keys that are not named may say anything."""

    def check(value: Any, name: str) -> None:
        if not isinstance(value, Mapping):
            raise wrong(value, name, "an object")
        for key, kind in {**required, **(optional or {})}.items():
            if key in value:
                kind(value[key], f"{name}.{key}" if name else key)
            elif key in required:
                raise ValueError(f"{name or 'it'} does not say {key}")

    return check
