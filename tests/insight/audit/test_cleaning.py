import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import random_image, write_image
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.cache import FeatureCache
from featcache.errors import OptionError
from featcache.files.publishing import quoted_cell, unquoted_cell
from featcache.insight.audit import AuditReport, Finding, Image, clean
from featcache.insight.audit.findings import COLUMNS
from featcache.sources.opening import open_source


@pytest.fixture
def cache(extracting: Callable[..., FeatureCache], split_photos: Path, tmp_path: Path) -> FeatureCache:
    """Return a cache of a folder, with one picture whose name and one whose class a spreadsheet would compute."""
    write_image(split_photos / "train" / "dark" / "=1+1.png", random_image(5))
    write_image(split_photos / "train" / "=light" / "x.png", random_image(6))
    return extracting(split_photos, tmp_path / "c")  # type: ignore[return-value]


def decided(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write decisions."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_dropped_images_are_left_out(cache: FeatureCache, split_photos: Path, tmp_path: Path) -> None:
    """The table is a source with all other images, their classes and splits, and no file is touched."""
    before = {path: path.stat().st_mtime_ns for path in split_photos.rglob("*.png")}
    drop = decided(tmp_path / "drop.csv", [{"path": "train/dark/d0.png"}, {"path": "validation/light/l1.png"}])
    made = clean(cache, drop, tmp_path / "deep" / "cleaned.csv")
    assert (made.dropped, made.relabelled, made.images) == (2, 0, len(cache) - 2)
    listed = {
        Path(made.path.parent / item.path).resolve(): (item.label, item.split) for item in open_source(made.path).items
    }
    expected = {
        (split_photos / e.path).resolve(): (e.label, e.split)
        for e in cache.entries
        if e.path not in ("train/dark/d0.png", "validation/light/l1.png")
    }
    assert listed == expected
    assert {path: path.stat().st_mtime_ns for path in split_photos.rglob("*.png")} == before


def test_a_cleaned_source_computes_nothing(
    cache: FeatureCache, extracting: Callable[..., FeatureCache], tmp_path: Path
) -> None:
    """The cache takes the cleaned source, reuses every row, and has the new labels."""
    rows = [
        {"path": "train/dark/d1.png", "action": "relabel", "new_label": "light"},
        {"path": "train/dark/d2.png", "action": "drop", "new_label": ""},
        {"path": "train/dark/d3.png", "action": "", "new_label": ""},
        {"path": "train/dark/d4.png", "action": "keep", "new_label": "light"},
    ]
    made = clean(cache, decided(tmp_path / "d.csv", rows), tmp_path / "cleaned.csv")
    assert (made.dropped, made.relabelled) == (1, 1)
    again = extracting(made.path, cache.path)
    assert again.report.computed == 0
    labels = {Path(entry.path).as_posix(): entry.label for entry in again.entries}
    assert labels["split/train/dark/d1.png"] == "light"
    assert labels["split/train/dark/d3.png"] == labels["split/train/dark/d4.png"] == "dark"
    assert "split/train/dark/d2.png" not in labels
    assert again.splits == {**cache.splits, "train": cache.splits["train"] - 1}


def test_findings_go_round_and_no_cell_is_a_formula(cache: FeatureCache, tmp_path: Path) -> None:
    """Findings written, filled in and applied name the same images; a spreadsheet computes nothing in them."""
    images = (Image("train/dark/=1+1.png", "dark", "train", "drop"), Image("train/=light/x.png", "=light", "train"))
    found = Finding("conflict", images, 1.0, "=2+2", "look")
    text = AuditReport(cache.path, "mix", 2, (found,), ()).to_csv()
    (tmp_path / "f.csv").write_text(text)
    rows = list(csv.DictReader(text.splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]
    assert clean(cache, tmp_path / "f.csv", tmp_path / "o.csv").dropped == 0
    rows[0].update(action="drop")
    rows[1].update(action="relabel", new_label="'=light")
    made = clean(cache, decided(tmp_path / "g.csv", rows), tmp_path / "o.csv")
    assert (made.dropped, made.relabelled) == (1, 1)
    assert "'=light" in [row["label"] for row in csv.DictReader(made.path.open())]
    assert "=light" in {item.label for item in open_source(made.path).items}


HOSTILE = ["=1+1", "+1", "-1", "@SUM(1)", "'=1", "''=1", "'tis", "'", "=cmd|' /C calc'!A0", '"=1"', "=a,b;c", "plain"]
"""Labels that a spreadsheet would compute, and such that look like what keeps it from that."""


@settings(deadline=None, max_examples=60)
@given(st.sampled_from("'=+-@\t\ra ").flatmap(lambda start: st.text().map(lambda rest: start + rest)) | st.text())
def test_quoted_cells_come_back(text: str) -> None:
    """Whatever a cell's text, it begins with nothing that is computed once it is quoted, and comes back whole."""
    assert not quoted_cell(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert unquoted_cell(quoted_cell(text)) == text


def test_labels_and_groups_that_a_spreadsheet_would_compute(
    extracting: Callable[..., FeatureCache], tmp_path: Path
) -> None:
    """No cell of a cleaned table is a formula, and classes and groups are read back as they were."""
    rows = [["path", "label", "group", "split"]]
    for i, label in enumerate(HOSTILE):
        for shot in range(2):
            write_image(tmp_path / f"{i}-{shot}.png", random_image(2 * i + shot))
            rows.append([f"{i}-{shot}.png", label, f"{label} {shot}", "train"])
    lines = [json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:]]
    (tmp_path / "table.jsonl").write_text("\n".join(lines))
    cache = extracting(tmp_path / "table.jsonl", tmp_path / "c")
    assert [entry.label for entry in cache.entries][::2] == HOSTILE
    made = clean(cache, decided(tmp_path / "d.csv", [{"path": "0-0.png"}]), tmp_path / "cleaned.csv")
    cells = [cell for row in csv.reader(made.path.open(newline="")) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert [(item.label, item.group) for item in open_source(made.path).items] == [
        (entry.label, entry.group) for entry in cache.entries if entry.path != "0-0.png"
    ]


def test_a_source_without_images_is_not_written(cache: FeatureCache, tmp_path: Path) -> None:
    """Decisions that drop every image are refused: nothing could be extracted from what is left."""
    drop = decided(tmp_path / "drop.csv", [{"path": entry.path} for entry in cache.entries])
    with pytest.raises(OptionError, match="would be dropped, so that no source would be left"):
        clean(cache, drop, tmp_path / "cleaned.csv")
    assert not (tmp_path / "cleaned.csv").exists()


def test_a_class_that_is_new_is_said(cache: FeatureCache, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A class that no image had before is named together with the nearest one: it may be a mistake."""
    rows = [
        {"path": f"train/dark/d{i}.png", "action": "relabel", "new_label": label}
        for i, label in enumerate(["light", "Light", "ligth", "ligth"])
    ]
    made = clean(cache, decided(tmp_path / "d.csv", rows), tmp_path / "o.csv")
    assert (made.relabelled, made.new_classes) == (4, ["Light", "ligth"])
    assert "no image had the class 'Light' before (nearest: light, =light)" in caplog.text
    assert "no image had the class 'ligth' before (nearest: light, =light)" in caplog.text


def test_an_empty_action_column_is_said(cache: FeatureCache, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Findings that nobody has filled in change nothing, which is said; with one action it is not."""
    rows = [{"path": f"train/dark/d{i}.png", "suggestion": "drop", "action": " "} for i in range(3)]
    made = clean(cache, decided(tmp_path / "d.csv", rows), tmp_path / "o.csv")
    assert (made.dropped, made.decided) == (0, 0)
    assert "the column 'action' is empty in all 3 lines" in caplog.text
    caplog.clear()
    rows[1]["action"] = "keep"
    assert clean(cache, decided(tmp_path / "e.csv", rows), tmp_path / "o.csv").decided == 1
    assert "empty" not in caplog.text


def test_paths_that_begin_like_formulas(extracting: Callable[..., FeatureCache], tmp_path: Path) -> None:
    """A path at the top that begins with = is written with ./ before it, read by the source and by decisions."""
    for name in ("=a.png", "b.png", "c.png"):
        write_image(tmp_path / "x" / name, random_image(len(name)))
    (tmp_path / "x" / "t.csv").write_text("path,label\n=a.png,u\nb.png,v\nc.png,v\n")
    cache = extracting(tmp_path / "x" / "t.csv", tmp_path / "c")
    drop = decided(tmp_path / "drop.csv", [{"path": "b.png"}])
    made = clean(cache, drop, tmp_path / "x" / "cleaned.csv")
    assert made.path.read_text().splitlines()[1].startswith("./=a.png,u,")
    assert len(open_source(made.path).items) == 2
    assert clean(cache, decided(tmp_path / "d.csv", [{"path": "./=a.png"}]), tmp_path / "x" / "e.csv").dropped == 1


def test_files_that_are_gone_are_left_out(cache: FeatureCache, split_photos: Path, tmp_path: Path) -> None:
    """A table may only list files that exist: others are left out and named."""
    (split_photos / "train" / "dark" / "d5.png").unlink()
    made = clean(cache, decided(tmp_path / "d.csv", [{"path": "train/dark/d0.png"}]), tmp_path / "o.csv")
    assert made.gone == ["train/dark/d5.png"]
    assert len(open_source(made.path).items) == made.images == len(cache) - 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"file": "a"}], "no column 'path'"),
        ([{"path": "nowhere.png"}], "1 paths .*such as 'nowhere.png'"),
        ([{"path": "train/dark/d0.png", "action": "burn"}], "line 2 .*unknown action 'burn'.*drop, relabel, keep"),
        ([{"path": "train/dark/d0.png", "action": "relabel", "new_label": ""}], "new_label"),
        (
            [{"path": "train/dark/d0.png", "action": "drop"}, {"path": "train/dark/d0.png", "action": "keep"}],
            "another action",
        ),
    ],
)
def test_decisions_that_make_no_sense(
    cache: FeatureCache, tmp_path: Path, rows: list[dict[str, str]], message: str
) -> None:
    """What cannot be meant is refused in one line, and nothing is written."""
    with pytest.raises(OptionError, match=message) as caught:
        clean(cache, decided(tmp_path / "d.csv", rows), tmp_path / "o.csv")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.csv").exists()


def test_places_that_must_not_be_written_to(
    cache: FeatureCache, extracting: Callable[..., FeatureCache], photos: Path, tmp_path: Path
) -> None:
    """The source's own table, the decisions and files that are no tables are refused."""
    (photos / "t.csv").write_text("path,label\ndark/d0.png,a\nlight/l0.png,b\n")
    table = extracting(photos / "t.csv", tmp_path / "t")
    drop = decided(tmp_path / "d.csv", [{"path": "dark/d0.png"}])
    for out in (photos / "t.csv", drop, tmp_path / "o.txt"):
        with pytest.raises(OptionError):
            clean(table, drop, out)
    assert (photos / "t.csv").read_text().startswith("path,label\ndark")


def test_images_that_are_no_files(extracting: Callable[..., FeatureCache], tmp_path: Path) -> None:
    """A source of arrays cannot become a table of files."""
    import numpy as np

    np.savez(tmp_path / "s.npz", images=np.stack([random_image(i) for i in range(4)]), labels=np.arange(4) % 2)
    cache = extracting(tmp_path / "s.npz", tmp_path / "c")
    with pytest.raises(OptionError, match="is a file under"):
        clean(cache, decided(tmp_path / "d.csv", [{"path": cache.paths()[0]}]), tmp_path / "o.csv")


def test_decisions_that_are_no_file_or_say_two_things_are_refused(cache: FeatureCache, tmp_path: Path) -> None:
    """A device or a pipe is not read from, and of two columns of one name none is chosen."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OptionError, match="not a file"):
            clean(cache, path, tmp_path / "o.csv")
    (tmp_path / "d.csv").write_text("path,action,action\nx.png,drop,keep\n")
    with pytest.raises(OptionError, match="two columns 'action'"):
        clean(cache, tmp_path / "d.csv", tmp_path / "o.csv")
