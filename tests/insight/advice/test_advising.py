import json
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image, write_image

from featcache.cache import FeatureCache
from featcache.errors import HeadError, OptionError
from featcache.insight.advice import Advice, advise
from featcache.insight.advice import decisions as decisions_module
from featcache.insight.advice.evidence import Depth, depth
from featcache.insight.commands import extract_command, fine_tune_command
from featcache.recipe import Request


def cached(path: Path, layers: dict[str, np.ndarray], y: np.ndarray, held: int) -> FeatureCache:
    """Return a cache whose last `held` images are validation."""
    splits = ["train"] * (len(y) - held) + ["validation"] * held
    return FeatureCache.from_arrays(
        layers,
        y,
        None,
        {"made": path.name},
        path=path,
        splits=splits,
        class_names=[f"c{i}" for i in range(int(y.max()) + 1)],
    )


def clusters(
    n: int, apart: float, *, seed: int = 0, width: int = 20, classes: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Return features of classes whose means are so far apart, and labels."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    means = np.zeros((classes, width))
    means[np.arange(classes), np.arange(classes)] = apart
    return (means[y] + rng.normal(size=(n, width))).astype(np.float32), y


def way(found: Advice, name: str) -> decisions_module.Way:
    """Return what is said of a way to go on."""
    return next(one for one in found.ways if one.name == name)


def test_too_little_is_not_enough_to_tell(tmp_path: Path) -> None:
    """With a handful of held-out images, or of training images, nothing is told but that."""
    X, y = clusters(50, 3)
    found = advise(cached(tmp_path / "a", {"f": X}, y, 10))
    assert not found.enough
    assert found.similarity == "unknown"
    assert found.recommendation.startswith("not enough data to tell")
    assert "10 held-out images" in found.reasons[0]
    assert found.command is not None
    assert "--cv 5" in found.command
    assert all(one.expected == "unknown" for one in found.ways if one.name in ("data", "fine-tuning"))
    X, y = clusters(206, 3)
    few = advise(cached(tmp_path / "b", {"f": X}, y, 200))
    assert few.curve == few.extrapolation == ()
    assert "3 different training images" in few.reasons[0]


def test_a_late_layer_that_has_lost_it_means_another_domain(tmp_path: Path) -> None:
    """Where an earlier layer is better than the deepest beyond chance, heads on it are advised."""
    good, y = clusters(600, 3)
    bad, _ = clusters(600, 0.5, seed=1)
    found = advise(cached(tmp_path / "a", {"early": good, "late": bad}, y, 300))
    assert (found.amount, found.similarity) == ("small", "different")
    assert "early" in found.recommendation
    assert found.command is not None
    assert shlex.split(found.command)[-2:] == ["--layer", "early"]
    assert [one["layer"] for one in found.layers] == ["early", "late"]
    assert found.layers[0]["accuracy"] > found.layers[1]["accuracy"]
    other = advise(cached(tmp_path / "b", {"early": bad, "late": good}, y, 300))
    assert other.similarity == "similar"
    assert way(other, "layer").expected == "no"


def test_more_data_is_advised_where_the_curve_climbs(tmp_path: Path) -> None:
    """Wide features of weak classes still learn at the end; easy ones do not."""
    X, y = clusters(700, 2.2, width=200)
    climbing = advise(cached(tmp_path / "a", {"f": X}, y, 500))
    assert way(climbing, "data").expected == "helps"
    assert climbing.extrapolation[0]["gain"] > 0.01
    X, y = clusters(1000, 4)
    flat = advise(cached(tmp_path / "b", {"f": X}, y, 500))
    assert way(flat, "data").expected == "no"
    assert way(flat, "fine-tuning").expected == "no"
    assert flat.recommendation != climbing.recommendation


def test_every_key_is_json_and_documented(tmp_path: Path) -> None:
    """The advice is JSON with the attributes' names, each in the class's docstring; test is never scored."""
    X, y = clusters(400, 2)
    splits = ["train"] * 200 + ["validation"] * 100 + ["test"] * 100
    both = []
    for name in ("a", "b"):
        cache = FeatureCache.from_arrays(
            {"f": X}, y, None, {name: 1}, path=tmp_path / name, splits=splits, class_names=["a", "b"]
        )
        both.append(advise(cache))
        X = np.concatenate([X[:300], 1e6 * X[300:]])
    found = both[0]
    assert found.layers == both[1].layers
    assert found.curve == both[1].curve
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert list(values) == [one.name for one in fields(Advice)]
    documented = Advice.__doc__ or ""
    assert all(name in documented for name in values)
    assert values["held_out"]["images"] == 100
    assert values["curve"][-1]["images"] == 200
    assert values["images_per_class"] == {"a": 100, "b": 100}


def test_without_validation_groups_of_train_are_held_out(tmp_path: Path) -> None:
    """A fifth of the groups stands in for validation, and a note says so."""
    X, y = clusters(400, 3)
    cache = FeatureCache.from_arrays(
        {"f": X}, y, None, {"a": 1}, path=tmp_path / "c", splits=["train"] * 400, class_names=["a", "b"]
    )
    found = advise(cache)
    assert found.held_out == {"images": 80, "from": "train", "chance": 0.5}
    assert any("no validation split" in note for note in found.notes)
    assert found.curve[-1]["images"] == 320


def test_copies_of_training_images_do_not_count(tmp_path: Path) -> None:
    """Images of validation that train has too are no evidence."""
    X, y = clusters(400, 3)
    X[300:320], y[300:320] = X[:20], y[:20]
    digests = [(i if not 300 <= i < 320 else i - 300).to_bytes(32, "big") for i in range(400)]
    cache = FeatureCache.from_arrays(
        {"f": X},
        y,
        None,
        {"a": 1},
        path=tmp_path / "c",
        digests=digests,
        splits=["train"] * 300 + ["validation"] * 100,
        class_names=["a", "b"],
    )
    assert advise(cache).held_out["images"] == 80


def test_what_cannot_be_advised(tmp_path: Path) -> None:
    """One class, or images have no class, are refused."""
    X, _ = clusters(60, 3)
    with pytest.raises(OptionError, match="two classes"):
        advise(cached(tmp_path / "a", {"f": X}, np.zeros(60, int), 20))
    with pytest.raises(HeadError, match="have no class"):
        advise(FeatureCache.from_arrays({"f": X}, None, None, {"a": 1}, path=tmp_path / "b"))


@pytest.fixture
def views(extracting: Callable[..., FeatureCache], split_photos: Path, tmp_path: Path) -> FeatureCache:
    """Return a cache with augmented views, and a source whose path must be quoted."""
    place = split_photos.rename(tmp_path / "my photos")
    return extracting(place, tmp_path / "c d", views=2, augment="flip")  # type: ignore[return-value]


def test_views_are_evidence(views: FeatureCache) -> None:
    """Where there are augmented views, heads with and without them are compared."""
    assert "2 views bring" in way(advise(views), "augmentation").reason


def test_the_command_makes_the_same_cache(views: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extraction that is suggested, run as it stands, is this cache's own, with more views or other layers."""
    from typer.testing import CliRunner

    from featcache.cli import app

    def run(command: str | None) -> dict[str, object]:
        words = shlex.split(command or "")
        assert words[0] == "featcache"
        result = CliRunner().invoke(app, [*words[1:], "--json"])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)  # type: ignore[no-any-return]

    assert run(extract_command(views))["computed"] == 0
    assert run(extract_command(views, views=3, augment="flip"))["reused"] == 130
    other = run(extract_command(views, layers=["positive"]))
    assert other["layers"] == {"positive": [4]}
    assert other["cache"] == f"{views.path}-layers"


def test_depth_of_a_base(tmp_path: Path, extracting: Callable[..., FeatureCache]) -> None:
    """Layers are proposed where a resolution ends; those whose weights a file lacks are marked."""
    import keras

    from featcache.extraction.extracting import extract

    for i in range(8):
        write_image(tmp_path / "x" / "ab"[i % 2] / f"{i}.png", random_image(i, 32))
    whole = keras.applications.VGG19(include_top=False, weights=None, input_shape=(32, 32, 3))
    whole.save_weights(tmp_path / "all.weights.h5")
    cache = extract(
        tmp_path / "x", base="vgg19", weights=None, layers=["block2_pool"], image_size=32, cache=tmp_path / "c"
    )
    found = depth(cache)
    assert found.before("block2_pool") == ["block1_conv2", "block2_conv2"]
    assert found.after("block2_pool") == ["block3_conv4", "block4_conv4", "block5_conv4", "block5_pool"]
    assert found.lacking == frozenset()
    assert found.before("nowhere") == found.after("nowhere") == []
    assert fine_tune_command(cache, "block2_pool", None) == (
        f"featcache fit-head {cache.path} --layer block2_pool --out {cache.path}/heads/advised-block2_pool"
        f" && featcache fine-tune {cache.path}/heads/advised-block2_pool --all"
    )
    assert Request.from_dict(cache.description["request"]).base == "vgg19"


def test_depth_knows_what_a_weights_file_lacks(data: Path, vgg19_weights: Path, tmp_path: Path) -> None:
    """Of a file with three blocks, the layers behind them need other weights."""
    from featcache.extraction.extracting import extract

    for i in range(4):
        write_image(tmp_path / "x" / "ab"[i % 2] / f"{i}.png", random_image(i, 32))
    cache = extract(
        tmp_path / "x", base="vgg19", weights=vgg19_weights, layers=["block1_pool"], image_size=32, cache=tmp_path / "c"
    )
    assert depth(cache).lacking == {"block4_conv4", "block5_conv4", "block5_pool"}
    assert "--weights" not in str(extract_command(cache, layers=["block4_conv4"], weights="imagenet"))  # the default


def test_features_from_elsewhere_have_no_depth(made: Callable[..., FeatureCache]) -> None:
    """Nothing is proposed for a base that is not known."""
    cache = made()
    assert depth(cache) == Depth()
    assert extract_command(cache) is None
    assert fine_tune_command(cache, "features", None) is None
