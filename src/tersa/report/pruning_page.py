"""The report of a pruning reproduction: one HTML file that fetches nothing, the answer first.

pruning.html with style.css, study.css, pruning.css and script.js set into it and the charts as inline SVG;
the shell, its escaping and its content security policy are those of `tersa.report.page`.

Example:
    >>> view = PruningView("lenet on mnist", "Nothing was pruned", "")
    >>> "<h1" in render(view)
    True
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tersa.files import write_atomic
from tersa.report import page, pruning_charts, study_page
from tersa.report.plain import cleaned_view
from tersa.report.pruning_view import FigureView, PruningView


def render(view: PruningView) -> str:
    """The whole page as text."""
    return page.page("pruning.html", ("style.css", "study.css", "pruning.css"), _values(cleaned_view(view)))


def write(view: PruningView, path: Path) -> None:
    """Render and write the page, whole or not at all."""
    write_atomic(path, render(view))


def _values(view: PruningView) -> dict[str, Any]:
    """What the template shows, by name."""
    return {"view": view, "figures": [_figure(each) for each in view.figures]}


def _figure(shown: FigureView) -> dict[str, Any]:
    """One figure with its charts: whole, and near the top where the curves bunch there."""
    near = pruning_charts.bunched(shown.panels)
    name = shown.number.replace(".", "-")
    labels = {line.label: line.style for panel in shown.panels for line in panel.lines}
    return {
        "view": shown,
        "near": near,
        "lone": len(shown.panels) in study_page.LONE,
        "alone": len(shown.panels) == 1,
        "keys": sorted((style, label) for label, style in labels.items()),
        "missing": [(panel.title, panel.missing) for panel in shown.panels if panel.missing],
        "panels": [
            (
                panel,
                pruning_charts.chart(panel, f"figure-{name}-{place}"),
                pruning_charts.chart(panel, f"figure-{name}-{place}-near", pruning_charts.NEAR)
                if near
                else "",
                pruning_charts.texts(panel),
            )
            for place, panel in enumerate(shown.panels)
        ],
    }
