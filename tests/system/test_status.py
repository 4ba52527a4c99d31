"""The line that says what is being done."""

import os
import pty
import subprocess
import sys

from featcache.system import status

CODE = """
import sys, time
from featcache.system import status
with status.Status("fit-head"):
    with status.doing("training knn"):
        time.sleep(float(sys.argv[1]))
"""


def shown(seconds: str, code: str = CODE) -> bytes:
    """Return what a process writes to its terminal."""
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", code, seconds], stderr=theirs, check=True)
    os.close(theirs)
    text = b""
    try:
        while piece := os.read(ours, 65_536):
            text += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    return text


def test_a_long_silence_is_explained() -> None:
    """What takes longer than a second is named until it ends, and nothing is left of the line."""
    text = shown("1.8")
    assert b"training knn, 1 s" in text
    assert text.endswith(b"\r\x1b[K")


def test_what_is_fast_needs_no_line() -> None:
    """A short command writes nothing."""
    assert shown("0") == b""


def test_other_output_takes_its_place() -> None:
    """The line goes when something else is written, and while a bar has the terminal."""
    code = CODE.replace("time.sleep(float(sys.argv[1]))", "status.hold(1); time.sleep(1.8); status.hold(-1)")
    assert shown("", code) == b""
    code = CODE.replace(
        "        time.sleep", "        time.sleep(1.8); status.hide(); print('x', file=sys.stderr)\n        time.sleep"
    )
    text = shown("0", code)
    assert text.index(b"\r\x1b[Kx") > text.index(b"training knn")


def test_without_a_line_nothing_is_done() -> None:
    """A library call in a script names its steps to nobody."""
    with status.doing("loading"):
        status.hide()
        status.hold(1)
