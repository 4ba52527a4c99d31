"""Lines that image libraries print about single images, kept from stderr: an image that fails is named with its reason.

TensorFlow's libjpeg and libpng print from C, past Python and without saying which image it is.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator

_PRINTED = (
    rb"(Corrupt JPEG data|Premature end of JPEG|Invalid SOS parameters|Inconsistent progression sequence|"
    rb"Warning: unknown JFIF|Unknown Adobe color transform|Invalid JPEG|Bogus |Unsupported marker|"
    rb"Application transferred too (many|few) scanlines|Input file read error|libpng (warning|error)|"
    rb"TIFF\w*: |_TIFF\w*: |(ZIP|LZW|PackBits|Fax\w*|JPEG|PixarLog|Log\w+)(Decode|PreDecode|SetupDecode)\w*: |"
    rb"JPEGLib: |"
    rb"[^ :]*\.tiff?: )"
)
_LONGEST = 65_536


@contextlib.contextmanager
def dropped() -> Iterator[None]:
    """Pass on what this process and its children write to file descriptor 2, but for such lines.

    `sys.stderr` goes past it. A process that aborts may lose its last lines, so it is not used with ``--debug``.
    """
    try:
        real = os.dup(2)
        reader, writer = os.pipe()
    except OSError:  # too many files are open: what comes next says so
        yield
        return
    sys.stderr.flush()
    os.dup2(writer, 2)
    os.close(writer)
    thread = threading.Thread(target=_pass_on, args=(reader, real), daemon=True)
    thread.start()
    own = sys.stderr
    sys.stderr = open(  # noqa: SIM115  # it is what everybody writes to until the end
        real, "w", buffering=1, encoding=own.encoding, errors=own.errors, closefd=False
    )
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = own
        os.dup2(real, 2)  # the thread ends, unless a child holds the pipe
        thread.join(1.0)


def _pass_on(reader: int, real: int) -> None:
    """Copy whole lines; one that does not end is copied as it comes."""
    with contextlib.suppress(OSError), open(reader, "rb", buffering=0) as pipe, open(real, "wb", closefd=False) as out:
        waiting = b""
        while piece := pipe.read(_LONGEST):
            *lines, waiting = (waiting + piece).split(b"\n")
            kept = b"".join(line + b"\n" for line in lines if not re.match(_PRINTED, line))
            if waiting and not _may_be_dropped(waiting):
                kept, waiting = kept + waiting, b""
            out.write(kept)
            out.flush()
        if waiting and not re.match(_PRINTED, waiting):
            out.write(waiting)


def _may_be_dropped(start: bytes) -> bool:
    """Whether the beginning of a line is, or may become, that of a line of an image library."""
    return len(start) < 64 or re.match(_PRINTED, start) is not None
