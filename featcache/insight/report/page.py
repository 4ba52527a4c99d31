"""A page of sections, as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from featcache.charts import INK
from featcache.errors import OptionError, printable


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers are flush right, and sort from high to low first."""

    name: str
    numeric: bool = False


@dataclass(frozen=True)
class Cell:
    """What a table shows in a place, and what it is sorted by there (default: the text)."""

    text: str
    key: float | str | None = None


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows; `sortable` by buttons in its head, `broad` as wide as the page."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False
    broad: bool = False
    note: str = ""
    kind: str = "table"


def table(caption: str, names: Iterable[str], rows: Iterable[Iterable[Any]], **more: Any) -> Table:
    """Return a table of cells and texts; names of columns of numbers begin with ``#``."""
    columns = [Column(name.removeprefix("#"), name.startswith("#")) for name in names]
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    return Table(caption, columns, cells, **more)


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification; `fixed` ones keep their width, others take that of their place, `broad` ones a row."""

    name: str
    specification: dict[str, Any]
    caption: str
    description: str
    fixed: bool = False
    broad: bool = False
    kind: str = "chart"


@dataclass(frozen=True)
class Shot:
    """A picture with the lines below it; `image` is a data URI, None where it cannot be shown."""

    image: str | None
    alternative: str
    lines: Sequence[str]
    wrong: bool = False


@dataclass(frozen=True)
class Gallery:
    """Pictures in rows."""

    caption: str
    shots: Sequence[Shot]
    kind: str = "gallery"


@dataclass(frozen=True)
class Case:
    """Pictures that belong together, two in a row, and what is said of them; of one picture, beside it."""

    shots: Sequence[Shot]
    lines: Sequence[str]


@dataclass(frozen=True)
class Cases:
    """Cases in columns, below a caption and a paragraph."""

    caption: str
    text: str
    cases: Sequence[Case]
    kind: str = "cases"


@dataclass(frozen=True)
class Facts:
    """Names and what they stand for."""

    pairs: Sequence[tuple[str, str]]
    kind: str = "facts"


@dataclass(frozen=True)
class Commands:
    """Lines for a shell."""

    lines: Sequence[str]
    kind: str = "commands"


Block = Table | Chart | Gallery | Cases | Facts | Commands


@dataclass(frozen=True)
class Section:
    """A part of a page: its anchor (letters and ``-``), its title, and what is said and then shown in it."""

    key: str
    title: str
    paragraphs: Sequence[str] = ()
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class Page:
    """All of it: the number that counts (`figure`), the summary (`paragraphs`), and what a reader must know (`notes`).

    A `kicker` is a line above the title.
    """

    title: str
    kicker: str
    figure: str
    figure_note: str
    paragraphs: Sequence[str]
    sections: Sequence[Section]
    footer: str
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def charts(self) -> list[Chart]:
        """Every chart, in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Chart)]


def check_installed() -> None:
    """Raise OptionError if a library that pages need is not there."""
    try:
        import altair  # noqa: F401
        import jinja2  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise OptionError(
            f"Reports need {error.name}, which is not installed. Run: pip install 'featcache[report]'"
        ) from None


def render(page: Page) -> str:
    """Return the page as HTML that loads nothing: styles, scripts and pictures are in it.

    Text is escaped by Jinja2, what is in charts by JSON, and a content security policy allows the page's own two
    scripts alone, by their digests, and no connection.
    """
    import altair
    import jinja2
    import vl_convert
    from markupsafe import Markup

    static = files("featcache.insight.report") / "static"
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else printable(value),
    )
    template = environment.from_string((static / "page.html.j2").read_text("utf-8"))
    version = ".".join(altair.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    scripts = [
        vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version),
        (static / "page.js").read_text("utf-8"),
    ]
    charts = {chart.name: _for_page(chart) for chart in page.charts}
    return template.render(
        page=page,
        charts=charts,
        style=Markup((static / "page.css").read_text("utf-8")),
        scripts=[Markup(script) for script in scripts],
        policy=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
    )


def _for_page(chart: Chart) -> dict[str, Any]:
    """Return a specification in the page's own colours, as wide as the page, without its title."""
    text = json.dumps(_shown(chart.specification)).replace(json.dumps(INK), '"currentColor"')
    specification: dict[str, Any] = json.loads(text)
    specification.pop("title", None)
    specification["description"] = printable(chart.description)
    if not chart.fixed:
        specification["width"] = "container"
        specification["autosize"] = {"type": "fit-x", "contains": "padding"}
    return specification


def _shown(value: Any) -> Any:
    """Return JSON with every text in it printable."""
    if isinstance(value, dict):
        return {key: _shown(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(one) for one in value]
    return printable(value) if isinstance(value, str) and not value.startswith("data:image/") else value


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
