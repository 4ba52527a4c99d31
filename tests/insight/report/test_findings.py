import builtins
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import IMAGE, QUOTE, random_image, write_image
from PIL import Image as Pillow
from typer.testing import CliRunner

from featcache import FeatureCache, audit, fit_head
from featcache.cli import app
from featcache.errors import OptionError
from featcache.insight.audit import KINDS, AuditReport, Finding, Image
from featcache.insight.report import findings
from featcache.insight.report import report as write_report
from featcache.insight.report.page import Case, Cases, Commands, Section, Table
from featcache.insight.report.pictures import Pictures
from featcache.insight.report.subject import open_subject


@pytest.fixture
def audited(extracting: Callable[..., FeatureCache], split_photos: Path, tmp_path: Path) -> FeatureCache:
    """Return a cache with a leak, a torn file and a copy with another label."""
    folder = split_photos / "train"
    (split_photos / "validation" / "dark" / "leak.png").write_bytes((folder / "dark" / "d0.png").read_bytes())
    (folder / "light" / "other.png").write_bytes((folder / "dark" / "d1.png").read_bytes())
    (folder / "light" / "torn.png").write_text("no image")
    return extracting(split_photos, tmp_path / "c")


def section(cache: FeatureCache, report: AuditReport | None = None) -> Section:
    """Return the section of an audit of a cache, which looks at no labels unless it is given."""
    subject = open_subject(cache.path)
    report = report or audit(cache, labels=False)
    pictures = Pictures(subject.open_source())
    pictures.find(findings.shown(report))
    return findings.audited(subject, report, pictures)


def cases(made: Section, kind: str) -> list[Case]:
    """Return the cases of a kind."""
    (block,) = [one for one in made.blocks if isinstance(one, Cases) and one.caption.startswith(kind)]
    return list(block.cases)


def test_copies_are_shown_side_by_side(audited: FeatureCache) -> None:
    """Both pictures of a pair are in one case, each with its label, split, path and what to do with it."""
    made = section(audited)
    (leak,) = cases(made, "Leakage: 1")
    assert [list(shot.lines) for shot in leak.shots] == [
        ["✗ drop", "dark, train", "train/dark/d0.png"],
        ["keep", "dark, validation", "validation/dark/leak.png"],
    ]
    assert all(shot.image is not None and shot.image.startswith("data:image/") for shot in leak.shots)
    assert list(leak.lines) == [
        "2 exact copies in validation and train.",
        "Keep validation/dark/leak.png and drop the others.",
    ]
    (conflict,) = cases(made, "Conflict: 1")
    assert [shot.lines[1] for shot in conflict.shots] == ["dark, train", "light, train"]


def test_findings_come_worst_first_with_their_number_in_words(audited: FeatureCache) -> None:
    """Kinds have the order of the audit; what has no picture is a table; the summary counts all of them."""
    made = section(audited)
    names = [one.caption.partition(":")[0] for one in made.blocks if isinstance(one, Cases | Table)]
    assert names == [kind.capitalize() for kind in KINDS if kind.capitalize() in names]
    assert "1 leak between splits, 1 conflict of labels between copies, 1 unusable image" in made.paragraphs[0]
    (table,) = [one for one in made.blocks if isinstance(one, Table)]
    assert [cell.text for cell in table.rows[0]][1:3] == ["train/light/torn.png", "light"]
    assert table.rows[0][-1].text == "mend the file or drop it"


def test_its_commands_make_a_clean_cache(
    audited: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run as they stand, with an action filled in between, they leave the image out and compute nothing again."""
    (block,) = [one for one in section(audited).blocks if isinstance(one, Commands)]
    first, apply, extract = [shlex.split(line)[1:] for line in block.lines if not line.startswith("#")]
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, [*first, "--no-labels"]).exit_code == 0
    Path("drop.csv").write_text("path\nvalidation/dark/leak.png\n")
    assert apply[:4] == ["audit", str(audited.path), "--apply", "drop.csv"]
    assert CliRunner().invoke(app, apply).exit_code == 0
    before = audited.paths()
    done = CliRunner().invoke(app, [*extract, "--json"])
    assert '"computed": 0' in done.stdout, done.stderr
    after = FeatureCache(audited.path)
    assert len(after) == len(before) - 1
    assert not [path for path in after.paths() if path.endswith("leak.png")]


def test_no_command_where_images_are_no_files(extracting: Callable[..., FeatureCache], tmp_path: Path) -> None:
    """Of arrays no cleaned source can be made, and the section says what can."""
    images = np.stack([random_image(i // 2) for i in range(20)])
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=np.arange(20) // 2 % 2)
    cache = extracting(tmp_path / "a.npz", tmp_path / "c")
    made = section(cache)
    assert len(cases(made, "Duplicate: 10")) == findings.EACH
    (block,) = [one for one in made.blocks if isinstance(one, Commands)]
    assert not [line for line in block.lines if "--apply" in line]
    assert "folders and tables" in block.lines[-1]


def test_many_copies_show_what_they_cross() -> None:
    """Of more images than are shown, the one to keep comes first, then one of each other split and label."""
    images = [Image(f"{i}.png", "a", "train", "drop") for i in range(20)]
    images += [Image("kept.png", "a", "test", "keep"), Image("other.png", "b", "train", "look")]
    chosen = findings._chosen(Finding("leakage", tuple(images), 1.0, "", ""))
    assert len(chosen) == findings.TOGETHER
    assert chosen[0].path == "kept.png"
    assert {(one.split, one.label) for one in chosen} == {("test", "a"), ("train", "a"), ("train", "b")}
    assert len({one.path for one in chosen}) == findings.TOGETHER


def test_without_pictures_findings_are_tables(made: Callable[..., FeatureCache]) -> None:
    """Features from elsewhere have no pictures: each image of a finding is a row with its rank and place."""
    cache = made()
    paths = cache.paths()
    pair = (Image(paths[0], "c0", "train", "drop"), Image(paths[1], "c1", "validation", "keep"))
    report = AuditReport(cache.path, cache.layer_name(None), 2, (Finding("leakage", pair, 1.0, "copies", "drop"),), ())
    (table, _) = section(cache, report).blocks
    assert isinstance(table, Table)
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["1", paths[0], "c0, train", "copies", "✗ drop"],
        ["1", paths[1], "c1, validation", "copies", "keep"],
    ]


def test_what_was_not_looked_at_is_said(made: Callable[..., FeatureCache], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cleanlab the section says what to install, as audit does."""
    plain = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("cleanlab"):
            raise ImportError(name)
        return plain(name, *rest, **more)

    cache = made()
    monkeypatch.setattr(builtins, "__import__", without)
    html = write_report(cache.path, audit=True).path.read_text("utf-8")
    assert "Labels were not looked at: pip install &#39;featcache[audit]&#39; for cleanlab" in html


def test_nothing_found(extracting: Callable[..., FeatureCache], photos: Path, tmp_path: Path) -> None:
    """A clean cache has a section of one sentence, and no commands."""
    made = section(extracting(photos, tmp_path / "c"))
    assert made.paragraphs[0].endswith("Nothing was found.")
    assert not made.blocks


@pytest.mark.slow
def test_the_page_is_of_its_own_cache(audited: FeatureCache, made: Callable[..., FeatureCache], tmp_path: Path) -> None:
    """An audit of another cache, or of a model whose cache is gone, is refused in one line."""
    with pytest.raises(OptionError, match="The audit is of"):
        write_report(audited.path, audit=audit(made(), labels=False))
    head = fit_head(audited, "ridge", out=tmp_path / "head")
    found = write_report(head.path, audit=audit(audited, labels=False))
    assert found.findings is not None
    assert found.findings["leakage"] == 1
    audited.path.rename(tmp_path / "away")
    with pytest.raises(OptionError, match="There is nothing to audit"):
        write_report(head.path, audit=True)
    assert write_report(head.path).findings is None


def test_names_are_text(extracting: Callable[..., FeatureCache], tmp_path: Path) -> None:
    """Paths, classes and reasons that are markup are escaped wherever the section shows them."""
    for i in range(12):
        write_image(tmp_path / "s" / f"{IMAGE}{i}.png", random_image(i))
    Pillow.open(tmp_path / "s" / f"{IMAGE}0.png").save(tmp_path / "s" / "copy.png")
    quoted = QUOTE.replace('"', '""')
    rows = [f'"s/{IMAGE}{i}.png","{[IMAGE, quoted][i % 2]}",train' for i in range(12)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows, f's/copy.png,"{quoted}",validation']) + "\n")
    cache = extracting(tmp_path / "t.csv", tmp_path / "c")
    html = write_report(cache.path, audit=audit(cache, labels=False)).path.read_text("utf-8")
    part = html[html.index('id="audit"') : html.index('id="map"')]
    assert "<img src=x" not in part
    assert part.count("&lt;img src=x onerror=alert(1)&gt;") >= 3
    assert "&#34;; DROP, validation" in part
