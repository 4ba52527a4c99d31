"""Options of the library as options of the command line."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo, ParameterInfo

from featcache.options import flag_of, lists, options_of
from featcache.options.forms import PATH, TEXT
from featcache.options.signatures import Option


@functools.cache
def _flags() -> dict[str, str]:
    """Return the arguments of the library whose options have other names, and these."""
    kinds = (lists.ExtractOptions, lists.FitHeadOptions, lists.FineTuneOptions)
    known = [pair for kind in kinds for pair in options_of(kind).items()]
    return {name: f"--{about.flag}" for name, (_, about) in known if about.flag}


def with_flags(text: str) -> str:
    """Return a message of the library with its arguments, which it puts in backticks, as options: `--image-size`."""
    return re.sub(r"`([a-z_]+)`", lambda name: _flags().get(name[1], f"--{name[1].replace('_', '-')}"), text)


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


_Missing = Callable[[str, dict[str, Any]], Any]
"""Gives the value of an option that has no default, from its name and those options that are given."""


class Expanded:
    """The parameters of a command's function, with those that are lists of options as one for each option.

    What the function's docstring says of its other parameters, a ``name: text`` each, is their help.
    """

    def __init__(self, function: Callable[..., Any], name: str, *, missing: _Missing) -> None:
        self._missing = missing
        self._lists: dict[str, tuple[Any, dict[str, str]]] = {}
        self.help, _, described = inspect.cleandoc(function.__doc__ or "").partition("\n\n")
        helps = dict(re.findall(r"^(\w+): ((?:.|\n(?!\w+: ))+)", described, re.MULTILINE))
        parameters: list[inspect.Parameter] = []
        signature = inspect.signature(function, eval_str=True)
        own = {key for key, one in signature.parameters.items() if not dataclasses.is_dataclass(one.annotation)}
        for key, parameter in signature.parameters.items():
            kind = parameter.annotation
            if key in own:
                kind, info = get_args(kind)[:2] if hasattr(kind, "__metadata__") else (kind, typer.Option())
                info = copy.copy(info)
                info.help = " ".join(helps[key].split()) if key in helps else info.help
                parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=Annotated[kind, info]))
                continue
            names = {field: f"{field}_" if field in own else field for field in options_of(kind)}
            self._lists[key] = kind, names
            for field, (one, about) in options_of(kind).items():
                if not about.python:
                    parameters.append(_parameter(names[field], field, one, about))
        self.parameters = sorted((with_variable(one, name) for one in parameters), key=_rank)

    def collect(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return what the function takes, from the values that Typer found."""
        for key, (kind, names) in self._lists.items():
            given: dict[str, Any] = {}
            absent: list[str] = []
            for field, (one, about) in options_of(kind).items():
                value = None if about.python else values.pop(names[field])
                if value is not None and value != []:
                    given[field] = about.form.read(value, f"--{flag_of(field, about)}")
                elif one.default is dataclasses.MISSING:
                    absent.append(field)
            given |= {field: self._missing(field, given) for field in absent}
            values[key] = kind(**given)
        return values


def _info(parameter: inspect.Parameter) -> ParameterInfo:
    info: ParameterInfo = get_args(parameter.annotation)[1]
    return info


def _rank(parameter: inspect.Parameter) -> int:
    """Return 0 for arguments, 1 for options that are used most, 2 for those that have a heading of their own."""
    info = _info(parameter)
    return 0 if not isinstance(info, OptionInfo) else 2 if info.rich_help_panel else 1


def _parameter(key: str, name: str, one: dataclasses.Field[Any], about: Option) -> inspect.Parameter:
    """Return an option as a parameter that Typer understands."""
    kind = about.form.kind
    default = None if one.default is dataclasses.MISSING else one.default
    if kind is None:
        kind = eval(str(one.type), vars(lists))  # an annotation of ours
    elif kind is bool:
        default = False
    elif about.form not in (TEXT, PATH):
        default = None
    help = with_flags(f"{about.help} Default: {about.otherwise}." if about.otherwise else about.help)
    metavar = about.metavar or None
    info: ParameterInfo
    if about.argument:
        info = typer.Argument(help=help, metavar=metavar)
        if one.default is dataclasses.MISSING and not about.otherwise:
            default = inspect.Parameter.empty
    else:
        flag, panel = f"--{flag_of(name, about)}", about.group or None
        info = typer.Option(
            flag, help=help, metavar=metavar, min=about.minimum, max=about.maximum, rich_help_panel=panel
        )
    return inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info], default=default)


def with_variable(parameter: inspect.Parameter, command_name: str) -> inspect.Parameter:
    """Let an option be given as ``FEATCACHE_<COMMAND>_<OPTION>``, and name its value for people."""
    kind, info = get_args(parameter.annotation)[0], copy.copy(_info(parameter))
    info.metavar = info.metavar or _placeholder(parameter.name, kind, option=isinstance(info, OptionInfo))
    if isinstance(info, OptionInfo):
        given = [info.default, *(info.param_decls or ())]  # in Annotated, Typer keeps the first name as the default
        names = [name for name in given if isinstance(name, str) and name.startswith("--")] or [f"--{parameter.name}"]
        info.envvar = f"FEATCACHE_{command_name}_{names[0].lstrip('-')}".replace("-", "_").upper()
        info.show_envvar = False
    return parameter.replace(annotation=Annotated[kind, info])


def _placeholder(name: str, kind: Any, *, option: bool) -> str | None:
    """Return what stands for a value in the help, where Typer would name a Python type."""
    if not option:
        return name.upper()
    words = {"str": "NAME", "Path": "PATH", "int": "N", "float": "X"}
    text = str(kind)
    return next((word for part, word in words.items() if part in text and "Literal" not in text), None)
