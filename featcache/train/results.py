"""Results that are kept beside the features they come from, until something about them changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from featcache.files import publish_json
from featcache.recipe import canonical_json


def keep(cache: Path, of: Mapping[str, Any], result: dict[str, Any]) -> None:
    """Keep what came out of a task; in a cache that cannot be written to nothing is kept.

    Parameters
    ----------
    cache : Path
        The cache's folder.
    of : mapping
        Everything that decides the result, fit for JSON.
    result : dict
        Fit for JSON.
    """
    with contextlib.suppress(OSError):
        file = _file(cache, of)
        file.parent.mkdir(exist_ok=True)
        publish_json(file, {"of": of, "result": result, "sha256": _digest([of, result])})


def kept(cache: Path, of: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a result, None if there is none, or it is not what was kept."""
    found = _read(_file(cache, of))
    return None if found is None or _digest(found[0]) != _digest(of) else found[1]


def all_kept(cache: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield (what decided it, result) of all that is kept, in no order that means anything."""
    for file in sorted((cache / "results").glob("*.json")):
        found = _read(file)
        if found is not None:
            yield found


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    try:
        value = json.loads(file.read_text())
        of, result = value["of"], value["result"]
        return (of, result) if value["sha256"] == _digest([of, result]) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _file(cache: Path, of: Mapping[str, Any]) -> Path:
    return cache / "results" / f"{_digest(of)[:32]}.json"


def _digest(value: Any) -> str:
    plain = json.loads(json.dumps(value))
    return hashlib.sha256(canonical_json(plain).encode()).hexdigest()
