"""The small charts of a study: accuracy over bits, accuracy over epochs, the range of the weights.

Each is one drawing (`tersa.report.study_axes`); many stand side by side and share their accuracy axis, so
that they can be compared by eye. Lines are told apart by one accent colour against grey, and solid against
dashed; published values are rings in the colour of their line, runs that diverged are red crosses.

Example:
    >>> low, high = accuracy_range([91.0, 98.2])
    >>> low, high
    (90.0, 100.0)
"""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

from tersa.report.numbers import percent, plural, si
from tersa.report.study_axes import (
    BOTTOM,
    HEIGHT,
    LABELS,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Frame,
    drawn,
    end_labels,
    epoch_ticks,
    levels,
    steps,
)
from tersa.report.study_view import Curve, EpochPanel, Line, Panel, Point, Reach, ReachPanel
from tersa.report.svg import Scale, element, figure, path, ticks


def accuracy_range(values: Iterable[float]) -> tuple[float, float]:
    """Ends of an accuracy axis that holds the values: 0..100, or its upper part where nothing is below 50."""
    least = min(values, default=0.0)
    if least < 50:
        return 0.0, 100.0
    step = 10.0 if least < 90 else 2.0
    return min(step * (least // step), 98.0), 100.0


def panel_values(panels: Iterable[Panel]) -> list[float]:
    """Every accuracy in some panels, for their common axis."""
    found: list[float] = []
    for panel in panels:
        found += [panel.reference] if panel.reference is not None else []
        for line in panel.lines:
            found += [value for _, value in line.published]
            found += [p.spread.low for p in line.points if p.spread] + [
                p.spread.mean for p in line.points if p.spread
            ]
    return found


def bits_panel(panel: Panel, identity: str, bits: tuple[int, int], reach: tuple[float, float]) -> Markup:
    """Accuracy over bits.

    Args:
        panel: what is drawn.
        identity: unique in the page.
        bits: fewest and most of all panels.
        reach: ends of the accuracy axis.
    """
    few, many = bits
    air = 0.25 if many > few else 1.0
    frame = Frame(Scale(few - air, many + air, LEFT, WIDTH - RIGHT), Scale(*reach, HEIGHT - BOTTOM, TOP))
    every = range(few, many + 1, 1 if many - few < 9 else 2)
    parts = [*_accuracy_axis(frame), *steps(frame, list(every), "bits of a weight")]
    if panel.reference is not None:
        y = frame.y(panel.reference)
        parts.append(element("path", d=path([(LEFT, y), (WIDTH - RIGHT, y)]), class_="float"))
    for line in sorted(panel.lines, key=lambda each: -each.style):
        parts += _bits_line(line, frame)
    return figure(
        identity,
        f"{panel.title}: accuracy over bits",
        _bits_words(panel),
        WIDTH,
        HEIGHT,
        parts,
        css="small",
        marks=[_spot(frame, point) for line in panel.lines for point in line.points],
    )


def bits_texts(panel: Panel) -> list[str]:
    """Hover values of a panel, in the order of its marks."""
    return [_point_text(panel, line, point) for line in panel.lines for point in line.points]


def epoch_panel(panel: EpochPanel, identity: str, reach: tuple[float, float]) -> Markup:
    """Accuracy over epochs, its curves named at their ends."""
    longest = max(len(curve.values) for curve in panel.curves)
    frame = Frame(
        Scale(1, max(longest, 2), LEFT, WIDTH - RIGHT - LABELS), Scale(*reach, HEIGHT - BOTTOM, TOP)
    )
    parts = [*_accuracy_axis(frame), *steps(frame, epoch_ticks(longest), "epoch")]
    ends: list[tuple[float, str]] = []
    for curve in panel.curves:
        spots = [(frame.x(place), frame.y(value)) for place, value in enumerate(curve.values, 1)]
        parts.append(drawn(spots, curve.strength))
        ends.append((spots[-1][1], curve.label))
    parts += end_labels(ends, frame)
    return figure(
        identity,
        f"{panel.title}: accuracy over epochs",
        "; ".join(f"{curve.label}: {percent(curve.values[-1])}" for curve in panel.curves),
        WIDTH,
        HEIGHT,
        parts,
        css="small",
        marks=[(frame.x(len(c.values)), frame.y(c.values[-1])) for c in panel.curves],
    )


def epoch_texts(panel: EpochPanel) -> list[str]:
    """Hover values of an epoch panel."""
    return [_epoch_text(curve) for curve in panel.curves]


def reach_panel(panel: ReachPanel, identity: str) -> Markup:
    """Least and greatest weight of every layer over epochs; the axis is the panel's own."""
    low = min(value for layer in panel.layers for value in layer.low)
    high = max(value for layer in panel.layers for value in layer.high)
    first = min(layer.epochs[0] for layer in panel.layers)
    last = max(layer.epochs[-1] for layer in panel.layers)
    if not high > low:
        low, high = low - 1.0, high + 1.0
    frame = Frame(
        Scale(first, max(last, first + 1), LEFT + 8, WIDTH - RIGHT - LABELS),
        Scale(low, high, HEIGHT - BOTTOM, TOP),
    )
    parts = [*_value_axis(frame), *steps(frame, epoch_ticks(last, first), "epoch")]
    ends: list[tuple[float, str]] = []
    for layer in panel.layers:
        upper = [(frame.x(e), frame.y(v)) for e, v in zip(layer.epochs, layer.high, strict=True)]
        lower = [(frame.x(e), frame.y(v)) for e, v in zip(layer.epochs, layer.low, strict=True)]
        parts += [drawn(upper, layer.strength), drawn(lower, layer.strength)]
        ends.append((upper[-1][1], layer.label))
    parts += end_labels(ends, frame)
    return figure(
        identity,
        f"{panel.title}: least and greatest weight over epochs",
        "; ".join(f"{e.label}: {_weight(e.low[-1])} to {_weight(e.high[-1])}" for e in panel.layers),
        WIDTH,
        HEIGHT,
        parts,
        css="small",
        marks=[(frame.x(layer.epochs[-1]), frame.y(layer.high[-1])) for layer in panel.layers],
    )


def reach_texts(panel: ReachPanel) -> list[str]:
    """Hover values of a range panel."""
    return [_reach_text(layer) for layer in panel.layers]


def _bits_line(line: Line, frame: Frame) -> list[Markup]:
    """Interval bars, line, dots, published rings and crosses of one line."""
    css = f"s{line.style}"
    known = [(point, point.spread) for point in line.points if point.spread is not None]
    spots = [(frame.x(point.bits), frame.y(spread.mean)) for point, spread in known]
    bars = "".join(
        path([(frame.x(p.bits), frame.y(s.low)), (frame.x(p.bits), frame.y(s.high))])
        for p, s in known
        if s.count > 1
    )
    parts = [element("path", d=bars, class_=f"interval {css}")] if bars else []
    parts.append(element("path", d=path(spots), class_=f"curve {css}"))
    parts += [element("circle", cx=x, cy=y, r=2.6, class_=f"dot {css}") for x, y in spots]
    parts += [
        element("circle", cx=frame.x(bits), cy=frame.y(value), r=4.2, class_=f"published {css}")
        for bits, value in line.published
    ]
    for point in line.points:
        if point.diverged:
            x, y = _spot(frame, point)
            cross = path([(x - 4, y - 4), (x + 4, y + 4)]) + path([(x - 4, y + 4), (x + 4, y - 4)])
            parts.append(element("path", d=cross, class_="diverged"))
    return parts


def _spot(frame: Frame, point: Point) -> tuple[float, float]:
    """Where a point is drawn; on the lower edge where it has no accuracy."""
    value = frame.y.low if point.spread is None else point.spread.mean
    return frame.x(point.bits), frame.y(value)


def _accuracy_axis(frame: Frame) -> list[Markup]:
    wanted = [0.0, 25.0, 50.0, 75.0, 100.0] if frame.y.low == 0 else ticks(frame.y.low, frame.y.high, 4)
    return levels(frame, [(value, f"{value:g}") for value in wanted])


def _value_axis(frame: Frame) -> list[Markup]:
    return levels(frame, [(value, _weight(value)) for value in ticks(frame.y.low, frame.y.high, 4)])


def _bits_words(panel: Panel) -> str:
    parts = [
        f"{line.label or 'accuracy'}: "
        + ", ".join(f"{p.bits} bits {percent(p.spread.mean, 1)}" for p in line.points if p.spread)
        for line in panel.lines
    ]
    if panel.reference is not None:
        parts.append(f"without quantisation {percent(panel.reference, 1)}")
    return "; ".join(parts)


def _point_text(panel: Panel, line: Line, point: Point) -> str:
    lines = [f"{panel.title}{', ' + line.label if line.label else ''}, {point.bits} bits"]
    if point.spread is None:
        lines.append("no run ended")
    else:
        seeds = f", {point.spread.count} seeds" if point.spread.count > 1 else ""
        lines.append(f"{point.spread.text} %{seeds}")
    published = dict(line.published).get(point.bits)
    if published is not None:
        lines.append(f"published {published:.2f} %")
    if point.diverged:
        lines.append(f"{point.diverged} diverged or failed")
    return "\n".join(lines)


def _epoch_text(curve: Curve) -> str:
    start = f"{curve.label} bits: " if curve.label else ""
    end, best = percent(curve.values[-1]), percent(max(curve.values))
    return f"{start}{end} after {plural(len(curve.values), 'epoch')}, best {best}"


def _reach_text(layer: Reach) -> str:
    return (
        f"{layer.label}: {_weight(layer.low[-1])} to {_weight(layer.high[-1])} after epoch {layer.epochs[-1]}"
    )


def _weight(value: float) -> str:
    """A weight with the digits that fit an axis.

    >>> _weight(-1250.6), _weight(0.25), _weight(-1.0)
    ('−1.25 k', '0.25', '−1')
    """
    if abs(value) >= 1000:
        number, _, unit = si(value).partition(" ")
        return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"
    return f"{value:.3g}".replace("-", "−")
