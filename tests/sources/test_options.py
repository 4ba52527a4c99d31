import json
import shlex
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image, write_image
from typer.testing import CliRunner

from featcache import FeatureCache, ImageClassifier, fit_head
from featcache.cli import app
from featcache.errors import OptionError, SourceError
from featcache.extraction.originals import Originals
from featcache.insight.commands import commands, extract_command
from featcache.insight.report.subject import open_subject
from featcache.models.export.comparison import images_for
from featcache.sources import SourceOptions, class_names
from featcache.sources.opening import describe, open_images, open_source, reopen


def halves(root: Path) -> Path:
    """Make A/ and B/ of dark and light images, and drafts that are noise."""
    for part, split in enumerate("AB"):
        for i in range(8):
            write_image(root / split / "dark" / f"{i}.png", random_image(100 * part + i) // 4)
            write_image(root / split / "light" / f"{i}.png", 255 - random_image(100 * part + 50 + i) // 4)
        write_image(root / split / "dark" / "drafts" / "x.png", random_image(1000 + part))
    return root


OPTIONS = {"exclude": ["drafts"], "splits": {"train": "A", "validation": "B"}}


@pytest.mark.parametrize("packed", [False, True])
def test_options_are_used_wherever_the_source_is_opened_again(
    extracting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    """A cache keeps the options, and its heads, pictures and printed commands read the source as it was read."""
    source = halves(tmp_path / "set's")
    if packed:
        with tarfile.open(tmp_path / "set.tar", "w") as tar:
            tar.add(source, "set")
        source = tmp_path / "set.tar"
    cache = extracting(source, tmp_path / "c", **OPTIONS)
    assert cache.splits == {"train": 16, "validation": 16}
    assert cache.source["options"] == {"exclude": ["drafts"], "splits": {"train": ["A"], "validation": ["B"]}}
    head = fit_head(cache, "ridge")
    again = open_subject(head.path).open_source()
    assert again is not None
    assert len(again.items) == 32
    assert all(Originals(cache).content(entry) for entry in cache.entries)
    scored = ImageClassifier.load(head.path).evaluate()["metrics"]
    assert {split: found["n"] for split, found in scored.items()} == {"train": 16, "validation": 16}
    assert images_for(ImageClassifier.load(head.path), 4, None, "any").origin == f"validation images of {source}"
    for line in (commands(open_subject(head.path))[0], extract_command(cache)):
        done = CliRunner().invoke(app, [*shlex.split(str(line))[1:], "--json"])
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["computed"] == 0
    assert FeatureCache(tmp_path / "c").splits == {"train": 16, "validation": 16}


def test_workers_read_with_the_options(extracting, tmp_path: Path) -> None:
    """A worker that opens a tar file again finds each image where the driver listed it."""
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.add(halves(tmp_path / "set"), "set")
    for engine in ("local", "processes"):
        extracting(
            tmp_path / "set.tar", tmp_path / engine, **OPTIONS, engine=engine, workers=None if engine == "local" else 1
        )
    local, other = FeatureCache(tmp_path / "local"), FeatureCache(tmp_path / "processes")
    assert local.paths() == other.paths()
    assert local.digests() == other.digests()
    np.testing.assert_array_equal(local.features(), other.features())


def test_the_command_line_says_the_same(extracting, tmp_path: Path, oracle: Path) -> None:
    """The commands take the options where they name a source."""
    root = halves(tmp_path / "set")
    words = ["--exclude", "drafts", "--split", "train=A", "--split", "validation=B"]
    base = ["--base", str(oracle), "--layer", "mix", "--preprocess", "none", "--cache", str(tmp_path / "c"), "--json"]
    done = CliRunner().invoke(app, ["extract", str(root), *words, *base])
    assert json.loads(done.stdout)["splits"] == {"train": 16, "validation": 16}, done.stderr
    done = CliRunner().invoke(app, ["info", str(tmp_path / "c")])
    assert "--exclude drafts --split train=A --split validation=B" in done.stdout
    head = str(fit_head(FeatureCache(tmp_path / "c"), "ridge").path)
    refused = CliRunner().invoke(app, ["evaluate", head, str(root), "--json"])
    assert refused.exit_code == 1
    assert "--split train=A --split test=B" in refused.stderr
    done = CliRunner().invoke(app, ["evaluate", head, str(root), *words, "--json"])
    assert json.loads(done.stdout)["metrics"]["validation"]["n"] == 16, done.stderr
    done = CliRunner().invoke(app, ["predict", head, str(root), "--exclude", "drafts", "--json"])
    assert len(json.loads(done.stdout)["predictions"]) == 32, done.stderr
    done = CliRunner().invoke(app, ["evaluate", head, "--exclude", "drafts"])
    assert done.exit_code == 1
    assert "--exclude" in done.stderr


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"exclude": [""]}, "globs"),
        ({"exclude": [3]}, "globs"),
        ({"splits": {"trian": "a"}}, "trian=a"),
        ({"splits": {"train": ""}}, "train="),
        ({"splits": {"train": []}}, "train="),
        ({"splits": {"train": "a", "test": "a/"}}, "'a' twice"),
        ({"label_column": ""}, "label_column"),
        ({"images": 3}, "images"),
    ],
)
def test_impossible_options(options: dict, text: str) -> None:
    """An option that says nothing is one line."""
    with pytest.raises(OptionError, match=text) as caught:
        SourceOptions(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [{"x": 1}, {"splits": 3}, {"splits": {"train": 3}}, {"exclude": 3}, [], "abc"])
def test_options_from_a_damaged_cache(kept: object) -> None:
    """What is no description of options is an error of ours."""
    with pytest.raises(OptionError):
        SourceOptions.from_dict(kept)


def test_options_for_another_kind_of_source_are_refused(photos: Path, tmp_path: Path) -> None:
    """An option that says nothing about a source is named, with what the source is."""
    for source, options, kind in (
        (photos, {"label_column": "x"}, "a folder"),
        (photos, {"images": "x"}, "a folder"),
        ("digits", {"exclude": ["x"]}, "the set digits"),
        ([(b"x", "a")], {"splits": {"train": "a"}}, "pairs"),
        (open_source(photos), {"exclude": ["x"]}, "open already"),
    ):
        with pytest.raises(OptionError, match=f"cannot be used with.*{kind}"):
            open_source(source, options=SourceOptions(**options))
    with pytest.raises(OptionError, match="cannot be used"):
        open_images(photos, options=SourceOptions(splits={"train": "dark"}))


def test_a_description_opens_the_same_source(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options survive JSON, a selection of classes and another working directory; a set's name stays a set's."""
    options = SourceOptions(exclude=["d1.png"])
    source = open_source(photos, classes=["dark"], options=options)
    described = json.loads(json.dumps(describe(source)))
    assert describe(open_source(photos)) == {"name": "photos", "location": str(photos)}
    monkeypatch.chdir(photos)
    (photos / "digits").mkdir()
    assert [item.path for item in reopen(described, classes=["dark"]).items] == [item.path for item in source.items]
    assert len(reopen({"name": "digits", "location": "digits"}).items) == 1797
    with pytest.raises(SourceError, match="not known"):
        reopen({"name": "", "location": ""})


def test_what_lies_here_wins_over_a_set_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An own folder cifar10 is read, and nothing is downloaded; it says so."""
    for name in ("cats", "dogs"):
        write_image(tmp_path / "cifar10" / name / "1.png", random_image(0))
    monkeypatch.chdir(tmp_path)
    source = open_source("cifar10")
    assert class_names(source.items) == ["cats", "dogs"]
    assert source.location == str(tmp_path / "cifar10")
    assert "cifar10 is read from here" in caplog.text
    assert len(open_images("cifar10").items) == 2
