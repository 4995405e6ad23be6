"""The report of `tersa search`: one HTML file that opens anywhere and fetches nothing, the answer first.

joint.html with its style sheets and script.js set into it and the charts as inline SVG; the shell, its
escaping and its content security policy are those of `tersa.report.page`.

Example:
    >>> "<h1" in render(JointView("lenet", "5 times smaller", ""))
    True
"""

from __future__ import annotations

from pathlib import Path

from tersa.files import write_atomic
from tersa.report import page
from tersa.report.adapt_charts import scatter
from tersa.report.joint_view import JointView
from tersa.report.plain import cleaned_view

REPORT = "report.html"
"""Name of the page in a run's folder."""


def render(view: JointView) -> str:
    """The whole page as text."""
    view = cleaned_view(view)
    charts = [
        (
            chart,
            scatter(
                f"front-{chart.key}",
                chart.question,
                chart.spots,
                (chart.name, "validation accuracy, %"),
                joined=True,
            ),
            [spot.text for spot in chart.spots],
        )
        for chart in view.charts
    ]
    return page.page("joint.html", ("style.css", "study.css", "adapt.css"), {"view": view, "charts": charts})


def write(view: JointView, path: Path) -> None:
    """Render and write the page, whole or not at all."""
    write_atomic(path, render(view))
