"""What all commands share: the app, output as text or JSON, messages, errors and exit codes."""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import gc
import inspect
import io
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from featcache.cli import imagelines, supervision
from featcache.cli.options import GENERAL, Command, Expanded, with_flags, with_variable
from featcache.errors import CacheError, FeatcacheError, GateError, HungError
from featcache.errors import printable as printable
from featcache.files.publishing import TEMPORARY
from featcache.files.reading import trouble
from featcache.system import status
from featcache.system.progress import Bar

DONE, FAILED, SKIPPED, GATE = 0, 1, 3, 4

log = logging.getLogger("featcache")

Cache = Annotated[Path | None, typer.Argument(help="A cache. Default: the newest under cache/.")]


@dataclass(frozen=True)
class Outcome:
    """What a command has to say: `data` for ``--json``, `text` for people, and if it failed, `error` for stderr."""

    data: dict[str, Any]
    text: str
    code: int = DONE
    error: str = ""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C: what is done is committed."""


_COMMON = {
    name: typer.Option(*flags, help=text, rich_help_panel=GENERAL)
    for name, flags, text in (
        ("json_output", ("--json",), "Print one JSON object, and nothing else, on stdout."),
        ("quiet", ("--quiet", "-q"), "No progress and no warnings."),
        ("verbose", ("--verbose", "-v"), "Say more on stderr."),
        ("debug", ("--debug",), "Show the traceback of an error."),
    )
}


_RESUME = ("extract", "compare", "fine-tune")
"""Commands that keep what is done when they are stopped; so does predict with --out."""

_registered: dict[str, tuple[Callable[..., Outcome], str]] = {}


def command(name: str, *, example: str) -> Callable[[Callable[..., Outcome]], Callable[..., Outcome]]:
    """Register a command, which returns its outcome."""

    def register(function: Callable[..., Outcome]) -> Callable[..., Outcome]:
        _registered[name] = function, example
        return function

    return register


@functools.cache
def _made(name: str) -> Any:
    """Return a command for Typer: with the common options, printing its outcome, turning errors into exit codes."""
    function, example = _registered[name]
    expanded = Expanded(function, name, missing=_otherwise)

    @functools.wraps(function)
    def run(*, json_output: bool, quiet: bool, verbose: bool, debug: bool, **options: Any) -> None:
        _listen(quiet=quiet, verbose=verbose)
        resumes = name in _RESUME or (name == "predict" and options["out"] is not None)
        resumes = resumes and not options.get("dry_run") and not options.get("fresh")
        with _errors(debug=debug, resumes=resumes):
            stdout = sys.stdout
            with _status(name, quiet=quiet), contextlib.redirect_stdout(_Noticed(sys.stderr)):  # Keras prints downloads
                outcome = function(**expanded.collect(options))
                if (parallel := sys.modules.get("featcache.training.parallel")) is not None:
                    parallel.end_workers()
            _say(json.dumps(outcome.data, default=str) if json_output else outcome.text, stdout)
        if outcome.error:
            _complain(outcome.error)
        raise typer.Exit(outcome.code)

    common = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])
        for key, option in _COMMON.items()
    ]
    parameters = [*expanded.parameters, *(with_variable(one, name) for one in common)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(name, cls=Command, help=expanded.help, epilog=f"Example: {example}")(run)
    return typer.main.get_command(alone)


class _Commands(TyperGroup):
    """All commands, each made when it is asked for: making all of them takes longer than the rest of a start."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = dict.fromkeys(_registered)  # type: ignore[assignment]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _made(cmd_name) if cmd_name in self.commands else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        limit = formatter.width - 6 - max(map(len, self.commands))
        rows = [
            (name, TyperCommand(name, help=str(function.__doc__).partition("\n\n")[0]).get_short_help_str(limit))
            for name, (function, _) in _registered.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


app = typer.Typer(
    name="featcache",
    cls=_Commands,
    help="Extract the features of a frozen base once; train and compare light heads on them in seconds.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from featcache import __version__

        typer.echo(f"featcache {__version__}")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _status(name: str, *, quiet: bool) -> contextlib.AbstractContextManager[object]:
    """Return what says on a terminal what is being done, while nothing else does."""
    shown = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return status.Status(name) if shown else contextlib.nullcontext()


class _Noticed:
    """A stream that takes the place of the line that says what is being done."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        status.hide()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Handler(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        status.hide()
        super().emit(record)


def _listen(*, quiet: bool, verbose: bool) -> None:
    """Send the library's messages to stderr."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Formatter())
    log.handlers = [handler]
    log.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    log.propagate = False
    logging.getLogger("featcache.skipped").setLevel(logging.NOTSET if verbose else logging.ERROR)  # listed at the end
    for name in ("absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from featcache.images.decoding import take_over_pillow

    take_over_pillow()


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = printable(record.getMessage())
        return f"{record.levelname.lower()}: {text}" if record.levelno >= logging.WARNING else text


@contextlib.contextmanager
def _errors(*, debug: bool, resumes: bool = True) -> Iterator[None]:
    def stop(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to a group, it comes from its leader, too
        raise _Terminated

    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (KeyboardInterrupt, Exception) as error:
        if isinstance(error, typer.Exit) or debug:
            raise
        if isinstance(error, HungError) and supervision.supervised:
            os._exit(supervision.HUNG)
        code, text = FAILED, str(error)
        if isinstance(error, KeyboardInterrupt):
            code = 128 + (signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT)
            text = "stopped"
            if resumes:
                text += "; what was done is kept, and the same command resumes there"
        elif isinstance(error, GateError):
            code = GATE
        elif isinstance(error, MemoryError):
            text = "out of memory; take a smaller --batch-size, or features of fewer values"
        elif isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK or trouble(error)):
            text = f"{_place(error)} cannot be read or written: "
            text += trouble(error) or f"{error.strerror}. Free some space, or name another place."
        elif not isinstance(error, FeatcacheError):
            text = f"unexpected {type(error).__name__}: {error}. Run again with --debug and report it"
        _complain(text)
        raise typer.Exit(code) from None


_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})


def _place(error: OSError) -> str:
    """Name the file of an error, or its folder where the file is one that we would have renamed into place."""
    if not isinstance(error.filename, str | bytes):
        return "A file"
    path = Path(os.fsdecode(error.filename))
    return f"A file in {str(path.parent)!r}" if path.name.startswith(TEMPORARY) else repr(str(path))


def _complain(text: str) -> None:
    _say(f"error: {printable(' '.join(with_flags(text).split()))}", sys.stderr)


def _say(text: str, stream: TextIO) -> None:
    """Print a line, whatever the terminal can show, and whether or not somebody still reads."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:  # `| head` has seen enough; spare Python its complaint at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Progress(Bar):
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str, unit: str = "images", every: float = 10.0) -> None:
        super().__init__(what, unit)
        self._every, self._last = every, time.monotonic()
        self._said = False  # what takes less than `every` seconds needs no lines

    def __call__(self, done: int, total: int) -> None:
        """Say that `done` of `total` are done."""
        if not log.isEnabledFor(logging.INFO):
            return
        if sys.stderr.isatty():
            super().__call__(done, total)
            return
        rate, now = self.rate(done), time.monotonic()
        if rate and (now - self._last >= self._every or (done == total and self._said)):
            self._last, self._said = now, True
            left = f", {(total - done) / rate:.0f} s left" if done < total else ""
            log.info("%s: %d of %d, %s%s", self._what, done, total, self.speed(rate), left)


@contextlib.contextmanager
def progress(what: str, unit: str = "images") -> Iterator[Progress]:
    """Show progress, and tidy up however it ends."""
    shown = Progress(what, unit)
    try:
        yield shown
    finally:
        shown.close()


def skipped_text(skipped: list[dict[str, str]], *, most: int = 10) -> str:
    """Return the images that could not be used, one per line, with their reasons."""
    lines = [f"  {printable(one['path'])}: {printable(one['reason'])}" for one in skipped[:most]]
    if len(skipped) > most:
        lines.append(f"  … and {len(skipped) - most} more (--json lists them all)")
    count = "1 image was" if len(skipped) == 1 else f"{len(skipped)} images were"
    return "\n".join([f"{count} skipped:", *lines]) if skipped else ""


def newest() -> Path:
    """Return the newest cache under ``cache/`` and say which it is."""
    caches = [path.parent for path in Path("cache").glob("*/manifest.sqlite")]
    caches = [folder for folder in caches if (folder / "recipe.json").is_file() and (folder / "shards").is_dir()]
    if not caches:
        raise CacheError("There is no cache under 'cache'. Run `featcache extract` first, or name a cache.")
    found = max(caches, key=lambda folder: (folder / "shards").stat().st_mtime_ns)  # `extract` touches it
    log.info("using %s, the newest cache", found)
    return found


def _otherwise(option: str, given: dict[str, Any]) -> Any:
    """Return what a command takes for an option that has no default in Python, and say what that is."""
    if option == "source":
        log.info("no source is named: digits, which scikit-learn has")
        return "digits"
    if option == "base":
        of_vgg19 = any(_VGG19.fullmatch(layer) for layer in given.get("layers", ()))
        base = "vgg19" if of_vgg19 else "mobilenetv2"
        log.info("no base is named: %s%s", base, ", which has the layer" if of_vgg19 else "")
        return base
    return [newest()] if option == "caches" else newest()


_VGG19 = re.compile(r"block([12]_conv[12]|[345]_conv[1-4]|[1-5]_pool)")


def main() -> None:
    """Run the command line."""
    if sys.stderr is None:  # closed by whoever started this: `2>&-`
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123  # until the end
    os.environ["PYTHONSAFEPATH"] = "1"  # no process that this one starts imports from the current folder
    if sys.argv[1:2] == ["extract"] and (ended := supervision.supervise()) is not None:
        code, error = ended
        if error:
            _complain(error)
        sys.exit(code)
    # else Python looks for garbage in all that TensorFlow has made before it ends, for over a second
    atexit.register(gc.freeze)
    with contextlib.nullcontext() if "--debug" in sys.argv else imagelines.dropped():
        app()
