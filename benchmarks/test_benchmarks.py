"""The benchmarks run, tiny and untimed, so that they cannot rot."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

import bench_extract
import bench_scale


def test_bench_extract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both ways give the same features, and the table has both."""
    for i in range(6):
        folder = tmp_path / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    found = bench_extract.compare(tmp_path / "photos", "mobilenetv2", 32, "none", {"alpha": 0.35}, 1)
    assert found["difference"] <= 1e-4
    bench_extract.main(["--data", str(tmp_path / "photos"), "--image-size", "32", "--alpha", "0.35", "--repeat", "1"])
    out = capsys.readouterr().out
    assert "plain Keras" in out
    assert "ratio" in out


def test_bench_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A simulated cache is one that `info` knows whole and that `extract` finds nothing to do in."""
    bench_scale.main(["--rows", "30", "--repeat", "1", "--work", str(tmp_path / "w"), "--to", str(tmp_path / "s.json")])
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["rows"] == 30
    assert all(len(values["seconds"]) == 1 and values["peak_mb"][0] > 1 for values in found["commands"].values())
    assert "extract, nothing new" in capsys.readouterr().out
