import builtins
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_image, write_image
from PIL import Image

from featcache.cache import FeatureCache
from featcache.errors import OptionError
from featcache.insight.audit import AuditReport, audit, copies
from featcache.insight.audit import auditing as module
from featcache.insight.audit import labels as labels_module
from featcache.insight.audit.copies import joined


def kinds(report: AuditReport, kind: str) -> list[Any]:
    """Return the findings of a kind."""
    return [one for one in report.findings if one.kind == kind]


def mislabelled(
    tmp_path: Path, *, classes: int = 3, n: int = 600, flip: int = 30, base: int = 1
) -> tuple[FeatureCache, set[str]]:
    """Return a cache of clusters, some of whose labels are wrong, and the paths of these; another for each base."""
    rng = np.random.default_rng(5)
    y = np.arange(n) % classes
    X = (rng.normal(size=(classes, 16)) * 1.5)[y]
    X += np.random.default_rng(base).normal(size=(n, 16))
    wrong = rng.choice(n, flip, replace=False)
    y[wrong] = (y[wrong] + 1) % classes
    names = [f"{i:04d}" for i in range(n)]
    splits = ["validation" if i % 4 == 0 else "train" for i in range(n)]
    cache = FeatureCache.from_arrays(
        X.astype(np.float32),
        y,
        names,
        {"made": base},
        path=tmp_path / f"c{base}",
        splits=splits,
        class_names=[f"c{i}" for i in range(classes)],
        digests=[i.to_bytes(32, "big") for i in range(n)],
    )
    return cache, {names[i] for i in wrong}


def test_wrong_labels_are_found(tmp_path: Path) -> None:
    """Of the 30 labels that look worst, 70 % and more were planted, and the right class is suggested."""
    cache, wrong = mislabelled(tmp_path)
    found = kinds(audit(cache), "label")
    first = [one.images[0] for one in found[:30]]
    assert sum(image.path in wrong for image in first) >= 0.7 * 30
    for image in first:
        if image.path in wrong and image.suggested_label:
            assert image.suggestion == "look"
            assert (int(image.label[1]) - int(image.suggested_label[1])) % 3 == 1
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_relabelling_is_suggested_where_two_caches_agree(tmp_path: Path) -> None:
    """What features of another base contradict too, with the same class, is to be relabelled; all else to be looked at.

    Images that the other cache lacks are among the latter, and a cache with the same features is no second opinion.
    """
    cache, wrong = mislabelled(tmp_path)
    other, _ = mislabelled(tmp_path, base=2)
    lacking = {image.path for one in kinds(audit(cache), "label")[:5] for image in one.images}
    fewer = other.with_listing([entry for entry in other.entries if entry.path not in lacking])
    first, second = (
        {image.path: image.suggested_label for one in kinds(audit(each), "label") for image in one.images}
        for each in (cache, fewer)
    )
    found = {image.path: image for one in kinds(audit(cache, confirm=fewer), "label") for image in one.images}
    agreed = {path for path, label in first.items() if label and second.get(path) == label}
    assert found.keys() == first.keys()
    assert {path for path, image in found.items() if image.suggestion == "relabel"} == agreed
    assert len(agreed & wrong) > 0.8 * len(agreed) > 10
    assert not agreed & lacking
    with pytest.raises(OptionError, match="another base"):
        audit(cache, confirm=cache.path)


def test_without_cleanlab_the_rest_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where cleanlab is not installed, a note says what to install, and all else is looked at."""
    plain = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("cleanlab"):
            raise ImportError(name)
        return plain(name, *rest, **more)

    cache, _ = mislabelled(tmp_path, flip=0, n=60)
    monkeypatch.setattr(builtins, "__import__", without)
    report = audit(cache)
    assert not kinds(report, "label")
    assert any("featcache[audit]" in note for note in report.notes)
    assert not any("labels" in note for note in audit(cache, labels=False).notes)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Return two classes of pictures in two splits, with copies, one in another split, one in another class."""
    root = tmp_path / "root"
    for split, count, start in (("train", 12, 0), ("validation", 6, 100)):
        for i in range(count):
            for place, label in enumerate(("dark", "light")):
                base = Image.fromarray(random_image(start + 50 * place + i)).resize((64, 64), Image.Resampling.BICUBIC)
                write_image(root / split / label / f"{i}.png", np.asarray(base) // 2 + 100 * place)
    shutil.copy2(root / "train/dark/0.png", root / "train/dark/same.png")
    shutil.copy2(root / "train/dark/1.png", root / "validation/dark/leak.png")
    shutil.copy2(root / "train/dark/2.png", root / "train/light/torn.png")
    picture = Image.open(root / "train/light/3.png")
    picture.resize((40, 40), Image.Resampling.BICUBIC).save(root / "train/light/small.jpg", quality=85)
    (root / "train/light/text.jpg").write_text("hello")
    return root


def test_copies_by_what_they_cross(extracting: Callable[..., FeatureCache], photographs: Path, tmp_path: Path) -> None:
    """Copies in a split are duplicates, across splits leaks, across classes conflicts; near ones are confirmed."""
    cache = extracting(photographs, tmp_path / "c")
    report = audit(cache, labels=False)
    found = {
        kind: [{image.path: image.suggestion for image in one.images} for one in kinds(report, kind)]
        for kind in ("duplicate", "leakage", "conflict")
    }
    assert found["leakage"] == [{"train/dark/1.png": "drop", "validation/dark/leak.png": "keep"}]
    assert found["conflict"] == [{"train/dark/2.png": "look", "train/light/torn.png": "look"}]
    assert sorted(map(sorted, found["duplicate"])) == [
        ["train/dark/0.png", "train/dark/same.png"],
        ["train/light/3.png", "train/light/small.jpg"],
    ]
    (bad,) = kinds(report, "unreadable")
    assert bad.images[0].path == "train/light/text.jpg"
    assert "text" in bad.reason
    assert [one.kind for one in report.findings][:2] == ["leakage", "conflict"]
    assert report.counts["duplicate"] == 2
    json.dumps(report.to_dict())


def test_images_that_are_gone_are_noted(
    extracting: Callable[..., FeatureCache], photographs: Path, tmp_path: Path
) -> None:
    """Without pixels, exact copies are still found, near ones by features alone, and the notes say so."""
    cache = extracting(photographs, tmp_path / "c")
    photographs.rename(tmp_path / "elsewhere")
    report = audit(cache, labels=False)
    assert kinds(report, "leakage")
    assert any("could not be compared on pixels" in note for note in report.notes)
    assert any("sizes of" in note for note in report.notes)


def test_similar_features_are_no_copies(extracting: Callable[..., FeatureCache], tmp_path: Path) -> None:
    """Pictures of equal mean colours have equal features here, and are told apart on pixels."""
    pixels = random_image(0, 16)
    for i in range(4):
        write_image(tmp_path / "x" / f"a{i}.png", np.rot90(pixels, i))
        write_image(tmp_path / "x" / f"b{i}.png", random_image(i + 1, 16) // 3)
    report = audit(extracting(tmp_path / "x", tmp_path / "c"))
    assert not kinds(report, "duplicate")
    assert any("fewer than two classes" in note for note in report.notes)


def test_samples_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only done on a sample is in the notes."""
    cache, _ = mislabelled(tmp_path, n=120, flip=0)
    monkeypatch.setattr(copies, "MOST", 3)
    monkeypatch.setattr(module, "CANDIDATE", -1.0)
    notes = " ".join(audit(cache, labels=False, most=50).notes)
    assert "among 50 of 120" in notes
    assert "the 3 most similar" in notes
    with pytest.raises(OptionError, match="1 or more"):
        audit(cache, most=0)


def test_outliers_stand_out(tmp_path: Path) -> None:
    """Three images alike, but far from all others, are outliers; those of clusters are not."""
    rng = np.random.default_rng(0)
    X = np.repeat(np.eye(3, 30), 40, axis=0) * 5 + 0.3 * rng.normal(size=(120, 30))
    odd = [17, 50, 110]
    X[odd] = 5 * np.eye(30)[20] + 0.3 * rng.normal(size=(3, 30))
    cache = FeatureCache.from_arrays(
        X.astype(np.float32), np.arange(120) // 40, None, {"made": 2}, path=tmp_path / "c", class_names=["a", "b", "c"]
    )
    found = kinds(audit(cache, labels=False), "outlier")
    assert {cache.paths()[i] for i in odd} <= {one.images[0].path for one in found[:3]}
    assert len(found) <= 6


def test_no_head_sees_the_images_it_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group, copies included, is kept from exactly one of the five heads."""
    seen = []
    plain = labels_module.train

    def spy(plan: Any, examples: Any) -> Any:
        seen.append(set(examples.groups.tolist()))
        return plain(plan, examples)

    monkeypatch.setattr(labels_module, "train", spy)
    cache, _ = mislabelled(tmp_path, n=90, flip=3)
    groups = joined(cache.groups(), [[0, 3], [3, 7, 11]])
    assert len({groups[i] for i in (0, 3, 7, 11)}) == 1
    assert len(set(groups.tolist())) == 87
    monkeypatch.setattr(module, "families", lambda entries, near: [([0, 3], 1.0), ([3, 7, 11], 1.0)])
    audit(cache)
    assert len(seen) == 5
    assert all(sum(group in part for part in seen) == 4 for group in set().union(*seen))
    assert len(set().union(*seen)) == 87


def test_unequal_classes(made: Callable[..., FeatureCache], tmp_path: Path) -> None:
    """A class with less than a tenth of the largest, and one that a split lacks, are named."""
    X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    labels = ["many"] * 45 + ["few"] * 3 + ["many"] * 12
    cache = FeatureCache.from_arrays(
        X, labels, None, {"made": 3}, path=tmp_path / "c", splits=["train"] * 48 + ["validation"] * 12
    )
    found = [one.reason for one in kinds(audit(cache, labels=False), "imbalance")]
    assert found == ["class few has no image in validation", "class few has 3 training images, the largest class 45"]
    assert not kinds(audit(made(), labels=False), "imbalance")


def test_small_images(oracle: Path, tmp_path: Path) -> None:
    """A picture that is enlarged more than four times is named; where many are, one finding says so."""
    from featcache.extraction.extracting import extract

    for i in range(60):
        write_image(tmp_path / "x" / f"{i}.png", random_image(i, 20 if i else 1))
    options = {"base": oracle, "layers": ["mix"], "preprocess": "none"}
    (found,) = kinds(audit(extract(tmp_path / "x", cache=tmp_path / "c", **options), labels=False), "small")
    assert found.images[0].path == "0.png"
    assert found.reason == "1x1 pixels, enlarged to 8x8"
    for i in range(20):
        write_image(tmp_path / "x" / f"{i}.png", random_image(i, 1))
    (found,) = kinds(audit(extract(tmp_path / "x", cache=tmp_path / "c", **options), labels=False), "small")
    assert "20 of 60" in found.reason


def test_blank_pictures(extracting: Callable[..., FeatureCache], tmp_path: Path) -> None:
    """Pictures of one colour are found in every format, with the faintest noise, too; those with a mark are not."""
    rng = np.random.default_rng(0)
    white, black = np.full((300, 400, 3), 255, np.uint8), np.zeros((300, 400, 3), np.uint8)
    noisy = (118 + rng.integers(0, 3, white.shape)).astype(np.uint8)
    marked = white.copy()
    marked[100:112, 200:212] = 0
    photograph = np.asarray(Image.fromarray(random_image(0, 40)).resize((400, 300), Image.Resampling.BICUBIC))
    pictures = {"white": white, "black": black, "noisy": noisy, "marked": marked, "photograph": photograph}
    for name, pixels in pictures.items():
        for suffix in ("jpg", "png", "bmp", "gif", "webp"):
            if (name, suffix) not in (("noisy", "png"), ("noisy", "gif")):  # whose noise takes many bytes
                Image.fromarray(pixels).save(tmp_path / f"{name}.{suffix}")
        (tmp_path / "x").mkdir(exist_ok=True)
        for file in tmp_path.glob(f"{name}.*"):
            file.rename(tmp_path / "x" / file.name)
    Image.fromarray(noisy[:24, :24]).save(tmp_path / "x" / "tiny.png")
    report = audit(extracting(tmp_path / "x", tmp_path / "c"), labels=False)
    found = {one.images[0].path: one for one in kinds(report, "blank")}
    blank = {file.name for file in (tmp_path / "x").iterdir() if not file.name.startswith(("marked", "photograph"))}
    assert found.keys() == blank
    assert found["white.jpg"].reason == "one colour: RGB 255, 255, 255"
    assert found["white.jpg"].images[0].suggestion == "drop"
    assert report.counts["blank"] == len(blank) > 10


def test_blank_arrays(extracting: Callable[..., FeatureCache], tmp_path: Path) -> None:
    """Arrays of one value are blank, too, whether whole numbers or floats; where images are gone a note says so."""
    for name, kind in (("u", np.uint8), ("f", np.float32)):
        images = np.stack([random_image(i) for i in range(6)])
        images[2] = 7
        images = images if kind is np.uint8 else (images / 255).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(6) % 2)
        cache = extracting(tmp_path / f"{name}.npz", tmp_path / name, validation_split=0.0)
        assert [one.images[0].path for one in kinds(audit(cache, labels=False), "blank")] == ["000002"]


def test_an_empty_cache_is_refused(tmp_path: Path, extracting: Callable[..., FeatureCache]) -> None:
    """There is nothing to audit without features."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.png").write_text("no image")
    with pytest.raises(OptionError, match="images with features"):
        audit(extracting(tmp_path / "x", tmp_path / "c"))
