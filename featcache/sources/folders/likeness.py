"""Names of classes that are hardly different: another spelling, plural, or a slip of the pen."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence

_LETTERS = str.maketrans("\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456", "aeopcyxi")
"""Cyrillic letters that look like Latin ones."""

_LEAST, _TIMES = 6, 5
"""Letters of a name, and how much larger the other class is, where one letter more or less is taken for a slip."""


def twins(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return groups of names that differ by case, spaces (also ``_`` and ``-``), Unicode form, as 1, 1.0 and 01, or as
    cat and cats.
    """
    plain = {name: _plain(name) for name in names}
    known = set(plain.values())
    groups: dict[str, list[str]] = {}
    for name, text in plain.items():
        groups.setdefault(_singular(text, known), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _plain(name: str) -> str:
    """Return a name without what only looks different in it."""
    text = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    text = re.sub(r"^[\s_]+|(?<=\S)[\s_-]+", " ", text).strip().strip("'\"").rstrip(".,;: ") or text
    text = text.casefold().translate(_LETTERS)
    number = re.fullmatch(r"([-+]?)0*(\d+?)([.,]0*)?", text)
    return number[1].strip("+") + number[2] if number else text


def _singular(text: str, known: Collection[str]) -> str:
    """Return the one of the `known` names that a name is the plural of, else itself."""
    for end, single in (("ies", "y"), ("es", ""), ("s", "")):
        word = text.removesuffix(end) + single
        if text.endswith(end) and len(word) > 2 and word in known:
            return word
    return text


def slips(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return small classes whose names differ by one letter from that of a class of five times as many images, and
    that.
    """
    near: dict[str, list[str]] = {}
    words = [name for name in counts if len(name) >= _LEAST and not any(map(str.isdigit, name))]
    for name in words:
        for variant in {name, *(name[:i] + name[i + 1 :] for i in range(len(name)))}:
            near.setdefault(variant, []).append(name)
    found: dict[str, str] = {}
    alike = {name: group for group in twins(list(counts)) for name in group}
    for names in near.values():
        common = max(names, key=counts.__getitem__)
        for name in names:
            if counts[name] * _TIMES <= counts[common] and common not in alike.get(name, ()):
                found.setdefault(name, common)
    return sorted(found.items())
