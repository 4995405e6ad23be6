"""The report of a hardware reproduction: one HTML file that fetches nothing, the answer first.

hardware.html with style.css, study.css, pruning.css and script.js set into it and the charts as inline SVG;
the shell, its escaping and its content security policy are those of `tersa.report.page`.

Example:
    >>> "<h1" in render(HardwareView("two networks on one machine", "Nothing was measured", ""))
    True
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tersa.files import write_atomic
from tersa.report import hardware_charts, page
from tersa.report.hardware_view import GroupView, HardwareView
from tersa.report.plain import cleaned_view


def render(view: HardwareView) -> str:
    """The whole page as text."""
    shown = cleaned_view(view)
    groups = [_group(each, place) for place, each in enumerate(shown.groups)]
    styles = ("style.css", "study.css", "pruning.css", "hardware.css")
    return page.page("hardware.html", styles, {"view": shown, "groups": groups})


def write(view: HardwareView, path: Path) -> None:
    """Render and write the page, whole or not at all."""
    write_atomic(path, render(view))


def _group(shown: GroupView, place: int) -> dict[str, Any]:
    times = hardware_charts.reach(shown.panels, hardware_charts.time_of)
    rates = hardware_charts.reach(shown.panels, hardware_charts.rate_of)
    points = [point for panel in shown.panels for curve in panel.curves for point in curve.points]
    last = max((point.batch for point in points), default=1)
    labels = {curve.label: curve.style for panel in shown.panels for curve in panel.curves}
    return {
        "view": shown,
        "keys": sorted((style, label) for label, style in labels.items()),
        "panels": [
            (
                panel,
                hardware_charts.chart(panel, f"time-{place}-{n}", hardware_charts.time_of, times, last),
                hardware_charts.chart(panel, f"rate-{place}-{n}", hardware_charts.rate_of, rates, last),
                hardware_charts.texts(panel),
            )
            for n, panel in enumerate(shown.panels)
        ],
    }
