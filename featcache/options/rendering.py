"""A list of options as a command line that can be pasted."""

from __future__ import annotations

import shlex
from typing import Any

from featcache.options.signatures import flag_of, options_of


def words(options: Any) -> list[str]:
    """Return options as the command line takes them: arguments first, then every option that is not at its default.

    Parameters
    ----------
    options : object
        Made of one of the lists in `featcache.options.lists`.

    Returns
    -------
    list of str
        Not quoted for a shell.
    """
    arguments, found = [], []
    for name, (one, about) in options_of(options).items():
        value = getattr(options, name)
        if about.python or value is None:
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
    """Return a command of featcache with its options, quoted for a shell.

    Parameters
    ----------
    command : str
        Its name, such as ``extract``.
    options : object
        As `words` takes them.
    """
    return shlex.join(["featcache", command, *words(options)])
