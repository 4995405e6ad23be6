"""The report of a study: one HTML file that opens anywhere and fetches nothing, the answer first.

study.html with style.css, study.css and script.js set into it and the charts as inline SVG; the shell, its
escaping and its content security policy are those of `tersa.report.page`.

Example:
    >>> view = StudyView("demo", "study report", "nothing yet", "No run has ended", "")
    >>> "<h1" in render(view)
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tersa.files import write_atomic
from tersa.report import page, study_angles, study_charts, study_curves
from tersa.report.plain import cleaned_view
from tersa.report.study_view import Panel, Ranked, StudyView

SHOWN = 12
"""Settings in the first table of the most accurate ones; all of them are in the second."""

FEW = 9
"""Panels of training curves and weight ranges that are open; the others wait behind a click."""

LONE = frozenset({1, 2, 4})
"""Numbers of panels that fill two columns and are drawn large; others have three."""


def render(view: StudyView) -> str:
    """The whole page as text."""
    return page.page("study.html", ("style.css", "study.css"), _values(cleaned_view(view)))


def write(view: StudyView, path: Path) -> None:
    """Render and write the page, whole or not at all."""
    write_atomic(path, render(view))


def _values(view: StudyView) -> dict[str, Any]:
    """What the template shows, by name."""
    panels = [panel for group in view.groups for panel in group.panels]
    most = max((abs(end) for e in view.effects for end in (e.low, e.high)), default=1.0)
    slowest = max((cost.microseconds for cost in view.costs), default=1.0)
    reach = _ranked_range(view.ranked)
    return {
        "view": view,
        "groups": _groups(view),
        "several_seeds": any(p.spread and p.spread.count > 1 for panel in panels for p in _points(panel)),
        "has_published": any(line.published for panel in panels for line in panel.lines),
        "has_reference": any(panel.reference is not None for panel in panels),
        "has_diverged": any(point.diverged for panel in panels for point in _points(panel)),
        "scatter": study_charts.scatter(view.compared, "scatter") if view.compared else "",
        "scatter_texts": study_charts.scatter_texts(view.compared),
        "ranked": _drawn(view.ranked[:SHOWN], reach) + [(row, "") for row in view.ranked[SHOWN:]],
        "everything": [(row, "") for row in view.ranked],
        "shown": SHOWN,
        "few": FEW,
        "elsewhere": view.accuracies != "test accuracy",
        "lone": len(panels) in LONE and len(view.groups) == 1,
        "decided": [each for each in view.judged if each.verdict != "open"],
        "undecided": [each for each in view.judged if each.verdict == "open"],
        "reach": reach,
        "maps": [
            (chart.title, study_charts.heat_map(chart, f"heat-{place}"))
            for place, chart in enumerate(view.maps)
        ],
        "heat_legend": [(name, study_charts.legend_chip(o)) for name, o in study_charts.legend_steps()],
        "effects": [(effect, study_charts.effect_track(effect, most)) for effect in view.effects],
        "effect_reach": most,
        "epochs": _epochs(view),
        "angles": _angles(view),
        "angle_table": study_angles.angle_table(view.angles),
        "reaches": [
            (panel, study_curves.reach_panel(panel, f"reach-{place}"), study_curves.reach_texts(panel))
            for place, panel in enumerate(view.reaches)
        ],
        "costs": [(cost, study_charts.cost_track(cost.microseconds, slowest)) for cost in view.costs],
    }


def _groups(view: StudyView) -> list[tuple[str, list[tuple[Panel, Any, list[str]]]]]:
    panels = [panel for group in view.groups for panel in group.panels]
    every = [point.bits for panel in panels for point in _points(panel)]
    if not every:
        return []
    bits, reach = (min(every), max(every)), study_curves.accuracy_range(study_curves.panel_values(panels))
    return [
        (
            group.title,
            [
                (
                    panel,
                    study_curves.bits_panel(panel, f"bits-{number}-{place}", bits, reach),
                    study_curves.bits_texts(panel),
                )
                for place, panel in enumerate(group.panels)
            ],
        )
        for number, group in enumerate(view.groups)
    ]


def _epochs(view: StudyView) -> list[tuple[Any, Any, list[str]]]:
    every = [value for panel in view.epochs for curve in panel.curves for value in curve.values]
    reach = study_curves.accuracy_range(every)
    return [
        (panel, study_curves.epoch_panel(panel, f"epochs-{place}", reach), study_curves.epoch_texts(panel))
        for place, panel in enumerate(view.epochs)
    ]


def _angles(view: StudyView) -> list[tuple[Any, Any, list[str]]]:
    reach = study_angles.degree_range(view.angles)
    return [
        (panel, study_angles.angle_panel(panel, f"angles-{place}", reach), study_angles.angle_texts(panel))
        for place, panel in enumerate(view.angles)
    ]


def _points(panel: Panel) -> list[Any]:
    return [point for line in panel.lines for point in line.points]


def _ranked_range(ranked: Sequence[Ranked]) -> tuple[float, float]:
    """Ends of the tracks: those of the shown rows, with their published values, or 0..100 for one value."""
    shown = [row for row in ranked[:SHOWN] if row.spread is not None]
    values = [value for row in shown if row.spread for value in (row.spread.low, row.spread.high)]
    values += [row.published for row in shown if row.published is not None]
    if len(set(values)) < 2:
        return 0.0, 100.0
    low, high = min(values), max(values)
    return max(low - 0.05 * (high - low) - 0.5, 0.0), min(high + 0.05 * (high - low) + 0.5, 100.0)


def _drawn(rows: Sequence[Ranked], reach: tuple[float, float]) -> list[tuple[Ranked, Any]]:
    return [(row, study_charts.mean_track(row.spread, row.published, reach)) for row in rows]
