import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import typer.main
from conftest import random_image, write_image
from PIL import Image
from typer.testing import CliRunner

import featcache
from featcache.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += [path for room in ("docs", "examples") for path in sorted((ROOT / room).rglob("*.md"))]
RUN = {
    "README.md": {"sh setup", "sh run", "python", "python keras"},  # setup: .ci/run
    "docs/data-quality.md": {"sh run"},
    "docs/guide.md": {"sh run"},
    "docs/python.md": {"python run"},
    "docs/recipes.md": {"sh run"},
    "docs/sources.md": {"layout"},  # tests/sources
    "docs/serving.md": {"python keras", "python tflite", "python saved", "python onnx"},  # tests/export
}
"""By page, the kinds of blocks that a test runs."""


def test_readme_has_the_two_command_lines() -> None:
    """The README gives exactly two command lines for a fresh machine."""
    block = re.search(r"```sh setup\n(.*?)```", README, re.S)
    assert block
    assert block[1].splitlines() == [
        "pip install -e . && python cli.py demo",
        "pip install -e '.[test]' && pytest -n 2 --dist worksteal",
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
    assert sorted(table) == sorted(typer.main.get_command(app).commands)


@pytest.mark.slow
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
    [str(path.relative_to(ROOT)) for path in PAGES],
)
def test_files_named_in_the_documents_exist(name: str) -> None:
    """A path in a document leads somewhere."""
    text = (ROOT / name).read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert ((ROOT / name).parent / link).exists(), link


@pytest.mark.parametrize("name", [str(path.relative_to(ROOT)) for path in PAGES])
def test_every_block_of_code_runs_or_says_why_not(name: str) -> None:
    """What stands behind the backticks is a kind that a test runs, or `not run:` and why; `console` shows output."""
    fences = re.findall(r"^```(.*)$", (ROOT / name).read_text(), re.M)
    assert fences[1::2] == [""] * (len(fences) // 2)
    for kind in fences[::2]:
        output = kind in ("", "console")
        assert output or kind in RUN.get(name, set()) or re.match(r"(sh|python) not run: \w", kind), kind


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


def commands() -> list[str]:
    """Return every command line in the documents."""
    blocks = [block for page in PAGES for block in re.findall(r"```sh[^\n]*\n(.*?)```", page.read_text(), re.S)]
    return sorted(
        {line for block in blocks for line in block.splitlines() if re.match("featcache|python (?!-m)", line)}
    )


@pytest.mark.parametrize("line", commands())
def test_commands_in_the_documents_exist(line: str) -> None:
    """Every command line in the documents is one that the command line takes, or a script that is there."""
    program, *words = shlex.split(line)
    if program == "python":
        assert (ROOT / words[0]).is_file()
        return
    command = typer.main.get_command(app).get_command(None, words[0])
    command.make_context(words[0], words[1:])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A newcomer's folder with small ``photos/`` and ``new/``, where bases are small and have seeded weights."""
    for split, count in (("train", 12), ("validation", 6)):
        for i in range(count):
            for label, shift in (("dark", 0), ("light", 100)):
                pixels = random_image(1000 * len(split) + i + shift, 32) // 2 + shift
                write_image(tmp_path / "photos" / split / label / f"{i}.png", pixels.astype(np.uint8))
    for i in range(3):
        (tmp_path / "new").mkdir(exist_ok=True)
        Image.fromarray(random_image(5000 + i, 90)[: 50 + i]).save(tmp_path / "new" / f"{i}.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATCACHE_EXTRACT_WEIGHTS", "none")
    monkeypatch.setenv("FEATCACHE_EXTRACT_IMAGE_SIZE", "32")
    return tmp_path


def run_lines(page: str, least: int) -> None:
    """Run the command lines of a page's ``sh run`` blocks, one after the other."""
    blocks = re.findall(r"```sh run\n(.*?)```", (ROOT / page).read_text(), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) >= least
    for line in lines:
        own = {"FEATCACHE_EXTRACT_WEIGHTS": None} if "my.keras" in line else {}  # it has its weights
        done = CliRunner().invoke(app, shlex.split(line)[1:], env=own)
        assert done.exit_code == 0, (line, done.output, done.stderr)


@pytest.mark.slow
def test_the_readmes_start_runs(desk: Path) -> None:
    """From a folder of pictures to what plain Keras, in a process without featcache, says of a new one."""
    run_lines("README.md", 5)
    assert (desk / "model" / "report.html").is_file()
    block = re.search(r"```python keras\n(.*?)```", README, re.S)
    assert block
    code = "import sys\nsys.modules['featcache'] = None\n" + block[1]
    shown = subprocess.run([sys.executable, "-c", code], cwd=desk, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    (said,) = featcache.ImageClassifier.load("model").predict_records("new/1.jpg")
    label, probability = shown.stdout.split()
    assert (label, float(probability)) == (said.label, pytest.approx(said.probability, abs=1e-4))


@pytest.mark.slow
def test_the_recipes_run(desk: Path) -> None:
    """Every command of the common questions works, with the kind of data the question is about."""
    import keras

    rng = np.random.default_rng(0)
    cells = rng.integers(0, 256, (24, 40, 32), np.uint8)
    np.savez(desk / "cells.npz", X=cells, y=np.arange(24) % 2)
    (desk / "shards").mkdir()
    with tarfile.open(desk / "shards" / "train-000.tar", "w") as tar:
        for path in sorted((desk / "photos" / "train").rglob("*.png")):
            tar.add(path, f"{path.parent.name}/{path.name}")
    with tarfile.open(desk / "shards" / "val-000.tar", "w") as tar:
        for path in sorted((desk / "photos" / "validation").rglob("*.png")):
            tar.add(path, f"{path.parent.name}/{path.name}")
    own = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(4, 3, name="features"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    own.save(desk / "my.keras")
    keras.applications.VGG19(include_top=False, weights=None, input_shape=(32, 32, 3)).save_weights(
        desk / "vgg19_notop.weights.h5"
    )
    (desk / "vgg19_notop.weights.h5").rename(desk / "vgg19_notop.h5")
    (desk / "scans").mkdir()
    rows = []
    for path in sorted((desk / "photos").rglob("*.png")):
        name = f"{path.parts[-3]}-{path.parent.name}-{path.name}"
        shutil.copy(path, desk / "scans" / name)
        rows.append(f"scans/{name},{path.parent.name},{int(path.stem) // 2}-{path.parts[-3]}")
    (desk / "scans.csv").write_text("\n".join(["path,label,group", *rows, ""]))
    done = CliRunner().invoke(app, ["extract", "photos", "--base", "mobilenetv2", "--cache", "cache/photos"])
    assert done.exit_code == 0, done.output
    run_lines("docs/recipes.md", 12)


@pytest.mark.slow
def test_auditing_as_the_page_says_runs(desk: Path) -> None:
    """Findings are written to a file, and a file with nothing decided gives a source of all images."""
    done = CliRunner().invoke(app, ["extract", "photos", "--base", "mobilenetv2", "--cache", "cache/photos"])
    assert done.exit_code == 0, done.output
    run_lines("docs/data-quality.md", 4)
    assert (desk / "audit.html").is_file()
    assert len((desk / "cleaned.csv").read_text().splitlines()) == 1 + 36


@pytest.mark.slow
def test_the_guide_runs(desk: Path) -> None:
    """The guide's commands do what it says, one after the other, with seeded weights and small pictures."""
    tmp_path = desk
    run_lines("docs/guide.md", 7)
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 4
    assert (tmp_path / "classifier.keras").is_file()


def test_the_command_line_page_is_up_to_date() -> None:
    """docs/cli.md is what Typer writes of the app."""
    command = [
        sys.executable,
        "-m",
        "typer",
        "featcache.cli",
        "utils",
        "docs",
        "--name",
        "featcache",
        "--title",
        "Command line",
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == (ROOT / "docs" / "cli.md").read_text().strip(), f"run: {shlex.join(command[1:])}"


@pytest.mark.slow
def test_the_python_page_runs(tmp_path: Path) -> None:
    """The Python page's blocks run as they stand, one after the other, in a fresh process."""
    blocks = re.findall(r"```python run\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.S)
    assert len(blocks) > 5
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_python_page_has_every_public_name() -> None:
    """docs/python.md names all that `featcache` has."""
    text = (ROOT / "docs" / "python.md").read_text()
    assert [name for name in featcache.__all__ if name not in text] == []
