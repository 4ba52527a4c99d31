import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache import recipe
from featcache.cache.description import check_recipe
from featcache.errors import BaseError, CacheError, OptionError, WeightsError
from featcache.recipe import Recipe, Request, canonical_json

RECIPE = Recipe("a" * 64, "b" * 64, ("block1", "block2"), "avg", (8, 16), "stretch", "bilinear", "none", "float32")


def test_recipe_survives_json() -> None:
    """A recipe read back from JSON is equal and has the same fingerprint."""
    again = Recipe.from_dict(json.loads(json.dumps(RECIPE.to_dict())))
    assert again == RECIPE
    assert again.fingerprint == RECIPE.fingerprint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architecture", "c" * 64),
        ("weights", "c" * 64),
        ("layers", ("block1",)),
        ("pooling", "max"),
        ("image_size", (16, 8)),
        ("resize", "pad"),
        ("interpolation", "nearest"),
        ("preprocess", "tf"),
        ("dtype", "float16"),
        ("decode", "other"),
        ("precision", "bfloat16"),
        ("runtime", "openvino"),
        ("format", 2),
        ("spec", {"model": "clip"}),
        ("crop", 0.875),
    ],
)
def test_every_field_changes_the_fingerprint(field: str, value: object) -> None:
    """No field of a recipe is left out of its fingerprint, and the difference is named."""
    other = dataclasses.replace(RECIPE, **{field: value})
    assert other.fingerprint != RECIPE.fingerprint
    named = "base" if field == "architecture" else field
    assert [line.split(":")[0] for line in RECIPE.differences(other)] == [named]


def test_differences_name_base_and_weights(tmp_path: Path) -> None:
    """Words say which base and weights, never digests; of equal names, that what they mean is another."""
    (tmp_path / "lite0.keras").write_bytes(b"")
    (tmp_path / "w.h5").write_bytes(b"")
    small, lite, other = (
        request.to_dict()
        for request in (
            Request("mobilenetv2", base_params={"alpha": 0.35}),
            Request(tmp_path / "lite0.keras"),
            Request("mobilenetv2", base_params={"alpha": 0.35}, weights=tmp_path / "w.h5"),
        )
    )
    network = dataclasses.replace(RECIPE, architecture="c" * 64, weights="d" * 64)
    assert RECIPE.differences(network, small, lite) == [
        "base: mobilenetv2 alpha=0.35 → lite0.keras",
        "weights: imagenet → its own",
    ]
    assert RECIPE.differences(network, small, small) == ["base: another network of the same name"]
    values = dataclasses.replace(RECIPE, weights="d" * 64)
    assert RECIPE.differences(values, small, other) == ["weights: imagenet → w.h5"]
    assert RECIPE.differences(values, small, small) == ["weights: other values under the same name"]
    assert RECIPE.differences(values) == ["weights: other values"]
    random = Request("mobilenetv2", weights=None, seed=3).to_dict()
    assert "weights: imagenet → random, seed 3" in RECIPE.differences(values, small, random)


def test_field_list_is_complete() -> None:
    """The test above names every field there is."""
    tested = {
        mark.args[1][i][0]
        for mark in test_every_field_changes_the_fingerprint.pytestmark
        for i in range(len(mark.args[1]))
    }
    assert tested == {f.name for f in dataclasses.fields(Recipe)}


def test_recipe_with_an_unknown_field_is_refused() -> None:
    """A recipe of another version is an error that names the odd field."""
    with pytest.raises(OptionError, match="shiny"):
        Recipe.from_dict({**RECIPE.to_dict(), "shiny": 1})


@given(st.dictionaries(st.text(), st.integers()))
def test_canonical_json_ignores_order(values: dict[str, int]) -> None:
    """The same values in another order give the same text."""
    assert canonical_json(values) == canonical_json(dict(reversed(values.items())))


@pytest.mark.parametrize("field", ["pooling", "resize", "interpolation", "preprocess", "dtype", "precision", "runtime"])
def test_request_refuses_unknown_choices(field: str) -> None:
    """A wrong choice is an error with the possible ones and what was received."""
    with pytest.raises(OptionError, match=f"`{field}` must be one of .* Received: {field}='sideways'"):
        Request("vgg19", **{field: "sideways"})


@pytest.mark.parametrize("size", [(0, 8), (8,), (8, 10**6), (8.0, 8)])
def test_request_refuses_impossible_sizes(size: tuple[int, ...]) -> None:
    """An image size is two whole numbers of pixels."""
    with pytest.raises(OptionError, match="image_size"):
        Request("vgg19", image_size=size)


def test_equal_names_are_equal_requests() -> None:
    """Case, - and _ in an application's name do not matter."""
    assert Request("MobileNet_V2").to_dict() == Request("mobilenetv2").to_dict()


def test_request_follows_the_file(tmp_path: Path) -> None:
    """A weights file that changed size or time stamp is another request; one that is gone is an error."""
    file = tmp_path / "w.h5"
    file.write_bytes(b"1")
    first = Request("vgg19", weights=file).to_dict()
    assert Request("vgg19", weights=file).to_dict() == first
    file.write_bytes(b"22")
    assert Request("vgg19", weights=file).to_dict() != first
    file.unlink()
    with pytest.raises(WeightsError, match="does not exist"):
        Request("vgg19", weights=file).to_dict()


def test_missing_model_file_is_an_error() -> None:
    """A base that looks like a file must be there."""
    with pytest.raises(BaseError, match=r"nowhere\.keras"):
        Request("nowhere.keras").to_dict()


def test_request_survives_json(tmp_path: Path) -> None:
    """A request read back asks for the same."""
    file = tmp_path / "w.h5"
    file.write_bytes(b"1")
    request = Request(
        "vgg19",
        base_params={"a": 1},
        weights=file,
        layers=("x",),
        pooling="max",
        image_size=(3, 4),
        resize="pad",
        interpolation="nearest",
        preprocess="tf",
        dtype="float16",
        precision="bfloat16",
        runtime="openvino",
        fast_decode=True,
    )
    kept = json.loads(json.dumps(request.to_dict()))
    assert Request.from_dict(kept).to_dict() == kept


@pytest.mark.parametrize(
    ("field", "value"),
    [("dtype", "float16"), ("precision", "bfloat16"), ("precision", "float16"), ("runtime", "openvino")],
)
def test_less_exact_recipes_have_the_wider_tolerance(field: str, value: str) -> None:
    """float32 in TensorFlow promises 1e-4, everything else 5e-3."""
    assert RECIPE.tolerance == 1e-4
    assert dataclasses.replace(RECIPE, **{field: value}).tolerance == 5e-3


def test_what_decoded_in_another_way_is_neither_the_same_recipe_nor_the_same_request() -> None:
    """Caches of before JPEGs were decoded accurately have another fingerprint, and their request says to extract."""
    before = dataclasses.replace(RECIPE, decode="tensorflow, else pillow; exif orientation applied")
    assert before.fingerprint != RECIPE.fingerprint
    assert RECIPE.to_dict()["decode"] == "accurate"
    kept = Request("vgg19").to_dict()
    assert kept["decode"] == "accurate"
    assert Request("vgg19", fast_decode=True).to_dict()["decode"] == "reduced"
    with pytest.raises(OptionError, match=r"earlier version .* Extract again"):
        Request.from_dict({key: value for key, value in kept.items() if key != "decode"} | {"fast_decode": False})


def test_model_in_memory_has_no_request() -> None:
    """What no later process can load is never taken for known."""
    assert Request(base=object()).to_dict() is None


def later(default: bool, monkeypatch: pytest.MonkeyPatch) -> type[Recipe]:
    """Return the recipe of a later version, with a field whose default is not what the code did before."""
    monkeypatch.setitem(recipe._BEFORE, "antialias", False)
    field = dataclasses.field(default=default)
    return dataclasses.make_dataclass("Later", [("antialias", bool, field)], bases=(Recipe,), frozen=True)


def test_a_new_field_makes_no_cache_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe from before it is read, equal, and has the same fingerprint; another value has another."""
    kind, old = later(False, monkeypatch), json.loads(json.dumps(RECIPE.to_dict()))
    again = kind.from_dict(old)
    assert again.fingerprint == RECIPE.fingerprint
    assert again.differences(kind(**vars(RECIPE))) == []
    changed = dataclasses.replace(again, antialias=True)
    assert changed.fingerprint != RECIPE.fingerprint
    assert kind.from_dict(changed.to_dict()) == changed


def test_a_changed_default_is_another_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The value is written, and a cache from before is refused with the field's name."""
    kind, old = later(True, monkeypatch), RECIPE.to_dict()
    now = kind(**vars(RECIPE))
    assert now.to_dict()["antialias"] is True
    assert now.fingerprint != RECIPE.fingerprint
    with pytest.raises(CacheError, match="antialias: false → true"):
        check_recipe(tmp_path, dataclasses.replace(kind.from_dict(old), antialias=False), now)
    assert kind.from_dict(old).antialias is False
