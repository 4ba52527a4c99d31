"""How processes of ours start: TensorFlow imported quietly, and nothing imported from the current folder."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile
import threading
from collections.abc import Iterator

from featcache.system.status import doing

_SAFE = "PYTHONSAFEPATH"
_lock = threading.Lock()
_inside = 0
_before: str | None = None


def import_tensorflow() -> None:
    """Import TensorFlow and Keras, quietly if ``TF_CPP_MIN_LOG_LEVEL`` is 2 or more.

    TensorFlow's C++ side writes some lines to the process's standard error before it looks at that
    variable. They are held back; if the import fails, they are shown. Keras draws its bars on terminals only.
    No garbage is collected meanwhile: there is none among the millions of objects, and to look for it again and again
    takes a tenth of the time.
    """
    if not {"keras", "tensorflow"} <= sys.modules.keys():
        with doing("loading TensorFlow"):
            _import()


def _import() -> None:
    collecting = gc.isenabled()
    gc.disable()
    try:
        if "tensorflow" in sys.modules or os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") < "2":
            import keras  # noqa: F401
            import tensorflow  # noqa: F401
        else:
            _import_quietly()
    finally:
        if collecting:
            gc.enable()


def _import_quietly() -> None:
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        failed = True
        try:
            import keras
            import tensorflow as tf

            tf.config.list_physical_devices()  # looks for GPUs, and says so
            if not os.isatty(stderr):
                keras.utils.disable_interactive_logging()  # no bars of downloads in files
            failed = False
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            if failed:
                held.seek(0)
                os.write(2, held.read())


def python_command(module: str, function: str) -> list[str]:
    """Return the command of a Python process that calls a function, and imports from where this one does.

    ``python -m`` and ``python -c`` import from the current folder first, where a user may have a ``queue.py``.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}\nfrom {module} import {function}; {function}()"
    return [sys.executable, "-P", "-c", code]


@contextlib.contextmanager
def safe_children() -> Iterator[None]:
    """Let no Python process that is started meanwhile import from the current folder.

    For processes that other packages start. The variable is for all of this process, so keep the time short: a script
    that somebody else starts meanwhile would not find the modules beside it.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            _before = os.environ.get(_SAFE)
            os.environ[_SAFE] = "1"
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                del os.environ[_SAFE]
                os.environ.update({} if _before is None else {_SAFE: _before})
