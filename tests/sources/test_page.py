"""docs/sources.md, example by example.

A block ```layout lists files, then commands with what they read, one or more times:

- a line with a path is a file; a name ending in ``.npy`` is made of two images or their labels;
- lines below it that begin with four spaces are its text (for tables);
- ``a.tar: b.jpg b.cls=cat`` is a tar file and its members, one of them with text;
- ``$ featcache extract SOURCE …`` is a command;
- ``error: …``, or ``N images[: n train, …]; classes: a, b`` (or ``; no classes``) and any ``warning: …``; in these,
  the character … stands for any text.
"""

import io
import re
import shlex
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import typer.main
from conftest import random_image, write_image

from featcache.cli import app
from featcache.errors import FeatcacheError
from featcache.options import ListingOptions, options_of, subset
from featcache.sources import SPLITS, SourceOptions, class_names
from featcache.sources import names as layouts
from featcache.sources.opening import open_source

PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()
BLOCKS = re.findall(r"```layout\n(.*?)```", PAGE, re.S)


def image(seed: int) -> bytes:
    """Return a small JPEG file."""
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(random_image(seed, 8)).save(held, "JPEG")
    return held.getvalue()


def make(line: str, text: str, seed: int) -> None:
    """Make one file of a block, here."""
    name, colon, members = line.partition(": ")
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if colon:
        with tarfile.open(path, "w") as tar:
            for i, member in enumerate(members.split()):
                inner, equals, content = member.partition("=")
                info = tarfile.TarInfo(inner)
                data = content.encode() if equals else image(1000 * seed + i)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    elif path.suffix == ".npy":
        np.save(path, np.zeros((2, 8, 8), np.uint8) if path.name[0] == "x" else np.arange(2))
    elif text:
        path.write_text(text)
    elif path.suffix in (".jpg", ".png"):
        write_image(path, random_image(seed, 8))
    else:
        path.write_text("text")


def read(command: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what a command reads, in the page's words."""
    _, _, *words = shlex.split(command)
    found = typer.main.get_command(app).get_command(None, "extract").make_context("extract", words).params
    given = {
        name: about.form.read(found[name], name)
        for name, (_, about) in options_of(ListingOptions).items()
        if found[name] not in (None, [])
    }
    caplog.clear()
    try:
        options = ListingOptions(**given)
        source = open_source(found["source"], classes=options.classes, options=subset(options, SourceOptions))
    except FeatcacheError as error:
        return [f"error: {error}"]
    counts, names = Counter(item.split for item in source.items), class_names(source.items)
    splits = ", ".join(f"{counts[split]} {split}" for split in SPLITS if counts[split])
    line = f"{len(source.items)} images{': ' if splits else ''}{splits}; "
    return [
        line + (f"classes: {', '.join(names)}" if names else "no classes"),
        *(f"warning: {record.getMessage()}" for record in caplog.records),
    ]


@pytest.mark.parametrize("block", BLOCKS, ids=[block.splitlines()[0] for block in BLOCKS])
def test_an_example_is_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, block: str
) -> None:
    """The page says what an example is read as, or why it is refused, and no other warning is given."""
    monkeypatch.chdir(tmp_path)
    files, *commands = re.split(r"^\$ ", block, flags=re.M)
    for i, (line, text) in enumerate(re.findall(r"^(\S.*)\n((?:    .*\n)*)", files, re.M)):
        make(line, re.sub(r"^    ", "", text, flags=re.M), i)
    assert commands
    for command, *expected in map(str.splitlines, commands):
        found = read(command, caplog)
        assert len(found) == len(expected), found
        for said, line in zip(found, expected, strict=True):
            assert re.fullmatch(".*".join(map(re.escape, line.split("…"))), said), (said, line)


def test_the_page_has_all_litter_and_names_of_splits() -> None:
    """The lists on the page are those of the code."""
    rows = re.search(r"\| from \| names \|\n(.*?)\n\n", PAGE, re.S)
    assert rows
    listed = [name.replace("\\r", "\r") for name in re.findall(r"`([^`]+)`", rows[1])]
    assert sorted(listed) == sorted(layouts.LITTER)
    table = re.search(r"\| split \| names.*?\n(.*?)\n\n", PAGE, re.S)
    assert table
    assert sorted(re.findall(r"`(\w+)`", table[1])) == sorted(layouts._WORDS)
