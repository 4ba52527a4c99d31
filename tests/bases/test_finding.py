"""Bases that are kept in caches and in models' folders, with everything else taken away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featcache.bases import finding as base_finding
from featcache.bases.finding import base_folders, find_base, licence
from featcache.cache import FeatureCache
from featcache.cache.compaction import gc
from featcache.cache.verification import verify
from featcache.cli.app import app
from featcache.errors import BaseError, HeadError, WeightsError
from featcache.extraction.extracting import extract
from featcache.heads import Head
from featcache.models.classifier import ImageClassifier
from featcache.models.export import export_model
from featcache.recipe import Request
from featcache.saved import base as base_folder
from featcache.training import fit_head

FULL = shutil.disk_usage("/")._replace(free=1)
FIRST = "expanded_conv_project_BN"  # the first of 17 blocks
SMALL: dict[str, Any] = {"base": "mobilenetv2", "base_params": {"alpha": 0.35}, "image_size": 32, "layers": (FIRST,)}


def network(**_: object) -> Any:
    """Return a small model with weights that nobody can draw again."""
    import keras

    pixels = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(pixels))
    model = keras.Model(pixels, keras.layers.Flatten()(maps), name="mine")
    rng = np.random.default_rng(5)
    model.set_weights([rng.normal(size=w.shape).astype(np.float32) for w in model.get_weights()])
    return model


def options_for(kind: str, folder: Path) -> dict[str, Any]:
    """Return what `extract` takes for a base of a kind, whose files lie in a folder."""
    folder.mkdir()
    if kind == "in memory":
        return {"base": network()}
    if kind == "a file":
        network().save(folder / "net.keras")
        return {"base": folder / "net.keras"}
    if kind == "drawn":
        return {**SMALL, "weights": None, "seed": 7}
    from featcache.bases import load_base

    full = load_base(Request(**{**SMALL, "layers": ()}, weights=None, seed=3))
    full.model.save_weights(folder / "w.weights.h5")
    return {**SMALL, "weights": folder / "w.weights.h5"}


@pytest.fixture
def oracle_cache(extracting: Callable[..., Any], split_photos: Path, oracle: Path, tmp_path: Path) -> FeatureCache:
    """Return a cache of the oracle, whose file can be deleted."""
    shutil.copy(oracle, tmp_path / "own.keras")
    cache = extracting(split_photos, tmp_path / "c", base=tmp_path / "own.keras", layers=["mix", "positive"])
    assert isinstance(cache, FeatureCache)
    return cache


def answers(head: Path, image: Path, **options: Any) -> dict[str, float]:
    return next(ImageClassifier.load(head, **options).predict_records(image)).probabilities


@pytest.mark.parametrize("kind", ["in memory", "a file", "drawn", "a weights file"])
@pytest.mark.by_default("in memory", "a file", "drawn")
def test_every_kind_of_base_is_kept(kind: str, split_photos: Path, tmp_path: Path) -> None:
    """From a folder that was copied away, with cache and files gone, pixels give what the cached features gave."""
    options = options_for(kind, tmp_path / "files")
    cache = extract(split_photos, cache=tmp_path / "c", batch_size=8, **options)
    head = fit_head(cache, params={"C": 1e-3}, out=tmp_path / "head")
    expected = head.predict_proba(np.asarray(cache.features("validation")))
    source = json.loads((tmp_path / "head" / "base" / "base.json").read_text())["source"]
    assert source["licence"] == licence(None if kind == "in memory" else Request(**options))
    assert (source["file"] is not None) == ("file" in kind)
    assert source["seed"] == (7 if kind == "drawn" else None)
    shutil.move(tmp_path / "head", tmp_path / "away")
    images = [split_photos / path for path in cache.paths("validation")]
    for folder in ("c", "files"):
        shutil.rmtree(tmp_path / folder)
    found = list(ImageClassifier.load(tmp_path / "away").predict_records(images))
    assert np.abs(np.array([list(one.probabilities.values()) for one in found]) - expected).max() <= 1e-4
    if kind != "in memory":
        assert ImageClassifier.load(tmp_path / "away").extractor.request.is_file == (kind == "a file")


def test_heads_of_a_cache_share_its_base(oracle_cache: FeatureCache, tmp_path: Path) -> None:
    """Two heads in a cache carry none; a folder elsewhere has a copy, which takes no more space here."""
    kept = oracle_cache.path / "base" / base_folder.MODEL
    for layer in ("mix", "positive"):
        folder = fit_head(oracle_cache, layer=layer).path
        assert folder is not None
        assert {path.name for path in folder.iterdir()} == {"head.json", "model.skops", "trained_on.bin"}
    other = fit_head(oracle_cache, out=tmp_path / "o")
    assert (tmp_path / "o" / "base" / base_folder.MODEL).samefile(kept)
    assert other.card["base"] is True
    again = Head.load(tmp_path / "o").save(tmp_path / "again")
    assert base_folder.problem(again / "base", oracle_cache.recipe) is None


def test_places_are_searched_in_order(oracle_cache: FeatureCache, split_photos: Path, tmp_path: Path, caplog) -> None:
    """The model's folder, its cache, then where the base came from; what is damaged is passed over with a word."""
    path = fit_head(oracle_cache, out=tmp_path / "o").path
    image = split_photos / "validation" / "light" / "l1.png"
    expected = answers(path, image)
    folders = base_folders(path, {"cache": str(oracle_cache.path)})
    assert folders[0] == tmp_path / "o" / "base"
    assert folders[-1] == oracle_cache.path / "base"
    request = Request.from_dict(oracle_cache.description["request"])

    def file() -> Path | None:
        return find_base(oracle_cache.recipe, request, folders).file

    assert file() == folders[0] / base_folder.MODEL
    damaged = (folders[0] / base_folder.MODEL).read_bytes()
    (folders[0] / base_folder.MODEL).unlink()  # it shares its bytes with the cache's
    (folders[0] / base_folder.MODEL).write_bytes(damaged[:-1] + b"x")
    assert file() == folders[-1] / base_folder.MODEL
    assert answers(path, image) == expected
    assert "o/base is not used: base.keras does not have its checksum" in caplog.text
    shutil.rmtree(folders[-1])
    assert file() is None
    assert answers(path, image) == expected
    (tmp_path / "own.keras").unlink()
    with pytest.raises(BaseError, match=r"no sound copy in .*o/base' or .*c/base', .* --weights FILE.*--base FILE"):
        answers(path, image)


def test_a_network_that_is_not_what_its_card_says_is_not_used(
    oracle_cache: FeatureCache, split_photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A card with right checksums does not make another network the recipe's: digests are computed again."""
    kept = oracle_cache.path / "base"
    card = base_folder.read_card(kept)
    shutil.rmtree(kept)
    base_folder.write(kept, oracle_cache.recipe, {**card}, lambda path: network().save(path))
    assert base_folder.problem(kept, oracle_cache.recipe) is None
    folder = fit_head(oracle_cache).path
    answers(folder, split_photos / "validation" / "light" / "l1.png")
    assert "is not used: the loaded base is not the one" in caplog.text


def test_a_folder_without_its_base_names_what_to_give(
    oracle_cache: FeatureCache, oracle: Path, split_photos: Path, tmp_path: Path
) -> None:
    """Made with bundle=False it carries none; with cache and file gone the message names --weights, --base works."""
    image = split_photos / "validation" / "light" / "l1.png"
    head = fit_head(oracle_cache, out=tmp_path / "o", bundle=False)
    expected = answers(tmp_path / "o", image)
    assert head.card["base"] is False
    assert not (tmp_path / "o" / "base").exists()
    shutil.rmtree(oracle_cache.path)
    (tmp_path / "own.keras").unlink()
    with pytest.raises(BaseError, match=r"own.keras' does not exist.*--weights FILE"):
        answers(tmp_path / "o", image)
    assert answers(tmp_path / "o", image, base=oracle) == expected


@pytest.mark.slow
def test_without_a_copy_only_a_bundle_loads_the_base(oracle_cache: FeatureCache, tmp_path: Path) -> None:
    """Where the cache has none, fit-head needs no TensorFlow, unless --out asks for the base, which it writes then."""
    shutil.rmtree(oracle_cache.path / "base")
    script = (
        "import sys; from featcache.training import fit_head\n"
        "fit_head(sys.argv[1]); fit_head(sys.argv[1], out=sys.argv[2] + '-none', bundle=False)\n"
        "assert 'tensorflow' not in sys.modules\n"
        "fit_head(sys.argv[1], out=sys.argv[2])\n"
        "assert 'tensorflow' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, oracle_cache.path, tmp_path / "o"], check=True)
    assert base_folder.problem(tmp_path / "o" / "base", oracle_cache.recipe) is None
    (tmp_path / "own.keras").unlink()
    with pytest.raises(BaseError, match=r"own.keras' does not exist.* --no-bundle"):
        fit_head(oracle_cache, out=tmp_path / "o")
    assert Head.load(tmp_path / "o").card["base"] is True
    network().save(tmp_path / "own.keras")
    with pytest.raises((BaseError, WeightsError), match=r"--no-bundle|has no layer"):
        fit_head(oracle_cache, out=tmp_path / "o")


def test_a_base_that_cannot_be_kept_is_said(
    extracting: Callable[..., Any], split_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    """On a full disk, and with layers that no other process knows, features are extracted all the same."""
    import keras

    monkeypatch.setattr(base_finding.shutil, "disk_usage", lambda _: FULL)
    monkeypatch.setattr("featcache.extraction.extracting._check_space", lambda *_: None)
    assert len(extracting(split_photos, tmp_path / "c")) == 50
    assert "the cache keeps no copy of the base" in caplog.text
    assert "1 MB, and 0 MB are free" in caplog.text
    monkeypatch.undo()

    class Mine(keras.layers.Layer):
        def call(self, pixels: Any) -> Any:
            return pixels * 2.0

    model = keras.Sequential([keras.Input((8, 8, 3)), Mine(), keras.layers.Flatten()])
    cache = extract(split_photos, base=model, preprocess="none", cache=tmp_path / "mine")
    assert "layers that another process cannot load: Mine" in caplog.text
    for folder in ("c", "mine"):
        assert not (tmp_path / folder / "base").exists()
        assert not list((tmp_path / folder).glob(".tmp-*"))
    with pytest.raises(BaseError, match=r"it was a model in memory\..* --no-bundle"):
        fit_head(cache, out=tmp_path / "o")
    fit_head(cache, out=tmp_path / "o", bundle=False)


KILLED = """
import os, signal, sys
from pathlib import Path
from featcache.saved import base as base_folder
from featcache import extract, fit_head
def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def half(model, path, **_):
    Path(path).write_bytes(b"PK half of a network")
    killed()
what, folder, source, oracle = sys.argv[1:]
if what == "extract":
    import keras
    keras.Model.save = half
    extract(source, base=oracle, layers=["mix"], preprocess="none", cache=folder)
base_folder.link_or_copy = killed
fit_head(source, "centroid", out=folder)
"""


@pytest.mark.slow
def test_killed_while_a_base_is_written(
    extracting: Callable[..., Any], split_photos: Path, oracle: Path, tmp_path: Path
) -> None:
    """The cache is sound and goes on, gc removes the draft; a head's folder is the old one, notes included."""

    def killed(*arguments: object) -> None:
        done = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], check=False, capture_output=True)
        assert done.returncode == -9, done.stderr

    cache = tmp_path / "c"
    killed("extract", cache, split_photos, oracle)
    assert not (cache / "base").exists()
    assert verify(cache).problems == []
    opened = extracting(split_photos, cache)
    assert base_folder.problem(cache / "base", opened.recipe) is None
    (draft,) = cache.glob(".tmp-*")
    assert draft.name not in gc(cache).files_removed  # young: it may be somebody's
    os.utime(draft, (1, 1))
    assert draft.name in gc(cache).files_removed
    assert not draft.exists()
    fit_head(cache, "ridge", out=tmp_path / "o")
    (tmp_path / "o" / "notes.txt").write_text("mine")
    killed("fit-head", tmp_path / "o", cache, "-")
    assert Head.load(tmp_path / "o").clf == "ridge"
    assert (tmp_path / "o" / "notes.txt").read_text() == "mine"
    assert base_folder.problem(tmp_path / "o" / "base", opened.recipe) is None


@pytest.mark.slow
def test_two_processes_write_one_folder(oracle_cache: FeatureCache, tmp_path: Path) -> None:
    """Two fit-heads with one --out at the same time leave one whole head with its base."""
    script = "import sys; from featcache.training import fit_head; fit_head(sys.argv[1], 'ridge', out=sys.argv[2])"
    fit_head(oracle_cache, out=tmp_path / "o")
    command = [sys.executable, "-c", script, str(oracle_cache.path), str(tmp_path / "o")]
    running = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert Head.load(tmp_path / "o").clf == "ridge"
    assert base_folder.problem(tmp_path / "o" / "base", oracle_cache.recipe) is None


def test_care_knows_the_base(extracting: Callable[..., Any], split_photos: Path, tmp_path: Path) -> None:
    """Gc keeps it; verify finds one flipped bit in it, --fix sets it aside, and the next extraction keeps a new one."""
    cache = extracting(split_photos / "train", tmp_path / "c", validation_split=0.2)
    kept = tmp_path / "c" / "base"
    assert gc(tmp_path / "c").files_removed == []
    assert base_folder.problem(kept, cache.recipe) is None
    content = (kept / base_folder.MODEL).read_bytes()
    (kept / base_folder.MODEL).write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    (problem,) = verify(tmp_path / "c").problems
    assert (problem.where, problem.what) == ("base", "base.keras does not have its checksum")
    report = verify(tmp_path / "c", fix=True)
    assert (report.problems, report.fixed) == ([], [problem])
    assert (tmp_path / "c" / "damaged" / "base" / base_folder.MODEL).exists()
    assert not kept.exists()
    shutil.copy(split_photos / "validation" / "dark" / "d0.png", split_photos / "train" / "dark" / "new.png")
    extracting(split_photos / "train", tmp_path / "c", validation_split=0.2)
    assert base_folder.problem(kept, cache.recipe) is None


def test_extract_replaces_a_damaged_copy_of_equal_size(
    extracting: Callable[..., Any], split_photos: Path, tmp_path: Path
) -> None:
    """One flipped bit in the kept base is found by the next extraction that computes something."""
    cache = extracting(split_photos / "train", tmp_path / "c", validation_split=0.2)
    kept = tmp_path / "c" / "base"
    content = (kept / base_folder.MODEL).read_bytes()
    (kept / base_folder.MODEL).write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    assert base_folder.problem(kept, cache.recipe) == "base.keras does not have its checksum"
    shutil.copy(split_photos / "validation" / "dark" / "d0.png", split_photos / "train" / "dark" / "new.png")
    extracting(split_photos / "train", tmp_path / "c", validation_split=0.2)
    assert base_folder.problem(kept, cache.recipe) is None


ALONE = """
import json, sys
from typer.testing import CliRunner
from featcache.cli.app import app
for line in sys.stdin:
    done = CliRunner().invoke(app, json.loads(line))
    print(json.dumps([done.exit_code, done.stdout, done.stderr]), flush=True)
"""


def alone(*commands: list[object]) -> list[tuple[int, Any, str]]:
    """Run commands in a fresh process, and return the exit code, JSON and messages of each."""
    lines = "".join(json.dumps([*map(str, command), "--json"]) + "\n" for command in commands)
    done = subprocess.run([sys.executable, "-c", ALONE], input=lines, capture_output=True, text=True, check=True)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    return [(code, json.loads(out) if out else None, err) for code, out, err in said]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fit-head", "fine-tune"])
def test_a_folder_works_alone(how: str, split_photos: Path, tmp_path: Path) -> None:
    """Copied away, cache, weights and source deleted, predict, evaluate, export and report work in a new process."""
    pytest.importorskip("altair", reason="report needs the extra report")
    options = options_for("a weights file", tmp_path / "files")
    cache = extract(split_photos, cache=tmp_path / "c", batch_size=8, **options)
    head = fit_head(cache, params={"C": 1e-3}, out=tmp_path / "m")
    if how == "fine-tune":
        from featcache.models.finetune import fine_tune

        fine_tune(head, last=2, epochs=1, out=tmp_path / "tuned")
        shutil.rmtree(tmp_path / "m")
        (tmp_path / "tuned").rename(tmp_path / "m")
    shutil.copytree(split_photos / "validation", tmp_path / "new")
    expected = ImageClassifier.load(tmp_path / "m").evaluate()["metrics"]["validation"]
    shutil.copytree(tmp_path / "m", tmp_path / "away" / "m")
    for folder in ("m", "c", "files", "split"):
        shutil.rmtree(tmp_path / folder)
    model, new = tmp_path / "away" / "m", tmp_path / "new"
    predicted, evaluated, exported, compared, reported, without = alone(
        ["predict", model, new],
        ["evaluate", model, new],
        ["export", model, "--to", tmp_path / "e.keras"],
        ["export", model, "--to", tmp_path / "e.tflite", "--images", new],
        ["report", model],
        ["evaluate", model],
    )
    assert (predicted[0], len(predicted[1]["predictions"])) == (0, 10)
    assert (evaluated[0], evaluated[1]["metrics"]["all"]["accuracy"]) == (0, expected["accuracy"])
    assert exported[0] == 0, exported[2]
    assert exported[1]["compared"] == 0
    assert any("random pixels: not compared on images" in note for note in exported[1]["notes"])
    assert any("that of w.weights.h5, which is yours to check" in note for note in exported[1]["notes"])
    assert (compared[0], compared[1]["compared"]) == (0, 10)
    assert (reported[0], reported[1]["accuracy"]) == (0, None)
    assert any("cache it was trained on is gone" in note for note in reported[1]["notes"])
    assert any("No pictures" in note for note in reported[1]["notes"])
    assert without[0] == 1
    assert "split" in without[2]
    assert "Traceback" not in without[2]


def test_a_report_without_a_base_says_so(oracle_cache: FeatureCache, split_photos: Path, tmp_path: Path) -> None:
    """Where the images are there and the base is not, the page is written and says what it cannot show."""
    from featcache.insight.report import report as write_report

    pytest.importorskip("altair", reason="report needs the extra report")
    fit_head(oracle_cache, out=tmp_path / "o", bundle=False)
    shutil.rmtree(oracle_cache.path)
    (tmp_path / "own.keras").unlink()
    report = write_report(tmp_path / "o")
    assert report.accuracy is None
    assert any("could not be asked" in note and "own.keras" in note for note in report.notes)


@pytest.mark.slow
def test_fine_tuning_starts_from_a_folder_alone(split_photos: Path, tmp_path: Path) -> None:
    """With cache and weights gone, the base of a head's own folder is tuned, its layers under their own names."""
    from featcache.models.finetune import fine_tune

    options = options_for("a weights file", tmp_path / "files")
    head = fit_head(extract(split_photos, cache=tmp_path / "c", **options), params={"C": 1e-3}, out=tmp_path / "m")
    before = fine_tune(head, last=3, dry_run=True).fine_tuning
    for folder in ("c", "files"):
        shutil.rmtree(tmp_path / folder)
    after = fine_tune(tmp_path / "m", last=3, dry_run=True).fine_tuning
    assert (after.layers, after.total, after.trainable) == (before.layers, before.total, before.trainable)
    result = fine_tune(tmp_path / "m", last=3, epochs=1, out=tmp_path / "tuned").fine_tuning
    assert result.difference <= 1e-4
    assert "that of w.weights.h5" in result.model.card["licence"]


def test_the_command_line_bundles(oracle_cache: FeatureCache, tmp_path: Path) -> None:
    """fit-head says that the folder carries its base, and --no-bundle leaves it out."""
    from typer.testing import CliRunner

    done = CliRunner().invoke(app, ["fit-head", str(oracle_cache.path), "--out", str(tmp_path / "o")])
    assert "which carries its base (0.0 MB)" in done.stdout
    command = ["fit-head", str(oracle_cache.path), "--out", str(tmp_path / "o"), "--no-bundle", "--json"]
    assert json.loads(CliRunner().invoke(app, command).stdout)["base"] is False
    assert not (tmp_path / "o" / "base").exists()
    assert json.loads(CliRunner().invoke(app, [*command[:-2], "--json"]).stdout)["base"] is True
    (tmp_path / "o" / "head.json").rename(tmp_path / "o" / "other.json")
    with pytest.raises(HeadError, match="other files"):
        fit_head(oracle_cache, out=tmp_path / "o")


def test_an_export_names_the_licence_of_a_kept_base(oracle_cache: FeatureCache, tmp_path: Path, at_once: None) -> None:
    """What was known of the weights goes along in the folder and into what is exported of it."""
    fit_head(oracle_cache, params={"C": 1e-5}, out=tmp_path / "o")
    (tmp_path / "own.keras").unlink()
    shutil.rmtree(oracle_cache.path)
    report = export_model(tmp_path / "o", tmp_path / "e.keras")
    assert json.loads(report.metadata.read_text())["weights"] == licence(Request(base=tmp_path / "own.keras"))
