"""What is left of each layer and of each figure: bars on a grey ground that stands for the baseline.

Coordinates are percentages, so that a bar fills whatever width its cell has.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from tersa.records.results import ShrinkResult
from tersa.report.numbers import share
from tersa.report.svg import element
from tersa.report.tables import BeforeAfterRow, LayerRow, layer_rows

LEAST = 0.6
"""Percent of the width that a bar keeps, so that what is left is never invisible."""


@dataclass(frozen=True)
class LayerLine:
    """One layer: its text and its bar."""

    row: LayerRow
    drawing: Markup


def layer_lines(result: ShrinkResult) -> list[LayerLine]:
    """All layers from input to output."""
    return [LayerLine(row, bar(row.left, f"{row.name}: {row.kept} kept", 18)) for row in layer_rows(result)]


def tile_bar(row: BeforeAfterRow) -> Markup:
    """The thin bar of a tile: what is left of the baseline's value."""
    left = share(row.left, 1.0) if row.left <= 1 else f"{100 * row.left:.0f} %"
    return bar(row.left, f"{row.label}: {left} of the baseline's", 6)


def bar(left: float, title: str, height: int) -> Markup:
    """A bar of what is left on the ground of what was; when more is left than was, the ground is the shorter.

    Args:
        left: after over before, 0 or more.
        title: the bar in words.
        height: pixels.
    """
    whole = max(left, 1.0)
    ground, filled = 100.0 / whole, max(100.0 * left / whole, LEAST if left > 0 else 0.0)
    wide = element("rect", width="100%", height=height, rx=2, class_="room")
    before = element("rect", width=f"{ground:.2f}%", height=height, rx=2, class_="ground")
    after = element("rect", width=f"{filled:.2f}%", height=height, rx=2, class_="left")
    parts = (
        [before, after]
        if left <= 1
        else [wide, after, element("rect", width=f"{ground:.2f}%", height=height, rx=2, class_="was")]
    )
    return element(
        "svg", element("title", title), *parts, class_="bar", role="img", width="100%", height=height
    )
