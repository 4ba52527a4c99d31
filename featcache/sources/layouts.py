"""Names: what systems leave behind, what stands for a split, and what a user leaves out."""

from __future__ import annotations

from collections.abc import Iterable

from featcache.sources.source import SPLIT_NAMES


def ignored(name: str) -> bool:
    """Whether a name is what systems leave behind: hidden files, and Windows' thumbnail store."""
    return name.startswith(".") or name.lower() in {"thumbs.db", "desktop.ini"}


def known_splits(names: Iterable[str]) -> dict[str, str]:
    """Return the split that each of some names means (folders, cells of a column, beginnings of tar files).

    Parameters
    ----------
    names : iterable of str
        All that stand beside each other: what a name means may depend on the others.

    Returns
    -------
    dict
        Of the names that mean a split, as they are given: one of `featcache.sources.SPLITS`.
    """
    return {name: SPLIT_NAMES[name.lower()] for name in names if name.lower() in SPLIT_NAMES}
