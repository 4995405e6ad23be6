"""The report of `tersa bench`: one HTML file that opens anywhere and fetches nothing, the answer first.

bench.html with style.css, study.css, bench.css and script.js set into it and the charts as inline SVG; the
shell, its escaping and its content security policy are those of `tersa.report.page`.

Example:
    >>> view = BenchView("lenet", "Nothing is faster", "", (), (), (), "", (), (), None, (), (), (), "", ())
    >>> "<h1" in render(view)
    True
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tersa.files import write_atomic
from tersa.report import bench_charts, hardware_charts, page
from tersa.report.bench_view import BenchView
from tersa.report.plain import cleaned_view

REPORT = "report.html"
"""Name of the page in a run's folder."""


def render(view: BenchView) -> str:
    """The whole page as text."""
    return page.page("bench.html", ("style.css", "study.css", "bench.css"), _values(cleaned_view(view)))


def write(view: BenchView, path: Path) -> None:
    """Render and write the page, whole or not at all."""
    write_atomic(path, render(view))


def _values(view: BenchView) -> dict[str, Any]:
    """What the template shows, by name."""
    last = max((p.batch for panel in view.panels for c in panel.curves for p in c.points), default=1)
    kinds = (("time", hardware_charts.time_of), ("rate", hardware_charts.rate_of))
    reaches = {name: hardware_charts.reach(view.panels, value) for name, value in kinds}
    styles = {curve.label: curve.style for panel in view.panels for curve in panel.curves}
    return {
        "view": view,
        "keys": sorted((style, label) for label, style in styles.items()),
        "panels": [
            (
                panel,
                *(
                    hardware_charts.chart(panel, f"{name}-{place}", value, reaches[name], last)
                    for name, value in kinds
                ),
                hardware_charts.texts(panel),
            )
            for place, panel in enumerate(view.panels)
        ],
        "against": [
            (chart, bench_charts.against(chart), bench_charts.against_texts(chart)) for chart in view.against
        ],
        "layers": [
            (table, bench_charts.bar(table.rows, f"layers-{place}"))
            for place, table in enumerate(view.layers)
        ],
    }
