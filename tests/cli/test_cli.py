import csv
import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import random_image, slow, write_image
from PIL import Image
from typer.testing import CliRunner

import featcache
from featcache.cli import app
from featcache.cli.app import Progress, newest, printable
from featcache.errors import CacheError, OptionError
from featcache.options import key_values

COMMANDS = [
    "extract",
    "fit-head",
    "compare",
    "predict",
    "evaluate",
    "export",
    "fine-tune",
    "audit",
    "neighbors",
    "advise",
    "report",
    "bases",
    "layers",
    "info",
    "list",
    "verify",
    "gc",
    "export-cache",
    "demo",
]


def run(*arguments: object, **environment: str) -> tuple[int, str, str]:
    """Run a command in this process and return exit code, stdout and stderr."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env=environment)
    return result.exit_code, result.stdout, result.stderr


def started(*arguments: object) -> subprocess.Popen[str]:
    """Start a command in a process of its own, which heeds Ctrl-C also where this one, in the background, does not."""
    code = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", code, sys.executable, "-m", "featcache", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def options(oracle: Path) -> list[object]:
    return ["--base", oracle, "--layer", "mix", "--preprocess", "none"]


@pytest.fixture
def head(options: list[object], split_photos: Path, tmp_path: Path) -> Path:
    assert run("extract", split_photos, *options, "--cache", tmp_path / "c")[0] == 0
    assert run("fit-head", tmp_path / "c", "--out", tmp_path / "head")[0] == 0
    return tmp_path / "head"


def test_every_command_has_help_with_an_example() -> None:
    """--help of each command shows how to use it."""
    shown = run("--help")[1]
    assert re.findall(r"^  ([a-z-]+)  ", shown.split("Commands:")[1], re.M) == COMMANDS
    for name in COMMANDS:
        code, text, _ = run(name, "--help")
        assert code == 0
        assert f"Example: featcache {name}" in text
        assert "--json" in text
        assert not re.search(r"^ +-.*<(str|int|float|path|list)[ >\[]", text, re.M), name


def test_progress_leaves_loading_out_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A minute until the first image, then ten images a second: a hundred more take ten seconds, not an hour."""
    caplog.set_level("INFO", "featcache")
    now = iter([0.0, 0.0, *(each for each in (60.0, 70.0, 80.0) for _ in range(2))])
    clock = SimpleNamespace(monotonic=lambda: next(now))
    monkeypatch.setattr(sys.modules["featcache.cli.app"], "time", clock)
    monkeypatch.setattr(sys.modules["featcache.system.progress"], "time", clock)
    shown = Progress("extracting")
    for done in (1, 101, 201):
        shown(done, 201)
    assert [record.getMessage() for record in caplog.records] == [
        "extracting: 101 of 201, 10 images/s, 10 s left",
        "extracting: 201 of 201, 10 images/s",
    ]


def test_the_list_of_commands_has_whole_sentences() -> None:
    """What --help and docs/cli.md say of a command is not cut off."""
    assert "..." not in run("--help")[1].split("Commands:")[1]


def test_the_version() -> None:
    """`--version` is that of the package."""
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"featcache {featcache.__version__}\n")


def test_three_ways_to_start() -> None:
    """`python cli.py`, `featcache` and `python -m featcache` are the same."""
    root = Path(featcache.__file__).parents[1]
    script = Path(sys.executable).parent / "featcache"
    ways = [[sys.executable, root / "cli.py"], [sys.executable, "-m", "featcache"]]
    ways += [[script]] if script.exists() else []
    shown = {
        subprocess.run(
            [*way, "--help"],
            capture_output=True,
            text=True,
            check=True,
            cwd=root,
        ).stdout.partition("[OPTIONS]")[2]
        for way in ways
    }
    assert len(shown) == 1


def test_extract_compression(options: list[object], photos: Path, tmp_path: Path) -> None:
    """--compression changes how new shards are stored, not which rows there are; the plan takes it too."""
    arguments = ["extract", photos, *options, "--cache", tmp_path / "c", "--json"]
    assert run(*arguments, "--compression", "zstd", "--dry-run")[0] == 0
    assert json.loads(run(*arguments, "--compression", "zstd")[1])["computed"] == 12
    assert json.loads(run(*arguments)[1])["reused"] == 12
    assert run("verify", tmp_path / "c")[0] == 0
    assert run(*arguments, "--compression", "gzip")[0] == 2


def test_extract_runtime(options: list[object], photos: Path, tmp_path: Path) -> None:
    """--precision, --runtime and --fast-decode are the recipe's: a cache of another one is refused, naming them."""
    arguments = ["extract", photos, *options, "--cache", tmp_path / "c", "--json"]
    assert run(*arguments, "--precision", "bfloat16")[0] == 0
    recipe = json.loads((tmp_path / "c" / "recipe.json").read_text())["recipe"]
    assert (recipe["precision"], recipe["runtime"]) == ("bfloat16", "tensorflow")
    code, _, err = run(*arguments, "--fast-decode")
    assert code == 1
    assert "precision: bfloat16 → float32" in err
    assert "decode:" in err
    assert run(*arguments, "--runtime", "sideways")[0] == 2


def test_extract_profile(options: list[object], photos: Path, tmp_path: Path) -> None:
    """--profile says on stderr and in JSON where the time went; without it there is nothing of the kind."""
    arguments = ["extract", photos, *options, "--json"]
    _, out, err = run(*arguments, "--cache", tmp_path / "c", "--profile")
    profile = json.loads(out)["profile"]
    assert re.search(r"profile of .* s: start .* wait .* forward .* write .* decode .*; bottleneck: \w+", err)
    assert err.rstrip().endswith(f"bottleneck: {profile['bottleneck']}")
    assert "nothing to compute" in run(*arguments, "--cache", tmp_path / "c", "--profile")[2]
    _, out, err = run(*arguments, "--cache", tmp_path / "d")
    assert json.loads(out)["profile"] is None
    assert "bottleneck" not in err


def test_extract_json(options: list[object], photos: Path, tmp_path: Path) -> None:
    """--json prints one object with the promised keys and nothing else on stdout."""
    code, out, _ = run("extract", photos, *options, "--cache", tmp_path / "c", "--json")
    found = json.loads(out)
    assert code == 0
    assert {
        "cache",
        "recipe",
        "rows",
        "computed",
        "reused",
        "skipped",
        "layers",
        "classes",
        "splits",
        "seconds",
        "images_per_second",
        "bytes",
    } <= set(found)
    assert (found["rows"], found["computed"], found["layers"]) == (12, 12, {"mix": [4]})
    assert found["classes"] == ["dark", "light"]


def test_extract_table_with_test_split(options: list[object], photos: Path, tmp_path: Path) -> None:
    """A CSV is a source, and --test-split makes a test set beside validation."""
    names = sorted(path.relative_to(photos) for path in photos.rglob("*.png"))
    (photos / "t.csv").write_text("path;label\n" + "".join(f"{name};{name.parent}\n" for name in names))
    code, out, _ = run(
        "extract",
        photos / "t.csv",
        *options,
        "--cache",
        tmp_path / "c",
        "--json",
        "--validation-split",
        "0.3",
        "--test-split",
        "0.3",
        "--seed",
        "1",
    )
    assert code == 0
    assert set(json.loads(out)["splits"]) == {"train", "validation", "test"}
    code, _, err = run("extract", photos / "t.csv", *options, "--test-split", "1.5")
    assert code == 1
    assert "--test-split must be 0 or more" in err


def test_skipped_images_exit_3(options: list[object], photos: Path, tmp_path: Path) -> None:
    """Images that could not be used are listed and the exit code says so; --on-error fail exits 1."""
    (photos / "dark" / "text.jpg").write_text("hello")
    code, out, err = run("extract", photos, *options, "--cache", tmp_path / "c")
    assert code == 3
    assert "dark/text.jpg: not an image: its content is text" in out
    assert "text.jpg" not in err  # listed once, at the end
    code, out, err = run("extract", photos, *options, "--cache", tmp_path / "d", "--on-error", "fail")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: dark/text.jpg: not an image")


def test_errors_are_one_line_and_exit_1(tmp_path: Path) -> None:
    """An error is one line on stderr that starts with `error:`; stdout stays empty."""
    for arguments in (
        ["extract", tmp_path / "nowhere", "--base", "vgg19"],
        ["fit-head", tmp_path],
        ["info", tmp_path],
        ["predict", tmp_path, tmp_path],
        ["layers", "vgg99"],
        ["extract", "digits", "--base", "vgg19", "--image-size", "big"],
        ["fit-head", tmp_path, "--set", "C"],
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (1, ""), arguments
        assert re.fullmatch(r"error: .{20,}\n", err), err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_no_unexpected_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Writing that fails for want of space is said as such, and never under the name of a file of ours."""
    for name in (None, str(tmp_path / ".tmp-0123")):

        def full(*_: object, name: str | None = name) -> None:
            raise OSError(number, os.strerror(number), name)

        monkeypatch.setattr("featcache.cache.FeatureCache", full)
        code, _, err = run("info", tmp_path)
        assert code == 1
        assert "cannot be read or written: " + os.strerror(number) in err
        assert "unexpected" not in err
        assert ".tmp-" not in err
        assert name is None or repr(str(tmp_path)) in err


def test_usage_errors_exit_2() -> None:
    """Unknown options, commands and choices are usage errors."""
    for arguments in (["extract", "--nonsense"], ["nonsense"], ["extract", "--pooling", "median"], ["predict"]):
        assert run(*arguments)[0] == 2


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    """Only --debug lets an exception through."""
    result = CliRunner().invoke(app, ["info", str(tmp_path), "--debug"])
    assert isinstance(result.exception, featcache.FeatcacheError)


def test_options_from_the_environment(oracle: Path, photos: Path, tmp_path: Path) -> None:
    """FEATCACHE_<COMMAND>_<OPTION> stands for an option."""
    code, out, _ = run(
        "extract",
        photos,
        "--json",
        FEATCACHE_EXTRACT_BASE=str(oracle),
        FEATCACHE_EXTRACT_LAYER="mix",
        FEATCACHE_EXTRACT_PREPROCESS="none",
        FEATCACHE_EXTRACT_CACHE=str(tmp_path / "c"),
    )
    assert code == 0
    assert json.loads(out)["cache"] == str(tmp_path / "c")
    code, out, _ = run("fit-head", tmp_path / "c", "--json", FEATCACHE_FIT_HEAD_CLF="svm")
    assert json.loads(out)["clf"] == "svm"


def test_fine_tune(options: list[object], split_photos: Path, tmp_path: Path) -> None:
    """The dry run shows what would train; the command says before and after, and its model is evaluated like a head."""
    run("extract", split_photos, *options, "--cache", tmp_path / "c")
    run("fit-head", tmp_path / "c", "--clf", "dense", "--set", "epochs=2", "--out", tmp_path / "h")
    code, out, _ = run("fine-tune", tmp_path / "h", "--all", "--dry-run", "--json")
    assert code == 0
    told = json.loads(out)
    assert (told["trainable"], told["non_trainable"], told["total"]) == (16 + 5, 9, 30)
    assert "parameters train" in run("fine-tune", tmp_path / "h", "--last", "1", "--dry-run")[1]
    code, out, _ = run("fine-tune", tmp_path / "h", "--last", "1", "--epochs", "2", "--json")
    assert code == 0
    told = json.loads(out)
    assert {"model", "before", "after", "trainable", "non_trainable", "history", "kept", "skipped"} <= set(told)
    assert (told["model"], len(told["history"]["epoch"])) == (str(tmp_path / "h-finetuned"), 2)
    code, out, _ = run(
        "fine-tune",
        tmp_path / "h",
        "--last",
        "1",
        "--epochs",
        "1",
        "--optimizer",
        "sgd",
        "--weight-decay",
        "0.01",
        "--schedule",
        "exponential",
    )
    assert code == 0
    assert re.search(r"before, validation +\d\.\d{4} +\d\.\d{4}-\d\.\d{4}", out)
    assert run("evaluate", tmp_path / "h-finetuned")[0] == 0
    code, _, err = run("fine-tune", tmp_path / "h")
    assert (code, err.count("error: Choose one of --from-layer, --from-index, --last, --all, --reinitialise")) == (1, 1)


def test_newest_cache(extracting, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache extracted into last is the newest, even if nothing was new; without any there is an error."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CacheError, match="Run `featcache extract` first"):
        newest()
    extracting(photos, tmp_path / "cache/a")
    extracting(photos, tmp_path / "cache/b", pooling="max")
    assert newest() == Path("cache/b")
    extracting(photos, tmp_path / "cache/a")
    assert newest() == Path("cache/a")


def test_fit_head_takes_the_newest_cache(options: list[object], split_photos, tmp_path, monkeypatch) -> None:
    """Without CACHE the newest under cache/ is used, and named; its metrics are printed."""
    monkeypatch.chdir(tmp_path)
    assert run("extract", split_photos, *options)[0] == 0
    (cache,) = (tmp_path / "cache").iterdir()
    code, out, err = run("fit-head", "--clf", "logreg", "--set", "C=0.5", "--json")
    found = json.loads(out)
    assert code == 0
    assert f"using cache/{cache.name}" in err
    assert found["params"] == {"C": 0.5}
    assert found["metrics"]["validation"]["accuracy"] == 1.0
    assert {"accuracy", "accuracy_ci95", "n", "macro_f1", "per_class", "confusion"} <= set(found["metrics"]["train"])
    assert Path(found["head"]) == Path("cache") / cache.name / "heads" / "logreg-mix"


def test_gate_exits_4(head: Path, tmp_path: Path, extracting, photos: Path) -> None:
    """An accuracy that was not reached is exit code 4."""
    for i in range(40):
        write_image(tmp_path / "noise" / "ab"[i % 2] / f"{i}.png", random_image(i))
    extracting(tmp_path / "noise", tmp_path / "n", validation_split=0.5)
    code, _, err = run("fit-head", tmp_path / "n", "--assert-accuracy", "0.99", "--out", tmp_path / "no")
    assert code == 4
    assert "below the 0.99 asked for" in err
    assert not (tmp_path / "no").exists()


def test_predict_json_and_files(head: Path, split_photos: Path, tmp_path: Path) -> None:
    """Predictions have path, label, probability and probabilities, on stdout, in CSV and in JSON lines."""
    folder = split_photos / "validation"
    found = json.loads(run("predict", head, folder, "--json")[1])
    assert [Path(one["path"]).parent.name for one in found["predictions"]] == [
        one["label"] for one in found["predictions"]
    ]
    assert set(found["predictions"][0]) == {"path", "label", "probability", "probabilities"}
    (folder / "dark" / "bad.png").write_text("x")
    code, _, _ = run("predict", head, folder, "--out", tmp_path / "out" / "p.csv")
    rows = list(csv.DictReader((tmp_path / "out" / "p.csv").open()))
    assert code == 3
    assert [row["label"] for row in rows] == [""] + ["dark"] * 5 + ["light"] * 5
    assert rows[0]["reason"] == "not an image: its content is text"
    assert float(rows[1]["probability_dark"]) == pytest.approx(found["predictions"][0]["probabilities"]["dark"])
    run("predict", head, folder, "--out", tmp_path / "p.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines[1:]] == [one["label"] for one in found["predictions"]]
    assert run("predict", head, folder, "--out", tmp_path / "p.xml")[0] == 1


def test_predict_in_bulk_json(head: Path, tmp_path: Path) -> None:
    """With --out the JSON has counts and what was skipped, and no list of all predictions."""
    for i in range(20):
        write_image(tmp_path / "new" / f"{i:02d}.png", random_image(i) // 2 + 6 * i)
    (tmp_path / "new" / "bad.png").write_text("x")
    out, threshold = tmp_path / "p.csv", 0.9
    options = ["--top-k", "2", "--threshold", threshold]
    code, text, _ = run("predict", head, tmp_path / "new", "--out", out, *options, "--json")
    rows = list(csv.DictReader(out.open(newline="")))
    unsure = sum(float(row["probability"]) < threshold for row in rows[:-1])
    assert code == 3
    assert 0 < unsure < 20
    assert json.loads(text) == {
        "out": str(out),
        "predicted": 20,
        "resumed": 0,
        "unsure": unsure,
        "skipped": [{"path": str(tmp_path / "new" / "bad.png"), "reason": "not an image: its content is text"}],
    }
    assert list(rows[0]) == [
        "path",
        "label",
        "probability",
        "best",
        "unsure",
        "label_2",
        "label_2_probability",
        "probability_dark",
        "probability_light",
        "reason",
    ]
    assert sum(row["label"] == "unsure" and row["unsure"] == "true" for row in rows) == unsure
    shown = run("predict", head, tmp_path / "new", "--out", out, *options)[1]
    assert f"20 predictions in {out}, {unsure} of them unsure" in shown
    assert "bad.png: not an image" in shown
    found = json.loads(run("predict", head, tmp_path / "new", *options, "--json")[1])
    assert found["unsure"] == unsure
    assert [name for name, _ in found["predictions"][0]["top"]] == ["dark", "light"]
    assert "unsure: " in run("predict", head, tmp_path / "new", *options)[1]
    assert run("predict", head, tmp_path / "new", "--top-k", "3")[0] == 1


def test_predict_takes_tables_beside_images(head: Path, split_photos: Path, tmp_path: Path) -> None:
    """A table and a folder, in this order, are predicted in this order; the table's labels do not matter."""
    (split_photos / "t.csv").write_text("path,label\nvalidation/light/l0.png,dark\nvalidation/dark/d0.png,wrong\n")
    _, text, _ = run("predict", head, split_photos / "t.csv", "--json")
    assert [(one["path"], one["label"]) for one in json.loads(text)["predictions"]] == [
        ("validation/light/l0.png", "light"),
        ("validation/dark/d0.png", "dark"),
    ]
    found = json.loads(run("predict", head, split_photos / "t.csv", split_photos / "validation", "--json")[1])
    assert [one["label"] for one in found["predictions"]] == ["light", "dark"] + ["dark"] * 5 + ["light"] * 5


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_stopped_predictions_go_on(head: Path, tmp_path: Path, number: int, code: int) -> None:
    """Killed or stopped by Ctrl-C, the same command ends with the file of a run that was left alone, to the byte."""
    for i in range(3000):
        write_image(tmp_path / "new" / f"{i}.png", random_image(i) // 2 + i % 128)
    out = tmp_path / "p.csv"
    out.write_text("the last one")
    process = started("predict", head, tmp_path / "new", "--out", out)
    state = tmp_path / "p.csv.partial.json"
    deadline = time.monotonic() + 60
    while not (state.exists() and json.loads(state.read_text())["rows"]) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out.read_text() == "the last one"
    found = json.loads(run("predict", head, tmp_path / "new", "--out", out, "--json")[1])
    assert 0 < found["resumed"] < found["predicted"] == 3000
    assert run("predict", head, tmp_path / "new", "--out", tmp_path / "whole.csv")[0] == 0
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not state.exists()


def test_evaluate_coverage(head: Path) -> None:
    """--coverage adds the table that a threshold is chosen by, of the validation images."""
    found = json.loads(run("evaluate", head, "--coverage", "--json")[1])
    assert list(found["coverage"]) == ["validation"]
    first = found["coverage"]["validation"][0]
    assert (first["threshold"], first["coverage"], first["n"]) == (0.0, 1.0, 10)
    assert re.search(r"^ *threshold +answered +n +accuracy +95 %$", run("evaluate", head, "--coverage")[1], re.M)


def test_evaluate(head: Path) -> None:
    """Metrics by split come back from pixels."""
    code, out, _ = run("evaluate", head, "--json")
    assert code == 0
    assert json.loads(out)["metrics"]["validation"]["accuracy"] == 1.0
    assert "validation" in run("evaluate", head)[1]


def test_info(head: Path, tmp_path: Path) -> None:
    """info shows recipe, splits, classes and heads."""
    code, out, _ = run("info", tmp_path / "c", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["rows"], found["missing"], found["splits"]) == (50, 0, {"train": 40, "validation": 10})
    assert found["recipe"]["pooling"] == "avg"
    assert "50 (40 train, 10 validation)" in run("info", tmp_path / "c")[1]


def test_info_does_not_import_tensorflow(head: Path, tmp_path: Path) -> None:
    """Looking at a cache loads neither TensorFlow nor scikit-learn; nor does extracting nothing new."""
    code = (
        "import sys\nfrom featcache.cli import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "except SystemExit:\n    print([m for m in ('tensorflow', 'keras', 'sklearn') if m in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, "info", tmp_path / "c", "-q"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.splitlines()[-1] == "[]"


def test_layers(oracle: Path) -> None:
    """layers prints name, type, output shape, weights, parameters and bytes per image."""
    out = run("layers", oracle)[1]
    assert re.search(r"mix +Conv2D +8x8x4 +1x1x3x4 4 +16 +1,024", out)
    assert "16 parameters in 3 layers" in out


def test_bases() -> None:
    """bases lists the applications with their preprocessing and size."""
    found = json.loads(run("bases", "--json")[1])["bases"]
    assert {"name": "VGG19", "preprocess": "caffe", "image_size": 224} in found


def test_quiet_is_quiet(options: list[object], photos: Path, tmp_path: Path) -> None:
    """-q leaves stderr empty."""
    (photos / "dark" / "text.jpg").write_text("hello")
    assert run("extract", photos, *options, "--cache", tmp_path / "c", "-q")[2] == ""


@pytest.mark.slow
def test_no_tensorflow_chatter(oracle: Path, photos: Path, tmp_path: Path) -> None:
    """A whole process writes its own lines to stderr and nothing else."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "featcache",
            "extract",
            photos,
            "--base",
            oracle,
            "--layer",
            "mix",
            "--preprocess",
            "none",
            "--cache",
            tmp_path / "c",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["computed"] == 12
    assert [line for line in done.stderr.splitlines() if not line.startswith("extracting: ")] == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_leave_a_cache_that_goes_on(options, tmp_path: Path, number: int, code: int) -> None:
    """Ctrl-C and SIGTERM end cleanly with their exit codes; the same command goes on."""
    for i in range(3000):
        write_image(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png", random_image(i))
    process = started(
        "extract", tmp_path / "photos", *options, "--cache", tmp_path / "c", "--shard-rows", "100", "--batch-size", "2"
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "c").glob("shards/*.h5")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.splitlines()[-1].startswith("error: stopped")
    code, out, err = run("info", tmp_path / "c", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert 0 < found["missing"] < 3000
    again = json.loads(run("extract", tmp_path / "photos", *options, "--cache", tmp_path / "c", "--json")[1])
    assert again["computed"] == found["missing"]


def test_odd_names_are_shown_harmlessly(options: list[object], tmp_path: Path) -> None:
    """File names with control characters or broken UTF-8 cannot disturb a terminal or the JSON."""
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    folder = os.fsencode(tmp_path / "photos" / "cats")
    for name in (b"\x1b[31mred.png", b"new\nline.png", b"\xff.png"):
        Path(os.fsdecode(folder + b"/" + name)).write_text("no image")
    write_image(tmp_path / "photos" / "cats" / "ok.png", random_image(0))
    code, out, err = run("extract", tmp_path / "photos", *options, "--cache", tmp_path / "c")
    assert code == 3
    assert "\x1b" not in out + err
    assert r"cats/new\nline.png: not an image" in out
    found = json.loads(run("extract", tmp_path / "photos", *options, "--cache", tmp_path / "c", "--json")[1])
    assert len(found["skipped"]) == 3


def test_key_values() -> None:
    """KEY=VALUE values are numbers, words or tuples."""
    assert key_values(["a=1", "b=0.5", "c=1024,512", "d=true", "e=none", "f=x=y", "g=64,"], "--set") == {
        "a": 1,
        "b": 0.5,
        "c": (1024, 512),
        "d": True,
        "e": None,
        "f": "x=y",
        "g": (64,),
    }
    with pytest.raises(OptionError, match="--set KEY=VALUE"):
        key_values(["a"], "--set")


def test_printable() -> None:
    """Text is made safe."""
    assert printable("a\tb\udcff") == r"a\tb\udcff"


def test_image_sizes(options: list[object], tmp_path: Path) -> None:
    """--image-size takes N or HxW."""
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(write_image(tmp_path / "p" / "a" / "1.png", random_image(0)))
    out = json.loads(run("layers", "vgg19", "--image-size", "32x64", "--json")[1])
    assert next(layer for layer in out["layers"] if layer["address"] == "block5_pool")["output_shape"] == [1, 2, 512]


def test_every_option_has_its_variable(head: Path, tmp_path: Path) -> None:
    """The variable's name follows the option's, also where Python's name is another."""
    code, out, _ = run("fit-head", tmp_path / "c", FEATCACHE_FIT_HEAD_SET="C=0.25", FEATCACHE_FIT_HEAD_JSON="1")
    assert code == 0
    assert json.loads(out)["params"] == {"C": 0.25}


@pytest.mark.slow
def test_closed_pipe_is_no_error(photos: Path) -> None:
    """Whoever reads only the first line gets no complaint."""
    done = subprocess.run(
        f"{sys.executable} -m featcache bases | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert (done.stdout.split(), done.stderr) == (["base", "preprocess", "image", "size"], "")


def test_terminal_without_unicode(options: list[object], tmp_path: Path) -> None:
    """Class names that the terminal cannot show are escaped."""
    write_image(tmp_path / "p" / "caf\u00e9" / "1.png", random_image(0))
    run("extract", tmp_path / "p", *options, "--cache", tmp_path / "c")
    done = subprocess.run(
        [sys.executable, "-m", "featcache", "info", tmp_path / "c"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert r"caf\xe9" in done.stdout


def test_caring_for_a_cache(options: list[object], photos: Path, tmp_path: Path) -> None:
    """verify lists problems and exits 1, --fix mends them, gc cleans up and export-cache writes a plain file."""
    cache = tmp_path / "c"
    assert run("extract", photos, *options, "--cache", cache)[0] == 0
    code, out, err = run("verify", cache)
    assert (code, err) == (0, "")
    assert out.startswith("1 shard, 12 rows, 1 block, ")
    (cache / "manifest.sqlite").unlink()
    code, out, err = run("verify", cache, "--json")
    assert (code, json.loads(out)["problems"]) == (1, [{"where": "manifest.sqlite", "what": "it is missing"}])
    printed = re.fullmatch(r"error: 1 problem found.*Run `featcache (.*)`, then.*\n", err)
    assert printed
    code, out, _ = run(*shlex.split(printed[1]), "--json")
    assert (code, json.loads(out)["sound"], len(json.loads(out)["fixed"])) == (0, True, 1)
    assert "unknown: run extract" in run("info", cache)[1]
    assert json.loads(run("extract", photos, *options, "--cache", cache, "--json")[1])["computed"] == 0
    (photos / "dark" / "d0.png").unlink()
    run("extract", photos, *options, "--cache", cache)
    assert json.loads(run("gc", cache, "--dry-run", "--json")[1])["rows_dropped"] == 1
    assert run("gc", cache)[1].startswith("1 row and 1 file were removed, 1 shard rewritten")
    code, out, _ = run("export-cache", cache, "--to", tmp_path / "out.npz", "--json")
    assert (code, set(json.loads(out))) == (0, {"path", "arrays", "bytes"})
    assert "paths_train" in np.load(tmp_path / "out.npz")
    assert run("export-cache", cache)[0] == 2


def test_export(head: Path, tmp_path: Path, at_once: None) -> None:
    """export writes a model and says how far it is from the classifier; what it cannot write is an error."""
    code, out, err = run("export", head, "--to", tmp_path / "new" / "m.keras", "--compare", 3, "--json")
    found = json.loads(out)
    assert (code, found["format"], found["compared"], found["classes"]) == (0, "keras", 3, ["dark", "light"])
    assert found["path"] == str(tmp_path / "new" / "m.keras")
    assert found["max_difference"] < 1e-4
    assert set(found) == {
        "path",
        "metadata",
        "format",
        "max_difference",
        "compared_with",
        "compared",
        "classes",
        "notes",
        "own_score",
    }
    code, out, err = run("export", head, "--to", tmp_path / "m.tflite", "--compare", 0)
    assert (code, "on random pixels only" in out, "none were asked for" in out) == (0, True, True)
    code, out, err = run("export", head, "--to", tmp_path / "fixed.keras", "--input", "fixed", "--json")
    (shown,) = [note for note in json.loads(out)["notes"] if note.startswith("takes decoded pixels")]
    described = json.loads((tmp_path / "fixed.keras.json").read_text())["input"]
    assert (code, described["pictures"], described["shape"]) == (0, "fixed size", [None, 8, 8, 3])
    assert "8x8x3" in shown
    assert run("export", head, "--to", tmp_path / "fixed", "--input", "fixed")[0] == 1
    code, out, err = run("export", head, "--to", tmp_path / "m.h5")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"error: --to must be a file ending in .keras, .tflite or .onnx.*\n", err)
    assert run("export", head)[0] == 2


def test_info_of_features_from_elsewhere(tmp_path: Path) -> None:
    """info shows what described the encoder."""
    featcache.FeatureCache.from_arrays(np.ones((3, 2)), None, None, {"encoder": "clip"}, path=tmp_path / "c")
    assert 'from elsewhere, stored as float32: {"encoder": "clip"}' in run("info", tmp_path / "c")[1]


def test_dry_run_writes_nothing(options: list[object], photos: Path, tmp_path: Path) -> None:
    """--dry-run says how many rows, bytes and seconds it would take, and leaves no trace."""
    command = ["extract", photos, *options, "--cache", tmp_path / "new" / "c", "--dry-run"]
    found = json.loads(run(*command, "--json")[1])
    assert (found["images"], found["rows_to_compute"], found["bytes"]) == (12, 12, 12 * 4 * 4)
    assert found["bytes_free"] > 0
    assert found["images_per_second"] > 0
    assert not (tmp_path / "new").exists()
    assert "12 rows to compute" in run(*command)[1]
    run("extract", photos, *options, "--cache", tmp_path / "c")
    write_image(photos / "dark" / "new.png", random_image(9))
    found = json.loads(run("extract", photos, *options, "--cache", tmp_path / "c", "--dry-run", "--json")[1])
    assert (found["images"], found["rows_to_compute"]) == (13, 1)
    assert json.loads(run("info", tmp_path / "c", "--json")[1])["images"] == 12


def test_compare_prints_a_leaderboard(made, tmp_path: Path) -> None:
    """The table has every head, and says what ranks it, what is failed and what to do next; --out keeps it."""
    cache = made(apart=0.7)
    code, out, _ = run(
        "compare", cache.path, "--clf", "ridge", "--clf", "logreg", "--jobs", "1", "--out", tmp_path / "t.csv"
    )
    assert code == 0
    assert "ranked by validation, n=90" in out
    assert "best on test, scored once" in out
    assert re.search(rf"next: featcache fit-head {cache.path} (--clf \S+ )?--layer features", out)
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 3
    found = json.loads(run("compare", cache.path, "--clf", "ridge", "--clf", "logreg", "--jobs", "1", "--json")[1])
    assert {"leaderboard", "best", "failed"} <= set(found)
    assert {"cache", "layer", "clf", "params", "accuracy", "accuracy_ci95", "fit_seconds"} <= set(found["best"])


def test_the_next_command_makes_the_best_head(made) -> None:
    """What `compare` says to do next trains the head that it ranked first."""
    cache = made(apart=0.5)
    out = run("compare", cache.path, "--clf", "ridge", "--clf", "logreg", "--tune", "--jobs", "1")[1]
    command = next(line for line in out.splitlines() if line.startswith("next: featcache "))
    head = json.loads(run(*command.removeprefix("next: featcache ").split(), "--json")[1])
    best = json.loads(run("compare", cache.path, "--clf", "ridge", "--clf", "logreg", "--tune", "--json")[1])["best"]
    assert head["metrics"]["validation"]["accuracy"] == best["accuracy"]
    assert head["metrics"]["validation"]["log_loss"] == pytest.approx(best["log_loss"], abs=1e-4)


def test_fit_head_says_what_its_protocols_found(made) -> None:
    """Sweep, folds and few-shot draws are printed, and are in the JSON."""
    cache = made(apart=0.7)
    options = ["fit-head", cache.path, "--tune", "--cv", "3", "--fewshot", "1,5", "--tries", "2"]
    out = run(*options)[1]
    assert "3 folds of the training images" in out
    assert "5 of each class" in out
    assert "accuracy 0." in out
    found = json.loads(run(*options, "--json")[1])
    assert {"tuning", "cross_validation", "fewshot", "calibration"} <= set(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--out", "table.txt"], "--out must be a .csv or .json file"),
        (["fit-head", "--fewshot", "one"], "Expected --fewshot with whole numbers"),
        (["fit-head", "--calibrate", "platt"], "--calibrate must be one of temperature"),
        (["fit-head", "--cv", "1"], "at least 2 folds"),
        (["compare", "--clf", "forest"], "nearest: logreg"),
        (["compare", "--layer", "feature"], "nearest: features"),
    ],
)
def test_wrong_options_of_heads_are_one_line(made, arguments: list[str], message: str) -> None:
    """Each wrong value is answered with what is possible."""
    code, _, err = run(arguments[0], made().path, *arguments[1:])
    assert code == 1
    assert message in err
    assert err.count("\n") == 1


def test_report(head: Path, tmp_path: Path) -> None:
    """report writes a page, pictures of its charts, and says in JSON what is in them; a bad folder is one line."""
    code, text, _ = run("report", head, "--out", tmp_path / "r.html", "--png", tmp_path / "png", "--json")
    data = json.loads(text)
    assert code == 0
    assert data["path"] == str(tmp_path / "r.html")
    assert data["bytes"] == (tmp_path / "r.html").stat().st_size
    assert {"mistakes", "map", "leaderboard", "again"} <= set(data["sections"])
    assert (data["accuracy"]["split"], data["accuracy"]["n"], data["missing"]) == ("validation", 10, {})
    assert sorted(data["pngs"]) == sorted(map(str, (tmp_path / "png").iterdir()))
    assert all(Path(file).read_bytes().startswith(b"\x89PNG") for file in data["pngs"])
    assert run("report", head, "--map", "pca")[0] == 0
    assert (head / "report.html").exists()
    assert run("fit-head", tmp_path / "c", "--out", head)[0] == 0  # a report in its folder is no stranger
    code, _, error = run("report", tmp_path)
    assert code == 1
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert "is no head, no fine-tuned model and no cache" in error


def test_report_without_its_libraries(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, report says in one line what to install."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, _, error = run("report", head)
    assert code == 1
    assert error.strip().endswith("Reports need jinja2, which is not installed. Run: pip install 'featcache[report]'")


@pytest.mark.parametrize(("engine", "side_by_side"), [("local", True), slow("processes", False)])
def test_extract_divides_the_processors_where_it_computes(
    oracle: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, side_by_side: bool
) -> None:
    """Passes run side by side in the process that computes; workers divide the processors among themselves."""
    asked: list[bool] = []
    monkeypatch.setattr("featcache.cli.extract.pass_side_by_side", lambda: asked.append(True) or 1)
    code, _, err = run(
        "extract",
        photos,
        "--base",
        oracle,
        "--layer",
        "mix",
        "--preprocess",
        "none",
        "--cache",
        tmp_path / "c",
        "--engine",
        engine,
    )
    assert code in (0, 3), err
    assert asked == [True] * side_by_side


def test_messages_name_options(extracting, split_photos: Path, tmp_path: Path) -> None:
    """What a message of the library calls by an argument's name, the command line calls by its option's."""
    extracting(split_photos, tmp_path / "c")
    code, _, err = run("fit-head", tmp_path / "c", "--fewshot", "1000")
    assert (code, "--fewshot asks for 1000" in err, "`" in err) == (1, True, False)


def test_a_start_makes_one_command_and_imports_what_that_needs() -> None:
    """`info` needs neither the other commands, nor the opening of sources, nor anything that people look at."""
    code = (
        "import sys\n"
        "from featcache.cli.app import _made, app\n"
        "app(['info', sys.argv[1]], standalone_mode=False)\n"
        "heavy = ('featcache.sources.opening', 'featcache.insight', 'featcache.extraction', 'keras', 'sklearn')\n"
        "print(_made.cache_info().currsize, [name for name in heavy if name in sys.modules])"
    )
    cache = Path(__file__).parents[1] / "golden" / "format-2"
    shown = subprocess.run([sys.executable, "-c", code, str(cache)], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "1 []"
