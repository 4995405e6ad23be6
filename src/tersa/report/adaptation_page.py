"""The report of an adaptation reproduction: one HTML file that fetches nothing, the answer first.

adaptation.html with the styles of the other reproductions; tables are those of `hardware_view`, drawings the
scatter of `adapt_charts`. The shell, its escaping and its content security policy are `tersa.report.page`'s.

Example:
    >>> "<h1" in render(AdaptationView("two networks", "Nothing was measured", ""))
    True
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tersa.files import write_atomic
from tersa.report import page
from tersa.report.adapt_charts import Drawing, Spot, scatter
from tersa.report.hardware_view import TableView, Tile
from tersa.report.plain import cleaned_view


@dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes:
        title: its number and what it shows.
        spots: dots.
        names: of the axes, x and y.
        joined: a line through the dots that were taken.
    """

    title: str
    spots: tuple[Spot, ...]
    names: tuple[str, str]
    joined: bool = False


@dataclass(frozen=True)
class AdaptationView:
    """The whole page.

    Attributes:
        subject: what was measured.
        verdict: the answer.
        detail: the answer in sentences.
        notes: what a reader must know.
        tiles: numbers of the answer.
        tables: of the document.
        charts: of the document.
        command: what the user typed.
        facts: (name, value) of the machine.
    """

    subject: str
    verdict: str
    detail: str
    notes: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    tables: tuple[TableView, ...] = ()
    charts: tuple[Chart, ...] = ()
    command: str = ""
    facts: tuple[tuple[str, str], ...] = ()


def render(view: AdaptationView) -> str:
    """The whole page as text."""
    shown = cleaned_view(view)
    drawn = [(chart.title, _drawn(chart, place)) for place, chart in enumerate(shown.charts) if chart.spots]
    styles = ("style.css", "study.css", "pruning.css", "hardware.css", "adapt.css")
    return page.page("adaptation.html", styles, {"view": shown, "charts": drawn})


def write(view: AdaptationView, path: Path) -> None:
    """Render and write the page, whole or not at all."""
    write_atomic(path, render(view))


def _drawn(chart: Chart, place: int) -> Drawing:
    drawing = scatter(f"figure-{place}", chart.title, chart.spots, chart.names, joined=chart.joined)
    return Drawing(drawing, [spot.text for spot in chart.spots])
