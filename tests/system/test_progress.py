"""Bars in terminals and notebooks."""

import pytest
from conftest import on_terminal

from featcache.system import progress
from featcache.system.progress import Bar, shown


def test_without_a_terminal_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """By default a script's log gets no line; False shows nothing, and a function is called."""
    for given in (True, False):
        with shown(given, "extracting") as show:
            assert show is None
    calls: list[tuple[int, int]] = []
    with shown(lambda done, total: calls.append((done, total)), "extracting") as show:
        assert show is not None
        show(1, 2)
    assert calls == [(1, 2)]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar() -> None:
    """On a terminal there is a bar with a rate; what ends at once has none."""
    code = (
        "import sys, time\nfrom featcache.system.progress import shown\n"
        "with shown(True, 'extracting') as show:\n"
        "    for done in range(1, 4):\n        show(done, 3)\n        time.sleep(float(sys.argv[1]))\n"
    )
    for pause, bar in (("0.6", True), ("0", False)):
        text = on_terminal(pause, code)
        assert (b"extracting" in text) == bar
        assert (b"images/s" in text) == bar


def test_the_rate_is_that_of_whole_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches come at once: neither the first of a batch nor the time before the first batch spoils the rate."""
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    bar, rates = Bar("extracting"), []
    for batch in range(4):
        clock[0] += 10 if batch == 0 else 2
        for i in range(32):
            clock[0] += 1e-4
            rates.append(bar.rate(32 * batch + i + 1))
    assert set(rates[:64]) == {0.0}
    assert all(15.9 < rate < 16.1 for rate in rates[65:])
    steady, clock[0] = Bar("reading"), 0.0
    found = []
    for i in range(1, 301):
        clock[0] += 0.01
        found.append(steady.rate(i))
    assert set(found[:90]) == {0.0}
    assert found[-1] == pytest.approx(100, rel=0.01)


def test_a_notebook_gets_a_line_that_replaces_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook one display is updated, with the time left as soon as it is known."""
    display = pytest.importorskip("IPython.display")
    lines: list[str] = []

    class Handle:
        def update(self, content: dict[str, str], raw: bool) -> None:
            lines.append(content["text/plain"])

    def first(content: dict[str, str], raw: bool, display_id: bool) -> Handle:
        lines.append(content["text/plain"])
        return Handle()

    now = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr(display, "display", first)
    bar = Bar("extracting")
    for done in (10, 20, 30):
        bar(done, 30)
    assert "10 of 30" in lines[0]
    assert "left" not in lines[0]
    assert "s left" in lines[1]
    assert "30 of 30" in lines[-1]
    assert "left" not in lines[-1]
