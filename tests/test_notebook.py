"""docs/notebook.ipynb runs."""

import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs from an empty folder: bars, tables, pictures, and one answer for all kinds of images."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    root = str(NOTEBOOK.parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    plain = [str(one.get("data", {}).get("text/plain", one.get("text", ""))) for one in outputs]
    assert any("extracting ━" in text for text in plain)
    assert sum("text/html" in one.get("data", {}) for one in outputs) >= 5
    assert sum("image/png" in one.get("data", {}) for one in outputs) == 2
    assert "".join(plain).count("['0' '1' '2'") == 2
