import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from featcache import FeatureCache, ImageClassifier, fit_head, neighbors
from featcache.cli import app
from featcache.extraction.extractor import Extractor
from featcache.insight.commands import commands, extract_command, options_of_cache
from featcache.insight.report import report as write_report
from featcache.insight.report.pictures import Pictures
from featcache.insight.report.subject import open_subject
from featcache.recipe import Request


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two classes of JPEGs that are much larger than the bases below, and not square."""
    root, rng = tmp_path_factory.mktemp("jpegs") / "set", np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 120)):
        (root / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(low, low + 130, (40 + i, 90, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}{i}.jpg", quality=90)
    return root


@pytest.fixture(scope="module")
def bases(oracle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a base for RGB and one for grey images."""
    import keras

    keras.utils.set_random_seed(0)
    grey = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, name="mix")], name="grey")
    path = tmp_path_factory.mktemp("grey") / "grey.keras"
    grey.save(path)
    return {"rgb": oracle, "grey": path}


RECIPES: dict[str, dict[str, Any]] = {
    "grey": {"base": "grey"},
    "fast": {"fast_decode": True},
    "bfloat16": {"precision": "bfloat16", "validation_split": 0.0},
    "flatten": {"pooling": "flatten", "image_size": 8, "test_from": ("train", 0.25), "seed": 3},
    "crop": {"resize": "crop", "interpolation": "area", "dtype": "float16", "test_split": 0.2},
    "centre": {"crop": 0.8},
    "fast centre": {"crop": 0.5, "fast_decode": True},
    "grey crop": {"base": "grey", "resize": "crop", "fast_decode": True, "views": 1, "augment": "flip,zoom=0.1"},
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.by_default("grey crop", "fast")
def test_every_consumer_sees_the_recipe(
    name: str, jpegs: Path, bases: dict[str, Path], extracting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Printed commands find the cache up to date; report, neighbors and a classifier read pixels as extraction did."""
    options = {"validation_split": 0.3, **RECIPES[name]}
    cache: FeatureCache = extracting(jpegs, tmp_path / "c", **{**options, "base": bases[options.get("base", "rgb")]})
    kept = options_of_cache(cache)
    assert kept is not None
    for option, value in options.items():
        assert option in ("base", "image_size") or getattr(kept, option) == value
    for line in (commands(open_subject(cache.path))[0], extract_command(cache)):
        done = CliRunner().invoke(app, [*shlex.split(str(line))[1:], "--json"])
        assert done.exit_code == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["computed"], found["recipe"], found["cache"]) == (0, cache.recipe.fingerprint, str(cache.path))
    splits, cache = cache.splits, FeatureCache(cache.path)  # listed again: files that were new are known by now
    assert cache.splits == splits

    seen = []
    monkeypatch.setattr(Pictures, "as_seen", lambda self, path, spec, policy, views: seen.append(spec) or [])
    head = fit_head(cache, "ridge")
    write_report(cache.path, out=tmp_path / "report.html", projection="pca")
    assert set(seen) == {Extractor(Request.from_dict(cache.description["request"])).spec}

    first = cache.paths()[0]
    assert neighbors(cache, jpegs / first, top_k=1).neighbors[0].similarity > 0.999
    (predicted,) = ImageClassifier.load(head.path).predict_records([jpegs / first])
    expected = head.predict_proba(cache.features()[:1])[0]
    np.testing.assert_allclose(list(predicted.probabilities.values()), expected, atol=cache.recipe.tolerance)


def test_the_commands_make_the_same_again(extracting, photos: Path, tmp_path: Path, monkeypatch) -> None:
    """Run in an empty place, they give the recipe, rows, splits and scores that the report is about."""
    names = photos.rename(tmp_path / "my photos; 'rm'")
    cache = extracting(
        names,
        tmp_path / "c",
        views=2,
        augment="flip,zoom=0.1",
        validation_split=0.4,
        seed=3,
        precision="bfloat16",
        fast_decode=True,
    )
    head = fit_head(cache, "logreg", params={"C": 0.5, "max_iter": 70}, calibrate="none", seed=5)
    lines = commands(open_subject(head.path))
    (tmp_path / "c").rename(tmp_path / "old")
    for line in lines[:-2]:
        name, *arguments = shlex.split(line)
        assert name == "featcache"
        done = CliRunner().invoke(app, [*arguments, "--json"])
        assert done.exit_code == 0, done.stderr
    again, old = FeatureCache(tmp_path / "c"), FeatureCache(tmp_path / "old")
    assert (again.recipe, again.splits, again.rows, again.augmentation) == (
        old.recipe,
        old.splits,
        old.rows,
        old.augmentation,
    )
    cards = [json.loads((root / "heads" / "logreg-mix" / "head.json").read_text()) for root in (again.path, old.path)]
    assert cards[0]["metrics"] == cards[1]["metrics"]
    assert [shlex.split(line)[1] for line in lines[-2:]] == ["evaluate", "report"]


@pytest.mark.parametrize("what", ["elsewhere", "memory"])
def test_what_no_command_makes_is_said(made, extracting, photos: Path, tmp_path: Path, what: str) -> None:
    """Features from elsewhere, and those of a model in memory, have a comment instead of a command."""
    if what == "elsewhere":
        cache = made()
    else:
        import keras

        base = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 1, name="mix")])
        cache = extracting(photos, tmp_path / "c", base=base)
    assert commands(open_subject(cache.path))[0].startswith("# The ")
