import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import predicted_mean, random_image, write_image
from PIL import Image
from typer.testing import CliRunner

from featcache.cache import FeatureCache, verification
from featcache.cache.manifest import Manifest
from featcache.cache.shard import Shard, ShardBuilder, inspect
from featcache.cli import app
from featcache.errors import CacheError, OptionError
from featcache.extraction.recomputation import verify

VIEWS = {"views": 2, "augment": "flip,rotation=0.1", "validation_split": 0.2}


def damage(cache: FeatureCache, path: str, by: float, view: int = 0) -> None:
    """Put other features into an image's row, behind right checksums."""
    entry = next(one for one in cache.entries if one.path == path)
    for number, info in cache.shards.items():
        file = cache.path / "shards" / info.name
        contents, shard = inspect(file), Shard(file)
        builder = ShardBuilder(cache.recipe, cache.layers, augmentation=contents.augmentation)
        for i, key in enumerate(contents.keys):
            row = {layer: np.array(shard.features(layer)[i]) for layer in cache.layers}
            if (key.digest, key.view) == (entry.digest, view):
                row = {layer: values + np.asarray(by, values.dtype) for layer, values in row.items()}
            builder.append(key.digest, contents.paths[i], row, key.view)
        manifest = Manifest(cache.path / "manifest.sqlite").claim("a test")
        manifest.replace_shards([number], [builder.publish(cache.path / "shards")])
        manifest.close()


def rows_are_right(cache: FeatureCache, root: Path) -> bool:
    expected = [predicted_mean(np.array(Image.open(root / path))) for path in cache.paths()]
    return np.allclose(np.asarray(cache.features(layer="mix")), expected, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_sound_cache_gives_its_rows_again(extracting, photos: Path, tmp_path: Path, dtype: str) -> None:
    """All images, their views too, are what was stored; N of them are drawn by the seed."""
    cache = extracting(photos, tmp_path / "c", dtype=dtype, **VIEWS)
    found = verify(cache.path, recompute=100).recomputed
    assert (found.images, found.rows, found.differing, found.changed, found.note) == (12, cache.rows, [], [], "")
    assert found.largest_difference <= 1e-3
    assert verify(cache.path, recompute=3).recomputed.images == 3
    assert verify(cache.path).recomputed is None


@pytest.mark.parametrize(
    ("dtype", "by", "seen"),
    [("float32", 0.2, True), ("float32", 0.001, False), ("float16", 1.0, False), ("float16", 20.0, True)],
)
def test_other_features_are_found_and_mended(
    extracting, photos: Path, tmp_path: Path, dtype: str, by: float, seen: bool
) -> None:
    """A row behind right checksums differs by 1e-4 of the largest feature, 2e-2 below float32; --fix drops it."""
    cache = extracting(photos, tmp_path / "c", dtype=dtype)
    damage(cache, "dark/d2.png", by)
    assert verification.verify(cache.path).problems == []
    assert verify(cache.path, recompute=12).recomputed.differing == (["dark/d2.png"] if seen else [])
    if seen:
        assert verify(cache.path, fix=True, recompute=12).recomputed.fixed
        again = extracting(photos, tmp_path / "c", dtype=dtype)
        assert again.report.computed == 1
        assert verify(cache.path, recompute=12).recomputed.differing == []


def test_a_view_that_differs_is_found(extracting, photos: Path, tmp_path: Path) -> None:
    """Augmented views are compared, too; where nobody knows how they were made, it is said."""
    cache = extracting(photos, tmp_path / "c", **VIEWS)
    path = cache.paths("train")[0]
    damage(cache, path, 1.0, view=2)
    assert verify(cache.path, recompute=12).recomputed.differing == [path]
    manifest = Manifest(cache.path / "manifest.sqlite").claim("a test")
    manifest.set_meta({"views": {**manifest.meta()["views"], "policy": None}})
    manifest.close()
    found = verify(cache.path, recompute=12).recomputed
    assert (found.rows, found.differing) == (12, [])
    assert "only images as they are were compared" in found.note


def test_a_row_that_is_another_images_is_found(extracting, photos: Path, tmp_path: Path, nothing_racy) -> None:
    """Digests settled at each other's places, as two writers did: found, and mended by --fix and extract."""
    cache = extracting(photos, tmp_path / "c")
    manifest = Manifest(cache.path / "manifest.sqlite").claim("a test")
    one, other = cache.entries[0], cache.entries[7]
    swapped = [(0, one._replace(digest=other.digest)), (7, other._replace(digest=one.digest))]
    manifest.commit(None, [], swapped)
    manifest.close()
    assert not rows_are_right(FeatureCache(cache.path), photos)
    assert verify(cache.path, recompute=12).recomputed.differing == sorted([one.path, other.path])
    verify(cache.path, fix=True, recompute=12)
    assert rows_are_right(extracting(photos, tmp_path / "c"), photos)


def test_images_that_changed_are_no_damage(extracting, photos: Path, tmp_path: Path, nothing_racy) -> None:
    """Files that were written to or removed since are named as such, and the cache is sound."""
    extracting(photos, tmp_path / "c")
    write_image(photos / "dark" / "d0.png", random_image(999))
    (photos / "light" / "l1.png").unlink()
    found = verify(tmp_path / "c", recompute=12).recomputed
    assert (found.changed, found.differing, found.rows) == (["dark/d0.png", "light/l1.png"], [], 10)


def test_a_source_or_base_that_is_gone_is_one_line(extracting, oracle: Path, photos: Path, tmp_path: Path) -> None:
    """Without them nothing can be computed again, which is said."""
    base = Path(shutil.copy(oracle, tmp_path / "m.keras"))
    cache = extracting(photos, tmp_path / "c", base=base)
    base.unlink()
    assert verify(cache.path, recompute=2).recomputed.images == 2  # the cache keeps its base
    shutil.rmtree(cache.path / "base")
    with pytest.raises(CacheError, match=r"sound, but no features .* the base cannot be loaded") as caught:
        verify(cache.path, recompute=2)
    assert "\n" not in str(caught.value)
    shutil.rmtree(photos)
    with pytest.raises(CacheError, match=r"sound, but no features .* the source cannot be opened"):
        verify(cache.path, recompute=2)
    with pytest.raises(OptionError, match="recompute"):
        verify(cache.path, recompute=-1)


def test_the_command_names_what_differs(extracting, photos: Path, tmp_path: Path) -> None:
    """The line, the JSON and the exit code say it; --fix mends it."""
    cache = extracting(photos, tmp_path / "c")
    damage(cache, "light/l4.png", 1.0)
    words = ["verify", str(cache.path), "--recompute", "12"]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, "differs: light/l4.png" in result.output) == (1, True)
    result = CliRunner().invoke(app, [*words, "--json"])
    told = json.loads(result.stdout)
    assert (result.exit_code, told["sound"], told["recomputed"]["differing"]) == (1, False, ["light/l4.png"])
    result = CliRunner().invoke(app, [*words, "--fix"])
    assert (result.exit_code, "dropped: light/l4.png" in result.output) == (0, True)


def test_without_the_option_no_tensorflow(extracting, photos: Path, tmp_path: Path) -> None:
    """A plain verify stays quick."""
    extracting(photos, tmp_path / "c")
    code = (
        "import sys; from featcache.extraction.recomputation import verify; from pathlib import Path\n"
        "verify(Path(sys.argv[1])); sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "c")], check=False, env=dict(os.environ))
    assert done.returncode == 0
