"""What an option is, and functions whose keywords are a list of options."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, get_args, get_origin

from featcache.options.texts import VALUE, Form

P = ParamSpec("P")
S = TypeVar("S")
O = TypeVar("O")  # noqa: E741  # an object with options
R = TypeVar("R")


@dataclass(frozen=True)
class Option:
    """What there is to know about an option, beside its name, type and default.

    Attributes
    ----------
    help : str
        What it decides. Names of other options stand in backticks.
    flag : str
        Its name on the command line, where that is not its own; empty: its own.
    form : Form
        How its value is written there.
    metavar : str
        What stands for a value in the help.
    minimum, maximum : float, optional
        What the command line takes.
    group : str
        The heading it has in the help.
    argument : bool
        Whether it is given by its place.
    python : bool
        Whether only Python has it.
    """

    help: str
    flag: str = ""
    form: Form = VALUE
    metavar: str = ""
    minimum: float | None = None
    maximum: float | None = None
    group: str = ""
    argument: bool = False
    python: bool = False


def option(
    default: Any,
    help: str,
    *,
    flag: str = "",
    form: Form = VALUE,
    metavar: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    group: str = "",
    argument: bool = False,
    python: bool = False,
) -> Any:
    """Return a dataclass field that is an option, see `Option`."""
    return field(default=default, metadata=about(help, flag, form, metavar, minimum, maximum, group, argument, python))


def about(*values: Any, **more: Any) -> dict[str, Option]:
    """Return the metadata of a dataclass field that is an option, see `Option`."""
    return {"option": Option(*values, **more)}


def options_of(kind: Any) -> dict[str, tuple[dataclasses.Field[Any], Option]]:
    """Return the options of a list, or of an object made of one, by name."""
    return {one.name: (one, one.metadata["option"]) for one in dataclasses.fields(kind) if "option" in one.metadata}


def flag_of(name: str, one: Option) -> str:
    """Return an option's name on the command line, without dashes."""
    return one.flag or name.replace("_", "-")


def subset(options: Any, kind: Callable[..., O], **more: Any) -> O:
    """Return those of some options that another list has, too, as an object of that list."""
    names = {one.name for one in dataclasses.fields(options)}
    shared = {one.name for one in dataclasses.fields(kind)} & names  # type: ignore[arg-type]
    return kind(**{name: getattr(options, name) for name in shared - set(more)}, **more)


def takes(options: Callable[P, O]) -> Callable[[Callable[[O], R]], Callable[P, R]]:
    """Let a function of an object with options take them as flat arguments."""

    def flatten(function: Callable[[O], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def flat(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(options(*args, **kwargs))

        return _described(flat, function, options)

    return flatten


def constructs(options: Callable[P, O]) -> Callable[[Callable[[S, O], None]], Callable[Concatenate[S, P], None]]:
    """Let an ``__init__`` of an object with options take them as flat arguments."""

    def flatten(function: Callable[[S, O], None]) -> Callable[Concatenate[S, P], None]:
        @functools.wraps(function)
        def flat(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
            function(self, options(*args, **kwargs))

        own = inspect.signature(options)
        first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        flat.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[first, *own.parameters.values()], return_annotation=None
        )
        return flat

    return flatten


def _described(flat: Callable[P, R], function: Callable[..., Any], options: Any) -> Callable[P, R]:
    """Give a flat function the signature of its options, and their help in its docstring."""
    own = inspect.signature(options)
    returned = inspect.signature(function).return_annotation
    flat.__signature__ = own.replace(return_annotation=returned)  # type: ignore[attr-defined]
    flat.__annotations__ = {name: one.annotation for name, one in own.parameters.items()} | {"return": returned}
    flat.__doc__ = _with_parameters(function.__doc__, options, "Returns")
    return flat


def documented(options: Any) -> Callable[[type[S]], type[S]]:
    """Put the options that a class takes into its docstring, before its attributes."""

    def describe(kind: type[S]) -> type[S]:
        kind.__doc__ = _with_parameters(kind.__doc__, options, "Attributes")
        return kind

    return describe


def _with_parameters(text: str | None, options: Any, following: str) -> str:
    """Return a docstring with the section that describes some options before the section that follows it."""
    head, rule, rest = inspect.cleandoc(text or "").partition(f"\n{following}\n{'-' * len(following)}\n")
    return f"{head}\n{parameters_section(options)}{rule}{rest}"


def parameters_section(options: Any) -> str:
    """Return the numpydoc section that describes some options."""
    from featcache.options import lists

    lines, known = ["Parameters", "----------"], options_of(options)
    for name in inspect.signature(options).parameters:
        one, what = known[name]
        alias = vars(lists).get(str(one.type).removesuffix(" | None"))
        choices = get_args(alias) if get_origin(alias) is Literal else ()
        kind = f"{{{', '.join(map(repr, choices))}}}" if choices else str(one.type)
        default = "" if one.default is dataclasses.MISSING else f", default {one.default!r}"
        lines.append(f"{name} : {kind}{default}")
        lines += textwrap.wrap(what.help, 110, initial_indent="    ", subsequent_indent="    ")
    return "\n".join([*lines, ""])
