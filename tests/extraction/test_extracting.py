import logging
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import predicted_mean, random_image, write_image
from PIL import Image

from featcache.cache import FeatureCache
from featcache.cache.lock import writer_lock
from featcache.cache.manifest import Manifest
from featcache.errors import BaseError, CacheBusyError, CacheError, ImageError, OptionError
from featcache.extraction import extracting as extraction
from featcache.extraction import extractor
from featcache.sources.arrays import ArraySource


def check_rows(cache: FeatureCache, root: Path) -> None:
    """Assert that every row belongs to the image its path names."""
    for row, path in zip(np.asarray(cache.features(layer="mix")), cache.paths(), strict=True):
        assert np.allclose(row, predicted_mean(np.array(Image.open(root / path))), rtol=1e-5), path


def test_rows_match_images(extracting, photos: Path, tmp_path: Path) -> None:
    """Every row holds the features of the image it is listed with, labels by class folder."""
    cache = extracting(photos, tmp_path / "c")
    check_rows(cache, photos)
    assert cache.class_names == ["dark", "light"]
    assert cache.label_indices().tolist() == [0] * 6 + [1] * 6
    assert (cache.report.computed, cache.report.reused, cache.report.rows) == (12, 0, 12)


def test_again_computes_nothing_and_loads_no_base(
    extracting, photos: Path, tmp_path: Path, monkeypatch, nothing_racy
) -> None:
    """An equal request finds its recipe and its rows without loading anything or reading an image."""
    extracting(photos, tmp_path / "c")
    monkeypatch.setattr(extractor, "Extractor", None)
    monkeypatch.setattr(Path, "read_bytes", None)
    report = extracting(photos, tmp_path / "c").report
    assert (report.computed, report.reused) == (0, 12)


def test_nothing_changed_writes_nothing(extracting, photos: Path, tmp_path: Path, nothing_racy) -> None:
    """A no-op leaves manifest, recipe and shards untouched."""

    def stamps() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in (tmp_path / "c").rglob("*") if p.is_file()}

    (photos / "dark" / "text.jpg").write_text("hello")
    extracting(photos, tmp_path / "c")
    before = stamps()
    extracting(photos, tmp_path / "c")
    assert stamps() == before


def test_base_rebuilt_in_memory_is_recognised(photos: Path, tmp_path: Path) -> None:
    """The same network built anew in one process finds its rows, whatever Keras called its layers."""
    import keras

    def base() -> object:
        model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 1), keras.layers.ReLU()])
        model.set_weights([np.full((1, 1, 3, 4), 0.5, np.float32), np.zeros(4, np.float32)])
        return model

    first = extraction.extract(photos, base=base(), preprocess="none", cache=tmp_path / "c")
    second = extraction.extract(photos, base=base(), preprocess="none", cache=tmp_path / "c")
    assert (first.report.computed, second.report.computed) == (12, 0)


def test_one_new_image_computes_one_row(extracting, photos: Path, tmp_path: Path) -> None:
    """Adding an image computes it alone and moves no other to another split."""
    before = extracting(photos, tmp_path / "c")
    splits = {entry.path: entry.split for entry in before.entries}
    write_image(photos / "dark" / "a-new.png", random_image(77) // 4)
    after = extracting(photos, tmp_path / "c")
    assert (after.report.computed, after.report.reused) == (1, 12)
    assert {e.path: e.split for e in after.entries if e.path != "dark/a-new.png"} == splits
    check_rows(after, photos)


def test_renamed_class_computes_nothing(extracting, photos: Path, tmp_path: Path) -> None:
    """A class folder with another name changes the labels and computes no row."""
    extracting(photos, tmp_path / "c")
    (photos / "light").rename(photos / "bright")
    cache = extracting(photos, tmp_path / "c")
    assert cache.report.computed == 0
    assert cache.class_names == ["bright", "dark"]
    check_rows(cache, photos)


def test_relabelled_image(extracting, photos: Path, tmp_path: Path) -> None:
    """An image moved to another class keeps its row and gets the new label."""
    extracting(photos, tmp_path / "c")
    (photos / "light" / "l0.png").rename(photos / "dark" / "was-light.png")
    cache = extracting(photos, tmp_path / "c")
    assert cache.report.computed == 0
    assert cache.label_indices().tolist() == [0] * 7 + [1] * 5
    check_rows(cache, photos)


def test_changed_image_is_computed_again(extracting, photos: Path, tmp_path: Path) -> None:
    """A file with other bytes is another image."""
    extracting(photos, tmp_path / "c")
    write_image(photos / "dark" / "d0.png", random_image(5000) // 4)
    cache = extracting(photos, tmp_path / "c")
    assert cache.report.computed == 1
    check_rows(cache, photos)


def test_touched_image_is_read_but_not_computed(extracting, photos: Path, tmp_path: Path) -> None:
    """Another time stamp alone costs a read, not a forward pass."""
    extracting(photos, tmp_path / "c")
    os.utime(photos / "dark" / "d0.png", ns=(1, 1))
    assert extracting(photos, tmp_path / "c").report.computed == 0


def test_a_change_that_nothing_shows_needs_rehash(extracting, photos: Path, tmp_path: Path, monkeypatch) -> None:
    """`rehash` finds bytes that changed on a file system that has neither ctime nor inodes."""
    monkeypatch.setattr("featcache.sources.files.change_stamp", lambda status: 1)
    target = photos / "dark" / "d0.bmp"
    Image.fromarray(random_image(0)).save(target)
    extracting(photos, tmp_path / "c")
    stamp = target.stat().st_mtime_ns
    Image.fromarray(random_image(1)).save(target)
    os.utime(target, ns=(stamp, stamp))
    assert extracting(photos, tmp_path / "c").report.computed == 0
    cache = extracting(photos, tmp_path / "c", rehash=True)
    assert cache.report.computed == 1
    check_rows(cache, photos)


def test_moved_source_is_recognised(extracting, photos: Path, tmp_path: Path) -> None:
    """A source folder under another name computes nothing, with a given and with a default cache."""
    given = extracting(photos, tmp_path / "c")
    default = extracting(photos, None, cache_root=tmp_path / "root")
    moved = photos.rename(tmp_path / "moved")
    assert extracting(moved, given.path).report.computed == 0
    again = extracting(moved, None, cache_root=tmp_path / "root")
    assert (again.path, again.report.computed) == (default.path, 0)
    assert again.source["location"] == str(moved)


def test_copied_source_gets_its_own_default_cache(extracting, photos: Path, tmp_path: Path) -> None:
    """While the old source is still there, a copy of it is another source."""
    first = extracting(photos, None, cache_root=tmp_path / "root")
    shutil.copytree(photos, tmp_path / "copy")
    second = extracting(tmp_path / "copy", None, cache_root=tmp_path / "root")
    assert first.path != second.path


def test_moved_source_with_other_bytes_is_not_trusted(extracting, tmp_path: Path) -> None:
    """In another place, equal name, size and time stamp prove nothing: bytes are compared."""
    for folder, seeds in (("one", (1, 2)), ("two", (1, 3))):
        for i, seed in enumerate(seeds):
            target = tmp_path / folder / "a" / f"{i}.bmp"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random_image(seed)).save(target)
            os.utime(target, ns=(10**18, 10**18))
    extracting(tmp_path / "one", tmp_path / "c")
    cache = extracting(tmp_path / "two", tmp_path / "c")
    assert cache.report.computed == 1
    check_rows(cache, tmp_path / "two")


def test_foreign_source_is_refused(extracting, photos: Path, tmp_path: Path) -> None:
    """A source that shares no image with the cache's is an error that names both, unless meant."""
    extracting(photos, tmp_path / "c")
    other = tmp_path / "other"
    write_image(other / "x" / "1.png", random_image(900))
    with pytest.raises(CacheError, match=f"{photos}.*{other}.*`replace_source`"):
        extracting(other, tmp_path / "c")
    assert FeatureCache(tmp_path / "c").source["location"] == str(photos)
    cache = extracting(other, tmp_path / "c", replace_source=True)
    assert (len(cache), cache.report.computed) == (1, 1)


def test_other_recipe_is_refused_naming_the_difference(extracting, photos: Path, tmp_path: Path) -> None:
    """A folder keeps one recipe; the error says which fields differ."""
    extracting(photos, tmp_path / "c")
    with pytest.raises(CacheError, match="pooling: avg → max"):
        extracting(photos, tmp_path / "c", pooling="max")


def test_other_pooling_is_another_default_cache(extracting, photos: Path, tmp_path: Path) -> None:
    """Default places keep recipes apart."""
    first = extracting(photos, None, cache_root=tmp_path / "root")
    second = extracting(photos, None, cache_root=tmp_path / "root", pooling="max")
    assert first.path != second.path
    assert first.path.name == f"photos-oracle-{first.recipe.fingerprint[:8]}"


def test_folder_with_other_files_is_left_alone(extracting, photos: Path, tmp_path: Path) -> None:
    """A cache is not written among somebody's files."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("x")
    with pytest.raises(CacheError, match="has other files in it"):
        extracting(photos, tmp_path / "c")


def test_copies_share_a_row(extracting, photos: Path, tmp_path: Path) -> None:
    """Identical images are computed once and are in one split."""
    shutil.copy(photos / "dark" / "d0.png", photos / "dark" / "copy.png")
    cache = extracting(photos, tmp_path / "c")
    assert (cache.report.computed, cache.report.reused, len(cache)) == (12, 1, 13)
    split = {entry.path: entry.split for entry in cache.entries}
    assert split["dark/copy.png"] == split["dark/d0.png"]
    check_rows(cache, photos)


def test_bad_images_are_recorded_once(extracting, photos: Path, tmp_path: Path) -> None:
    """Images that fail are listed with their reason, not tried again until asked or mended."""
    (photos / "dark" / "text.jpg").write_text("hello")
    (photos / "light" / "empty.png").write_bytes(b"")
    cache = extracting(photos, tmp_path / "c")
    assert cache.skipped == [
        {"path": "dark/text.jpg", "reason": "not an image: its content is text"},
        {"path": "light/empty.png", "reason": "empty file"},
    ]
    assert len(cache) == 12
    check_rows(cache, photos)
    again = extracting(photos, tmp_path / "c")
    assert (len(again.skipped), again.report.computed) == (2, 0)
    write_image(photos / "dark" / "text.jpg", random_image(3))
    mended = extracting(photos, tmp_path / "c")
    assert (len(mended.skipped), mended.report.computed) == (1, 1)
    assert extracting(photos, tmp_path / "c", retry_failed=True).skipped == mended.skipped


def test_on_error_fail_names_the_image(extracting, photos: Path, tmp_path: Path) -> None:
    """With on_error=fail the first bad image of the source ends the run; what was done stays."""
    for name in ("dark/text.jpg", "light/a.jpg", "light/b.jpg", "light/z.jpg"):
        (photos / name).write_text(f"hello {name}")
    with pytest.raises(ImageError, match=r"dark/text\.jpg: not an image"):
        extracting(photos, tmp_path / "c", on_error="fail")
    assert extracting(photos, tmp_path / "c").report.rows == 12
    with pytest.raises(ImageError, match=r"dark/text\.jpg"):
        extracting(photos, tmp_path / "c", on_error="fail")


def test_classes_are_no_part_of_the_recipe(extracting, photos: Path, tmp_path: Path) -> None:
    """Another choice of classes is the same cache; nothing is computed twice."""
    one = extracting(photos, tmp_path / "c", classes=["dark"])
    assert one.class_names == ["dark"]
    both = extracting(photos, tmp_path / "c")
    assert both.report.computed == 6
    assert extracting(photos, tmp_path / "c", classes=["light"]).report.computed == 0


def test_splits_can_change_without_computing(extracting, photos: Path, tmp_path: Path) -> None:
    """Another part, seed or test set lists anew and computes nothing."""
    extracting(photos, tmp_path / "c")
    cache = extracting(photos, tmp_path / "c", validation_split=0.5, test_from=("validation", 0.5), seed=3)
    assert cache.report.computed == 0
    assert set(cache.splits) == {"train", "validation", "test"}


def test_missing_class_in_a_split_is_a_warning(extracting, photos: Path, tmp_path: Path) -> None:
    """A class without any image on one side is named."""
    for path in list((photos / "dark").iterdir())[1:]:
        path.unlink()
    warnings = extracting(photos, tmp_path / "c").report.warnings
    assert any("'dark' has no image in" in text for text in warnings)


def test_interrupted_run_goes_on(extracting, photos: Path, tmp_path: Path) -> None:
    """After an interruption the cache opens, what was done stays, and the rest is computed alone."""

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extracting(photos, tmp_path / "c", progress=stop, shard_rows=4)
    partial = FeatureCache(tmp_path / "c")
    assert (len(partial), partial.missing) == (8, 4)
    check_rows(partial, photos)
    cache = extracting(photos, tmp_path / "c", shard_rows=4)
    assert (cache.report.computed, cache.missing) == (4, 0)
    check_rows(cache, photos)
    assert not list((tmp_path / "c").rglob(".tmp-*"))


def test_second_writer_is_told(extracting, photos: Path, tmp_path: Path) -> None:
    """While one process writes, another gets its number."""
    extracting(photos, tmp_path / "c")
    with writer_lock(tmp_path / "c"), pytest.raises(CacheBusyError, match=str(os.getpid())):
        extracting(photos, tmp_path / "c")


def test_several_layers_in_one_pass(extracting, photos: Path, tmp_path: Path) -> None:
    """Two layers are two feature sets of the same rows, computed together."""
    cache = extracting(photos, tmp_path / "c", layers=["positive", "mix"])
    assert cache.layers == {"mix": (4,), "positive": (4,)}
    assert cache.report.computed == 12
    check_rows(cache, photos)
    assert np.asarray(cache.features(layer="positive")).min() >= 0


def test_float16_is_stored_as_such(extracting, photos: Path, tmp_path: Path) -> None:
    """With dtype float16 rows are halves."""
    cache = extracting(photos, tmp_path / "c", dtype="float16")
    assert cache.load()[0].dtype == np.float16


def test_non_finite_features_are_an_error(photos: Path, tmp_path: Path) -> None:
    """A base that gives NaN is named; nothing of it is stored."""
    import keras

    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(float("nan"), name="broken")])
    with pytest.raises(BaseError, match="'broken'"):
        extraction.extract(photos, base=model, preprocess="none", cache=tmp_path / "c")
    assert len(FeatureCache(tmp_path / "c")) == 0


def test_arrays_are_a_source(extracting, tmp_path: Path) -> None:
    """Pixels in memory go the same way as files."""
    images = np.stack([random_image(i) for i in range(6)])
    cache = extracting(ArraySource("made", images, list("ababab")), tmp_path / "c")
    assert np.allclose(cache.features(), [predicted_mean(image) for image in images], rtol=1e-5)
    again = extracting(ArraySource("made", images, list("ababab")), tmp_path / "c")
    assert again.report.computed == 0


def test_shards_are_a_random_sample(extracting, tmp_path: Path) -> None:
    """The first shard holds images of both classes although the source lists one after the other."""
    images = np.stack([random_image(i) for i in range(40)])
    cache = extracting(ArraySource("made", images, ["a"] * 20 + ["b"] * 20), tmp_path / "c", shard_rows=10)
    first = cache._chosen(None, views=False).shards == 1
    assert 0 < cache.label_indices()[first].mean() < 1


def test_a_skipped_image_is_logged(extracting, photos: Path, tmp_path: Path, caplog) -> None:
    """Whoever follows the log sees what was skipped, and why."""
    (photos / "dark" / "text.jpg").write_text("hello")
    with caplog.at_level(logging.WARNING, "featcache"):
        extracting(photos, tmp_path / "c")
    assert "dark/text.jpg" in caplog.text


@pytest.mark.parametrize("options", [{"on_error": "shrug"}, {"batch_size": 0}, {"shard_rows": 0}])
def test_impossible_options(extracting, photos: Path, tmp_path: Path, options: dict[str, object]) -> None:
    """Options have possible values."""
    with pytest.raises(OptionError):
        extracting(photos, tmp_path / "c", **options)


def test_base_changed_behind_its_time_stamp(extracting, photos: Path, oracle: Path, tmp_path: Path) -> None:
    """Rows of two bases never meet in one cache, even if the file's size and time stamp are equal."""
    import keras

    file = tmp_path / "base.h5"
    keras.models.load_model(oracle).save(file)
    extracting(photos, tmp_path / "c", base=file)
    stamp = file.stat().st_mtime_ns
    with h5py.File(file, "r+") as content:
        kernels = []
        content.visititems(lambda name, node: kernels.append(node) if name.endswith("kernel") else None)
        kernels[0][...] = kernels[0][...] + 1
    os.utime(file, ns=(stamp, stamp))
    write_image(photos / "dark" / "new.png", random_image(55))
    with pytest.raises(CacheError, match=r"weights: other values"):
        extracting(photos, tmp_path / "c", base=file)


def test_damaged_neighbours_do_not_matter(extracting, photos: Path, tmp_path: Path) -> None:
    """Other folders under the root of caches, whatever is in them, stop nobody."""
    (tmp_path / "root" / "zzz").mkdir(parents=True)
    (tmp_path / "root" / "zzz" / "recipe.json").write_text("{")
    first = extracting(photos, None, cache_root=tmp_path / "root")
    broken = tmp_path / "root" / first.path.name.replace("photos", "aaa")
    broken.mkdir()
    (broken / "manifest.sqlite").write_text("x")
    shutil.copytree(photos, tmp_path / "other")
    assert extracting(tmp_path / "other", None, cache_root=tmp_path / "root").report.computed == 12


def test_moved_source_is_recognised_again_and_again(extracting, photos: Path, tmp_path: Path) -> None:
    """After a move every later run finds the cache, not only the first."""
    first = extracting(photos, None, cache_root=tmp_path / "root")
    moved = photos.rename(tmp_path / "moved")
    for _ in range(3):
        cache = extracting(moved, None, cache_root=tmp_path / "root")
        assert (cache.path, cache.report.computed) == (first.path, 0)


def test_arrays_are_told_apart_by_their_pixels(extracting, tmp_path: Path) -> None:
    """Other pixels of the same shape under the same name are other images."""
    for shift in (0, 100):
        images = np.stack([random_image(i + shift) for i in range(4)])
        cache = extracting(ArraySource("made", images, list("abab")), tmp_path / "c", replace_source=True)
        assert np.allclose(cache.features(), [predicted_mean(image) for image in images], rtol=1e-5)


def test_read_failure_is_tried_again(extracting, photos: Path, tmp_path: Path, monkeypatch) -> None:
    """An image that could not be read is read again in the next run; one that could not be decoded is not."""
    real = Path.read_bytes

    def failing(self: Path) -> bytes:
        if self.name == "d1.png":
            raise OSError(5, "Input/output error")
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", failing)
    cache = extracting(photos, tmp_path / "c")
    assert cache.skipped == [{"path": "dark/d1.png", "reason": "cannot be read: Input/output error"}]
    assert extracting(photos, tmp_path / "c").skipped == cache.skipped
    monkeypatch.undo()
    mended = extracting(photos, tmp_path / "c")
    assert (mended.skipped, mended.report.computed) == ([], 1)


# Views


def rows_by_key(cache: FeatureCache) -> dict[tuple[str, int], bytes]:
    """Return the bytes of every training row by path and view."""
    rows = np.asarray(cache.features("train", views=True))
    paths = cache.paths("train", views=True)
    seen: dict[str, int] = {}
    found = {}
    for path, row in zip(paths, rows, strict=True):
        found[path, seen.setdefault(path, 0)] = row.tobytes()
        seen[path] += 1
    return found


VIEWS = {"augment": "flip,rotation=0.1,brightness=0.2", "validation_split": 0.3}


def test_views_are_for_training_images_only(extracting, photos: Path, tmp_path: Path) -> None:
    """Training images have K more rows each; evaluation sees plain images alone."""
    cache = extracting(photos, tmp_path / "c", views=3, **VIEWS)
    train, validation = cache.splits["train"], cache.splits["validation"]
    assert cache.report.computed == cache.report.rows == 4 * train + validation
    assert cache.features("train").shape == (train, 4)
    assert cache.features("train", views=True).shape == (4 * train, 4)
    assert cache.features("validation", views=True).shape == (validation, 4)
    assert np.array_equal(np.asarray(cache.features("train", views=True))[::4], np.asarray(cache.features("train")))
    assert len(cache.label_indices("train", views=True)) == len(cache.groups("train", views=True)) == 4 * train
    assert len(set(cache.groups("train", views=True).tolist())) == train
    assert cache.missing == 0


def test_more_views_than_their_numbers_have_bytes_for_are_refused(tmp_path: Path) -> None:
    """A view's number has two bytes: 65,535 views can be asked for, and no more."""
    assert extraction.Extraction(tmp_path, base="vgg19", views=65_535, **VIEWS).views == 65_535
    with pytest.raises(OptionError, match=r"`views` can be 65,535 at most. Received: 65,536"):
        extraction.Extraction(tmp_path, base="vgg19", views=65_536, **VIEWS)


def test_raising_k_computes_the_new_views_only(extracting, photos: Path, tmp_path: Path) -> None:
    """Going from one view to three computes two per training image, and the first stays as it was."""
    one = extracting(photos, tmp_path / "c", views=1, **VIEWS)
    before = rows_by_key(one)
    three = extracting(photos, tmp_path / "c", views=3, **VIEWS)
    assert three.report.computed == 2 * three.splits["train"]
    after = rows_by_key(three)
    assert {key: after[key] for key in before} == before
    assert extracting(photos, tmp_path / "c", views=2, **VIEWS).report.computed == 0


def test_views_do_not_depend_on_order_or_batch(extracting, photos: Path, tmp_path: Path) -> None:
    """The same views come out of other batches, in another order, a few images at a time."""
    whole = extracting(photos, tmp_path / "a", views=2, **VIEWS)
    extracting(photos, tmp_path / "b", views=2, classes=["light"], **VIEWS)
    parts = extracting(photos, tmp_path / "b", views=2, **VIEWS)
    assert rows_by_key(parts) == rows_by_key(whole)


def test_other_policies_are_other_rows(extracting, photos: Path, tmp_path: Path) -> None:
    """Another policy or seed computes its views anew, the plain images not; going back computes nothing."""
    first = rows_by_key(extracting(photos, tmp_path / "c", views=2, **VIEWS))
    train = extracting(photos, tmp_path / "c", views=2, **VIEWS).splits["train"]
    other = extracting(photos, tmp_path / "c", views=2, validation_split=0.3, augment="flip,rotation=0.2")
    assert other.report.computed == 2 * train
    back = extracting(photos, tmp_path / "c", views=2, **VIEWS)
    assert back.report.computed == 0
    assert rows_by_key(back) == first


def test_views_and_augment_go_together(extracting, photos: Path, tmp_path: Path) -> None:
    """One without the other is a mistake."""
    for options in ({"views": 2}, {"augment": "flip"}, {"views": -1, "augment": "flip"}):
        with pytest.raises(OptionError):
            extracting(photos, tmp_path / "c", **options)


def test_nothing_to_do_reads_the_manifest_once(extracting, photos: Path, tmp_path: Path, monkeypatch) -> None:
    """What was read under the lock is what the returned cache shows, also after a class was renamed."""
    extracting(photos, tmp_path / "c")
    (photos / "dark").rename(photos / "gloomy")
    reads = []
    for name in ("rows", "listing"):
        real = getattr(Manifest, name)
        monkeypatch.setattr(Manifest, name, lambda self, name=name, real=real: reads.append(name) or real(self))
    cache = extracting(photos, tmp_path / "c")
    assert (len(cache), cache.report.computed, cache.class_names) == (12, 0, ["gloomy", "light"])
    assert sorted(reads) == ["listing", "rows"]
    monkeypatch.undo()
    again = FeatureCache(tmp_path / "c")
    assert (again.entries, again.places, again.splits) == (cache.entries, cache.places, cache.splits)


def test_space_is_checked_before_anything_is_computed(extracting, photos: Path, tmp_path: Path, monkeypatch) -> None:
    """Features that cannot fit on the disk are refused with both sizes before the first batch."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=12 * 8 * 8 * 4 * 4 - 1))
    with pytest.raises(CacheError, match=r"too little space.* 12 images need 0\.00 GB, and 0\.00 GB are free"):
        extracting(photos, tmp_path / "c", pooling="none")
    assert not list((tmp_path / "c" / "shards").iterdir())
    assert extracting(photos, tmp_path / "c", pooling="none", classes=["dark"]).report.computed == 6


def test_layer_and_layer_inside_it(tmp_path: Path, photos: Path) -> None:
    """A nested model and a layer inside it can be cut at together."""
    import keras

    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 1, name="a"), keras.layers.Conv2D(4, 1, name="b")], name="inner"
    )
    pixels = keras.Input((8, 8, 3))
    model = keras.Model(pixels, keras.layers.ReLU(name="out")(inner(pixels)))
    cache = extraction.extract(photos, base=model, layers=["inner", "inner/a"], preprocess="none", cache=tmp_path / "c")
    assert cache.layers == {"inner/a": (2,), "inner": (4,)}
    assert np.asarray(cache.features(layer="inner/a")).shape == (12, 2)


def test_sources_of_one_name_have_caches_of_their_own(extracting, photos: Path, tmp_path: Path) -> None:
    """Two folders called photos that both exist never share a default cache, whatever images they share."""
    (tmp_path / "other").mkdir()
    copy = Path(shutil.copytree(photos, tmp_path / "other" / "photos"))
    first = extracting(photos, None, cache_root=tmp_path / "root")
    second = extracting(copy, None, cache_root=tmp_path / "root")
    assert second.path != first.path
    assert second.report.computed == 12
    assert extracting(copy, None, cache_root=tmp_path / "root").path == second.path
    assert extracting(photos, None, cache_root=tmp_path / "root").path == first.path
    assert FeatureCache(first.path).source["location"] == str(photos)


def test_contradicting_labels_are_a_warning(extracting, photos: Path, tmp_path: Path) -> None:
    """One image in two classes is named."""
    shutil.copy(photos / "dark" / "d0.png", photos / "light" / "copy.png")
    warnings = extracting(photos, tmp_path / "c").report.warnings
    assert "one image has two labels: dark/d0.png (dark), light/copy.png (light)" in warnings


def test_plan_refuses_another_recipe(extracting, oracle: Path, photos: Path, tmp_path: Path) -> None:
    """A dry run names the fields that differ, as the run would."""
    extracting(photos, tmp_path / "c")
    planned = extraction.Extraction(
        photos, base=oracle, layers=["mix"], preprocess="none", pooling="max", cache=tmp_path / "c"
    )
    with pytest.raises(CacheError, match="pooling: avg → max"):
        planned.plan()


def test_read_only_folder(extracting, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be written, a cache can still be read, and extracting says so in one line."""
    extracting(photos, tmp_path / "c")
    real = os.open

    def refuse(path: object, flags: int, *rest: object, **more: object) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, *rest, **more)

    def denied(self: Path, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "write_text", denied)
    assert len(FeatureCache(tmp_path / "c").load()[0]) == 12
    with pytest.raises(CacheError, match="Read-only file system"):
        extracting(photos, tmp_path / "c")
