"""Splits that divide groups, as a table's own split column can: nothing is scored on images of trained groups."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_image, write_image
from typer.testing import CliRunner

from featcache import advise, compare, fine_tune, fit_head
from featcache.cache import FeatureCache
from featcache.cli import app
from featcache.errors import GateError, OptionError
from featcache.extraction.cache_warnings import divided_groups
from featcache.heads.showing import metrics_table
from featcache.insight.report.accuracy import by_split
from featcache.insight.report.answers import ask
from featcache.insight.report.subject import open_subject, standings
from featcache.models.classifier import ImageClassifier
from featcache.models.export.rescoring import _validation

DIVIDED, ALONE, SHOTS = 40, 12, 4
"""Things with shots in train and in validation; things in validation alone; shots of each."""


def run(*words: object) -> tuple[int, str, str]:
    """Run the command line; return its exit code, standard output and standard error."""
    result = CliRunner().invoke(app, list(map(str, words)))
    return result.exit_code, result.stdout, result.stderr


def shots(folder: Path, *, alone: int) -> Path:
    """Write a table of near-identical shots of things with random classes, every fourth shot of most in validation."""
    rng = np.random.default_rng(7)
    rows = [["path", "label", "split", "group"]]
    for thing in range(DIVIDED + alone):
        look, label = random_image(thing), str(rng.integers(2))
        for shot in range(SHOTS):
            noise = rng.integers(0, 3, look.shape, np.uint8)
            name = f"{thing:02d}-{shot}.png"
            write_image(folder / name, np.minimum(look, 252) + noise)
            split = "validation" if thing >= DIVIDED or shot == SHOTS - 1 else "train"
            rows.append([name, label, split, f"thing {thing:02d}"])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "table.csv"


@pytest.fixture(scope="module")
def some(extracting: Callable[..., FeatureCache], tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """Return a cache in which some validation images are of things that are not in train."""
    folder = tmp_path_factory.mktemp("some")
    return extracting(shots(folder, alone=ALONE), folder / "cache", pooling="flatten")


@pytest.fixture(scope="module")
def none(extracting: Callable[..., FeatureCache], tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """Return a cache in which every validation image is of a thing that is in train, too."""
    folder = tmp_path_factory.mktemp("none")
    return extracting(shots(folder, alone=0), folder / "cache", pooling="flatten")


def is_chance(metrics: dict[str, Any]) -> bool:
    """Return whether a score on random labels is what guessing has."""
    return metrics["accuracy"] < 0.75


def test_members_of_trained_groups_do_not_count(some: FeatureCache) -> None:
    """On random labels a head that knows every shot scores chance on validation, and says how many do not count."""
    head = fit_head(some, "logreg", params={"C": 100.0})
    found = head.metrics["validation"]
    assert head.metrics["train"]["accuracy"] == 1.0
    assert is_chance(found)
    assert (found["n"], found["group_members_left_out"], found["copies_left_out"]) == (ALONE * SHOTS, DIVIDED, 0)
    assert "cross_validation" not in head.card
    X, y = some.load("validation")
    named = np.array([int(path.split("-")[0]) for path in some.paths("validation")]) < DIVIDED
    right = head.predict(X) == y
    assert right[named].mean() == 1.0  # what was reported before
    assert found["accuracy"] == right[~named].mean()


def test_without_an_image_that_counts_folds_are_scored(none: FeatureCache, tmp_path: Path, caplog: Any) -> None:
    """Where train has images of every group, there is no figure of validation, but one of folds, which is chance."""
    head = fit_head(none, "logreg", params={"C": 100.0})
    assert list(head.metrics) == ["train"]
    found = head.card["cross_validation"]
    assert is_chance(found)
    assert (found["n"], found["folds"]) == (DIVIDED * (SHOTS - 1), 5)
    assert "40 of 40 validation images do not count in scores: 40 images of groups that train has" in caplog.text
    assert "scored on 5 folds of the training images instead" in caplog.text
    with pytest.raises(GateError, match="accuracy on folds of the training images is"):
        fit_head(none, "logreg", out=tmp_path / "head", assert_accuracy=0.99)
    with pytest.raises(OptionError, match="`fewshot` needs validation images that count"):
        fit_head(none, "logreg", out=tmp_path / "head", fewshot=[1])


def test_heads_are_not_ranked_on_members_of_trained_groups(some: FeatureCache, none: FeatureCache, caplog: Any) -> None:
    """A leaderboard has images that count alone; without any it is of folds and says so."""
    ranked = compare(some, "knn", jobs=1)
    assert "40 of 88 validation images do not count in scores" in caplog.text
    for row in ranked.leaderboard:
        assert is_chance(row)
        assert (row["n"], row["selected_on"], row["group_members_left_out"]) == (ALONE * SHOTS, "validation", DIVIDED)
    for row in compare(none, "knn", jobs=1).leaderboard:
        assert is_chance(row)
        assert (row["n"], row["selected_on"]) == (DIVIDED * (SHOTS - 1), "cross-validation")
    assert "ranked on 5 folds of the training images instead" in caplog.text


def test_advice_is_of_images_that_count(some: FeatureCache, none: FeatureCache) -> None:
    """Advice is of validation images that count, and without any of groups held out of train; its notes say so."""
    found = advise(some)
    assert (found.held_out["images"], found.held_out["from"]) == (ALONE * SHOTS, "validation")
    assert is_chance(found.layers[0])
    assert any("40 of 88 validation images do not count" in note for note in found.notes)
    found = advise(none)
    assert found.held_out["from"] == "train"
    assert is_chance(found.layers[0])
    assert any("40 of 40 validation images do not count" in note and "held out" in note for note in found.notes)


def test_pixels_are_scored_as_features_are(some: FeatureCache, none: FeatureCache, caplog: Any) -> None:
    """What does not count on cached features does not count on pixels, of the own source and of a table alone."""
    head = fit_head(some, "logreg", params={"C": 100.0})
    for source in (None, Path(some.source["location"])):
        metrics = ImageClassifier(head).evaluate(source)["metrics"]
        for key in ("n", "accuracy", "copies_left_out", "group_members_left_out"):
            assert metrics["validation"][key] == head.metrics["validation"][key]
    unscored = ImageClassifier(fit_head(none, "logreg")).evaluate()["metrics"]
    assert list(unscored) == ["train"]
    assert "on folds of its training images the head had an accuracy of" in caplog.text


def test_reports_are_of_images_that_count(some: FeatureCache, none: FeatureCache) -> None:
    """A report's answers are those that count, from features and from pixels; without any it says why."""
    for cache, n in ((some, ALONE * SHOTS), (none, 0)):
        head = fit_head(cache, "logreg", params={"C": 100.0})
        assert head.path is not None
        for without in (False, True):
            subject = open_subject(head.path)
            subject.cache = None if without else subject.cache
            found = ask(subject)
            assert (0 if found is None else len(found)) == n
            if found is None:
                assert any("images" in note and "groups" in note for note in subject.notes)
            else:
                assert (found.split, found.left_out) == ("validation", DIVIDED)
                assert is_chance({"accuracy": found.right.mean()})


def test_a_figure_of_folds_is_called_so(none: FeatureCache) -> None:
    """In a report's scores, its leaderboard and its choice of a head, folds stand where validation has no figure."""
    head = fit_head(none, "centroid")
    section = by_split(head.metrics, None, head.card["cross_validation"])
    (table,) = section.blocks
    assert [row[0].text for row in table.rows] == ["train", "5 folds of train"]
    assert any("the figure to go by is that on folds" in text for text in section.paragraphs)
    subject = open_subject(none.path)
    assert subject.model is not None
    found = [one for one in standings(none, subject).rows if one.clf == "centroid"]
    assert [(one.measured_on, one.metrics["n"]) for one in found] == [("folds of train", DIVIDED * (SHOTS - 1))]


def test_scores_are_shown_with_what_does_not_count(some: FeatureCache) -> None:
    """Below the table of scores is how many images do not count, and why."""
    text = metrics_table(fit_head(some, "centroid").metrics)
    assert text.endswith(
        "\n40 of 88 validation images do not count in scores: 40 images of groups that train has images of"
    )


def test_fine_tuning_does_not_look_at_trained_groups(some: FeatureCache, none: FeatureCache, tmp_path: Path) -> None:
    """Epochs are chosen and scores measured on images that count; without any, fine-tuning says so and stops."""
    head = fit_head(some, "logreg", params={"C": 100.0})
    tuned = fine_tune(head.path, out=tmp_path / "tuned", all_layers=True, epochs=1, learning_rate=1e-9).fine_tuning
    found = (tuned.after or tuned.before)["validation"]
    assert is_chance(found)
    assert (found["n"], found["group_members_left_out"]) == (ALONE * SHOTS, DIVIDED)
    assert is_chance({"accuracy": tuned.history["val_accuracy"][0]})
    with pytest.raises(OptionError, match=r"all 40 are copies of training images or of their groups"):
        fine_tune(fit_head(none, "logreg").path, out=tmp_path / "other", all_layers=True, epochs=1)


def test_a_rescored_export_asks_images_that_count(some: FeatureCache) -> None:
    """The images that an export in another precision is scored on are those that count."""
    classifier = ImageClassifier(fit_head(some, "logreg"))
    assert len(list(_validation(classifier))) == ALONE * SHOTS


def test_groups_hang_together_through_copies(some: FeatureCache, extracting: Any, tmp_path: Path) -> None:
    """An image without a group that is a copy of a member of a trained group counts neither on features nor pixels."""
    for i in range(6):
        write_image(tmp_path / f"{i}.png", random_image(i))
    (tmp_path / "copy.png").write_bytes((tmp_path / "3.png").read_bytes())
    rows = [
        "path,label,split,group",
        "0.png,a,train,g",
        "1.png,b,train,",
        "2.png,a,train,",
        "3.png,a,validation,g",
        "4.png,b,validation,",
        "5.png,a,validation,",
        "copy.png,a,validation,",
    ]
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    head = fit_head(extracting(tmp_path / "table.csv", tmp_path / "cache"), "centroid")
    for metrics in (head.metrics, ImageClassifier(head).evaluate()["metrics"]):
        found = metrics["validation"]
        assert (found["n"], found["group_members_left_out"] + found["copies_left_out"]) == (2, 2)


def test_divided_groups_are_said(some: FeatureCache, none: FeatureCache, tmp_path: Path) -> None:
    """Extraction warns of them by name each time, `info` shows and counts them; whole groups are not mentioned."""
    assert some.divided_groups == [f"thing {i:02d}" for i in range(DIVIDED)]
    assert some.report.warnings[0].startswith(
        "40 groups have images in more than one split ('thing 00', 'thing 01', 'thing 02', …): 40 of 88 validation "
        "images do not count in scores"
    )
    code, out, _ = run("info", none.path, "--json")
    names = [f"thing {i:02d}" for i in range(20)]
    assert (code, json.loads(out)["divided_groups"]) == (
        0,
        {"count": 40, "names": names, "left_out": {"validation": 40}},
    )
    text = run("info", some.path)[1]
    assert "40 have images in more than one split (thing 00, thing 01, thing 02, thing 03, thing 04, …)" in text
    assert "40 validation images do not count in scores" in text
    sides = ["train", "train", "validation", "validation"]
    whole = FeatureCache.from_arrays(
        np.eye(4, dtype=np.float32),
        list("abab"),
        None,
        {"made": 1},
        path=tmp_path / "c",
        splits=sides,
        groups=[1, 1, 2, None],
    )
    assert (whole.divided_groups, divided_groups(whole)) == ([], [])
    assert "divided groups" not in run("info", whole.path)[1]
