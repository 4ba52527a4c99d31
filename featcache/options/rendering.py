"""A list of options as a command line that can be pasted."""

from __future__ import annotations

import shlex
from typing import Any

from featcache.options.signatures import flag_of, options_of


def words(options: Any) -> list[str]:
    """Return options as the command line takes them, not quoted: arguments, then all that are not at their default."""
    arguments: list[str] = []
    found: list[str] = []
    for name, (one, about) in options_of(options).items():
        value = getattr(options, name)
        if about.python or (value is None and (about.argument or one.default is None)):
            continue
        if about.argument:
            arguments += [str(each) for each in (value if isinstance(value, list | tuple) else [value])]
        elif value != one.default:
            flag = f"--{flag_of(name, about)}"
            for text in about.form.write(value):
                found += [flag] if text is None else [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    if any(argument.startswith("-") for argument in arguments):
        return [*found, "--", *arguments]
    return [*arguments, *found]


def command_line(command: str, options: Any) -> str:
    """Return a command of featcache with its options, quoted for a shell."""
    return shlex.join(["featcache", command, *words(options)])
