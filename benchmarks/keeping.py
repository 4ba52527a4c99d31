"""Where benchmarks keep their runs: as JSON, with the machine and the versions they were made with."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def keep(target: Path, result: dict[str, Any], *packages: str) -> None:
    """Write a result, the machine, and the versions of Python and of those packages that are installed."""
    versions = {"python": platform.python_version()}
    for name in ("featcache", *packages):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    machine = {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({**result, "machine": machine, "versions": versions}, indent=2) + "\n")
