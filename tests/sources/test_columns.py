import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.sources import Digests, DigestSet, Item, Items, Texts, Words
from featcache.sources.digests import _mixed, _mixed_one

text = st.text(st.characters(exclude_categories=["Cs"])) | st.binary().map(
    lambda content: content.decode("utf-8", "surrogateescape")
)
rows = st.lists(st.integers(0, 9))
LIMITS = [*range(126, 130), *range(32_766, 32_770)]
"""Around the largest numbers that one and two bytes hold."""


@settings(deadline=None)
@given(st.lists(text, max_size=10), rows, st.slices(10))
def test_texts_are_a_sequence_of_what_they_were_made_of(texts: list[str], some: list[int], part: slice) -> None:
    """Any texts, odd bytes and empty ones included, come back whole, one by one, in slices and in another order."""
    column = Texts.of(texts)
    assert list(column) == texts == [column[i] for i in range(len(texts))]
    assert column[part] == texts[part]
    if texts:
        chosen = [i % len(texts) for i in some]
        assert list(column.take(np.array(chosen, int))) == [texts[i] for i in chosen]
        assert column[-1] == texts[-1]
    assert column == Texts.of(texts) != Texts.of([*texts, ""])


@settings(deadline=None)
@given(st.lists(st.none() | st.sampled_from(["b", "a", "", "\udcff"]), max_size=10), rows)
def test_words_are_codes_of_sorted_names(words: list[str | None], some: list[int]) -> None:
    """Words come back; names are those that occur, sorted, whatever the order of the rows; equal means equal."""
    column = Words.of(words)
    assert list(column) == words == [column[i] for i in range(len(words))]
    assert column.names == sorted({word for word in words if word is not None})
    assert column.among(["b", "a"]).tolist() == [["b", "a"].index(w) if w in ("a", "b") else -1 for w in words]
    if words:
        chosen = [i % len(words) for i in some]
        assert column.take(np.array(chosen, int)) == Words.of([words[i] for i in chosen])
    assert Words(column.codes, column.names) == column


@pytest.mark.parametrize("count", LIMITS)
def test_as_many_names_as_an_integer_holds_and_more(count: int) -> None:
    """Around the limits of one and two bytes all names come back, and numbers can be computed with."""
    names = [f"{i:05d}" for i in range(count)]
    column = Words.of([*names, None, names[-1]])
    assert list(column) == [*names, None, names[-1]]
    assert column.take(np.array([count - 1, count, 0])) == Words.of([names[-1], None, names[0]])
    assert column.among(names[::-1]).tolist() == [*range(count)[::-1], -1, 0]
    assert (column.numbers + count).tolist() == [*range(count, 2 * count), count - 1, 2 * count - 1]
    assert (column.numbers * count).max() == (count - 1) * count


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=20), st.lists(st.integers(0, 5), max_size=20))
def test_digests_find_the_first_equal_row(known: list[int], wanted: list[int]) -> None:
    """Each row that is asked for is found where it is first, or not at all."""
    table = Digests.of(i.to_bytes(32, "big") for i in known)
    found = table.find(Digests.of(i.to_bytes(32, "big") for i in wanted).rows)
    assert found.tolist() == [known.index(i) if i in known else -1 for i in wanted]
    assert [table.row(i.to_bytes(32, "big")) for i in wanted] == found.tolist()
    assert (1).to_bytes(32, "big") not in table or 1 in known
    assert b"short" not in table


def test_digests_that_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose 64 mixed bits are the same are compared whole."""
    monkeypatch.setattr("featcache.sources.digests._mixed", lambda rows: _mixed(rows) & np.uint64(1))
    monkeypatch.setattr("featcache.sources.digests._mixed_one", lambda digest: _mixed_one(digest) & 1)
    rows = np.random.default_rng(0).integers(0, 256, (50, 32), np.uint8)
    table = Digests(np.concatenate([rows, rows]))
    assert table.find(rows[::-1]).tolist() == list(range(50))[::-1]
    assert [table.row(one.tobytes()) for one in rows] == list(range(50))
    assert (table.find(rows + np.uint8(1)) == -1).all()


@given(st.sets(st.binary(min_size=32, max_size=32)), st.sets(st.sampled_from([b"a" * 31 + b"\0", b"\0" * 32])))
def test_digest_sets_are_sets(one: set[bytes], other: set[bytes]) -> None:
    """They are equal to sets of the same digests, whatever their bytes, join others, and come back from their bytes."""
    digests = DigestSet.of(one)
    assert digests == one
    assert (digests | other, other | digests) == (one | other, one | other)
    assert DigestSet.of([digests.tobytes()]) == one
    assert digests.tobytes() == b"".join(sorted(one))
    assert all((digest in digests) == (digest in one) for digest in one | other)


def test_texts_are_found_by_their_digests() -> None:
    """Equal texts, and no others, have equal digests."""
    found = Digests.of_texts(Texts.of(["a", "b", "", "b"]))
    assert found.find(found.rows).tolist() == [0, 1, 2, 1]
    assert len(Digests.of_texts(Texts.of([]))) == 0


def test_items_are_what_they_were_made_of() -> None:
    """Items come back equal, singly, in slices and when iterated, all of their fields included."""
    items = [
        Item("a/\udcff", "a", "train", 5, -(2**60), "g", 7, -(2**62)),
        Item("b", None, None, 0, 1),
        Item("c", "a", None, 2, 3),
    ]
    columns = Items.of(iter(items))
    assert list(columns) == items == [columns[i] for i in range(3)]
    assert (list(columns[1:]), columns[-1], len(columns)) == (items[1:], items[2], 3)
    assert Items.of(columns) is columns
    assert len(Items.of([])) == 0
    assert type(columns[0].size) is int
