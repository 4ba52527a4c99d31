"""Run the command line, or the probe, where some images crash or hang the process that decodes them.

    python faulty.py LIMIT COMMAND …
    python faulty.py LIMIT --probe SPEC

An image whose bytes end in ``crash`` kills the process with SIGSEGV, one that ends in ``hang`` never ends.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

from featcache.images import decode_crashes
from featcache.images import decoding as images

real = images.load


def load(content: Any, spec: images.PixelSpec) -> Any:
    """Decode an image, unless it is one of the bad ones."""
    if isinstance(content, bytes) and content.endswith(b"crash"):
        signal.raise_signal(signal.SIGSEGV)  # in this thread, as a real one
    while isinstance(content, bytes) and content.endswith(b"hang"):
        time.sleep(1)
    return real(content, spec)


def install(limit: str) -> None:
    """Make images bad, here and in the probe."""
    images.load = load
    decode_crashes.LIMIT = float(limit)
    decode_crashes.probe_command = lambda: [sys.executable, __file__, limit, "--probe"]


if __name__ == "__main__":
    install(sys.argv[1])
    if sys.argv[2] == "--probe":
        decode_crashes.probe()
    else:
        from featcache.cli import main

        sys.argv = ["featcache", *sys.argv[2:]]
        main()
