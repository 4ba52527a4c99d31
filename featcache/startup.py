"""Import TensorFlow without its start-up chatter."""

from __future__ import annotations

import gc
import os
import sys
import tempfile


def import_tensorflow() -> None:
    """Import TensorFlow and Keras, quietly if ``TF_CPP_MIN_LOG_LEVEL`` is 2 or more.

    TensorFlow's C++ side writes some lines to the process's standard error before it looks at that
    variable. They are held back; if the import fails, they are shown. Keras draws its bars on terminals only.
    No garbage is collected meanwhile: there is none among the millions of objects, and to look for it again and again
    takes a tenth of the time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        _import_tensorflow()
    finally:
        if collecting:
            gc.enable()


def _import_tensorflow() -> None:
    if "tensorflow" in sys.modules or os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") < "2":
        import keras
        import tensorflow  # noqa: F401

        return
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
