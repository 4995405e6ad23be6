"""The page of one trained network: one HTML file that fetches nothing, the answer first.

network.html with its style sheets and script.js set into it and the charts as inline SVG; the
shell, its escaping and its content security policy are those of `tersa.report.page`.

Example:
    >>> view = NetworkView("lenet on mnist", "99.20 % of 10,000 test images are named rightly", "")
    >>> "<h1" in render(view)
    True
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from tersa.files import write_atomic
from tersa.report import confusion, page, study_curves
from tersa.report.network_view import Certainty, CostRow, NetworkView
from tersa.report.plain import cleaned_view
from tersa.report.svg import element

BAR = 90
"""Pixels of the longest bar."""


def render(view: NetworkView) -> str:
    """The whole page as text."""
    return page.page("network.html", ("style.css", "study.css", "network.css"), values(cleaned_view(view)))


def write(view: NetworkView, path: Path) -> None:
    """Render and write the page, whole or not at all."""
    write_atomic(path, render(view))


def values(view: NetworkView) -> dict[str, Any]:
    """What the template shows, by name."""
    return {
        "view": view,
        "epochs": study_curves.epoch_panel(view.epochs, "epochs", _reach(view)) if view.epochs else "",
        "epoch_texts": study_curves.epoch_texts(view.epochs) if view.epochs else [],
        "costs": [(row, _bar(row)) for row in view.costs],
        "matrix": confusion.matrix(view),
        "matrix_words": confusion.matrix_description(view),
        "matrix_reach": round(confusion.reach(view), 1),
        "cells": confusion.cell_values(view),
        "confusions": confusion.confusion_rows(view),
        "class_rows": confusion.class_rows(view),
        "certainties": [(each, _chances(each)) for each in view.certainties],
    }


def _reach(view: NetworkView) -> tuple[float, float]:
    assert view.epochs is not None
    return study_curves.accuracy_range(value for curve in view.epochs.curves for value in curve.values)


def _bar(row: CostRow) -> Markup:
    """A layer's share of the multiply-accumulates."""
    part = element("rect", x=0, y=3, width=max(BAR * row.share, 0.5), height=8, class_="left")
    ground = element("rect", x=0, y=3, width=BAR, height=8, class_="ground")
    return element("svg", ground, part, viewBox=f"0 0 {BAR} 14", width=BAR, class_="bar", aria_hidden="true")


def _chances(each: Certainty) -> list[tuple[str, Markup, str, str]]:
    """Label, bar, percent and class of each row of one image."""
    return [
        (
            chance.label,
            element(
                "svg",
                element(
                    "rect", x=0, y=2, width=max(BAR * chance.percent / 100, 0.5), height=9, class_="chance"
                ),
                viewBox=f"0 0 {BAR} 13",
                width=BAR,
                class_="right" if chance.right else "other",
                aria_hidden="true",
            ),
            f"{chance.percent:.1f} %",
            "right" if chance.right else "",
        )
        for chance in each.chances
    ]
