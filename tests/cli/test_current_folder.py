"""Python files of the folder in which a command is run are never executed, by the command or by what it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from conftest import hunt, random_image, write_image

from featcache.cli import app

COMMANDS: dict[str, list[str]] = {
    "extract": [
        "extract photos --base oracle --layer mix --preprocess none --cache new --shard-rows 4" + more
        for more in ("", " --engine processes --workers 2", " --engine dask --workers 2")
    ],
    "fit-head": ["fit-head cache --clf ridge --tune --cv 2 --jobs 2 --out other"],
    "compare": ["compare cache --clf ridge --clf centroid --jobs 2 --fresh"],
    "predict": ["predict model photos --out found.csv"],
    "evaluate": ["evaluate model photos"],
    "export": [
        "export model --to exported.keras",
        "export model --to exported.onnx",
        "export model --to saved",
        "export model --to exported.tflite",
    ],
    "fine-tune": ["fine-tune model --all --epochs 1 --out tuned"],
    "audit": ["audit cache --report audit.html"],
    "neighbors": ["neighbors cache photos/a/00.png --png sheet.png"],
    "advise": ["advise cache"],
    "list": ["list cache/.."],
    "info": ["info cache"],
    "verify": ["verify cache"],
    "gc": ["gc cache"],
    "export-cache": ["export-cache cache --to rows.h5"],
    "bases": ["bases"],
    "layers": ["layers oracle"],
    "report": ["report model --out page.html"],
    "demo": ["demo"],
}
"""What each command is run with; words that are files stand for their place."""

PROGRAMS = {
    "module": [sys.executable, "-m", "featcache"],
    "checkout": [sys.executable, str(Path(__file__).parents[2] / "cli.py")],
    "script": [str(Path(sys.executable).with_name("featcache"))],
}


@pytest.fixture(scope="module")
def files(extracting: Callable[..., Any], oracle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return photographs, a cache of them and a model."""
    from featcache import fit_head

    root = tmp_path_factory.mktemp("files")
    for i in range(24):
        pixels = random_image(i) // 4 + np.uint8(150 * (i % 2))
        write_image(root / "photos" / ("b" if i % 2 else "a") / f"{i:02d}.png", pixels)
    extracting(root / "photos", root / "cache")
    fit_head(root / "cache", "ridge", out=root / "model")
    return {"oracle": oracle, **{name: root / name for name in ("photos", "cache", "model")}}


def run(command: list[str], folder: Path, mark: Path) -> str:
    """Run a command in a folder, and return what it said; fail if a file of the folder was executed."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    executed = sorted(set(mark.read_text().split())) if mark.exists() else []
    assert executed == [], f"{' '.join(command)}: {executed}\n{done.stderr}"
    assert done.returncode == 0, done.stderr
    return done.stdout


def placed(line: str, files: dict[str, Path]) -> list[str]:
    """Return the words of a command line, those that name files as their paths."""
    words = []
    for word in line.split():
        name, slash, rest = word.partition("/")
        words.append(str(files[name]) + slash + rest if name in files else word)
    return words


def test_every_command_is_tried() -> None:
    """A new command is run in a hostile folder, too."""
    assert set(COMMANDS) == set(typer.main.get_command(app).commands)


@hunt
@pytest.mark.slow
@pytest.mark.parametrize("line", [line for lines in COMMANDS.values() for line in lines])
def test_no_command_executes_files_of_the_folder(
    line: str, files: dict[str, Path], hostile_folder: tuple[Path, Path]
) -> None:
    """No command, nor any process it starts, executes a Python file of the folder it is run in."""
    run([*PROGRAMS["script"], *placed(line, files)], *hostile_folder)


@pytest.mark.parametrize("program", ["module", "checkout"])
def test_the_command_itself_executes_none(
    program: str, made: Callable[..., Any], hostile_folder: tuple[Path, Path], tmp_path: Path
) -> None:
    """`python -m featcache` and `python cli.py` import no module from the folder they are run in."""
    cache = made().path
    if program == "module":  # what Python itself imports for -m comes from there before anything of ours
        (tmp_path / "plain.py").write_text("import sys\nprint(*sys.modules)\n")
        for name in run([sys.executable, "-m", "plain"], tmp_path, hostile_folder[1]).split():
            (hostile_folder[0] / f"{name}.py").unlink(missing_ok=True)
    run([*PROGRAMS[program], "info", str(cache)], *hostile_folder)


OWN = """
import multiprocessing, os, subprocess, sys
import helper
from featcache.training.parallel import run_all

if __name__ == "__main__":
    print(run_all(helper.doubled, [1, 2], jobs=2), os.environ.get("PYTHONSAFEPATH"))
    os.chdir(os.path.dirname(__file__))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(helper.doubled, [3]))
    subprocess.run([sys.executable, "other.py"], check=True)
"""


def test_a_script_of_ones_own_keeps_its_modules(hostile_folder: tuple[Path, Path], tmp_path: Path) -> None:
    """Called from a user's script, our processes find its modules and no others; its own processes are as ever."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "helper.py").write_text("def doubled(x):\n    return 2 * x\n")
    (own / "other.py").write_text("import helper\nprint(helper.doubled(4))\n")
    (own / "script.py").write_text(OWN)
    said = run([sys.executable, str(own / "script.py")], *hostile_folder)
    assert said.splitlines() == ["[2, 4] None", "[6]", "8"]
