"""What the small charts of a study share: their size, axes, curves and the names at the ends of curves.

Example:
    >>> frame = Frame(Scale(1, 30, LEFT, WIDTH - RIGHT - LABELS), Scale(0, 100, HEIGHT - BOTTOM, TOP))
    >>> epoch_ticks(30), frame.y(100.0)
    ([1, 10, 20, 30], 10.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tersa.report.svg import Scale, element, path, ticks

WIDTH, HEIGHT = 304, 190
LEFT, RIGHT, TOP, BOTTOM = 34, 12, 10, 34
LABELS = 34
"""Room at the right for the names of curves."""
LINE_HEIGHT = 12.0


@dataclass(frozen=True)
class Frame:
    """The axes of one small chart."""

    x: Scale
    y: Scale


def levels(frame: Frame, values: Sequence[tuple[float, str]]) -> list[Markup]:
    """Lines across the chart with their texts at the left."""
    parts: list[Markup] = []
    for value, text in values:
        y = frame.y(value)
        parts.append(element("path", d=path([(frame.x.start, y), (frame.x.end, y)]), class_="grid"))
        parts.append(element("text", text, x=frame.x.start - 6, y=y + 4, class_="end quiet"))
    return parts


def steps(frame: Frame, places: Sequence[int], title: str) -> list[Markup]:
    """Numbers and the title below the chart."""
    parts = [
        element("text", str(place), x=frame.x(place), y=HEIGHT - BOTTOM + 15.0, class_="middle quiet")
        for place in places
    ]
    middle = (frame.x.start + frame.x.end) / 2
    return [*parts, element("text", title, x=middle, y=HEIGHT - 4.0, class_="middle quiet")]


def epoch_ticks(last: int, first: int = 1) -> list[int]:
    """Epochs that are written below a chart: the first, the last, and round ones that do not touch them."""
    whole = [int(value) for value in ticks(first, last, 4) if value == int(value) and value >= first]
    return sorted(
        {first, last, *(value for value in whole if value - first > 1 and last - value > (last - first) / 8)}
    )


def drawn(spots: Sequence[tuple[float, float]], strength: float) -> Markup:
    """A curve, or a dot where it has one point."""
    if len(spots) == 1:
        return element("circle", cx=spots[0][0], cy=spots[0][1], r=2.6, class_="dot s0", opacity=strength)
    return element("path", d=path(spots), class_="curve s0", stroke_opacity=strength)


def end_labels(ends: Sequence[tuple[float, str]], frame: Frame) -> list[Markup]:
    """Names at the right, moved apart where they would touch."""
    placed = sorted(ends)
    heights = [y for y, _ in placed]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + LINE_HEIGHT)
    beyond = heights[-1] - frame.y.start if heights else 0.0
    if beyond > 0:
        heights[-1] -= beyond
        for index in range(len(heights) - 2, -1, -1):
            heights[index] = min(heights[index], heights[index + 1] - LINE_HEIGHT)
    return [
        element("text", text, x=frame.x.end + 6, y=y + 4, class_="quiet")
        for y, (_, text) in zip(heights, placed, strict=True)
    ]
