"""Versions of what is installed; `importlib.metadata` takes a while to import, so nothing else imports it."""

from __future__ import annotations

import sys


def version(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed(name)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute numbers, for the record."""
    names = ("featcache", "tensorflow", "keras", "numpy", "h5py", "scikit-learn", "scipy", "skops", "joblib", "pillow")
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    return found | {name: known for name in names if (known := version(name)) is not None}
