"""Counts of tries and losses, for docs/reliability.md."""

from __future__ import annotations

import json
import os
from pathlib import Path


def record(what: str, **counts: float) -> None:
    """Print counts, and append them as a JSON line to $FEATCACHE_RELIABILITY if that is set."""
    line = json.dumps({"what": what, **counts})
    print(line)
    if target := os.environ.get("FEATCACHE_RELIABILITY"):
        with Path(target).open("a") as file:
            file.write(line + "\n")
