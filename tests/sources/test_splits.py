import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featcache.classifier import ImageClassifier
from featcache.errors import OptionError
from featcache.sources import Item, SplitPolicy, open_source
from featcache.train import fit_head

ITEM = Item("a", "x", None, 1, 1)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 9))
def test_split_depends_on_content_and_seed_alone(identity: bytes, seed: int) -> None:
    """An image's side does not change with its name, its label or its neighbours."""
    policy = SplitPolicy(0.3, seed=seed)
    assert policy.split_of(ITEM, identity) == policy.split_of(Item("z", "y", None, 9, 9), identity)


def test_split_has_the_size_asked_for() -> None:
    """Of many images the wanted part is validation, and of that the wanted part test."""
    policy = SplitPolicy(0.3, ("validation", 0.5))
    found = [policy.split_of(ITEM, hashlib.sha256(bytes([i % 256, i // 256])).digest()) for i in range(4000)]
    assert abs(found.count("validation") / 4000 - 0.15) < 0.02
    assert abs(found.count("test") / 4000 - 0.15) < 0.02


def test_larger_split_keeps_what_was_in_it() -> None:
    """Raising the part moves images into validation, none out of it."""
    many = [hashlib.sha256(bytes([i])).digest() for i in range(256)]
    small = {d for d in many if SplitPolicy(0.2).split_of(ITEM, d) == "validation"}
    large = {d for d in many if SplitPolicy(0.4).split_of(ITEM, d) == "validation"}
    assert small < large


def test_split_default_follows_the_source(photos: Path, split_photos: Path) -> None:
    """A fifth is validation where the source brings no split; nothing is moved where it does."""
    assert SplitPolicy().settled(open_source(photos)).validation_split == 0.2
    assert SplitPolicy().settled(open_source(split_photos)).validation_split == 0.0
    with pytest.raises(OptionError, match="has a validation set"):
        SplitPolicy(0.1).settled(open_source(split_photos))


@pytest.mark.parametrize("options", [{"validation_split": 1.0}, {"validation_split": -0.1},
                                     {"test_from": ("train", 0)}, {"test_from": ("dogs", 0.5)}])  # fmt: skip
def test_impossible_policies(options: dict[str, object]) -> None:
    """Parts are between 0 and 1, of a split there is."""
    with pytest.raises(OptionError):
        SplitPolicy(**options)


MANY = [hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(4000)]


def drawn(policy: SplitPolicy) -> list[str]:
    return [policy.split_of(ITEM, identity) for identity in MANY]


def test_test_split_has_the_size_asked_for() -> None:
    """Of many images the wanted part is test, beside the wanted part that is validation."""
    found = drawn(SplitPolicy(0.3, test_split=0.1))
    assert abs(found.count("validation") / 4000 - 0.3) < 0.03
    assert abs(found.count("test") / 4000 - 0.1) < 0.02


def test_raising_a_split_takes_from_train_alone() -> None:
    """More validation leaves test as it was, more test leaves validation; none goes back to train."""
    small = drawn(SplitPolicy(0.2, test_split=0.1))
    for larger in (drawn(SplitPolicy(0.4, test_split=0.1)), drawn(SplitPolicy(0.2, test_split=0.3))):
        moved = {(a, b) for a, b in zip(small, larger, strict=True) if a != b}
        assert len(moved) == 1
        assert next(iter(moved))[0] == "train"


def test_a_group_is_on_one_side() -> None:
    """Images of one group are drawn together, whatever their content."""
    item = Item("a", "x", None, 1, 1, "shoot 7")
    policy = SplitPolicy(0.4, test_split=0.4)
    assert len({policy.split_of(item, identity) for identity in MANY}) == 1


def test_test_split_needs_a_source_without_test(split_photos: Path) -> None:
    """test_split draws from train beside a source's validation, and is refused beside its test set."""
    policy = SplitPolicy(test_split=0.5).settled(open_source(split_photos))
    assert set(drawn(policy)) == {"train", "test"}
    (split_photos / "validation").rename(split_photos / "test")
    with pytest.raises(OptionError, match=r"no test_split.*has a test set"):
        SplitPolicy(test_split=0.5).settled(open_source(split_photos))


@pytest.mark.parametrize("options", [{"test_split": 1.0}, {"validation_split": 0.5, "test_split": 0.5},
                                     {"test_split": 0.1, "test_from": ("validation", 0.5)}])  # fmt: skip
def test_impossible_test_splits(options: dict[str, object]) -> None:
    """Something is left for train, and test comes from one place."""
    with pytest.raises(OptionError):
        SplitPolicy(**options)


def test_default_validation_counts_too(photos: Path) -> None:
    """With the default fifth for validation, more than four fifths for test leave nothing to train on."""
    with pytest.raises(OptionError, match="leave something for train"):
        SplitPolicy(test_split=0.85).settled(open_source(photos))


def test_evaluation_repeats_the_test_split(extracting, photos: Path, tmp_path: Path) -> None:
    """A head's test images are found again when it is scored from pixels."""
    cache = extracting(photos, tmp_path / "c", validation_split=0.2, test_split=0.4, seed=4)
    head = fit_head(cache)
    assert "test" in head.metrics
    assert ImageClassifier.load(head.path).evaluate()["metrics"] == head.metrics
