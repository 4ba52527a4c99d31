"""Everything featcache raises on purpose.

FeatcacheError
├── OptionError        a value the caller gave is not one of the possible ones
├── SourceError        the images, their labels or their splits cannot be listed
├── ImageError         one image cannot be read or decoded
├── BaseError          the frozen base cannot be built, cut or run
│   └── WeightsError   its weights are missing or do not fit
├── CacheError         the cache cannot be opened or written
│   ├── CacheBusyError     another process is writing it
│   └── CacheDamagedError  a checksum does not match
├── HungError          the decoding of an image does not end
├── HeadError          a head cannot be trained, saved or loaded
├── ExportError        a model cannot be exported, or others would not get its numbers
└── GateError          a required score was not reached

Messages are one line: what is wrong, what was found, what to do next. Arguments are in backticks (`image_size`), which
the command line shows as options (--image-size).
"""

from __future__ import annotations

import contextlib
import difflib
import shlex
from collections.abc import Iterable, Iterator


class FeatcacheError(Exception):
    """Base class of every error that featcache raises on purpose."""


class OptionError(FeatcacheError, ValueError):
    """A value the caller gave is not one of the possible ones."""


class SourceError(FeatcacheError):
    """The images, their labels or their splits cannot be listed."""


class ImageError(FeatcacheError):
    """One image cannot be read or decoded; the message is the reason alone, without the path."""


class BaseError(FeatcacheError):
    """The frozen base cannot be built, cut or run."""


class WeightsError(BaseError):
    """The base's weights are missing or do not fit."""


class CacheError(FeatcacheError):
    """The cache cannot be opened or written."""


class CacheBusyError(CacheError):
    """Another process is writing the cache."""


class CacheDamagedError(CacheError):
    """What was read from the cache does not have the checksum it was written with."""


class HungError(FeatcacheError):
    """The decoding of an image does not end."""


class HeadError(FeatcacheError):
    """A head cannot be trained, saved or loaded."""


class ExportError(FeatcacheError):
    """A model cannot be exported, or others would not get its numbers."""


class GateError(FeatcacheError):
    """A required score was not reached."""


NO_MEMORY = "not enough memory"
"""How the reason of an image starts that may be fine when more memory is free."""


@contextlib.contextmanager
def about_image(done: str) -> Iterator[None]:
    """Turn whatever a library raises about one image, which was to be `done`, into an `ImageError`.

    So the image ends no run. Errors of featcache stay what they are.
    """
    try:
        yield
    except FeatcacheError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's
            raise ImageError(f"{NO_MEMORY}: it cannot be {done} with what is free") from None
        raise ImageError(f"it cannot be {done}: {type(error).__name__}: {one_line(error)}") from None


def nearest(name: str, known: Iterable[str], *, n: int = 5) -> str:
    """Say for the end of a message which of the `known` names come nearest to an unknown one: ``"nearest: a, b"``.

    If none does, ``"known: …"`` with the first `n` of them.
    """
    names = list(known)
    folded: dict[str, str] = {}
    for candidate in names:
        folded.setdefault(candidate.lower(), candidate)
    close = difflib.get_close_matches(name.lower(), folded, n=n, cutoff=0.5)
    if close:
        return "nearest: " + ", ".join(folded[match] for match in close)
    more = f", … ({len(names)} in all)" if len(names) > n else ""
    return "known: " + ", ".join(names[:n]) + more


def printable(text: str) -> str:
    """Return text with control characters and what is not UTF-8 escaped, fit for a terminal or a page."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def mending(cache: object) -> str:
    """Return the command that mends a cache, as a message shows it, to be run as it stands."""
    return f"`featcache verify --fix {shlex.quote(str(cache))}`"


def one_line(error: object) -> str:
    """Return an error's text on one line, at a readable length."""
    return " ".join(str(error).split())[:300]
