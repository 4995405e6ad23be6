"""The report of document 004's reproduction: one HTML file that fetches nothing, the answer first.

binary_vgg.html with its style sheets and script.js set into it and the charts as inline SVG; the shell, its
escaping and its content security policy are those of `tersa.report.page`. Each row links to the page of its
own run, which lies in the same folder.

Example:
    >>> "<h1" in render(BinaryVggView("cifar-10", "No row was trained", ""))
    True
"""

from __future__ import annotations

from pathlib import Path

from tersa.files import write_atomic
from tersa.report import page, study_curves
from tersa.report.binary_vgg_view import BinaryVggView
from tersa.report.plain import cleaned_view


def render(view: BinaryVggView) -> str:
    """The whole page as text."""
    view = cleaned_view(view)
    every = [value for panel in view.epochs for curve in panel.curves for value in curve.values]
    reach = study_curves.accuracy_range(every)
    panels = [
        (panel, study_curves.epoch_panel(panel, f"epochs-{place}", reach), study_curves.epoch_texts(panel))
        for place, panel in enumerate(view.epochs)
    ]
    return page.page("binary_vgg.html", ("style.css", "study.css"), {"view": view, "panels": panels})


def write(view: BinaryVggView, path: Path) -> None:
    """Render and write the page, whole or not at all."""
    write_atomic(path, render(view))
