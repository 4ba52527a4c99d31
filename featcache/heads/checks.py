"""What a parameter's value may be, and the one message for a value that it may not be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from featcache.errors import OptionError


class Rule(NamedTuple):
    """What a value must be, in words and as a test of it."""

    expected: str
    holds: Callable[[Any], bool]


def check(owner: Any, rules: Mapping[str, Rule]) -> None:
    """Raise OptionError for the first attribute of an object that breaks the rule of its name."""
    for name, rule in rules.items():
        value = getattr(owner, name)
        if not rule.holds(value):
            raise OptionError(f"{name} must be {rule.expected}. Received: {name}={value!r}.")


def whole(least: int) -> Rule:
    """Return the rule of whole numbers from a least one on."""
    return Rule(
        f"a whole number of {least} or more", lambda value: _is(value, int | np.integer) and bool(value >= least)
    )


def one_of(*names: str) -> Rule:
    """Return the rule of some texts."""
    return Rule(f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names)


def each(rule: Rule, expected: str, *, least: int = 0) -> Rule:
    """Return the rule of one value, or a sequence of `least` or more, that all follow a rule."""
    return Rule(expected, lambda value: len(as_list(value)) >= least and all(map(rule.holds, as_list(value))))


def as_list(value: Any) -> list[Any]:
    """Return the values of a sequence or an array; any other value alone."""
    several = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
    return list(value) if several else [value]


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _number(value: Any) -> float:
    """Return a value as a float; NaN, which no rule allows, if it is not a number."""
    return float(value) if _is(value, int | float | np.integer | np.floating) else math.nan


POSITIVE = Rule("a number above 0", lambda value: 0 < _number(value) < math.inf)
NOT_NEGATIVE = Rule("0 or more", lambda value: 0 <= _number(value) < math.inf)
BELOW_ONE = Rule("0 <= x < 1", lambda value: 0 <= _number(value) < 1)
TRUE_OR_FALSE = Rule("true or false", lambda value: isinstance(value, bool | np.bool_))
