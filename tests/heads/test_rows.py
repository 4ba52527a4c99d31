import numpy as np
import pytest

from featcache.heads import rows as rows_module
from featcache.heads.rows import Rows


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 rows of 3 values, windows of 5 blocks."""
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 48)
    monkeypatch.setattr(rows_module, "WINDOW_BYTES", 240)


class Reading:
    """A source that counts what `read` copied, and notes what it is told to expect and what is read and got then."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape, self.copied = values, values.shape, 0
        self.noted: list[tuple[str, tuple[int, ...]]] = []

    def __getitem__(self, rows: object) -> np.ndarray:
        self.noted.append(("get", tuple(np.arange(len(self.values))[rows].tolist())))
        return self.values[rows]

    def expect(self, rows: object) -> None:
        self.noted.append(("expect", tuple(np.arange(len(self.values))[rows].tolist())))

    def read(self, rows: object, out: np.ndarray, at: np.ndarray) -> None:
        self.noted.append(("read", tuple(np.arange(len(self.values))[rows].tolist())))
        self.copied += len(at)
        out[at] = self.values[rows]


X = np.arange(3 * 103, dtype=np.float16).reshape(103, 3)


@pytest.mark.parametrize("source", [X, Reading(X), X.reshape(103, 3, 1)])
def test_rows_are_flat_float32(source: object) -> None:
    """Whatever the source, rows are float32 of shape (k, d), also a part of them, and a part of that."""
    rows = Rows(source)
    assert rows.shape == (103, 3)
    assert rows[2:5].dtype == np.float32
    assert np.array_equal(np.asarray(rows), X)
    part = rows.take(np.arange(10, 50)).take(np.arange(40) % 2 == 0)
    assert np.array_equal(np.asarray(part), X[10:50:2])
    assert np.array_equal(np.concatenate([block for _, block in part.blocks()]), X[10:50:2])


@pytest.mark.parametrize("count", [1, 3, 4, 20, 21, 103])
@pytest.mark.parametrize("batch_size", [1, 7, 50, 500])
def test_a_shuffle_has_every_row_once(count: int, batch_size: int) -> None:
    """Each row comes once, with its index, in full batches but for the last."""
    source = Reading(X[:count])
    seen, sizes = [], []
    for numbers, values in Rows(source).shuffled(np.random.default_rng(0), batch_size):
        assert np.array_equal(values, X[numbers])
        seen += numbers.tolist()
        sizes.append(len(numbers))
    assert sorted(seen) == list(range(count))
    assert all(size == batch_size for size in sizes[:-1])
    assert source.copied == count


def test_a_shuffle_is_seeded_and_mixes() -> None:
    """The generator alone decides the order, and the rows of a batch come from many blocks."""

    def order(seed: int) -> list[int]:
        return np.concatenate([n.copy() for n, _ in Rows(X).shuffled(np.random.default_rng(seed), 8)]).tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert len({row // 4 for row in order(1)[:8]}) >= 3


@pytest.mark.parametrize("count", [1, 7, 19, 20])
@pytest.mark.parametrize("some", [slice(None), slice(None, None, 2)])
def test_an_array_in_memory_is_shuffled_as_if_it_were_read(count: int, some: slice) -> None:
    """The order of rows that fit into a window does not say where they come from, and what is yielded is a copy."""
    chosen, found = np.arange(count)[some], []
    for source in (X[:count].astype(np.float32), Reading(X[:count])):
        batches = []
        for numbers, values in Rows(source).take(chosen).shuffled(np.random.default_rng(3), 4):
            assert np.array_equal(values, X[some][numbers])
            batches.append(numbers.tolist())
            values -= 1
        found.append(batches)
    assert found[0] == found[1]


def test_what_fits_into_a_window_is_read_once() -> None:
    """Rows in memory are the same and nobody can write to them; more than a window of them stays where it is."""
    source = Reading(X[:20])
    rows = Rows(source).in_memory()
    source.noted.clear()
    for part, block in rows.blocks():
        assert np.array_equal(block, X[:20][part])
        assert not block.flags.writeable
    assert source.noted == []
    larger = Reading(X[:21])
    assert np.array_equal(next(Rows(larger).in_memory().blocks())[1], X[:4])
    assert larger.noted == [("get", (0, 1, 2, 3))]


def test_chosen_rows_are_shuffled_too() -> None:
    """A part of the rows is shuffled by its own indices."""
    part = Rows(Reading(X)).take(np.arange(1, 103, 2))
    for numbers, values in part.shuffled(np.random.default_rng(0), 5):
        assert np.array_equal(values, X[1::2][numbers])


@pytest.mark.parametrize("some", [np.arange(103), np.arange(0, 103, 2)])
def test_a_shuffle_says_what_it_will_read(some: np.ndarray) -> None:
    """Each block is expected once, two blocks before it is read, across windows, in a part of the rows too."""
    source = Reading(X)
    for _ in Rows(source).take(some).shuffled(np.random.default_rng(0), 7):
        pass
    read = [rows for kind, rows in source.noted if kind == "read"]
    assert [rows for kind, rows in source.noted if kind == "expect"] == read
    assert sorted(sum(read, ())) == some.tolist()
    for number, rows in enumerate(read):
        before = source.noted.index(("read", rows)) - source.noted.index(("expect", rows))
        assert before >= min(2, len(read) - number)
