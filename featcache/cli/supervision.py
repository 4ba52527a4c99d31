"""`extract` in a process of its own: if an image crashes it, another one finds which, and goes on."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap

HUNG = 75
"""With what a supervised process ends when the decoding of an image does not."""

RESTARTS = 100
_CRASHES = {"SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE"}
_PR_SET_PDEATHSIG = 1

supervised = False
_found: mmap.mmap | None = None


def supervise() -> tuple[int, str] | None:
    """Fork: the child returns None and does the work; the parent waits, and starts another if need be.

    A crash is worth one new start, and after that as many as find a guilty image. The parent returns the exit code
    and what to complain of, if anything.
    """
    global supervised, _found
    if sys.platform != "linux":  # elsewhere the same command, given again, finds the image
        return None
    import ctypes
    import mmap

    found = mmap.mmap(-1, 1)
    heard = {signal.SIGINT, signal.SIGTERM, signal.SIGCHLD}
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for attempt in range(RESTARTS + 1):
        found[0] = 0
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, heard)
        parent, child = os.getpid(), os.fork()
        if not child:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            supervised, _found = True, found
            return None
        code = _wait(child, heard)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if code >= 0 and code != HUNG:
            return code, ""
        name = "a decoding without end" if code == HUNG else signal.Signals(-code).name
        if code != HUNG and name not in _CRASHES:  # somebody, or the system, wanted it dead
            signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
            os.kill(parent, -code)
        if (attempt and not found[0]) or attempt == RESTARTS:
            break
        if not {"-q", "--quiet"} & set(sys.argv):
            print(f"warning: stopped by {name}; starting again to find the image", file=sys.stderr, flush=True)  # noqa: T201
    blame = f"after {RESTARTS} images that do so" if attempt == RESTARTS else "and no image that does so alone"
    return 1, f"It stopped by {name} again, {blame}. What was done is kept; report it, with the images"


def culprit_found() -> None:
    """Let the process that supervises this one, if there is one, know that an image was found to crash or hang it."""
    if _found is not None:
        _found[0] = 1


def _wait(child: int, heard: set[signal.Signals]) -> int:
    """Wait for the child, pass on what is meant for it, and return its exit code or minus its signal."""
    while True:
        info = signal.sigwaitinfo(heard)
        if info.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
        elif info.si_code <= 0:  # sent by a process; a terminal sends it to the child as well
            os.kill(child, info.si_signo)
