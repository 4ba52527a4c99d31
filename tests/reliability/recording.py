"""Counts for docs/reliability.md: tests append what they tried to the file $FEATCACHE_RELIABILITY names."""

from __future__ import annotations

import json
import os
from pathlib import Path


def record(what: str, **counts: float) -> None:
    """Append one line of counts, if somebody collects them."""
    if file := os.environ.get("FEATCACHE_RELIABILITY"):
        with Path(file).open("a") as lines:
            lines.write(json.dumps({"what": what, **counts}) + "\n")
