import numpy as np

from featcache.cache.listing import Entry, Listing
from featcache.cache.rows import Place, RowTable
from featcache.cache.shard import Key

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
        digests, np.array([0, 2, 0, 0, 0], np.uint16), np.array([0, 1, 0, 0, 0]), ["", "flip"],
        np.array([3, 3, 2, 2, 1]), np.array([0, 1, 0, 1, 0]),
    )  # fmt: skip


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
        Key(D[0], 0, ""): Place(3, 0), Key(D[0], 2, "flip"): Place(3, 1), Key(D[1], 0, ""): Place(2, 1),
        Key(D[2], 0, ""): Place(1, 0),
    }  # fmt: skip
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
