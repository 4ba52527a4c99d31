from pathlib import Path

import numpy as np
import pytest

from featcache.cache.listing import Entry, Listing
from featcache.cache.manifest import Manifest
from featcache.cache.pieces import ends_in_all
from featcache.cache.rows import Place, RowTable
from featcache.cache.shard import Key
from featcache.sources import SPLITS, Items, Texts, Words

LIMITS = [*range(126, 130), *range(32_766, 32_770)]
"""Around the largest numbers that one and two bytes hold."""
D = [bytes([i]) * 32 for i in range(5)]
ENTRIES = [
    Entry("a", "x", "train", None, 1, 2, D[0], None, -5),
    Entry("b", None, None, "g", 3, 4, None, "empty file"),
    Entry("c", "y", None, None, 5, 6, D[1], "not an image"),
    Entry("d", "x", "test", "g", 7, 8, D[2], None),
]


def table() -> RowTable:
    """Return five rows of three shards, the latest first: D[0] and its view, a copy of D[0], D[1], D[2]."""
    digests = np.frombuffer(b"".join([D[0], D[0], D[0], D[1], D[2]]), np.uint8).reshape(-1, 32)
    return RowTable(
        digests,
        np.array([0, 2, 0, 0, 0], np.uint16),
        np.array([0, 1, 0, 0, 0]),
        ["", "flip"],
        np.array([3, 3, 2, 2, 1]),
        np.array([0, 1, 0, 1, 0]),
    )


def test_listing_is_its_entries() -> None:
    """Entries come back singly, in slices and in another order; only sound ones are readable."""
    listing = Listing.of(iter(ENTRIES))
    assert listing == ENTRIES
    assert [listing[i] for i in range(4)] == ENTRIES
    assert listing[1:3] == ENTRIES[1:3]
    assert list(listing.take(np.array([3, 1]))) == [ENTRIES[3], ENTRIES[1]]
    assert listing.readable.tolist() == [True, False, False, True]
    assert listing.take(np.arange(4)) is listing
    assert listing != Listing.of([*ENTRIES[:3], ENTRIES[3]._replace(mtime_ns=9)])
    assert listing != Listing.of([*ENTRIES[:3], ENTRIES[3]._replace(changes=9)])


def test_columns_are_read_when_they_are_used() -> None:
    """A column is loaded at its first use, once, and others of the same moment with it."""
    asked: list[str] = []
    whole = Listing.of(ENTRIES)

    def load(name: str) -> dict[str, object]:
        asked.append(name)
        together = ("splits", "known", "digests", "reasons")
        return {one: getattr(whole, one) for one in (together if name in together else (name,))}

    listing = Listing(4, load)
    assert (len(listing), asked) == (4, [])
    assert listing.readable.sum() == listing.readable.sum() == 2
    assert asked == ["known"]
    assert listing.load() == whole
    assert sorted(asked) == ["changes", "groups", "known", "labels", "paths", "sizes", "stamps"]


def test_rows_are_a_mapping_whose_first_places_count() -> None:
    """Of equal keys the first row's place counts; views and augmentations are keys of their own."""
    wanted = {
        Key(D[0], 0, ""): Place(3, 0),
        Key(D[0], 2, "flip"): Place(3, 1),
        Key(D[1], 0, ""): Place(2, 1),
        Key(D[2], 0, ""): Place(1, 0),
    }
    rows = table()
    assert rows == wanted
    assert len(rows) == 4
    for key in (Key(D[3], 0, ""), Key(D[0], 1, "flip"), Key(D[0], 2, "other"), Key(D[1], 2, "flip")):
        assert key not in rows
    assert rows.effective().tolist() == [True, True, False, True, True]


def test_rows_of_a_shard() -> None:
    """A shard's rows are found in one piece; one without rows has none."""
    rows = table()
    assert rows.numbers == {1, 2, 3}
    assert (rows.of_shard(2), rows.of_shard(7)) == (slice(2, 4), slice(0, 0))
    assert (rows.policies_of(3), rows.policies_of(2)) == ({"flip"}, set())


@pytest.mark.parametrize("count", LIMITS)
def test_as_many_names_as_an_integer_holds_and_more(count: int, tmp_path: Path) -> None:
    """Around the limits of one and two bytes labels, groups and splits of a manifest come back."""
    n, names = count + 1, [f"{i:05d}" for i in range(count)]
    column, numbers = Words.of([*names, None]), np.arange(n)
    items = Items(Texts.of(map(str, range(n))), column, Words.of([]), column, numbers, numbers, numbers, numbers)
    listing = Listing.listed(items, Words(numbers % 3, SPLITS), np.zeros((n, 32), np.uint8), numbers < 0, {})
    manifest = Manifest(tmp_path / "manifest.sqlite", create=True).claim("a test")
    manifest.replace_listing(listing, {})
    found = manifest.listing()
    assert found == listing
    assert (list(found.groups), found.splits[count]) == ([*names, None], SPLITS[count % 3])


@pytest.mark.parametrize("count", LIMITS)
@pytest.mark.by_default("126", "127", "128", "129", "32767")
def test_as_many_augmentations_as_an_integer_holds_and_more(count: int, tmp_path: Path) -> None:
    """Around the limits of one and two bytes a row is found under its own augmentation, and under no other."""
    manifest = Manifest(tmp_path / "manifest.sqlite", create=True).claim("a test")
    view = np.array([1], "<u2").tobytes()
    manifest._db.execute("BEGIN")
    manifest._insert("shards", [(count - i, f"{i:016x}.h5", 1, 5000, 0) for i in range(count)])
    manifest._insert("rows", [(count - i, f"policy {i}", i.to_bytes(32, "big"), view) for i in range(count)])
    manifest._insert("meta", [("rows", str(count))], "INSERT OR REPLACE")
    manifest._db.execute("COMMIT")
    found = manifest.rows()
    last = count - 1
    for row in (0, 126, 127, 128, last - 1, last):
        if row < count:
            assert found.key(row) == Key(row.to_bytes(32, "big"), 1, f"policy {row}")
            assert found.find(found.digests[[row]], 1, f"policy {row}").tolist() == [row]
            assert found.find(found.digests[[row]], 1, f"policy {(row + 1) % count}").tolist() == [-1]
    assert found.policies_of(1) == {f"policy {last}"}


def test_paths_of_more_than_four_gigabytes_end_where_they_end() -> None:
    """Where a piece of paths begins beyond what four bytes count, its ends are beyond that, too."""
    pieces = [np.array([5, 7], "<u4"), np.array([2, 2**32 - 1], "<u4")]
    assert ends_in_all(pieces, [0, 2**32 - 3, 0]).tolist() == [5, 7, 2**32 - 1, 2**33 - 4]
