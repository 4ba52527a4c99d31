from pathlib import Path

import pytest
from test_roles import columns

from featcache.errors import SourceError
from featcache.sources import SourceOptions
from featcache.sources.opening import open_source


def text(header: str, cells: list[str], times: int = 1) -> str:
    """Return a table of four images whose third column has these cells."""
    rows = [f"{i % 4}.png,{'ab'[i % 2]},{cell}" for i, cell in enumerate(cells * times)]
    return "\n".join([f"path,label,{header}", *rows])


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("conjunto", ["entrenamiento", "entrenamiento", "validación", "prueba"]),
        ("Partición", ["Entrenamiento", "entrenamiento", "Validacion", "prueba"]),
        ("ensemble", ["entraînement", "apprentissage", "validation", "test"]),
        ("Teilmenge", ["Training", "Trainingsdaten", "Validierung", "Testdaten"]),
        ("conjunto", ["treino", "treinamento", "validação", "teste"]),
        ("Insieme", ["addestramento", "addestramento", "validazione", "test"]),
        ("区分", ["训练集", "训练", "验证集", "测试集"]),
    ],
)
def test_splits_in_other_languages(tmp_path: Path, header: str, cells: list[str]) -> None:
    """Columns and words of other languages mean the splits, and so do folders of these names."""
    columns(tmp_path, text(header, cells))
    found = [item.split for item in open_source(tmp_path / "t.csv").items]
    assert found == ["train", "train", "validation", "test"]
    for cell in set(cells):
        (tmp_path / "set" / cell / "a").mkdir(parents=True)
        (tmp_path / "set" / cell / "a" / f"{cell}.png").write_bytes(cell.encode())
    splits = {"train": sorted(set(cells[:2]))}
    source = open_source(tmp_path / "set", options=SourceOptions(splits=splits))
    assert {item.split for item in source.items} == {"train", "validation", "test"}


def test_mostly_splits_are_asked_about(tmp_path: Path) -> None:
    """A column of names of splits and a few other words is never passed over; the message says what to type."""
    table = text("origin", ["train", "train", "test", "unseen"])
    with pytest.raises(
        SourceError,
        match=r"'origin' has names of splits \('test', 'train'\) and others.*--split-column"
        r" origin --split validation=unseen.*--split-column none",
    ):
        columns(tmp_path, table)
    assert columns(tmp_path, table, split_column="none").split is None
    options = SourceOptions(split_column="origin", splits={"validation": "unseen"})
    assert [i.split for i in open_source(tmp_path / "t.csv", options=options).items][2:] == ["test", "validation"]


@pytest.mark.parametrize(
    ("header", "cells", "words"),
    [
        ("set", ["A", "A", "A", "B"], "--split-column set --split train=A --split test=B"),
        (
            "partition",
            ["0", "0", "1", "2"],
            "--split-column partition --split train=0 --split validation=1 --split test=2",
        ),
        ("Teilmenge", ["x", "x", "x", "y"], "--split-column Teilmenge --split train=x --split test=y"),
    ],
)
def test_a_set_without_names_of_splits_is_offered(
    tmp_path: Path, caplog, header: str, cells: list[str], words: str
) -> None:
    """A column that is named as a split and has other words is not read, which is said with the options for it."""
    assert columns(tmp_path, text(header, cells)).split is None
    assert f"{header!r} is not read, as its words are no names of splits" in caplog.text
    assert words in caplog.text


@pytest.mark.parametrize("cells", [["train", "bus", "car", "tram"], ["a", "b", "c", "d"], ["test 1", "bus", "x", "y"]])
def test_other_columns_are_not_asked_about(tmp_path: Path, caplog, cells: list[str]) -> None:
    """Words one of which happens to be a split's are nothing to ask about."""
    assert columns(tmp_path, text("vehicle", cells)).split is None
    assert not caplog.records
