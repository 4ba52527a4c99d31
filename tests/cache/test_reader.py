import json
import mmap
from pathlib import Path

import numpy as np
import pytest
from conftest import predicted_mean, random_image
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import DisjointSet

from featcache.cache import FeatureCache
from featcache.cache.listing import Entry
from featcache.cache.rows import RowTable
from featcache.cache.verification import verify
from featcache.errors import CacheDamagedError, CacheError, OptionError
from featcache.sources.arrays import ArraySource


def listed(cache: FeatureCache, entries: list[Entry]) -> FeatureCache:
    """Return a cache with another listing and a row for each digest in it, without features."""
    digests = np.frombuffer(b"".join(entry.digest for entry in entries), np.uint8).reshape(-1, 32)
    n = len(digests)
    other = FeatureCache(cache.path)
    zeros = np.zeros(n, np.int64)
    other.adopt(entries, RowTable(digests, np.zeros(n, np.uint16), zeros, [""], zeros, np.arange(n)), {})
    return other


@pytest.mark.parametrize(
    ("limit", "groups"), [*((i, 30) for i in range(126, 130)), *((i, 2) for i in range(32_766, 32_770))]
)
def test_groups_beyond_what_an_integer_holds(cache: FeatureCache, limit: int, groups: int) -> None:
    """Where images and groups together reach the limits of one and two bytes, groups are what SciPy's sets say."""
    n = limit - groups
    rng = np.random.default_rng(limit)
    number, content = rng.integers(-1, groups, n), rng.integers(0, 3 * n, n)
    number[-groups:] = np.arange(groups)
    entries = [
        Entry(str(i), "a", "train", None if g < 0 else f"g{g}", 1, 1, int(c).to_bytes(32, "big"), None)
        for i, (g, c) in enumerate(zip(number.tolist(), content.tolist(), strict=True))
    ]
    sets = DisjointSet(range(n))
    first: dict[object, int] = {}
    for i, entry in enumerate(entries):
        for same in (entry.group, entry.digest):
            if same is not None:
                sets.merge(i, first.setdefault(same, i))
    found = listed(cache, entries).groups()
    roots = [sets[i] for i in range(n)]
    assert len(set(found.tolist())) == len(set(roots)) == len(set(zip(found.tolist(), roots, strict=True)))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.stack([random_image(i) for i in range(23)])


@pytest.fixture(scope="module")
def cache(extracting, images, tmp_path_factory) -> FeatureCache:
    """Return a cache of 23 images in five shards."""
    source = ArraySource("made", images, ["odd" if i % 2 else "even" for i in range(23)])
    return extracting(source, tmp_path_factory.mktemp("c") / "cache", layers=["mix", "positive"], shard_rows=5)


def test_rows_are_in_source_order(cache: FeatureCache, images: np.ndarray) -> None:
    """Row i belongs to image i, although shards hold them shuffled."""
    assert len(cache.shards) == 5
    assert np.allclose(cache.features(layer="mix"), [predicted_mean(image) for image in images], rtol=1e-5)
    assert [cache.class_names[label] for label in cache.label_indices()] == [
        "odd" if i % 2 else "even" for i in range(23)
    ]
    assert cache.paths() == [f"{i:06d}" for i in range(23)]


def test_splits_add_up(cache: FeatureCache) -> None:
    """Every row is in one split; X, y and paths of a split have the same length."""
    assert sum(cache.splits.values()) == len(cache) == 23
    for split, count in cache.splits.items():
        X, y = cache.load(split, "mix")
        assert len(X) == len(y) == len(cache.paths(split)) == len(cache.digests(split)) == count


def test_default_layer_is_the_deepest(cache: FeatureCache) -> None:
    """Without a layer the last one of the network is meant."""
    assert list(cache.layers) == ["mix", "positive"]
    assert np.array_equal(np.asarray(cache.features()), np.asarray(cache.features(layer="positive")))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-23, 22)), st.slices(23))
def test_indexing_is_numpys(cache: FeatureCache, rows: list[int], part: slice) -> None:
    """Lists of rows and slices give what they give on the array."""
    features = cache.features(layer="mix")
    everything = np.asarray(features)
    assert np.array_equal(features[np.array(rows, int)], everything[np.array(rows, int)])
    assert np.array_equal(features[part], everything[part])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-23, 22)), st.slices(23))
def test_rows_can_be_expected(cache: FeatureCache, rows: list[int], part: slice) -> None:
    """Whatever is expected, what is read then is the same."""
    features = cache.features(layer="mix")
    features.expect(np.array(rows, int))
    features.expect(part)
    assert np.array_equal(features[part], np.asarray(features)[part])


def test_the_pages_of_expected_rows_are_asked_for(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """All bytes of rows that lie together, no more than two pages beside, and none of rows far apart."""
    asked, stored = [], cache._stored_features

    class Map(bytes):
        def madvise(self, advice: int, begin: int, count: int) -> None:
            asked.append((begin, begin + count))

    class Rows:
        base, offset, strides = Map(100 + 10_000 * 1000), 3 * mmap.ALLOCATIONGRANULARITY + 100, (1000,)

    monkeypatch.setattr(stored, "_mapped", lambda *_: Rows)
    stored.expect(next(iter(cache.shards)), "mix", np.arange(500, 600))
    stored.expect(next(iter(cache.shards)), "mix", np.arange(9_990, 10_000))
    stored.expect(next(iter(cache.shards)), "mix", np.array([0, 9_000]))
    (begin, end), last = asked
    assert begin % mmap.PAGESIZE == 0
    assert 100 + 500_000 - mmap.PAGESIZE < begin <= 100 + 500_000
    assert end == 100 + 600_000
    assert last[1] == len(Rows.base)


def test_single_rows_and_types(cache: FeatureCache) -> None:
    """One row comes without the first axis; `numpy.asarray` converts."""
    features = cache.features(layer="mix")
    assert features[3].shape == (4,)
    assert np.asarray(features, np.float64).dtype == np.float64
    assert (features.shape, features.dtype, len(features)) == ((23, 4), np.float32, 23)


def test_wrong_names_get_the_possible_ones(cache: FeatureCache) -> None:
    """A layer or split that is not there is answered with those that are."""
    with pytest.raises(OptionError, match="nearest: mix"):
        cache.features(layer="mixx")
    with pytest.raises(OptionError, match="train, validation"):
        cache.features("test")


def test_copies_and_groups_hang_together(extracting, images, tmp_path: Path) -> None:
    """Copies, members of a group, and what hangs together through both share a group number and a split."""
    source = ArraySource("made", np.concatenate([images[:5], images[:1]]), list("ababab"))
    source.items = [item._replace(group={1: "g", 2: "g", 5: "g"}.get(i)) for i, item in enumerate(source.items)]
    cache = extracting(source, tmp_path / "c", validation_split=0.5)
    groups = cache.groups().tolist()
    assert groups[0] == groups[5] == groups[1] == groups[2]
    assert len(set(groups)) == 3
    splits = [entry.split for entry in cache.entries]
    assert splits[1] == splits[2] == splits[5]


def test_every_damaged_byte_is_found_when_touched(extracting, images, tmp_path: Path) -> None:
    """A changed byte of a feature is an error on first touch, not a wrong number."""
    source = ArraySource("made", images, ["a"] * 23)
    cache = extracting(source, tmp_path / "c", shard_rows=50)
    (info,) = cache.shards.values()
    shard = tmp_path / "c" / "shards" / info.name
    content = bytearray(shard.read_bytes())
    place = content.find(np.asarray(cache.features(layer="mix"))[7].tobytes())
    assert place > 0
    content[place] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CacheDamagedError, match="block 0 of mix"):
        np.asarray(FeatureCache(tmp_path / "c").features())


def test_missing_shard_is_named(extracting, photos: Path, tmp_path: Path) -> None:
    """A deleted shard is an error that names it, never a row of zeros."""
    cache = extracting(photos, tmp_path / "c")
    (info,) = cache.shards.values()
    (tmp_path / "c" / "shards" / info.name).unlink()
    with pytest.raises(CacheDamagedError, match=info.name):
        np.asarray(FeatureCache(tmp_path / "c").features())


def test_what_is_no_cache(tmp_path: Path) -> None:
    """A folder without a cache, or none at all, is one clear error."""
    with pytest.raises(CacheError, match=r"has no manifest\.sqlite\. Run `featcache extract` first"):
        FeatureCache(tmp_path)
    with pytest.raises(CacheError, match=r"does not exist\. Run `featcache extract` first"):
        FeatureCache(tmp_path / "nowhere")


def test_a_request_that_is_not_the_recipes_is_damage(extracting, photos: Path, tmp_path: Path) -> None:
    """recipe.json must not say that other features were asked for than its recipe has: they would be reused."""
    path = extracting(photos, tmp_path / "c").path
    described = json.loads((path / "recipe.json").read_text())
    described["request"]["pooling"] = "max"
    (path / "recipe.json").write_text(json.dumps(described))
    with pytest.raises(CacheDamagedError, match=r"request\.pooling is 'max', and recipe\.pooling is 'avg'"):
        FeatureCache(path)
    verify(path, fix=True)
    assert FeatureCache(path).recipe.pooling == "avg"


@pytest.mark.parametrize("content", ["", "[]", "{}", "{nonsense"])
def test_damaged_recipe(extracting, photos: Path, tmp_path: Path, content: str) -> None:
    """A recipe.json that is not one is one clear error."""
    extracting(photos, tmp_path / "c")
    (tmp_path / "c" / "recipe.json").write_text(content)
    with pytest.raises(CacheDamagedError, match=r"recipe\.json|has no recipe"):
        FeatureCache(tmp_path / "c")


def test_a_cache_is_shown(extracting, photos: Path, tmp_path: Path) -> None:
    """Its line says images, classes and layers; a notebook gets an escaped table; a frame has a row for each image."""
    pytest.importorskip("pandas")
    cache = extracting(photos, tmp_path / "c<b>")
    images = ", ".join(f"{n} {split}" for split, n in cache.splits.items())
    assert images in repr(cache)
    assert "mix" in repr(cache)
    assert "\n" not in repr(cache)
    assert "c&lt;b&gt;" in cache._repr_html_()
    assert images in cache._repr_html_()
    frame = cache.to_frame("train")
    assert frame["path"].tolist() == cache.paths("train")
    assert frame["label"].tolist() == cache.labels("train").tolist()
    assert set(frame["split"]) == {"train"}
    assert frame["digest"].map(bytes.fromhex).tolist() == cache.digests("train")
    assert len(cache.to_frame()) == len(cache)
