import hashlib
import json
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from conftest import random_image, write_image
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.errors import OptionError
from featcache.models.classifier import ImageClassifier
from featcache.sources import Item, Items, SplitPolicy
from featcache.sources.opening import open_source
from featcache.training import fit_head

ITEM = Item("a", "x", None, 1, 1)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 9))
def test_split_depends_on_content_and_seed_alone(identity: bytes, seed: int) -> None:
    """An image's side does not change with its name, its label or its neighbours."""
    policy = SplitPolicy(0.3, seed=seed)
    assert policy.split_of(ITEM, identity) == policy.split_of(Item("z", "y", None, 9, 9), identity)


@pytest.mark.parametrize("count", [*range(126, 130), 32_768])
def test_as_many_classes_and_groups_as_an_integer_holds_and_more(count: int) -> None:
    """Around the limits of one and two bytes each small class has cutoffs of its own, and columns say what items do."""
    items = Items.of(Item(f"{i}", f"{i % count:05d}", None, 1, 1, f"{i % count:05d}") for i in range(2 * count))
    digests = np.zeros((len(items), 32), np.uint8)
    policy = SplitPolicy(0.3).ranked(items, lambda rows: (digests[rows], np.ones(len(rows), bool)))
    assert list(policy.cutoffs) == list(items.labels.names)
    found = policy.splits_of(items, digests)
    assert {found[i] == policy.split_of(items[i], bytes(32)) for i in range(0, len(items), 97)} == {True}


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


@pytest.mark.parametrize(
    "options",
    [{"validation_split": 1.0}, {"validation_split": -0.1}, {"test_from": ("train", 0)}, {"test_from": ("dogs", 0.5)}],
)
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
    with pytest.raises(OptionError, match=r"`test_split` cannot be set.*has a test set"):
        SplitPolicy(test_split=0.5).settled(open_source(split_photos))


@pytest.mark.parametrize(
    "options",
    [
        {"test_split": 1.0},
        {"validation_split": 0.5, "test_split": 0.5},
        {"test_split": 0.1, "test_from": ("validation", 0.5)},
    ],
)
def test_impossible_test_splits(options: dict[str, object]) -> None:
    """Something is left for train, and test comes from one place."""
    with pytest.raises(OptionError):
        SplitPolicy(**options)


def test_default_validation_counts_too(photos: Path) -> None:
    """With the default fifth for validation, more than four fifths for test leave nothing to train on."""
    with pytest.raises(OptionError, match="leave nothing for train"):
        SplitPolicy(test_split=0.85).settled(open_source(photos))


def test_evaluation_repeats_the_test_split(extracting, photos: Path, tmp_path: Path) -> None:
    """A head's test images are found again when it is scored from pixels."""
    cache = extracting(photos, tmp_path / "c", validation_split=0.2, test_split=0.4, seed=4)
    head = fit_head(cache)
    assert "test" in head.metrics
    assert ImageClassifier.load(head.path).evaluate()["metrics"] == head.metrics


def ranked(policy: SplitPolicy, images: dict[tuple[str, str, str | None], bytes]) -> dict[str, str]:
    """Return the split of images, given by path, label and group, with what they hold; checks both ways to ask."""
    items = Items.of(Item(path, label, None, 1, 1, group) for path, label, group in images)
    digests = np.array([list(hashlib.sha256(content).digest()) for content in images.values()], np.uint8)
    policy = policy.ranked(items, lambda rows: (digests[rows], np.ones(len(rows), bool)))
    policy = SplitPolicy.from_listing(json.loads(json.dumps({**asdict(policy), "classes": None})))
    splits = list(policy.splits_of(items, digests))
    assert splits == [policy.split_of(item, bytes(row)) for item, row in zip(items, digests, strict=True)]
    return {path: str(split) for (path, *_), split in zip(images, splits, strict=True)}


def of_class(label: str, count: int, start: int = 0) -> dict[tuple[str, str, str | None], bytes]:
    return {(f"{label}{i}", label, None): f"{label} {i}".encode() for i in range(start, start + count)}


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 12, 49])
@pytest.mark.parametrize("seed", range(5))
def test_a_small_class_has_its_share(n: int, seed: int) -> None:
    """Of each class below 50 images the rounded share is validation, and one of 5 or more, whatever is drawn."""
    found = ranked(SplitPolicy(0.2, seed=seed), of_class("a", n) | of_class("b", n))
    for label in "ab":
        there = [split for path, split in found.items() if path.startswith(label)]
        assert there.count("validation") == int(0.2 * n + 0.5)
    few = list(ranked(SplitPolicy(0.05, seed=seed, test_split=0.05), of_class("a", n)).values())
    assert few.count("validation") == few.count("test") == (1 if n >= 5 else 0) + (1 if n == 49 else 0)


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(share=st.sampled_from([0.01, 0.1, 0.2, 0.5, 0.8]), seed=st.integers(0, 1000), order=st.randoms())
def test_one_more_image_moves_one_at_most(share: float, seed: int, order: random.Random) -> None:
    """While a class grows to hundreds of images, each new one moves one old one to the other side at most."""
    images = list(of_class("a", 230).items())
    order.shuffle(images)
    policy, before = SplitPolicy(share, seed=seed), dict[str, str]()
    for n in range(1, len(images) + 1):
        now = ranked(policy, dict(images[:n]))
        assert sum(now[path] != split for path, split in before.items()) <= 1, n
        before = now
    plain = [policy.split_of(ITEM, hashlib.sha256(content).digest()) for _, content in images]
    assert list(before.values()) == plain


def test_small_classes_leave_something_to_train_on() -> None:
    """However large the share, one image of a small class stays in train."""
    found = ranked(SplitPolicy(0.6, test_split=0.39), of_class("a", 3) | of_class("b", 7))
    assert {path[0] for path, split in found.items() if split == "train"} == {"a", "b"}


@pytest.mark.parametrize("seed", range(20))
def test_groups_and_copies_of_small_classes_stay_together(seed: int) -> None:
    """A group is on one side, of two classes too, and so are copies, with two labels too."""
    shots = {
        (f"{label}{group}{i}", label, group): f"{label}{group}{i}".encode()
        for label in "ab"
        for group in ("both", f"only {label}")
        for i in range(3)
    }
    copies = {("c0", "a", None): b"a 3", ("c1", "b", None): b"a 4", ("c2", "c", None): b"a 5"}
    found = ranked(
        SplitPolicy(0.4, seed=seed, test_split=0.2),
        of_class("a", 9) | of_class("b", 9) | of_class("c", 9) | shots | copies,
    )
    for group in ("both", "only a", "only b"):
        assert len({split for path, split in found.items() if group in path}) == 1
    assert found["c0"] == found["a3"]
    assert found["c1"] == found["a4"]
    assert found["c2"] == found["a5"]


@pytest.mark.slow
def test_two_shares_move_few_images() -> None:
    """With a share for test, or a second draw, one more image moves two or three old ones at most, at any size."""
    images = list(of_class("a", 230).items())
    for seed in range(3):
        random.Random(seed).shuffle(images)
        for policy, most in (
            (SplitPolicy(0.2, seed=seed, test_split=0.2), 2),
            (SplitPolicy(0.2, ("validation", 0.5), seed), 3),
        ):
            before = dict[str, str]()
            for n in range(1, len(images) + 1):
                now = ranked(policy, dict(images[:n]))
                assert sum(now[path] != split for path, split in before.items()) <= most, n
                before = now


def test_nothing_to_rank() -> None:
    """Classes whose images are all shared have no cutoffs, and what cannot be read is no reason to fail."""
    found = ranked(SplitPolicy(0.5), {("a", "x", None): b"same", ("b", "y", None): b"same"})
    assert found["a"] == found["b"]
    items = Items.of([ITEM])
    policy = SplitPolicy(0.5).ranked(items, lambda rows: (np.zeros((len(rows), 32), np.uint8), np.zeros(1, bool)))
    assert policy.cutoffs == {}


def test_unreadable_images_are_not_counted() -> None:
    """An image without a digest has no rank."""
    items = Items.of(Item(path, label, None, 1, 1) for path, label, _ in of_class("a", 10))
    digests = np.array([[i] * 32 for i in range(10)], np.uint8)
    policy = SplitPolicy(0.2).ranked(items, lambda rows: (digests[rows], rows >= 5))
    assert list(policy.splits_of(items.take(np.arange(5, 10)), digests[5:])).count("validation") == 1


def test_a_small_set_has_every_class_in_validation(extracting, tmp_path: Path) -> None:
    """With eight pictures of each of two classes each has two to validate, and a second run changes nothing."""
    for i in range(8):
        for label, shade in (("cats", 60), ("dogs", 160)):
            write_image(tmp_path / "p" / label / f"{i}.png", random_image(i) // 4 + np.uint8(shade))
    cache = extracting(tmp_path / "p", tmp_path / "c")
    assert np.bincount(cache.label_indices("validation")).tolist() == [2, 2]
    again = extracting(tmp_path / "p", tmp_path / "c")
    assert again.report.computed == 0
    assert list(again.entries) == list(cache.entries)


def test_a_set_too_small_for_its_share_is_said(extracting, tmp_path: Path) -> None:
    """Two images of each class leave none to validate with a share of a fifth, which is said."""
    for i in range(4):
        write_image(tmp_path / "p" / f"c{i // 2}" / f"{i}.png", random_image(i))
    report = extracting(tmp_path / "p", tmp_path / "c").report
    assert any("no validation set" in text for text in report.warnings)
    assert not extracting(tmp_path / "p", tmp_path / "d", validation_split=0.5).report.warnings
