"""``demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featcache.cli.app import Outcome, command


@command("demo", example="featcache demo")
def demo(
    out: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("cache/demo"),
) -> Outcome:
    """Run the whole pipeline on digits. The handwritten ones embedded in scikit-learn; no network needed."""
    from featcache.demo import run

    result, text = run(out)
    return Outcome(result, text)
