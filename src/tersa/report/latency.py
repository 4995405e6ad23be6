"""Measured, not assumed: latency before and after on every runtime, with 95 % intervals.

One row per runtime and precision; the drawing in a row has percentages for coordinates, so that it fills
whatever width its cell has while dots and text keep their size. One axis serves all rows: it starts at zero,
or is logarithmic when the slowest runtime takes more than 25 times as long as the fastest.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from tersa.records.results import Comparison, Measurement, ShrinkResult
from tersa.report.numbers import latency, milliseconds
from tersa.report.svg import Scale, element, log_ticks, ticks
from tersa.report.tables import ComparisonRow, comparison_rows

LOG_FROM = 25.0
HEIGHT = 26
START, END = 2.0, 96.0


@dataclass(frozen=True)
class LatencyLine:
    """One row of the chart: its text, and the drawing of its two dots."""

    row: ComparisonRow
    drawing: Markup


def latency_lines(result: ShrinkResult) -> list[LatencyLine]:
    """All rows, in the order in which they were measured."""
    scale = latency_scale(result)
    pairs = zip(comparison_rows(result), result.comparisons, strict=True)
    return [LatencyLine(row, _track(row, comparison, scale)) for row, comparison in pairs]


def latency_axis(result: ShrinkResult) -> Markup:
    """The axis below the rows; empty when nothing was measured."""
    scale = latency_scale(result)
    if scale is None:
        return Markup("")
    values = log_ticks(scale.low, scale.high, 4) if scale.log else ticks(0.0, scale.high, 4)
    parts = [element("title", "Axis: latency of one call in milliseconds")]
    for value in values:
        x = scale(value)
        text = f"{latency(value).rstrip('0').rstrip('.')} ms" if value < 1 and value else f"{value:g} ms"
        parts.append(element("line", x1=f"{x:.2f}%", x2=f"{x:.2f}%", y1=0, y2=5, class_="tick"))
        parts.append(element("text", text, x=f"{x:.2f}%", y=18, class_="middle"))
    return element("svg", *parts, class_="track axis", role="img", width="100%", height=24)


def latency_scale(result: ShrinkResult) -> Scale | None:
    """From milliseconds to percent of the width; None when nothing was measured."""
    measured = [item for comparison in result.comparisons for item in _sides(comparison)]
    if not measured:
        return None
    high = max(max(item.high, item.latency_ms.median) for item in measured)
    low = min(min(item.low, item.latency_ms.median) for item in measured)
    if low > 0 and high / low > LOG_FROM:
        return Scale(low / 1.2, high * 1.1, START, END, log=True)
    return Scale(0.0, high * 1.02 or 1.0, START, END)


def _sides(comparison: Comparison) -> list[Measurement]:
    return [item for item in (comparison.before, comparison.after) if item is not None]


def _track(row: ComparisonRow, comparison: Comparison, scale: Scale | None) -> Markup:
    if scale is None or not _sides(comparison):
        return Markup("")
    middle = HEIGHT / 2
    parts = [element("title", _in_words(row, comparison))]
    for value in ticks(scale.low, scale.high, 4) if not scale.log else log_ticks(scale.low, scale.high, 4):
        parts.append(_line(scale(value), scale(value), 0, HEIGHT, "grid"))
    sides = ((comparison.before, "before"), (comparison.after, "after"))
    ends = [scale(item.latency_ms.median) for item in _sides(comparison)]
    parts.append(_line(min(ends), max(ends), middle, middle, "link"))
    for item, name in sides:
        if item is not None:
            parts.append(_line(scale(item.low), scale(item.high), middle, middle, f"interval {name}"))
    for item, name in sides:
        if item is not None:
            x = f"{scale(item.latency_ms.median):.2f}%"
            parts.append(element("circle", cx=x, cy=middle, r=5.5, class_=name))
    return element("svg", *parts, class_="track", role="img", width="100%", height=HEIGHT)


def _line(x1: float, x2: float, y1: float, y2: float, css: str) -> Markup:
    return element("line", x1=f"{x1:.2f}%", x2=f"{x2:.2f}%", y1=y1, y2=y2, class_=css)


def _in_words(row: ComparisonRow, comparison: Comparison) -> str:
    """The drawing in words, medians with 95 % intervals; browsers show it when the pointer rests on it."""
    told = [
        f"{name} {milliseconds(item.latency_ms.median)} (from {latency(item.low)} to {latency(item.high)})"
        for item, name in ((comparison.before, "before"), (comparison.after, "after"))
        if item is not None
    ]
    return f"{row.runtime} {row.precision}: {', '.join(told)}; {row.verdict}"
