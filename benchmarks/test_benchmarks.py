"""The benchmarks run, tiny and untimed, so that they cannot rot."""

import json
from pathlib import Path

import bench_cache_io
import bench_extract
import bench_heads
import bench_linear
import bench_quality
import bench_scale
import bench_start
import bench_workflow
import numpy as np
import pytest
from PIL import Image

from featcache import FeatureCache


@pytest.mark.slow
def test_bench_extract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All ways give plain Keras' features, of which the benchmark makes sure, and the table has each of them."""
    for i in range(6):
        folder = tmp_path / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    target = tmp_path / "extract.json"
    bench_extract.main(
        [
            "--data",
            str(tmp_path / "photos"),
            "--image-size",
            "32",
            "--bases",
            "vgg19",
            "--images",
            "5",
            "--ways",
            "tensorflow float32",
            "openvino float32",
            "--repeat",
            "1",
            "--batches",
            "1",
            "--to",
            str(target),
        ]
    )
    found = json.loads(target.read_text())["bases"]["vgg19"]
    out = capsys.readouterr().out
    assert found["images"] == 5
    assert found["differences"]["tensorflow float32"] <= 1e-4
    assert all(len(rates) == 1 for rates in found["rates"].values())
    assert all(way in out for way in found["rates"])
    assert {"plain Keras", "plain Keras, warm", "decode", "tensorflow float32", "tensorflow float32 forward"} <= set(
        found["rates"]
    )


def test_a_wrong_way_ends_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A speed whose features are wrong is not reported."""
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "1.png")
    Image.fromarray(np.full((9, 9, 3), 9, np.uint8)).save(folder / "2.png")

    def wrong(kind: str, *arguments: str) -> dict[str, object]:
        if kind == "--plain":
            np.save(arguments[-1], np.ones((2, 1280), np.float32))
        elif kind == "--ours":
            FeatureCache.from_arrays(
                np.zeros((2, 1280), np.float32), None, None, {}, path=json.loads(arguments[0])["cache"]
            )
        return {"seconds": 1.0, "warm": 1.0, "forward": 1.0, "profile": {}}

    monkeypatch.setattr(bench_extract, "apart", wrong)
    with pytest.raises(SystemExit, match="features differ"):
        bench_extract.main(
            [
                "--data",
                str(tmp_path / "photos"),
                "--image-size",
                "32",
                "--bases",
                "mobilenetv2",
                "--ways",
                "tensorflow float32",
                "--repeat",
                "1",
                "--batches",
                "1",
                "--to",
                str(tmp_path / "x.json"),
            ]
        )


@pytest.mark.slow
def test_bench_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A simulated cache is one that `info` knows whole and that `extract` finds nothing to do in."""
    bench_start.main(["--rows", "30", "--repeat", "1", "--work", str(tmp_path / "w"), "--to", str(tmp_path / "s.json")])
    found = json.loads((tmp_path / "s.json").read_text())
    (found,) = found["sizes"]
    assert found["rows"] == 30
    assert all(len(values["seconds"]) == 1 and values["peak_mb"][0] > 1 for values in found["commands"].values())
    assert "extract, nothing new" in capsys.readouterr().out


@pytest.mark.slow
def test_bench_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each head is right beside its plain counterpart, and the streaming ones from a cache too."""
    target = tmp_path / "heads.json"
    bench_heads.main(
        [
            "--rows",
            "300",
            "--width",
            "16",
            "--classes",
            "3",
            "--repeat",
            "1",
            "--streamed",
            "400",
            "--fits",
            "1",
            "--heads",
            "logreg",
            "--noise",
            "0.5",
            "--to",
            str(target),
        ]
    )
    found = json.loads(target.read_text())
    for row in found["heads"]:
        assert row["bare"]["accuracy"] == pytest.approx(row["plain"]["accuracy"], abs=0.05)
        assert row["calibrated"]["accuracy"] > 0.8
    assert all(len(found["streamed"][clf]) == 1 for clf in ("centroid", "ridge", "logreg", "dense"))
    assert set(found["reading"]) == {"in order", "shuffled"}
    assert "plain scikit-learn" in capsys.readouterr().out


@pytest.mark.slow
def test_bench_linear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both sides reach the same objective, and the table has both; choosing a penalty is timed, too."""
    sizes = ["--rows", "400", "--svm-rows", "400", "--width", "32", "--classes", "3", "--chosen", "300"]
    bench_linear.main([*sizes, "--repeat", "1", "--to", str(tmp_path / "linear.json")])
    found = json.loads((tmp_path / "linear.json").read_text())
    assert len(found["fits"]) == 4
    for row in found["fits"]:
        assert row["objective ours"] <= row["objective scikit-learn"] * (1 + 1e-3)
    assert [row["classes"] for row in found["chosen"]] == [2, 3]
    assert "times as fast" in capsys.readouterr().out


@pytest.mark.slow
def test_bench_cache_io(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every way of reading gives the rows that were asked for, from the disk and from memory."""
    bench_cache_io.main(
        ["--rows", "600", "--width", "16", "--repeat", "1", "--work", str(tmp_path), "--to", str(tmp_path / "io.json")]
    )
    found = json.loads((tmp_path / "io.json").read_text())["reading"]
    assert {name.partition(",")[0] for name in found} == {"in order", "shuffled batches", "random rows"}
    assert all(one["gb_per_s"][0] > 0 for one in found.values())
    assert "shuffled batches / in order" in capsys.readouterr().out


@pytest.mark.slow
def test_bench_workflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain Keras and each number of heads learn the same easy classes, and the table has all of them."""
    for split, count in (("train", 24), ("validation", 8)):
        for i in range(count):
            folder = tmp_path / "photos" / split / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i + 100 * count).integers(0, 60, (32, 32, 3), np.uint8) + np.uint8(
                180 * (i % 2)
            )
            Image.fromarray(pixels).save(folder / f"{split}{i}.png")
    bench_workflow.main(
        [
            "--data",
            str(tmp_path / "photos"),
            "--image-size",
            "32",
            "--alpha",
            "0.35",
            "--epochs",
            "2",
            "--heads",
            "logreg",
            "four heads",
            "--repeat",
            "1",
            "--to",
            str(tmp_path / "w.json"),
        ]
    )
    found = json.loads((tmp_path / "w.json").read_text())
    assert set(found["runs"]) == {"plain Keras", "extract", "logreg", "four heads"}
    assert len(found["runs"]["four heads"][0]["heads"]) == 4
    assert found["runs"]["extract"][0]["images"] == 32
    out = capsys.readouterr().out
    assert "times as fast" in out
    assert "linear-svm" in out


@pytest.mark.slow
def test_bench_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The local engine and two processes leave the same shards, and the table has both."""
    target = tmp_path / "scale.json"
    bench_scale.main(
        [
            "--images",
            "24",
            "--side",
            "40",
            "--image-size",
            "32",
            "--shard-rows",
            "4",
            "--batch-size",
            "4",
            "--repeat",
            "1",
            "--runs",
            "local",
            "processes 2",
            "--to",
            str(target),
        ]
    )
    found = json.loads(target.read_text())
    assert {name: values["images"] for name, values in found["runs"].items()} == {"local": 24, "processes 2": 24}
    assert "processes 2" in capsys.readouterr().out


@pytest.mark.slow
def test_bench_quality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Flipped labels of easy classes and planted copies are all found, and advice on fewer images is another."""
    for split, count in (("train", 60), ("validation", 20)):
        for i in range(count):
            folder = tmp_path / "photos" / split / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i + 100 * count).integers(0, 256, (4, 4, 3), np.uint8) // 4
            pixels[..., i % 2] += 128
            Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC).save(folder / f"{split}{i}.png")
    target = tmp_path / "q.json"
    bench_quality.main(
        [
            "--data",
            str(tmp_path / "photos"),
            "--alpha",
            "0.35",
            "--weights",
            "none",
            "--image-size",
            "32",
            "--draws",
            "1",
            "--copies",
            "2",
            "--sizes",
            "6/4",
            "60",
            "--to",
            str(target),
        ]
    )
    found = json.loads(target.read_text())
    flips, copies = found["planted"]
    assert flips["planted"] == 4
    assert flips["recall"] == 1
    assert copies["copies_found"] == copies["copies"] == 4
    assert copies["images"] == 84
    assert [advice["enough"] for advice in found["advice"].values()] == [False, True]
    assert [sum(advice["images"].values()) for advice in found["advice"].values()] == [6, 60]
    assert "precision at planted" in capsys.readouterr().out
