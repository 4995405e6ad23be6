"""The small charts of a hardware page: time of a call, and images in a second, against the batch.

One chart for a target, a line for a precision, both axes logarithmic and the same for all targets of a
network.

Example:
    >>> from tersa.report.hardware_view import Curve, Panel, Point
    >>> points = (Point(1, 4.0, 3.9, 4.2), Point(8, 24.0, 23.0, 25.0))
    >>> panel = Panel("torch@threads=1", (Curve("fp32", 0, points),))
    >>> texts(panel)[1]
    'fp32, batch 8\\n24.0 ms a call, from 23.0 to 25.0\\n333 images a second'
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from markupsafe import Markup

from tersa.report.hardware_view import Curve, Panel, Point
from tersa.report.numbers import latency, milliseconds, si
from tersa.report.study_axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Frame, levels
from tersa.report.svg import Scale, element, figure, log_ticks, path

Reach = tuple[float, float]
Value = Callable[[Point], float]

STYLES = {"fp32": 0, "bf16": 1, "int8": 2, "fp16": 3}
"""How a precision is drawn: solid and dashed in the accent colour, then in grey."""
WIDER = 12
"""More room at the left than a study's charts have: times have more digits than percents."""


def time_of(point: Point) -> float:
    """Milliseconds of a call."""
    return point.ms


def rate_of(point: Point) -> float:
    """Images in a second."""
    return point.images_per_s


def reach(panels: Sequence[Panel], value: Value) -> Reach:
    """Ends of the axis that all panels share."""
    found = [value(point) for panel in panels for curve in panel.curves for point in curve.points]
    return (min(found) / 1.2, max(found) * 1.2) if found else (0.5, 2.0)


def chart(panel: Panel, identity: str, value: Value, ends: Reach, last: int) -> Markup:
    """One panel.

    Args:
        panel: a target.
        identity: unique in the page.
        value: what is drawn.
        ends: of the vertical axis.
        last: largest batch of all panels.
    """
    frame = Frame(
        Scale(1, max(last, 2), LEFT + WIDER, WIDTH - RIGHT, log=True),
        Scale(*ends, HEIGHT - BOTTOM, TOP, log=True),
    )
    parts = levels(frame, [(tick, _tick(tick)) for tick in log_ticks(*ends, 5)])
    batches = sorted({point.batch for _, point in _marked(panel)})
    for batch in batches:
        parts.append(
            element("text", str(batch), x=frame.x(batch), y=HEIGHT - BOTTOM + 15.0, class_="middle quiet")
        )
    middle = (frame.x.start + frame.x.end) / 2
    parts.append(element("text", "images per call", x=middle, y=HEIGHT - 4.0, class_="middle quiet"))
    for curve in sorted(panel.curves, key=lambda each: -each.style):
        parts += _drawn(curve, value, frame)
    what = "time of a call in ms" if value is time_of else "images in a second"
    return figure(
        identity,
        f"{panel.title}: {what} against images per call",
        _words(panel, value),
        WIDTH,
        HEIGHT,
        parts,
        css="small",
        marks=[(frame.x(point.batch), frame.y(value(point))) for _, point in _marked(panel)],
    )


def texts(panel: Panel) -> list[str]:
    """Hover values of a panel, in the order of its marks."""
    return [
        f"{curve.label}, batch {point.batch}\n{milliseconds(point.ms)} a call, from {latency(point.low)} to "
        f"{latency(point.high)}\n{si(round(point.images_per_s))} images a second"
        for curve, point in _marked(panel)
    ]


def _marked(panel: Panel) -> Iterator[tuple[Curve, Point]]:
    for curve in panel.curves:
        for point in curve.points:
            yield curve, point


def _drawn(curve: Curve, value: Value, frame: Frame) -> list[Markup]:
    spots = [(frame.x(point.batch), frame.y(value(point))) for point in curve.points]
    css = f"s{curve.style}"
    dots = [element("circle", cx=x, cy=y, r=2.4, class_=f"dot {css}") for x, y in spots]
    return [element("path", d=path(spots), class_=f"curve {css}"), *dots] if len(spots) > 1 else dots


def _tick(value: float) -> str:
    return si(value) if value >= 1000 else f"{value:g}"


def _words(panel: Panel, value: Value) -> str:
    """What the chart says, for those who cannot see it."""
    unit = "ms" if value is time_of else "images in a second"
    return "; ".join(
        f"{curve.label}: " + ", ".join(f"batch {p.batch} {value(p):.3g} {unit}" for p in curve.points)
        for curve in panel.curves
    )
