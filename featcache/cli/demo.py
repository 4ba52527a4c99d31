"""``demo``."""

from __future__ import annotations

from pathlib import Path

from featcache.cli.app import Outcome, command


@command("demo", example="featcache demo")
def demo(out: Path = Path("cache/demo")) -> Outcome:
    """Run the whole pipeline on digits. The handwritten ones embedded in scikit-learn; no network needed.

    out: Where everything is written.
    """
    from featcache.demo import run

    return Outcome(*run(out))
