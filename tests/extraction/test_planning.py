import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from featcache.cache.listing import Entry, Listing
from featcache.cache.rows import RowTable
from featcache.cache.shard import Key
from featcache.errors import ImageError
from featcache.extraction.planning import Job, Known, RowSet, compare
from featcache.recipe import Request
from featcache.sources import Item, SplitPolicy

CONTENTS = [b"one", b"two", b"three"]
D = [hashlib.sha256(content).digest() for content in CONTENTS]


class Made:
    """Images whose `place` says what they contain; the last cannot be read."""

    name, location, sequential = "made", "here", False

    def __init__(self, items: list[Item]) -> None:
        self.items = items

    def read(self, item: Item, /) -> bytes:
        if item.place == len(CONTENTS):
            raise ImageError("cannot be read")
        return CONTENTS[item.place]


def rows_of(keys: list[Key]) -> RowTable:
    """Return the table of keys that have one augmentation at most."""
    views = np.array([key.view for key in keys], np.uint16)
    digests = np.frombuffer(b"".join(key.digest for key in keys), np.uint8).reshape(-1, 32)
    return RowTable(
        digests, views, (views > 0).astype(int), ["", "flips"], np.ones(len(keys), int), np.arange(len(keys))
    )


def plainly(job: Job, known: Known, keys: set[Key], *, retry: bool) -> tuple[list[Entry], list[int]]:
    """Do what `compare` says, an image at a time."""
    same = known.location == job.source.location
    old_of = {entry.path: entry for entry in known.entries} if same and not job.rehash else {}
    stamps = {(entry.size, entry.mtime_ns) for entry in known.entries if entry.digest}
    failed = {entry.digest: entry.reason for entry in known.entries if entry.reason and entry.digest}
    entries, todo = [], []
    for position, item in enumerate(job.source.items):
        entry = Entry(item.path, item.label, None, item.group, item.size, item.mtime_ns, None, None, item.changes)
        old, hashing = old_of.get(item.path), False
        alike = old and (old.size, old.mtime_ns) == (item.size, item.mtime_ns)
        if alike and old.changes == item.changes != 0:
            if old.digest and not old.reason:
                if set(job.keys(item, old.digest)) <= keys:
                    entry = entry._replace(digest=old.digest, split=job.policy.split_of(item, old.digest))
                else:
                    todo.append(position)
            elif old.reason and not old.digest:
                hashing = True
            elif old.reason and not retry:
                entry = entry._replace(digest=old.digest, reason=old.reason)
            else:
                todo.append(position)
        elif (alike and old.reason and not old.digest) or (
            keys and (not same or job.rehash or (item.size, item.mtime_ns) in stamps)
        ):
            hashing = True
        else:
            todo.append(position)
        if hashing and item.place == len(CONTENTS):
            entry = entry._replace(reason="cannot be read")
        elif hashing:
            found = D[item.place]
            if set(job.keys(item, found)) <= keys:
                entry = entry._replace(digest=found, split=job.policy.split_of(item, found))
            elif found in failed and not retry:
                entry = entry._replace(digest=found, reason=failed[found])
            else:
                todo.append(position)
        entries.append(entry)
    return entries, todo


words = st.sampled_from([None, "g", "h"])
items = st.builds(
    Item,
    st.sampled_from("abcdef"),
    words,
    st.sampled_from([None, None, "train", "test"]),
    st.integers(1, 2),
    st.integers(0, 2),
    words,
    st.integers(0, len(CONTENTS)),
    st.integers(0, 2),
)
known_as = st.sampled_from([(None, None), (None, "broken"), *((d, None) for d in D), (D[1], "not an image")])
listed = st.lists(st.tuples(items, known_as), max_size=6, unique_by=lambda pair: pair[0].path)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(items, max_size=6, unique_by=lambda item: item.path),
    listed,
    st.sets(st.tuples(st.sampled_from(D), st.integers(0, 2))),
    st.sampled_from(["here", "there"]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([(0.0, None), (0.4, 0.3)]),
)
def test_columns_plan_what_an_image_at_a_time_would(
    now: list[Item],
    before: list[tuple[Item, Any]],
    pairs: set[tuple[bytes, int]],
    location: str,
    rehash: bool,
    retry: bool,
    views: int,
    plain: bool,
    parts: tuple[float, float | None],
) -> None:
    """Whatever was listed, read and extracted before: the same images are known, and the same are to be computed."""
    if plain:  # neither splits nor groups, so that splits are drawn all at once
        now = [Item(i.path, i.label, None, i.size, i.mtime_ns, None, i.place, i.changes) for i in now]
    policy = SplitPolicy(parts[0], None, 0, parts[1])
    job = Job(Made(now), policy, Request(base="vgg19"), Path(), None, views, None, rehash=rehash)
    job.augmentation = "flips"
    keys = [Key(digest, view, "flips" if view else "") for digest, view in sorted(pairs)]
    old = [Entry(i.path, i.label, None, i.group, i.size, i.mtime_ns, *state, i.changes) for i, state in before]
    known = Known({"source": {"location": location}}, Listing.of(old), rows_of(keys))
    planned = compare(job, known, retry_failed=retry)  # draws small classes by rank
    entries, todo = plainly(job, known, set(keys), retry=retry)
    assert planned == todo
    assert list(job.entries) == entries


def test_row_sets_grow_without_their_table() -> None:
    """Rows that are added count once, beside those of the table, which stays as it is."""
    table = rows_of([Key(D[0], 0, ""), Key(D[0], 1, "flips")])
    rows = RowSet(table)
    rows.update([Key(D[1], 0, ""), Key(D[0], 0, ""), Key(D[1], 0, "")])
    assert rows == {*table, Key(D[1], 0, "")}
    assert (len(rows), len(rows.added), len(table)) == (3, 1, 2)
    assert rows.have(np.frombuffer(D[0] + D[1], np.uint8).reshape(2, 32), 1, "flips").tolist() == [True, False]
    assert not RowSet(None)
