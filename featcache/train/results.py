"""Results that are kept beside the features they come from, until something about them changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from featcache.files import publish_json
from featcache.recipe import canonical_json


def keep(cache: Path, identity: str, result: dict[str, Any]) -> None:
    """Keep what came out of a task; in a cache that cannot be written to nothing is kept.

    Parameters
    ----------
    cache : Path
        The cache's folder.
    identity : str
        Digest of everything that decides the result.
    result : dict
        Fit for JSON.
    """
    with contextlib.suppress(OSError):
        file = _file(cache, identity)
        file.parent.mkdir(exist_ok=True)
        publish_json(file, {"result": result, "sha256": _digest(identity, result)})


def kept(cache: Path, identity: str) -> dict[str, Any] | None:
    """Return a result, None if there is none, or it is not what was kept."""
    try:
        value = json.loads(_file(cache, identity).read_text())
        result: dict[str, Any] = value["result"]
        return result if value["sha256"] == _digest(identity, result) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file(cache: Path, identity: str) -> Path:
    return cache / "results" / f"{identity}.json"


def _digest(identity: str, result: Any) -> str:
    plain = json.loads(json.dumps(result))
    return hashlib.sha256(canonical_json([identity, plain]).encode()).hexdigest()
