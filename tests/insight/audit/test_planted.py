"""Errors that were planted, on real photographs: how many of them an audit finds, and what else."""

from pathlib import Path

import bench_quality
import pytest
from bench_quality import Planted

from featcache.extraction.extracting import extract
from featcache.insight.audit import AuditReport, audit

FLIPPED, COPIED = 75, 20


@pytest.fixture(scope="module")
def planted(data: Path, mobilenet_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Return 1,500 photographs, 5 % of them mislabelled, with 40 copies."""
    items = bench_quality.items_of(str(data / "cats_dogs"))
    return bench_quality.plant(items, tmp_path_factory.mktemp("planted"), flips=FLIPPED, copies=COPIED, seed=0)


@pytest.fixture(scope="module")
def report(planted: Planted, mobilenet_weights: Path) -> AuditReport:
    """Return an audit of them."""
    cache = extract(
        planted.source,
        base="mobilenetv2",
        base_params={"alpha": 0.35},
        weights=mobilenet_weights,
        image_size=224,
        cache=planted.source.parent / "c",
    )
    return audit(cache)


@pytest.mark.slow
def test_planted_label_errors_are_found(planted: Planted, report: AuditReport) -> None:
    """Of the 75 labels that look worst, at least 70 % were flipped; all that are flagged have at least that recall."""
    found = bench_quality.found(report, planted)
    assert found["planted"] == FLIPPED
    assert found["precision_at_planted"] >= 0.7
    assert found["recall"] >= 0.7
    relabelled = [one.images[0] for one in report.findings if one.kind == "label"]
    assert all(one.suggested_label != one.label for one in relabelled if one.suggestion == "relabel")


@pytest.mark.slow
def test_planted_copies_are_found(planted: Planted, report: AuditReport) -> None:
    """All 20 exact and all 20 resized or recompressed copies are found with their originals, and little else."""
    found = bench_quality.found(report, planted)
    assert found["copies_found"] == found["copies"] == 2 * COPIED
    assert len(found["other_families"]) <= 2
    crossing = [{image.path for image in one.images} for one in report.findings if one.kind == "leakage"]
    for copy, (original, leaks) in planted.copied.items():
        assert any({copy, original} <= family for family in crossing) == leaks
