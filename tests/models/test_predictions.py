import csv
import io
import json
import os
from pathlib import Path

import pytest

from featcache.errors import OptionError
from featcache.models import predictions
from featcache.models.predictions import Answering, Prediction, PredictionFile, own_files

NAMES = ["2", 'a,"b"\n\r', "unsure", os.fsdecode(b"\xff")]
PATHS = [
    "plain.png",
    "a,b.png",
    'q"u"o.png',
    "new\nline\r.png",
    "only\rreturn.png",
    os.fsdecode(b"\xfe\x1b[31m.png"),
    "=1+1",
    "ü",
]
WAYS = [Answering(NAMES), Answering(NAMES, threshold=0.5, top_k=3)]
IDENTITY = {"model": "m", "list of images": "l"}


def made(path: str, number: int, answering: Answering) -> Prediction:
    """Return a prediction; each third is unread, each other one is unsure where there is a threshold."""
    if number % 3 == 2:
        return Prediction(path, None, None, {}, "cannot be read: it, truly")
    shares = dict(zip(NAMES, (0.4, 0.3, 0.2, 0.1) if number % 2 else (0.1, 0.2, 0.7, 0.0), strict=True))
    top = tuple(sorted(shares.items(), key=lambda pair: -pair[1]))[: answering.top_k]
    unsure = answering.threshold is not None and top[0][1] < answering.threshold
    return Prediction(path, "unsure" if unsure else top[0][0], top[0][1], shares, None, None, top, unsure)


def rows_of(out: Path) -> list[dict[str, object]]:
    text = out.read_bytes().decode("utf-8", "surrogateescape")
    if out.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("answering", WAYS)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_odd_names_survive(tmp_path: Path, suffix: str, answering: Answering) -> None:
    """Paths and classes with commas, quotes, line ends, control characters or broken UTF-8 read back as they were."""
    rows = [made(path, i, answering) for i, path in enumerate(PATHS)]
    out = tmp_path / f"p{suffix}"
    with PredictionFile(out, answering, IDENTITY) as file:
        file.append(rows)
        file.finish()
    found = rows_of(out)
    assert [one["path"] for one in found] == PATHS
    assert [one["label"] or None for one in found] == [one.label for one in rows]
    assert [one["reason"] or None for one in found] == [one.reason for one in rows]
    shares = [
        one["probabilities"]
        if suffix == ".jsonl"
        else {name: float(one[f"probability_{name}"]) for name in NAMES if one[f"probability_{name}"]}
        for one in found
    ]
    assert shares == [one.probabilities for one in rows]
    if answering.top_k > 1:
        second = [
            one["top"][1] if suffix == ".jsonl" else [one["label_2"], float(one["label_2_probability"])]
            for one in found
            if one["label"]
        ]
        assert second == [list(one.top[1]) for one in rows if one.top]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_class_named_unsure_is_told_apart(tmp_path: Path, suffix: str) -> None:
    """`unsure` says whether it is the threshold's word or a class's name; `best` has the class."""
    out, answering = tmp_path / f"p{suffix}", WAYS[1]
    with PredictionFile(out, answering, IDENTITY) as file:
        file.append([made("sure", 0, answering), made("not", 1, answering)])
        file.finish()
        assert file.report().unsure == 1
    sure, unsure = rows_of(out)
    assert (sure["label"], sure["best"], str(sure["unsure"]).lower()) == ("unsure", "unsure", "false")
    assert (unsure["label"], unsure["best"], str(unsure["unsure"]).lower()) == ("unsure", "2", "true")


@pytest.mark.parametrize("answering", WAYS)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_what_was_not_committed_is_cut_off(tmp_path: Path, monkeypatch, suffix: str, answering: Answering) -> None:
    """Wherever a file was torn behind its last commit, the run that goes on makes it what it would have been."""
    monkeypatch.setattr(predictions, "COMMIT_SECONDS", 0.0)
    rows = [made(path, i, answering) for i, path in enumerate(PATHS * 2)]
    out, whole = tmp_path / f"p{suffix}", tmp_path / f"whole{suffix}"
    with PredictionFile(whole, answering, IDENTITY) as file:
        file.append(rows)
        file.finish()
    expected, report = whole.read_bytes(), file.report()
    with PredictionFile(out, answering, IDENTITY) as file:
        file.append(rows[:7])
        file.append(rows[7:9])
    _, partial, state = own_files(out)
    committed, kept = partial.read_bytes(), state.read_bytes()
    assert not out.exists()
    for torn in range(0, len(expected) - len(committed), 7):
        partial.write_bytes(committed + expected[len(committed) :][:torn])
        state.write_bytes(kept)
        with PredictionFile(out, answering, IDENTITY) as file:
            assert (file.rows, file.resumed) == (9, 9)
            file.append(rows[9:])
            file.finish()
        assert out.read_bytes() == expected
        found = file.report()
        assert (found.predicted, found.unsure, found.skipped) == (report.predicted, report.unsure, report.skipped)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([out.name, whole.name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda partial, state: None, "differs: model"),
        (lambda partial, state: partial.write_bytes(partial.read_bytes()[:-1]), "shorter than it was"),
        (lambda partial, state: partial.write_bytes(partial.read_bytes().replace(b"plain", b"plane")), "changed since"),
        (lambda partial, state: state.unlink(), "missing or cannot be read"),
        (lambda partial, state: state.write_text('{"rows": 1'), "missing or cannot be read"),
        (lambda partial, state: state.write_text("[]"), "missing or cannot be read"),
    ],
)
def test_a_partial_file_of_something_else_is_refused(tmp_path: Path, change, message: str) -> None:
    """It is left as it is, and one line says to delete it; an existing finished file stays, too."""
    out, answering = tmp_path / "p.csv", WAYS[0]
    out.write_text("finished")
    with PredictionFile(out, answering, IDENTITY) as file:
        file.append([made("plain", 0, answering)])
    _, partial, state = own_files(out)
    change(partial, state)
    left = partial.read_bytes()
    identity = {**IDENTITY, "model": "other"} if message == "differs: model" else IDENTITY
    with pytest.raises(OptionError, match=f"{message}.*Delete .*p.csv.partial.* or choose another"):
        PredictionFile(out, answering, identity).__enter__()
    assert (out.read_text(), partial.read_bytes()) == ("finished", left)
    partial.unlink()
    with PredictionFile(out, answering, identity) as file:
        assert file.rows == 0


def test_nothing_predicted_leaves_nothing(tmp_path: Path) -> None:
    """A run that fails before its first row leaves no file; the finished one that was there stays."""
    out = tmp_path / "p.csv"
    out.write_text("finished")
    with pytest.raises(RuntimeError), PredictionFile(out, WAYS[0], IDENTITY):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_a_full_disk_is_one_line_and_a_place_to_go_on(tmp_path: Path, monkeypatch) -> None:
    """What was written before the disk was full is kept; once there is space the same run ends."""
    monkeypatch.setattr(predictions, "COMMIT_SECONDS", 0.0)
    out, answering = tmp_path / "p.jsonl", WAYS[0]
    sync = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    full_disk = pytest.raises(OptionError, match=r"No space left on device\. Free some space")
    with full_disk, PredictionFile(out, answering, IDENTITY) as file:
        file.append([made("a", 0, answering)])
        monkeypatch.setattr(os, "fsync", full)
        file.append([made("b", 1, answering)])
    monkeypatch.setattr(os, "fsync", sync)
    with PredictionFile(out, answering, IDENTITY) as file:
        assert file.rows == 1
        file.append([made("b", 1, answering)])
        file.finish()
    assert [row["path"] for row in rows_of(out)] == ["a", "b"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    """A second run with the same file is refused while the first one lives."""
    out = tmp_path / "p.csv"
    with PredictionFile(out, WAYS[0], IDENTITY) as file:
        file.append([made("a", 0, WAYS[0])])
        with pytest.raises(OptionError, match="Another process is writing"):
            PredictionFile(out, WAYS[0], IDENTITY).__enter__()
        file.append([made("b", 1, WAYS[0])])
        file.finish()
    assert [row["path"] for row in rows_of(out)] == ["a", "b"]


def test_no_images_are_a_header(tmp_path: Path) -> None:
    """A table of nothing has its header, lines of nothing have nothing."""
    for name in ("p.csv", "p.jsonl"):
        with PredictionFile(tmp_path / name, Answering(["a"]), IDENTITY) as file:
            file.finish()
    assert (tmp_path / "p.csv").read_text() == "path,label,probability,probability_a,reason\n"
    assert (tmp_path / "p.jsonl").read_text() == ""


@pytest.mark.parametrize(
    "options", [{"threshold": -0.1}, {"threshold": 1.1}, {"threshold": float("nan")}, {"top_k": 0}, {"top_k": 5}]
)
def test_options_out_of_range(options) -> None:
    """A threshold outside 0 to 1, or more classes than there are, is an error."""
    with pytest.raises(OptionError, match=r"must be from . to"):
        Answering(NAMES, **options)
