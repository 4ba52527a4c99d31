import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from test_cli import run

from featcache.cache import FeatureCache


@pytest.fixture
def cache(extracting: Callable[..., FeatureCache], split_photos: Path, tmp_path: Path) -> Path:
    """Return a cache of dark and light photographs, one of them copied from train to validation, one mislabelled."""
    folder = split_photos / "train"
    (split_photos / "validation" / "dark" / "leak.png").write_bytes((folder / "dark" / "d0.png").read_bytes())
    (folder / "light" / "wrong.png").write_bytes((split_photos / "validation" / "dark" / "d1.png").read_bytes())
    (split_photos / "validation" / "dark" / "d1.png").unlink()
    (folder / "light" / "bad\x1b[2J.png").write_text("no image")
    return extracting(split_photos, tmp_path / "c").path


def test_audit_shows_the_worst_first(cache: Path, tmp_path: Path) -> None:
    """The text has kinds in order with escaped names, --json the same findings, --out a line for each image."""
    code, text, _ = run("audit", cache, "--out", tmp_path / "deep" / "f.csv")
    assert code == 0
    assert text.index("leakage: 1") < text.index("label: ") < text.index("unreadable: 1")
    assert "train/dark/d0.png, validation/dark/leak.png" in text
    assert "\x1b" not in text
    code, out, _ = run("audit", cache, "--json", "--no-labels")
    found = json.loads(out)
    assert code == 0
    assert set(found) == {"cache", "layer", "images", "counts", "findings", "notes", "out", "report"}
    assert found["counts"]["leakage"] == 1
    assert found["counts"]["label"] == 0
    rows = list(csv.DictReader((tmp_path / "deep" / "f.csv").open()))
    assert [row["path"] for row in rows[:2]] == ["train/dark/d0.png", "validation/dark/leak.png"]
    assert any(row["kind"] == "label" and row["path"] == "train/light/wrong.png" for row in rows)


def test_audit_shows_some_of_many(extracting: Callable[..., FeatureCache], photos: Path, tmp_path: Path) -> None:
    """--top limits each kind, and the rest is counted."""
    for i in range(5):
        (photos / "dark" / f"t{i}.png").write_text("no image")
    extracting(photos, tmp_path / "c")
    text = run("audit", tmp_path / "c", "--no-labels", "--top", "3")[1]
    assert "unreadable: 5" in text
    assert "… and 2 more (--top, --json or --out)" in text
    assert "and" not in run("audit", tmp_path / "c", "--no-labels")[1].partition("unreadable")[2]
    assert run("audit", tmp_path / "c", "--top", "0")[0] == 2


def test_audit_needs_other_features_to_confirm(cache: Path) -> None:
    """The same features are no second opinion: one line says so, before anything is looked at."""
    code, out, err = run("audit", cache, "--confirm", cache)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "Name a cache of the same images with another base" in err


def test_audit_apply(cache: Path, tmp_path: Path) -> None:
    """--apply writes the source without what was dropped; it needs a place for it."""
    (tmp_path / "drop.csv").write_text("path\nvalidation/dark/leak.png\n")
    code, _, err = run("audit", cache, "--apply", tmp_path / "drop.csv")
    assert code == 1
    assert err.startswith("error: --apply writes a table, so it needs --out FILE.csv")
    code, out, _ = run("audit", cache, "--apply", tmp_path / "drop.csv", "--out", tmp_path / "o.csv", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["dropped"], found["relabelled"], found["gone"]) == (1, 0, [])
    assert "leak.png" not in (tmp_path / "o.csv").read_text()
    assert "1 dropped" in run("audit", cache, "--apply", tmp_path / "drop.csv", "--out", tmp_path / "o.csv")[1]


def test_audit_in_a_report(cache: Path, tmp_path: Path) -> None:
    """--report writes the cache's page with the same findings, report --audit likewise; --apply goes without."""
    page = tmp_path / "p" / "audit.html"
    code, text, _ = run("audit", cache, "--no-labels", "--report", page)
    assert code == 0
    assert text.endswith(f"the worst with pictures in {page}\n")
    assert 'id="audit"' in page.read_text("utf-8")
    code, out, _ = run("report", cache, "--audit", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["findings"]["leakage"] == 1
    assert "audit" in found["sections"]
    assert "audit: 1 leakage" in run("report", cache, "--audit")[1]
    assert json.loads(run("report", cache, "--json")[1])["findings"] is None
    code, _, err = run("audit", cache, "--apply", tmp_path / "d.csv", "--out", tmp_path / "o.csv", "--report", page)
    assert code == 1
    assert err.startswith("error: --apply and --report cannot be used together.")


def test_audit_refuses_other_files(cache: Path, tmp_path: Path) -> None:
    """--out is a .csv file."""
    code, _, err = run("audit", cache, "--out", tmp_path / "f.xlsx")
    assert code == 1
    assert "--out must be a .csv file" in err


def test_nothing_found(extracting: Callable[..., FeatureCache], photos: Path, tmp_path: Path) -> None:
    """A clean cache says so."""
    extracting(photos, tmp_path / "c")
    code, text, _ = run("audit", tmp_path / "c", "--no-labels")
    assert code == 0
    assert text.startswith("nothing found in 12 images")


def test_neighbors(cache: Path, tmp_path: Path) -> None:
    """A table, JSON with the same, and a picture; another ending than .png is refused before anything is sought."""
    code, text, _ = run("neighbors", cache, "train/dark/d0.png", "--top-k", "3", "--png", tmp_path / "n.png")
    assert code == 0
    lines = text.splitlines()
    assert lines[1].split() == ["1.0000", "dark", "validation", "validation/dark/leak.png"]
    assert len(lines) == 5
    assert Image.open(tmp_path / "n.png").width == 800
    found = json.loads(run("neighbors", cache, "train/dark/d0.png", "--json")[1])
    assert {"cache", "layer", "image", "inside", "neighbors", "png"} == set(found)
    assert set(found["neighbors"][0]) == {"path", "label", "split", "similarity"}
    assert run("neighbors", cache, "nowhere", "--png", tmp_path / "n.gif")[2].startswith(
        "error: --png must be a .png file"
    )
    assert run("neighbors", cache, "nowhere")[0] == 1


def test_advise(made: Callable[..., FeatureCache], tmp_path: Path) -> None:
    """The recommendation comes last, with reasons and the next command; --json has the same."""
    cache = made(each=(60, 60, 0), layers=("one", "two"))
    code, text, _ = run("advise", cache.path)
    assert code == 0
    lines = text.splitlines()
    assert lines[-1].startswith("next: featcache ")
    assert any(line.startswith("recommended: ") for line in lines)
    assert "extrapolated gain of 4 times the images" in text
    for name in ("data", "layer", "augmentation", "fine-tuning"):
        assert any(line.startswith(f"{name}: ") for line in lines)
    found = json.loads(run("advise", cache.path, "--json")[1])
    assert f"next: {found['command']}" == lines[-1]
