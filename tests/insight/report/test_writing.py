import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import IMAGE, QUOTE, random_image, write_image

from featcache import FeatureCache, compare, fine_tune, fit_head
from featcache.errors import HeadError, OptionError
from featcache.insight.audit import KINDS, AuditReport, Finding, Image
from featcache.insight.report import report as write_report
from featcache.insight.report.subject import open_subject, standings


class _Words(HTMLParser):
    """The text of a page, its scripts and styles apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.scripts, self.tags, self._in = "", [], [], ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag if tag in ("script", "style") else self._in

    def handle_endtag(self, tag: str) -> None:
        self._in = "" if tag == self._in else self._in

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts.append(data)
        elif not self._in:
            self.text += data


def words(path: Path) -> _Words:
    return _Words(path.read_text("utf-8"))


def charts_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(words(path).scripts[0]))


def test_the_page_says_what_the_head_scored(hostile_head: Path, hostile_report: Path) -> None:
    """Accuracy, interval and counts on the page are those of the head's card; names are there as they are."""
    metrics = json.loads((hostile_head / "head.json").read_text())["metrics"]["validation"]
    text = words(hostile_report).text
    assert f"{100 * metrics['accuracy']:.1f}% accuracy on {metrics['n']} validation images" in text
    low, high = metrics["accuracy_ci95"]
    assert f"from {100 * low:.1f} to {100 * high:.1f}%" in text
    assert IMAGE in text
    assert QUOTE in text
    cells = charts_of(hostile_report)["confusion"]["data"]["values"]
    counts = [one["count"] for one in cells]
    assert counts == [n for row in metrics["confusion"] for n in row]


def test_every_section_is_there(hostile_report: Path) -> None:
    """What the page promises, from the summary to the commands."""
    ids = [attributes["id"] for tag, attributes in words(hostile_report).tags if tag == "section"]
    assert ids == [
        "scores",
        "confusion",
        "classes",
        "calibration",
        "mistakes",
        "doubts",
        "audit",
        "map",
        "leaderboard",
        "layers",
        "learning",
        "samples",
        "data",
        "recipe",
        "again",
    ]


def test_nothing_on_the_page_leads_elsewhere(hostile_report: Path) -> None:
    """No tag names another file or address: pictures are data, links are anchors."""
    for tag, attributes in words(hostile_report).tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
        assert not [name for name in attributes if name.startswith("on")]


def test_names_cannot_end_a_script(extracting, tmp_path: Path) -> None:
    """A class called </script> ends no script, and a control character is shown escaped."""
    names = ["</script><b>x", "plain\x1b[31m"]
    for i in range(2):
        for k in range(10):
            write_image(tmp_path / "s" / f"{i}-{k}.png", random_image(10 * i + k) // 4 + np.uint8(100 * i))
    lines = [f"s/{i}-{k}.png,{name}" for i, name in enumerate(names) for k in range(10)]
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    cache = extracting(tmp_path / "t.csv", tmp_path / "c")
    head = fit_head(cache, "ridge")
    found = words(write_report(head.path).path)
    assert len(found.scripts) == 3
    assert "</script><b>x" in found.text
    assert "plain\\x1b[31m" in found.text
    assert ("b", {}) not in found.tags


def test_a_cache_without_heads(extracting, photos: Path, tmp_path: Path) -> None:
    """Everything that needs no model is there, and what is missing is said."""
    cache = extracting(photos, tmp_path / "c", layers=["mix", "positive"])
    found = write_report(cache.path)
    assert found.path == tmp_path / "c" / "report.html"
    assert found.sections == ["map", "leaderboard", "layers", "samples", "data", "recipe", "again"]
    assert found.accuracy is None
    assert any("fit-head" in note for note in found.notes)
    points = charts_of(found.path)["map"]["data"]["values"]
    assert len(points) == 12
    assert all(one["image"].startswith("data:image/") for one in points)
    assert "error" not in points[0]


@pytest.mark.slow
def test_the_best_head_answers_for_a_cache(made) -> None:
    """Of several saved heads the one most accurate on validation is reported on."""
    cache = made(apart=0.6)
    heads = [fit_head(cache, name) for name in ("centroid", "knn", "ridge")]
    best = max(heads, key=lambda head: head.metrics["validation"]["accuracy"])
    found = write_report(cache.path)
    assert found.accuracy is not None
    assert found.accuracy["accuracy"] == best.metrics["validation"]["accuracy"]


@pytest.mark.slow
def test_images_that_are_gone_are_counted(extracting, split_photos: Path, tmp_path: Path) -> None:
    """A page is written without pictures where the source is gone or damaged, and says so."""
    cache = extracting(split_photos, tmp_path / "c")
    head = fit_head(cache, "ridge")
    (split_photos / "validation" / "dark" / "d0.png").write_bytes(b"no image")
    found = write_report(head.path)
    assert set(found.missing) == {"validation/dark/d0.png"}
    assert any("1 images could not be shown" in note for note in found.notes)
    split_photos.rename(tmp_path / "away")
    found = write_report(head.path)
    assert len(found.missing) == 50
    assert any(note.startswith("No pictures") for note in found.notes)
    tags = words(found.path).tags
    assert not [attributes for tag, attributes in tags if tag == "img"]


@pytest.mark.slow
def test_features_from_elsewhere(made) -> None:
    """A cache that no base made has a page, too, without pictures."""
    cache = made()
    found = write_report(fit_head(cache, "ridge").path)
    assert "samples" not in found.sections
    assert found.notes == ["No pictures: the features came from elsewhere."]
    assert "FeatureCache.from_arrays" in words(found.path).text


def test_labels_that_changed_since_are_noticed(extracting, split_photos: Path, tmp_path: Path) -> None:
    """Where the cache's labels are not those the head was scored on, the page says so and counts anew."""
    cache = extracting(split_photos, tmp_path / "c")
    head = fit_head(cache, "ridge")
    assert head.metrics["validation"]["accuracy"] == 1
    moved = split_photos / "validation"
    (moved / "dark" / "d0.png").rename(moved / "light" / "d0.png")
    extracting(split_photos, tmp_path / "c")
    found = write_report(head.path)
    assert found.accuracy == {"split": "validation", "n": 10, "accuracy": 0.9}
    assert any("10 of 10" in note and "9 of 10" in note for note in found.notes)


def test_a_fine_tuned_model_has_both_curves(extracting, split_photos: Path, tmp_path: Path) -> None:
    """Its page has the head's epochs and its own with a line between, and answers from pixels as it was measured."""
    cache = extracting(split_photos, tmp_path / "c")
    head = fit_head(cache, "dense", params={"epochs": 3, "hidden": 4})
    tuned = fine_tune(head.path, all_layers=True, epochs=2, out=tmp_path / "model").fine_tuning
    assert tuned.model is not None
    found = write_report(tmp_path / "model")
    assert found.path == tmp_path / "model" / "report.html"
    assert found.accuracy is not None
    assert found.accuracy["accuracy"] == pytest.approx(tuned.model.metrics["validation"]["accuracy"])
    panel = charts_of(found.path)["learning-loss"]
    lines, rules = panel["layer"]
    epochs = {one["phase"]: one["epoch"] for one in lines["data"]["values"]}
    assert set(epochs) == {"head", "fine-tune"}
    assert rules["data"]["values"] == [{"epoch": 3.5, "phase": "fine-tune"}]


def test_results_of_other_rows_are_left_out(extracting, split_photos: Path, tmp_path: Path) -> None:
    """Kept results count for the images and labels they are of; afterwards they are counted as stale."""
    cache = extracting(split_photos, tmp_path / "c")
    board = compare(cache, ["ridge", "centroid"], jobs=1).leaderboard
    known = standings(cache, open_subject(cache.path))
    assert [(one.clf, one.metrics["accuracy"]) for one in known.rows] == [(r["clf"], r["accuracy"]) for r in board]
    write_image(split_photos / "train" / "dark" / "new.png", random_image(77) // 3)
    changed = extracting(split_photos, tmp_path / "c")
    known = standings(changed, open_subject(changed.path))
    assert (known.rows, known.stale) == ([], 2)


@pytest.mark.slow
def test_many_noisy_images_stay_below_8_mb(extracting, tmp_path: Path) -> None:
    """A thousand points of noise and findings of every kind, the most a page shows and the worst, are below 8 MB."""
    images = np.random.default_rng(0).integers(0, 256, (1300, 100, 100, 3), np.uint8)
    np.savez(tmp_path / "noise.npz", train_images=images, train_labels=np.arange(1300) % 300)
    cache = extracting(tmp_path / "noise.npz", tmp_path / "c", batch_size=64)
    head = fit_head(cache, "centroid")
    rows = [Image(f"{i}", str(i), "train") for i in cache.paths()]
    copies = dict.fromkeys(("leakage", "conflict", "duplicate"), 8)
    audited = [
        Finding(kind, tuple(rows[8 * i : 8 * i + copies.get(kind, 1)]), 1.0, "r" * 500, "s" * 500)
        for kind in KINDS
        for i in range(100)
    ]
    report = AuditReport(cache.path, "mix", 1300, tuple(audited), ())
    found = write_report(head.path, projection="pca", audit=report)
    assert found.missing == {}
    assert found.findings == dict.fromkeys(KINDS, 100)
    points = charts_of(found.path)["map"]["data"]["values"]
    assert len(points) == 1000
    assert len({one["image"] for one in points}) == 1000
    assert found.bytes < 8_000_000
    assert len(FeatureCache(tmp_path / "c")) == 1300


def test_bad_places(made, tmp_path: Path) -> None:
    """What is no model, a damaged one, and a place that cannot be written to are one line each."""
    with pytest.raises(OptionError, match="no fine-tuned model and no cache"):
        write_report(tmp_path)
    head = fit_head(made(), "ridge")
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot be written"):
        write_report(head.path, out=tmp_path / "file" / "r.html")
    with pytest.raises(OptionError, match="tsne or pca"):
        write_report(head.path, projection="umap")
    (head.path / "head.json").write_text("{}")
    with pytest.raises(HeadError):
        write_report(head.path)


def test_scripts_are_allowed_by_digest_alone(hostile_report: Path) -> None:
    """The page's policy names the digests of its two scripts, and allows no others and no connection."""
    import base64
    import hashlib

    html = hostile_report.read_text("utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    _, *scripts = words(hostile_report).scripts
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert re.findall(r"sha256-([^'&]+)", policy) == digests
    assert "default-src 'none'" in policy
    assert "script-src" in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
