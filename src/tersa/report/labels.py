"""Where to write a label in a chart so that it covers nothing.

A label is tried at some sixty places around its point, near ones first; the one that covers the fewest points
of the drawing and leaves the plot the least wins. Text widths are estimated: no font is known here.

Example:
    >>> box = Box(0, 0, 200, 100)
    >>> place("kept", (100, 50), box, [(100 + d, 50 - d) for d in range(40)], [])
    Label(text='kept', x=90.0, y=40.0, anchor='end')
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

CHARACTER = 6.9
"""Estimated mean width of a character at 13 pixels; wide enough for DejaVu Sans, the widest common font."""
HEIGHT = 13.0
PLACES = tuple(
    (dx, dy)
    for reach in (1.0, 2.2, 3.6, 5.0)
    for dx in (-1.0, 1.0, 0.0, -reach, reach)
    for dy in (-reach, reach, 0.0)
)

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle by its edges, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def holds(self, point: Point) -> bool:
        """The point lies inside or on an edge."""
        return self.left <= point[0] <= self.right and self.top <= point[1] <= self.bottom

    def overlaps(self, other: Box) -> bool:
        """Both share some area."""
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.bottom <= other.top or other.bottom <= self.top)

    def outside(self, bounds: Box) -> float:
        """How many pixels this reaches out of `bounds`, over all sides."""
        sides = (bounds.left - self.left, self.right - bounds.right)
        return sum(max(0.0, over) for over in (*sides, bounds.top - self.top, self.bottom - bounds.bottom))


@dataclass(frozen=True)
class Label:
    """A text with the place of its baseline and the side that is anchored there."""

    text: str
    x: float
    y: float
    anchor: str

    @property
    def box(self) -> Box:
        """The area that the text covers, estimated."""
        width = CHARACTER * len(self.text)
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return Box(left - 2, self.y - HEIGHT + 1, left + width + 2, self.y + 4)


def place(
    text: str, point: Point, bounds: Box, obstacles: Iterable[Point], taken: Sequence[Box], gap: float = 10
) -> Label:
    """The best place for a label near a point.

    Args:
        text: of the label.
        point: what it names.
        bounds: the label should lie inside.
        obstacles: points that it should not cover (a line is given as many points).
        taken: boxes of other labels.
        gap: pixels between the point and the nearest places.
    """
    around = list(obstacles)
    tried = [_candidate(text, point, dx, dy, gap) for dx, dy in PLACES]
    cost = [_cost(label.box, bounds, around, taken) + 0.01 * rank for rank, label in enumerate(tried)]
    return tried[cost.index(min(cost))]


def along(points: Sequence[Point], spacing: float = 4.0) -> list[Point]:
    """Points on a polyline at most `spacing` pixels apart."""
    found = list(points[:1])
    for (x0, y0), (x1, y1) in pairwise(points):
        pieces = max(1, int(max(abs(x1 - x0), abs(y1 - y0)) / spacing))
        found += [(x0 + (x1 - x0) * i / pieces, y0 + (y1 - y0) * i / pieces) for i in range(1, pieces + 1)]
    return found


def _candidate(text: str, point: Point, dx: float, dy: float, gap: float) -> Label:
    anchor = "middle" if dx == 0 else "start" if dx > 0 else "end"
    down = HEIGHT - 3 if dy > 0 else 0.0 if dy < 0 else 4.0
    return Label(text, point[0] + dx * gap, point[1] + dy * gap + down, anchor)


def _cost(box: Box, bounds: Box, obstacles: Sequence[Point], taken: Sequence[Box]) -> float:
    covered = sum(box.holds(point) for point in obstacles)
    return covered + 50 * sum(box.overlaps(other) for other in taken) + 10 * box.outside(bounds)
