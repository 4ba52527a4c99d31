"""How a process divides the processors: between decoding and the forward pass, and among forward passes."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from featcache.system.memory import available

MOST_PASSES = 8
_PASS_BYTES = 1 << 30
"""What a forward pass of 32 images takes with the widest maps of the usual networks."""


def pass_side_by_side() -> int:
    """Divide the processors among forward passes that run at once from here on, and return how many these are.

    A batch on each processor is faster than each batch on all of them: operations are too small to be divided
    well, and none waits for the slowest thread. TensorFlow has the same number of threads for everything in a process,
    so this is for one that does nothing but extract, and comes before TensorFlow is loaded; else it does nothing. Nor
    does it where ``TF_NUM_INTRAOP_THREADS`` is set, or where there are GPUs.
    """
    if "tensorflow" in sys.modules or threads_given() or gpus():
        return 1
    processors, memory = count(), available()
    fitting = MOST_PASSES if memory is None else memory // 4 // _PASS_BYTES
    passes = max(1, min(processors, MOST_PASSES, fitting))
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(processors // passes)
    return passes


def count() -> int:
    """Return how many processors this process may run on: what a job was given, not what the machine has."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def threads_given() -> int | None:
    """Return how many threads TensorFlow may use here, if whoever divides the processors has said so."""
    given = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else None


def decoding_threads(passes: int = 1) -> int:
    """Return one thread more than so many forward passes at once use here."""
    given = threads_given()
    return (count() if given is None else given * passes) + 1


def threads_each(workers: int) -> int:
    """Return how many threads each of so many workers has: what ``TF_NUM_INTRAOP_THREADS`` says, else its part."""
    return threads_given() or max(1, count() // workers)


def gpus() -> list[str]:
    """Return what names each GPU in ``CUDA_VISIBLE_DEVICES``, without loading TensorFlow."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip() and not name.strip().startswith("-")]
    with contextlib.suppress(OSError):
        return [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").iterdir())]
    return []
