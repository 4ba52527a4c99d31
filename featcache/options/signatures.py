"""What an option is, lists of them, and functions whose keywords are such a list."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, field
from typing import (
    Any,
    ClassVar,
    Concatenate,
    Literal,
    NamedTuple,
    ParamSpec,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
)

from featcache.errors import nearest
from featcache.options.forms import FORM_OF_TYPE, VALUE, Form

P = ParamSpec("P")
S = TypeVar("S")
O = TypeVar("O")  # noqa: E741  # an object with options
R = TypeVar("R")


class Option(NamedTuple):
    """What there is to know about an option, beside its name, type and default.

    `help` has the names of other options in backticks; `group` is its heading in the help; `form` says how its value
    is written on the command line (`VALUE`: as its type says), where it is called `flag`, or as in Python; an
    `argument` is given by its place; the command line has no option that is for `python`. `otherwise` says what the
    command line takes for an option that has no default in Python.
    """

    help: str
    group: str = ""
    form: Form = VALUE
    flag: str = ""
    metavar: str = ""
    minimum: float | None = None
    maximum: float | None = None
    argument: bool = False
    python: bool = False
    otherwise: str = ""


def about(help: str, group: str = "", **more: Any) -> dict[str, Option]:
    """Return the metadata of a field that is an option, see `Option`."""
    return {"option": Option(help, group, **more)}


def option(default: Any, help: str, group: str = "", **more: Any) -> Any:
    """Return a field that is an option, see `Option`."""
    return field(default=default, metadata=about(help, group, **more))


def required(help: str, group: str = "", **more: Any) -> Any:
    """Return a field that is an option without a default, see `Option`."""
    return field(metadata=about(help, group, **more))


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field, required))
class OptionList:
    """Base of a list of options: its subclasses are frozen dataclasses.

    Their methods are here once: at each start of the command line, `dataclass` would generate code for ten lists.
    """

    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, *, kw_only: bool = True) -> None:
        dataclasses.dataclass(init=False, repr=False, eq=False, match_args=False, kw_only=kw_only)(cls)
        either, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
        parameters = [
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY if one.kw_only else either,
                default=empty if one.default is dataclasses.MISSING else one.default,
                annotation=one.type,
            )
            for one in dataclasses.fields(cls)  # type: ignore[arg-type]
        ]
        cls.__signature__ = inspect.Signature(sorted(parameters, key=lambda one: one.kind))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            values = self.__signature__.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}.__init__() {error}") from None
        for one in dataclasses.fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, one.name, values.get(one.name, one.default))
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the values."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def options_of(kind: Any) -> dict[str, tuple[dataclasses.Field[Any], Option]]:
    """Return the options of a list, or of an object made of one, by name."""
    return dict(_options_of(kind if isinstance(kind, type) else type(kind)))


@functools.cache
def _options_of(kind: type) -> dict[str, tuple[dataclasses.Field[Any], Option]]:
    options = {}
    for one in dataclasses.fields(kind):
        if about := one.metadata.get("option"):
            if about.form is VALUE:
                about = about._replace(form=FORM_OF_TYPE.get(str(one.type), VALUE))
            options[one.name] = (one, about)
    return options


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
            _check_names(function.__name__, options, kwargs)
            return function(options(*args, **kwargs))

        own = inspect.signature(options)
        returned = inspect.signature(function).return_annotation
        flat.__signature__ = own.replace(return_annotation=returned)  # type: ignore[attr-defined]
        flat.__annotations__ = {name: one.annotation for name, one in own.parameters.items()} | {"return": returned}
        flat.__doc__ = _with_parameters(function.__doc__, options, "Returns")
        return flat

    return flatten


def _check_names(function: str, options: Any, given: Mapping[str, Any]) -> None:
    """Raise TypeError, as Python does, if a function has no such argument; it names the nearest."""
    known = inspect.signature(options).parameters
    for name in given:
        if name not in known:
            raise TypeError(f"{function}() has no argument {name!r} ({nearest(name, known)}).")
    missing = [name for name, one in known.items() if one.default is one.empty and one.kind is one.KEYWORD_ONLY]
    if missing := [name for name in missing if name not in given]:
        raise TypeError(f"{function}() needs the argument {missing[0]!r}.")


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


def documented(options: Any) -> Callable[[type[S]], type[S]]:
    """Put the options that a class takes into its docstring, before its attributes."""

    def describe(kind: type[S]) -> type[S]:
        kind.__doc__ = _with_parameters(kind.__doc__, options, "Attributes")
        return kind

    return describe


def _with_parameters(text: str | None, options: Any, following: str) -> str:
    """Return a docstring with the numpydoc section that describes some options before the one that follows it."""
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
    head, rule, rest = inspect.cleandoc(text or "").partition(f"\n{following}\n{'-' * len(following)}\n")
    return "\n".join([head, *lines, ""]) + rule + rest
