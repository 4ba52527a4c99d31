"""Rows as text, HTML and frames."""

import sys

import pytest

from featcache.display import frame, html_table, text_table
from featcache.errors import OptionError


def test_text_is_aligned() -> None:
    """Columns are two spaces apart, numbers flush right, and no line ends in blanks."""
    assert text_table([["a", "n"], ["long", "10"]], right={1}) == "a      n\nlong  10"
    assert text_table([]) == ""


def test_a_table_that_is_too_wide() -> None:
    """The widest names lose their middle until the table fits; numbers never do, and short names stay."""
    rows = [["name", "layer", "n"], ["a" * 30 + "-1", "b" * 20, "12345"]]
    text = text_table(rows, right={2}, width=40)
    assert [len(line) for line in text.splitlines()] == [40, 40]
    assert text.splitlines()[1].startswith("aaa")
    assert "…" in text
    assert "a-1  " in text
    assert text.endswith("12345")
    assert text_table(rows, right={2}, width=70) == text_table(rows, right={2})
    assert "12345" in text_table(rows, right={2}, width=5)


def test_html_is_escaped() -> None:
    """Names from files cannot become markup, and control characters are shown."""
    text = html_table([["<b>", "n"], ["<script>alert(1)</script>\x1b", 3]], caption="a & b", right={1})
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b" in text
    assert "a &amp; b" in text
    assert '<td style="text-align: right">3</td>' in text


def test_a_table_without_headings() -> None:
    """Empty headings make no line of the table."""
    assert "<th" not in html_table([["", ""], ["cache", "x"]])


def test_a_frame() -> None:
    """Rows and columns become a frame with the columns in the order asked for, even without a row."""
    pytest.importorskip("pandas")
    for data in ([{"a": 1, "b": 2}], {"a": [1], "b": [2]}):
        found = frame(data, ["b", "a"])
        assert list(found.columns) == ["b", "a"]
        assert found.loc[0, "a"] == 1
    assert list(frame([], ["a"]).columns) == ["a"]


def test_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names what is missing and how to install it."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(OptionError, match="pip install pandas"):
        frame([], [])
