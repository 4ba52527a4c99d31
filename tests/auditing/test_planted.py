"""Errors that were planted, on real photographs: how many of them an audit finds, and what else."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache.auditing import AuditReport, audit
from featcache.extraction import extract

FLIPPED, COPIED = 75, 20


@pytest.fixture(scope="module")
def planted(data: Path, mobilenet_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Return an audit of 1,500 photographs, 5 % of them mislabelled, and 40 copies, with what was planted."""
    root = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(0)
    files = sorted((data / "cats_dogs").rglob("*.jpg"))
    flipped = set(rng.choice(len(files), FLIPPED, replace=False).tolist())
    lines, wrong = ["path,label,split"], set()
    for i, file in enumerate(files):
        split, label = file.parts[-3], file.parts[-2]
        if i in flipped:
            label = {"cats": "dogs", "dogs": "cats"}[label]
            wrong.add(str(file))
        lines.append(f"{file},{label},{split}")
    copied = {}
    for number, i in enumerate(rng.choice(sorted(set(range(len(files))) - flipped), 2 * COPIED, replace=False)):
        file, copy = files[i], root / f"copy{number}.jpg"
        if number < COPIED:
            shutil.copy2(file, copy)
        else:
            photo = Image.open(file).convert("RGB")
            if number % 2:
                photo = photo.resize((photo.width * 6 // 10, photo.height * 6 // 10), Image.Resampling.LANCZOS)
            photo.save(copy, quality=40)
        copied[str(copy)] = str(file)
        lines.append(f"{copy.name},{file.parts[-2]},{'train' if number % 4 < 2 else 'validation'}")
    (root / "photos.csv").write_text("\n".join(lines) + "\n")
    cache = extract(root / "photos.csv", base="mobilenetv2", settings={"alpha": 0.35}, weights=mobilenet_weights,
                    image_size=224, cache=root / "c")  # fmt: skip
    named = {str(root / path) if path.startswith("copy") else path: path for path in cache.paths()}
    return {"report": audit(cache), "wrong": {named[one] for one in wrong},
            "copied": {named[a]: named[b] for a, b in copied.items()}}  # fmt: skip


@pytest.mark.slow
def test_planted_label_errors_are_found(planted: dict[str, object]) -> None:
    """Of the 75 labels that look worst, at least 70 % were flipped; all that are flagged have at least that recall."""
    report, wrong = planted["report"], planted["wrong"]
    assert isinstance(report, AuditReport)
    flagged = [one.images[0].path for one in report.findings if one.kind == "label"]
    first = flagged[:FLIPPED]
    hits = sum(path in wrong for path in flagged)
    print(f"flagged {len(flagged)}: precision {hits / len(flagged):.3f}, recall {hits / FLIPPED:.3f}; "
          f"precision at {len(first)}: {sum(path in wrong for path in first) / len(first):.3f}")  # fmt: skip
    assert sum(path in wrong for path in first) / FLIPPED >= 0.7
    assert hits / FLIPPED >= 0.7
    relabelled = [one.images[0] for one in report.findings if one.kind == "label" and one.images[0].path in wrong]
    assert all(one.suggested_label != one.label for one in relabelled if one.suggestion == "relabel")


@pytest.mark.slow
def test_planted_copies_are_found(planted: dict[str, object]) -> None:
    """All 20 exact and all 20 resized or recompressed copies are found with their originals, and little else."""
    report, copied = planted["report"], planted["copied"]
    families = [{image.path for image in one.images} for one in report.findings
                if one.kind in ("duplicate", "leakage", "conflict")]  # fmt: skip
    for copy, original in copied.items():
        assert any({copy, original} <= family for family in families), copy
    others = [family for family in families if not family & set(copied)]
    print(f"families of copies that were not planted: {len(others)}: {others}")
    assert len(others) <= 2
    crossing = [{image.path for image in one.images} for one in report.findings if one.kind == "leakage"]
    splits = {copy: original.split("/")[-3] for copy, original in copied.items()}
    for number, (copy, original) in enumerate(copied.items()):
        leaks = splits[copy] != ("train" if number % 4 < 2 else "validation")
        assert any({copy, original} <= family for family in crossing) == leaks
