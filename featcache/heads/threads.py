"""How many threads linear algebra may use.

NumPy and SciPy each bring an OpenBLAS with threads of its own, which wait for work by running. Where both are used
in turn they take the cores from each other: on 2 cores, with other work beside, a factorisation of 15 ms took
500 ms, and a logistic regression (1,000 x 1,280) 0.9 s instead of 0.05.
"""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import Any

from threadpoolctl import ThreadpoolController

SMALL = 2**24
"""Values of a matrix for which one thread is as fast as several."""


def one_thread() -> AbstractContextManager[Any]:
    """Return a context in which NumPy and SciPy use one thread."""
    context: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return context


def fitting_threads(n: int, d: int) -> AbstractContextManager[Any]:
    """Return a context to fit n rows of d features in: one thread for few, else NumPy's threads without SciPy's."""
    if n * d <= SMALL:
        return one_thread()
    scipy = [pool["filepath"] for pool in _controller().info() if "scipy.libs" in pool["filepath"]]
    context: AbstractContextManager[Any] = _controller().select(filepath=scipy).limit(limits=1)
    return context


@functools.cache
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401 - its pool must be there to be found

    return ThreadpoolController()
