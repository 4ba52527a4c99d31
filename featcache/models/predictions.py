"""What a classifier says of images, and files of it that a killed run leaves for the next one to go on with."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from featcache.display import frame
from featcache.errors import OptionError
from featcache.files.publishing import change_stamp, csv_text, publish_json, sync_folder
from featcache.files.reading import odd_file, read_json, trouble
from featcache.files.values import anything, mapping_of, record, sha256, whole
from featcache.sources import Item, Selected, Source
from featcache.sources.files import FileSource
from featcache.sources.opening import Images

if TYPE_CHECKING:
    import pandas as pd

UNSURE = "unsure"
"""The label of an image whose most probable class is less probable than the threshold."""

COMMIT_SECONDS = 1.0
"""A kill costs at most what was predicted in this time, and the chunk under way."""

FILE_FORMAT = 1


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    Attributes
    ----------
    path : str
        As it was given, or found.
    label : str or None
        The most probable class, or `UNSURE` below the threshold; None if the image could not be read.
    probability : float or None
        Of the most probable class.
    probabilities : dict
        Of every class, by name.
    reason : str or None
        Why it could not be read.
    digest : bytes or None
        SHA-256 of the image that was read.
    top : tuple of (str, float)
        The most probable classes, as many as were asked for, the best first.
    unsure : bool
        Whether the label is `UNSURE` because of the threshold; False for a class that has this name.
    """

    path: str
    label: str | None
    probability: float | None
    probabilities: dict[str, float]
    reason: str | None = None
    digest: bytes | None = None
    top: tuple[tuple[str, float], ...] = ()
    unsure: bool = False

    @property
    def best(self) -> str | None:
        """The most probable class, whatever the threshold."""
        return self.top[0][0] if self.top else None


@dataclass(frozen=True)
class PredictionReport:
    """What became of a run that writes its predictions to a file.

    Attributes
    ----------
    out : Path
        The finished file.
    predicted : int
        Images in it that have a prediction, unsure ones too.
    resumed : int
        Rows of it that an earlier run left.
    unsure : int
        Images below the threshold.
    skipped : list of dict
        ``path`` and ``reason`` of images that could not be read.
    """

    out: Path
    predicted: int
    resumed: int
    unsure: int
    skipped: list[dict[str, str]]


@dataclass(frozen=True)
class Answering:
    """How predictions are answered: the least probability of an answer, and how many classes are named."""

    class_names: Sequence[str]
    threshold: float | None = None
    top_k: int = 1

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise OptionError(
                f"`threshold` must be from 0 to 1. Received: {self.threshold}. `evaluate --coverage` helps to choose."
            )
        if not 1 <= self.top_k <= len(self.class_names):
            raise OptionError(
                f"`top_k` must be from 1 to {len(self.class_names)}, the number of classes. Received: {self.top_k}."
            )

    def as_dict(self, one: Prediction) -> dict[str, Any]:
        """Return a prediction for JSON: ``top`` if several classes are named, ``best, unsure`` with a threshold."""
        found = {name: getattr(one, name) for name in ("path", "label", "probability", "probabilities")}
        if self.top_k > 1:
            found["top"] = [list(pair) for pair in one.top]
        if self.threshold is not None:
            found |= {"best": one.best, "unsure": one.unsure}
        return found

    @property
    def columns(self) -> list[str]:
        """Names of the cells of a row, see `ImageClassifier.predict_to`."""
        columns = ["path", "label", "probability", *([] if self.threshold is None else ["best", "unsure"])]
        for rank in range(2, self.top_k + 1):  # `probability_2` may be that of a class named 2
            columns += [f"label_{rank}", f"label_{rank}_probability"]
        return [*columns, *(f"probability_{name}" for name in self.class_names), "reason"]

    def cells(self, one: Prediction) -> list[Any]:
        """Return a prediction as a row of a table."""
        cells: list[Any] = [one.path, one.label, one.probability]
        if self.threshold is not None:
            cells += [one.best, str(one.unsure).lower()]
        others = [cell for pair in one.top[1:] for cell in pair]
        cells += others or [None] * (2 * self.top_k - 2)
        return [*cells, *map(one.probabilities.get, self.class_names), one.reason]


class Predictions(Iterator[Prediction]):
    """Predictions, made as they are asked for."""

    def __init__(self, found: Iterator[Prediction], answering: Answering) -> None:
        self._found, self._answering = found, answering

    def __next__(self) -> Prediction:
        return next(self._found)

    def to_frame(self) -> pd.DataFrame:
        """Return the predictions that are left as a pandas frame, a row each, with the columns of a .csv file.

        OptionError if pandas is not installed.
        """
        columns = self._answering.columns
        return frame([dict(zip(columns, self._answering.cells(one), strict=True)) for one in self], columns)


class _Row(NamedTuple):
    """What a report needs of a row."""

    path: str
    reason: str
    unsure: bool


class _Written(NamedTuple):
    """What a partial file holds; replaced at once, as Ctrl-C can come between any two steps."""

    rows: int
    size: int
    digest: Any


_STATE = record({"format": whole(), "of": mapping_of(anything), "rows": whole(), "bytes": whole(), "sha256": sha256})


class PredictionFile:
    """A file of predictions that grows as ``<out>.partial`` and has its name when it is complete.

    Beside it ``<out>.partial.json`` says what it is of, and how many rows, bytes and which SHA-256 of it count; what
    follows those bytes is cut off when it is opened again. Use it as a context manager.
    """

    def __init__(self, out: Path, answering: Answering, identity: Mapping[str, Any]) -> None:
        if out.suffix not in (".csv", ".jsonl") or out.is_dir():
            raise OptionError(f"Predictions are written to a .csv or .jsonl file. Received: `out`={str(out)!r}.")
        self.out, self.partial, self._state = out, *own_files(out)[1:]
        self.resumed = self._unsure = self._kept = 0
        self._skipped: list[dict[str, str]] = []
        self._answering, self._identity = answering, dict(identity)
        self._written = _Written(0, 0, hashlib.sha256())
        self._due = 0.0

    @property
    def rows(self) -> int:
        """How many there are."""
        return self._written.rows

    def __enter__(self) -> PredictionFile:
        with self._explained():
            with contextlib.suppress(FileExistsError):
                self.out.parent.mkdir(parents=True)
            self._file = _open_locked(self.partial)
        try:
            with self._explained():
                if self._file.seek(0, os.SEEK_END):
                    self._resume()
                else:
                    self._commit()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError), self._file:
            if self.partial.exists() and self._kept < self.rows:
                self._commit()
            if not self._kept:  # nothing to go on with
                self.partial.unlink(missing_ok=True)
                self._state.unlink(missing_ok=True)

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Add rows, which a later run finds after a second at most."""
        rows, size, digest = self._written
        content = self._rendered(predictions).encode("utf-8", "surrogateescape")
        digest = digest.copy()
        digest.update(content)
        with self._explained():
            left = memoryview(content)
            while left:
                left = left[self._file.write(left) :]
            self._written = _Written(rows + len(predictions), size + len(content), digest)
            self._count(_Row(one.path, one.reason or "", one.unsure) for one in predictions)
            if time.monotonic() >= self._due:
                self._commit()

    def finish(self) -> None:
        """Give the file its name."""
        with self._explained():
            if not self._written.size:
                self.append([])
            self._commit()
            self.partial.replace(self.out)
            self._state.unlink()
            sync_folder(self.out.parent)

    def report(self) -> PredictionReport:
        """Return what there is to say of it."""
        return PredictionReport(self.out, self.rows - len(self._skipped), self.resumed, self._unsure, self._skipped)

    def _rendered(self, predictions: Iterable[Prediction]) -> str:
        if self.out.suffix == ".csv":
            head = [] if self._written.size else [self._answering.columns]
            return csv_text([*head, *map(self._answering.cells, predictions)])
        return "".join(json.dumps({**self._answering.as_dict(one), "reason": one.reason}) + "\n" for one in predictions)

    def _parsed(self, lines: Iterable[str]) -> list[_Row]:
        if self.out.suffix == ".csv":
            _, *rows = csv.reader(lines, strict=True)
            thresholded = self._answering.threshold is not None
            return [_Row(row[0], row[-1], thresholded and row[4] == "true") for row in rows]
        return [_Row(one["path"], one["reason"] or "", one.get("unsure", False)) for one in map(json.loads, lines)]

    def _count(self, rows: Iterable[_Row]) -> None:
        for row in rows:
            self._unsure += row.unsure
            if row.reason:
                self._skipped.append({"path": row.path, "reason": row.reason})

    def _commit(self) -> None:
        """Say that the rows count, once they are on the disk."""
        rows, size, digest = self._written
        os.fsync(self._file.fileno())
        state = {"rows": rows, "bytes": size, "sha256": digest.hexdigest()}
        publish_json(self._state, {"format": FILE_FORMAT, "of": self._identity, **state})
        self._kept = rows
        self._due = time.monotonic() + COMMIT_SECONDS

    def _resume(self) -> None:
        advice = f"Delete {str(self.partial)!r} to start again, or choose another `out`."
        try:
            state = read_json(self._state)
            _STATE(state, "")
            rows, size, expected = state["rows"], state["bytes"], state["sha256"]
            known = state["of"] if state["format"] == FILE_FORMAT else {}
            others = [name for name in self._identity if known.get(name) != self._identity[name]]
        except (OSError, ValueError) as error:
            if (reason := trouble(error)) is not None:
                raise OptionError(f"{str(self._state)!r} cannot be read: {reason}") from None
            raise OptionError(
                f"{self._state.name!r}, which says what {str(self.partial)!r} is of, is missing or cannot be "
                f"read. {advice}"
            ) from None
        if others and rows:
            raise OptionError(
                f"{str(self.partial)!r} is of another command, or its images have changed; what differs: "
                f"{', '.join(others)}. {advice}"
            )
        digest = hashlib.sha256()
        if size > self._file.seek(0, os.SEEK_END):
            raise OptionError(f"{str(self.partial)!r} is shorter than it was. {advice}")
        self._file.seek(0)
        for start in range(0, size, 1 << 20):
            digest.update(self._file.read(min(1 << 20, size - start)))
        if digest.hexdigest() != expected:
            raise OptionError(f"{str(self.partial)!r} was changed since it was written. {advice}")
        self._file.truncate(size)
        if rows:
            self._count(self._read_back(rows, advice))
        self._written, self._kept, self.resumed = _Written(rows, self._file.seek(size), digest), rows, rows
        if not rows:
            self._commit()

    def _read_back(self, rows: int, advice: str) -> list[_Row]:
        """Return the rows that an earlier run has written, which must be as many as it says."""
        try:
            with self.partial.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
                found = self._parsed(lines)
            if len(found) != rows:
                raise ValueError
        except (ValueError, LookupError, TypeError, RuntimeError, csv.Error):
            raise OptionError(f"{str(self.partial)!r} does not hold the {rows} rows that it should. {advice}") from None
        return found

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OptionError(
                f"{str(self.out)!r} cannot be written: {error.strerror or error}. Free some space or mend the "
                "folder's permissions, and run the same command again; or choose another `out`."
            ) from None


def own_files(out: Path) -> tuple[Path, Path, Path]:
    """Return where predictions lie when they are complete, where until then, and what is said of those."""
    return out, out.with_name(f"{out.name}.partial"), out.with_name(f"{out.name}.partial.json")


def _open_locked(path: Path) -> BinaryIO:
    """Open a file, made if need be, to read and write, unbuffered; raise `OptionError` if somebody else has it so."""
    if (kind := odd_file(path)) is not None:
        raise OptionError(f"{str(path)!r} is {kind}, not a file. Move it, or choose another `out`.")
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
    try:
        with contextlib.suppress(ImportError):  # Windows
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _busy(path) from None
            except OSError:  # a network disk without locks
                return file
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
            raise _busy(path)  # it was finished between opening and locking
    except BaseException:
        file.close()
        raise
    return file


def _busy(path: Path) -> OptionError:
    return OptionError(f"Another process is writing {str(path)!r}. Wait for it, or choose another `out`.")


def check_apart(files: Sequence[Path], images: Images) -> None:
    """Raise `OptionError` if predictions would take the place of what names the images."""
    if isinstance(images, Source):
        images = images.location
    named: Any = [images] if isinstance(images, str | os.PathLike) else images
    paths = [Path(one) for one in named if isinstance(one, str | os.PathLike)]
    given = {path.resolve() for path in paths if path.is_file()}
    for file in files:
        if file.resolve() in given:
            raise OptionError(
                f"`out` would replace {str(file)!r}, which is an image or a list of images here. Choose another `out`."
            )


def without(files: Sequence[Path], source: Source) -> Source:
    """Return a source without these files, which may lie in a folder of it."""
    if not isinstance(source, FileSource):
        return source
    root, names, places = source.root, {file.name for file in files}, {file.resolve() for file in files}

    def is_own(item: Item) -> bool:
        return item.path.rpartition("/")[2] in names and (root / item.path).resolve() in places

    return Selected(source, [item for item in source.items if not is_own(item)])


def listing_digest(source: Source) -> str:
    """Return SHA-256 of where the images of a source lie, in its order, and of what shows that one has changed."""
    found = hashlib.sha256()
    for item in source.items:
        place = os.path.join(source.location, item.path)  # noqa: PTH118
        found.update(place.encode("utf-8", "surrogatepass"))
        found.update(b"\0%d %d %d\0" % (item.size, item.mtime_ns, item.changes or _changes(source, item)))
    return found.hexdigest()


def _changes(source: Source, item: Item) -> int:
    """Return what tells whether a file was changed that is younger than two seconds, whose item does not say it."""
    source = source.origin if isinstance(source, Selected) else source
    with contextlib.suppress(OSError):
        if isinstance(source, FileSource):
            return change_stamp((source.root / item.path).stat(), settled=True)
    return 0
