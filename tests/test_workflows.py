"""The examples run, short and on what needs no download; their own assertions count parameters."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def script(folder: str) -> ModuleType:
    """Return an example as a module."""
    spec = importlib.util.spec_from_file_location(folder, EXAMPLES / folder / "run.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_cats_vs_dogs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Workflow A: head and composed model have one accuracy; both phases are drawn; the counts are the published."""
    found = script("a_cats_vs_dogs").main(
        ["--out", str(tmp_path), "--image-size", "32", "--views", "1", "--epochs", "1"]
    )
    assert found["composed"] == found["head"]["accuracy"]
    assert (tmp_path / "model" / "curves.png").stat().st_size > 10_000
    assert "2,257,984 + 1,281; 1,862,721 train from index 100" in capsys.readouterr().out


@pytest.mark.slow
def test_vgg19(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Workflow B: the counts of the cut and of the whole network at 256 pixels, and a table of weight shapes."""
    script("b_vgg19").main(["--out", str(tmp_path), "--images", "3", "--epochs", "0"])
    out = capsys.readouterr().out
    assert "block5_conv4   3x3x512x512 512" in out
    assert "260,160 parameters up to block2_pool" in out
    assert "54,645,840 parameters, 54,533,264 of them train" in out


def test_patterns_are_16_classes_of_other_images(tmp_path: Path) -> None:
    """Workflow B's made-up images differ within a class and between classes."""
    script("b_vgg19").make_patterns(tmp_path, 2)
    files = sorted(tmp_path.rglob("*.png"))
    assert len(files) == 32
    assert len({file.read_bytes() for file in files}) == 32


@pytest.mark.slow
def test_densenet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Workflow C: head and network from scratch are scored on the same test images; plain Keras counts."""
    found = script("c_densenet").main(["--out", str(tmp_path), "--image-size", "32", "--limit", "120", "--epochs", "2"])
    assert set(found) == {"densenet121", "from scratch"}
    out = capsys.readouterr().out
    assert "7,093,360, of which 53,808 train" in out
    assert out.count("n=120") == 2


@pytest.mark.slow
def test_vgg16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Workflow D: the last four layers train with the head."""
    script("d_vgg16").main(["--out", str(tmp_path), "--epochs", "1"])
    assert "15,239,489, of which 7,604,225 train" in capsys.readouterr().out


@pytest.mark.slow
def test_model_a_to_b(tmp_path: Path) -> None:
    """Workflow E: Model B is made of Model A and from scratch, and both beat guessing on images they never saw."""
    found = script("e_model_a_to_b").main(
        ["--out", str(tmp_path), "--train-images", "100", "--draws", "1", "--epochs", "10"]
    )
    assert min(found[100]["from A"] + found[100]["from scratch"]) > 0.75


def test_model_bs_images_are_in_one_split_each(tmp_path: Path) -> None:
    """Workflow E divides: so many training images, half of each class, and the same test images for each draw."""
    module = script("e_model_a_to_b")
    images, labels = module.pictures("digits")
    mine = np.isin(labels, ["8", "9"])
    tests = []
    for draw in range(2):
        module.divided(images[mine], labels[mine], 50, draw, tmp_path / str(draw))
        parts = np.load(tmp_path / str(draw) / "arrays.npz")
        assert np.unique(parts["y_train"], return_counts=True)[1].tolist() == [25, 25]
        assert len(parts["x_validation"]) == 50
        seen = [{image.tobytes() for image in parts[f"x_{split}"]} for split in ("train", "validation", "test")]
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
        tests.append(parts["x_test"])
    assert np.array_equal(*tests)


def test_the_index_has_every_example() -> None:
    """The examples' page links to each folder, and each folder has a page and a script."""
    text = (EXAMPLES / "README.md").read_text()
    folders = [path.name for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith("__")]
    assert sorted(folders) == sorted(re.findall(r"\]\((\w+)/README\.md\)", text))
    for folder in folders:
        assert {"README.md", "run.py"} <= {path.name for path in (EXAMPLES / folder).iterdir()}
