import re
import subprocess
import sys
from pathlib import Path

import pytest

from featcache.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_readme_has_the_two_command_lines() -> None:
    """The README gives exactly two command lines for a fresh machine."""
    block = re.search(r"```sh setup\n(.*?)```", README, re.S)
    assert block
    assert block[1].splitlines() == [
        "pip install -e . && python cli.py demo",
        "pip install -e '.[test]' && pytest",
    ]


def test_ci_runs_the_readmes_command_lines() -> None:
    """The gate reads the two lines from the README."""
    shown = subprocess.run(
        ["bash", ROOT / ".ci" / "run", "--print-commands"], capture_output=True, text=True, check=True
    )
    block = re.search(r"```sh setup\n(.*?)```", README, re.S)
    assert block
    assert shown.stdout == block[1]


def test_every_command_is_in_the_readme() -> None:
    """The README's table names every command there is, and no other."""
    table = re.findall(r"^\| `([a-z-]+)", README, re.M)
    assert sorted(table) == sorted(command.name for command in app.registered_commands)


def test_python_in_the_readme_runs(tmp_path: Path, oracle: Path, split_photos: Path) -> None:
    """The README's Python block runs as it stands, on another base and other photographs."""
    block = re.search(r"```python\n(.*?)```", README, re.S)
    assert block
    code = block[1].replace('"photos/"', repr(str(split_photos))).replace('"new/"', repr(str(split_photos / "train")))
    code = code.replace('base="mobilenetv2"', f'base={str(oracle)!r}, preprocess="none"')
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/format.md",
        "docs/heads.md",
        "docs/scaling.md",
        "docs/serving.md",
    ],
)
def test_files_named_in_the_documents_exist(name: str) -> None:
    """A path in a document leads somewhere."""
    text = (ROOT / name).read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / name).parent / link).exists(), link


def test_every_module_has_its_room_in_the_architecture() -> None:
    """docs/architecture.md names every module and package of featcache."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path in (ROOT / "featcache").iterdir():
        if path.suffix == ".py" and not path.name.startswith("__"):
            assert path.name in text, path.name
        elif (path / "__init__.py").exists():
            assert f"{path.name}/" in text, path.name


def test_the_heads_page_names_every_head_and_what_is_tuned() -> None:
    """docs/heads.md has a line for each head, which says what `--tune` searches and whether it streams."""
    from featcache.heads import HEADS

    text = (ROOT / "docs" / "heads.md").read_text()
    for name, kind in HEADS.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{name}`")]
        assert ("in blocks" in line) == kind.streams, name
        assert kind.streams or f"{kind.copies:g} copies" in line, name
        for parameter in kind.grid:
            assert f"`{parameter}`" in line, name
