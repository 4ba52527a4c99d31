"""The line that says what is being done."""

from conftest import on_terminal

from featcache.system import status

CODE = """
import sys, time
from featcache.system import status
with status.Status("fit-head"):
    with status.doing("training knn"):
        time.sleep(float(sys.argv[1]))
"""


def test_a_long_silence_is_explained() -> None:
    """What takes longer than a second is named until it ends, and nothing is left of the line."""
    text = on_terminal("1.8", CODE)
    assert b"training knn, 1 s" in text
    assert text.endswith(b"\r\x1b[K")


def test_what_is_fast_needs_no_line() -> None:
    """A short command writes nothing."""
    assert on_terminal("0", CODE) == b""


def test_other_output_takes_its_place() -> None:
    """The line goes when something else is written, and while a bar has the terminal."""
    code = CODE.replace("time.sleep(float(sys.argv[1]))", "status.hold(1); time.sleep(1.8); status.hold(-1)")
    assert on_terminal("", code) == b""
    code = CODE.replace(
        "        time.sleep", "        time.sleep(1.8); status.hide(); print('x', file=sys.stderr)\n        time.sleep"
    )
    text = on_terminal("0", code)
    assert text.index(b"\r\x1b[Kx") > text.index(b"training knn")


def test_without_a_line_nothing_is_done() -> None:
    """A library call in a script names its steps to nobody."""
    with status.doing("loading"):
        status.hide()
        status.hold(1)
