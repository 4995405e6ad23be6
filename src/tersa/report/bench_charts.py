"""Drawings of a benchmark's page: a quantity against latency, and the bar of a network's layers.

Curves against the batch are those of `hardware_charts`. In a chart of two quantities the combinations that no
other beats in both are in the accent colour and carry their names; the others are grey and tell theirs on
hover.

Example:
    >>> from tersa.report.bench_view import Dot
    >>> dots = [Dot("a", 1.0, 90.0, ""), Dot("b", 2.0, 95.0, ""), Dot("c", 3.0, 94.0, "")]
    >>> [dot.best for dot in front(dots, up=True)]
    [True, True, False]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from markupsafe import Markup

from tersa.report.bench_view import Against, Dot, LayerRow
from tersa.report.numbers import si
from tersa.report.plain import short
from tersa.report.svg import Scale, element, figure, log_ticks, path, ticks

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 42
BAR_WIDTH, BAR_HEIGHT, NAMED = 920, 54, 6.0
"""Segments below so many percent of a bar have no name in it."""


def front(dots: Sequence[Dot], *, up: bool) -> list[Dot]:
    """The same dots, marked where none is quicker and at least as good, or as quick and better."""

    def beaten(one: Dot) -> bool:
        better = [(each.y >= one.y if up else each.y <= one.y) and each.x <= one.x for each in dots]
        equal = [each.x == one.x and each.y == one.y for each in dots]
        return any(b and not e for b, e in zip(better, equal, strict=True))

    return [replace(one, best=not beaten(one)) for one in dots]


def against(chart: Against) -> Markup:
    """A quantity against the latency of a call, on a logarithmic axis of time."""
    xs, ys = [dot.x for dot in chart.dots], [dot.y for dot in chart.dots]
    x = Scale(min(xs) / 1.25, max(xs) * 1.6, LEFT, WIDTH - RIGHT, log=True)
    y = _vertical(ys, chart.log)
    values = log_ticks(y.low, y.high, 5) if chart.log else ticks(y.low, y.high, 5)
    parts: list[Markup] = []
    for value in values:
        parts.append(element("path", d=path([(x.start, y(value)), (x.end, y(value))]), class_="grid"))
        text = si(value) if chart.log else f"{value:g}"
        parts.append(element("text", text, x=x.start - 8, y=y(value) + 4, class_="end quiet"))
    for value in log_ticks(x.low, x.high, 5):
        parts.append(
            element("text", f"{value:g}", x=x(value), y=HEIGHT - BOTTOM + 18.0, class_="middle quiet")
        )
    middle = (x.start + x.end) / 2
    parts.append(
        element("text", "time of a call, ms (log scale)", x=middle, y=HEIGHT - 6.0, class_="middle quiet")
    )
    parts.append(element("text", chart.name, x=x.start + 6, y=TOP + 4.0, class_="quiet label"))
    best = sorted((dot for dot in chart.dots if dot.best), key=lambda dot: dot.x)
    spots = [(x(dot.x), y(dot.y)) for dot in best]
    if len(spots) > 1:
        parts.append(element("path", d=path(_stairs(spots)), class_="front"))
    for dot in sorted(chart.dots, key=lambda each: each.best):
        css = "dot s0" if dot.best else "dot s2"
        parts.append(element("circle", cx=x(dot.x), cy=y(dot.y), r=4.5 if dot.best else 3.5, class_=css))
    parts += _names(best, x, y)
    return figure(
        f"against-{chart.key}",
        chart.question,
        "; ".join(f"{dot.label}: {dot.text}" for dot in chart.dots),
        WIDTH,
        HEIGHT,
        parts,
        css="against-chart",
        marks=[(x(dot.x), y(dot.y)) for dot in chart.dots],
    )


def against_texts(chart: Against) -> list[str]:
    """Hover values, in the order of the marks."""
    return [f"{dot.label}\n{dot.text}" for dot in chart.dots]


def bar(rows: Sequence[LayerRow], identity: str) -> Markup:
    """The layers of a network side by side, each as wide as its share of the time."""
    parts: list[Markup] = []
    left = 0.0
    for row in rows:
        width = BAR_WIDTH * row.share / 100.0
        parts.append(
            element(
                "rect",
                element("title", f"{row.name} ({row.kind}): {row.share:.1f} %, {row.time}, {row.limit}"),
                x=left,
                y=4.0,
                width=max(width - 1.0, 0.5),
                height=BAR_HEIGHT - 24.0,
                rx=2.0,
                class_=f"part {row.css}",
            )
        )
        if row.share >= NAMED:
            room = max(3, int(width / 7.2))
            text = short(row.name, room)
            parts.append(element("text", text, x=left + width / 2, y=BAR_HEIGHT - 4.0, class_="middle quiet"))
        left += width
    words = ", ".join(f"{row.name} {row.share:.1f} % ({row.limit})" for row in rows)
    return figure(
        identity, "Share of the time by layer", words, BAR_WIDTH, BAR_HEIGHT, parts, css="layer-bar"
    )


def _vertical(values: Sequence[float], log: bool) -> Scale:
    low, high = min(values), max(values)
    if log:
        return Scale(low / 1.3, high * 1.5, HEIGHT - BOTTOM, TOP + 8, log=True)
    room = max((high - low) * 0.15, 0.5)
    return Scale(low - room, min(high + room, max(100.0, high + room)), HEIGHT - BOTTOM, TOP + 8)


def _stairs(spots: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The front as steps: between two points nothing is known to be reachable."""
    found = [spots[0]]
    for (_, y), (x2, y2) in pairwise(spots):
        found += [(x2, y), (x2, y2)]
    return found


def _names(dots: Sequence[Dot], x: Scale, y: Scale) -> list[Markup]:
    """Names beside the dots of the front, left out where they would touch one that is there."""
    placed: list[tuple[float, float, float]] = []
    parts: list[Markup] = []
    for dot in dots:
        left, height, text = x(dot.x) + 8, y(dot.y) - 7, short(dot.label, 34)
        width = 6.2 * len(text)
        if left + width > WIDTH:
            left = WIDTH - width
        if any(abs(height - h) < 13 and left < end and start < left + width for start, end, h in placed):
            continue
        placed.append((left, left + width, height))
        parts.append(element("text", text, x=left, y=height, class_="label"))
    return parts
