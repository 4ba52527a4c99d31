import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from featcache import FeatureCache, fit_head
from featcache.cli import app
from featcache.insight.report.commands import commands
from featcache.insight.report.subject import open_subject


def test_the_commands_make_the_same_again(extracting, photos: Path, tmp_path: Path, monkeypatch) -> None:
    """Run in an empty place, they give the recipe, rows, splits and scores that the report is about."""
    names = photos.rename(tmp_path / "my photos; 'rm'")
    cache = extracting(names, tmp_path / "c", views=2, augment="flip,zoom=0.1", validation_split=0.4, seed=3,
                       precision="bfloat16", fast_decode=True)  # fmt: skip
    head = fit_head(cache, "sgd", params={"epochs": 7}, calibrate="none", seed=5)
    lines = commands(open_subject(head.path))
    (tmp_path / "c").rename(tmp_path / "old")
    for line in lines[:-2]:
        name, *arguments = shlex.split(line)
        assert name == "featcache"
        done = CliRunner().invoke(app, [*arguments, "--json"])
        assert done.exit_code == 0, done.stderr
    again, old = FeatureCache(tmp_path / "c"), FeatureCache(tmp_path / "old")
    assert (again.recipe, again.splits, again.rows, again.augmentation) == (
        old.recipe, old.splits, old.rows, old.augmentation)  # fmt: skip
    cards = [json.loads((root / "heads" / "sgd-mix" / "head.json").read_text()) for root in (again.path, old.path)]
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
