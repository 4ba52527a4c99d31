"""Options of the library as options of the command line."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

from featcache.options import flag_of, lists, options_of
from featcache.options.signatures import Option
from featcache.options.texts import CACHE, CACHES, PATH, TEXT

_OWN_NAMES = {
    name: f"--{flag_of(name, about)}"
    for kind in (lists.ExtractOptions, lists.FitHeadOptions, lists.FineTuneOptions)
    for name, (_, about) in options_of(kind).items()
    if about.flag
}
"""Arguments of the library whose options have other names."""


def with_flags(text: str) -> str:
    """Return a message of the library with its arguments, which it puts in backticks, as options: `--image-size`."""
    return re.sub(r"`([a-z_]+)`", lambda name: _OWN_NAMES.get(name[1], f"--{name[1].replace('_', '-')}"), text)


GENERAL = "General"
"""The heading of the options that all commands have."""


class Command(TyperCommand):
    """A command whose help lists its options by groups, the most used ones first."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then each group of options under its heading."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is None:
                continue
            heading = getattr(parameter, "rich_help_panel", None)
            if parameter.param_type_name == "argument":
                heading = "Arguments"
            elif parameter.name == "help":
                heading = GENERAL
            groups.setdefault(heading or "Options", []).append(record)
        last = groups.pop(GENERAL, [])
        for heading, records in [*groups.items(), (GENERAL, last)]:
            with formatter.section(heading):
                formatter.write_dl(records)


class Expanded:
    """The parameters of a command's function, with those that are lists of options as one for each option.

    Parameters
    ----------
    function : callable
        A command. Parameters that are annotated with a dataclass of options stand for all of its options.
    name : str
        The command's name.
    """

    def __init__(self, function: Callable[..., Any], name: str, *, missing: Callable[[], Any]) -> None:
        self._command, self._missing = name, missing
        self._lists: dict[str, tuple[Any, dict[str, str]]] = {}
        self.parameters: list[inspect.Parameter] = []
        signature = inspect.signature(function, eval_str=True)
        own = {key for key, one in signature.parameters.items() if not dataclasses.is_dataclass(one.annotation)}
        for key, parameter in signature.parameters.items():
            kind = parameter.annotation
            if key in own:
                self.parameters.append(with_variable(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY), name))
                continue
            names = {field: f"{field}_" if field in own else field for field in options_of(kind)}
            self._lists[key] = kind, names
            for field, (one, about) in options_of(kind).items():
                if not about.python:
                    self.parameters.append(_parameter(names[field], field, one, about, name))
        arguments = [one for one in self.parameters if not isinstance(get_args(one.annotation)[1], OptionInfo)]
        rest = [one for one in self.parameters if one not in arguments]
        first = [one for one in rest if not get_args(one.annotation)[1].rich_help_panel]
        self.parameters = [*arguments, *first, *(one for one in rest if one not in first)]

    def collect(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return what the function takes, from the values that Typer found."""
        for key, (kind, names) in self._lists.items():
            given = {}
            for field, (one, about) in options_of(kind).items():
                value = None if about.python else values.pop(names[field])
                if value is not None and value != []:
                    given[field] = about.form.read(value, f"--{flag_of(field, about)}")
                elif one.default is dataclasses.MISSING:
                    given[field] = [self._missing()] if about.form is CACHES else self._missing()
            values[key] = kind(**given)
        return values


def _parameter(key: str, name: str, one: dataclasses.Field[Any], about: Option, command: str) -> inspect.Parameter:
    """Return an option as a parameter that Typer understands."""
    kind = about.form.kind
    required = one.default is dataclasses.MISSING
    default = None if required else one.default
    if kind is None:
        kind = eval(str(one.type), vars(lists))  # an annotation of ours
    elif kind is bool:
        default = False
    elif about.form not in (TEXT, PATH):
        default = None
    help = with_flags(about.help) + (" Default: the newest under cache/." if about.form in (CACHE, CACHES) else "")
    if about.argument:
        info: Any = typer.Argument(help=help, metavar=about.metavar or None)
        default = inspect.Parameter.empty if required and about.form not in (CACHE, CACHES) else default
    else:
        info = typer.Option(
            f"--{flag_of(name, about)}", help=help, metavar=about.metavar or None, min=about.minimum,
            max=about.maximum, rich_help_panel=about.group or None,
        )  # fmt: skip
    parameter = inspect.Parameter(
        key, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info], default=default
    )
    return with_variable(parameter, command)


def with_variable(parameter: inspect.Parameter, command_name: str) -> inspect.Parameter:
    """Let an option be given as ``FEATCACHE_<COMMAND>_<OPTION>``, and name its value for people."""
    kind, info = get_args(parameter.annotation)
    info = copy.copy(info)
    info.metavar = info.metavar or _placeholder(parameter.name, kind, option=isinstance(info, OptionInfo))
    if not isinstance(info, OptionInfo):
        return parameter.replace(annotation=Annotated[kind, info])
    given = [info.default, *(info.param_decls or ())]  # in Annotated, Typer keeps the first name as the default
    names = [name for name in given if isinstance(name, str) and name.startswith("--")] or [f"--{parameter.name}"]
    info.envvar = f"FEATCACHE_{command_name}_{names[0].lstrip('-')}".replace("-", "_").upper()
    info.show_envvar = False
    return parameter.replace(annotation=Annotated[kind, info])


def _placeholder(name: str, kind: Any, *, option: bool) -> str | None:
    """Return what stands for a value in the help, where Typer would name a Python type."""
    if not option:
        return name.upper()
    text = str(kind)
    for part, word in (("str", "NAME"), ("Path", "PATH"), ("int", "N"), ("float", "X")):
        if part in text and "Literal" not in text:
            return word
    return None
