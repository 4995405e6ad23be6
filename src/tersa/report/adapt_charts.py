"""The drawings of an adaptation: estimates against the clock, a front, NetAdapt's candidates.

One scatter with straight axes draws all three: grey dots for what was passed over, the accent colour for what
was taken, and a line where dots follow one another.

Example:
    >>> spots = [Spot(1.0, 98.0, "step 1", True), Spot(0.5, 97.0, "step 2", True)]
    >>> "<svg" in scatter("demo", "Front", spots, ("latency, ms", "%"))
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tersa.records.adaptation import Adaptation, Candidate, FrontPoint
from tersa.report.adapt_view import foretold, off
from tersa.report.numbers import percent, plural
from tersa.report.svg import Scale, element, figure, path, ticks

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 14, 40
TENTH = 0.1
"""Half the width of the band around the diagonal."""

MOST = 400
"""More candidates than this are thinned out evenly; chosen ones stay."""


@dataclass(frozen=True)
class Spot:
    """One dot.

    Attributes:
        x: to the right.
        y: upwards.
        text: shown when it is pointed at.
        taken: drawn in the accent colour, and joined by the line.
    """

    x: float
    y: float
    text: str
    taken: bool


@dataclass(frozen=True)
class Drawing:
    """A chart with the texts of its dots."""

    chart: Markup
    texts: list[str]


def scatter(
    identity: str,
    title: str,
    spots: Sequence[Spot],
    names: tuple[str, str],
    *,
    joined: bool = False,
    diagonal: bool = False,
) -> Markup:
    """Dots over two straight axes.

    Args:
        identity: unique in the page.
        title: for those who cannot see it.
        spots: at least one.
        names: of the axes, x and y.
        joined: a line through the taken dots, in their order.
        diagonal: where x equals y, with a band of a tenth; both axes then have the same ends.
    """
    xs, ys = [spot.x for spot in spots], [spot.y for spot in spots]
    if diagonal:
        xs = ys = [0.0, *xs, *ys]
    across, up = _scale(xs, LEFT, WIDTH - RIGHT), _scale(ys, HEIGHT - BOTTOM, TOP)
    parts = _axes(across, up, names)
    if diagonal:
        end = across.high
        corners = [(0.0, 0.0), (end / (1 + TENTH), end), (end, end), (end, end * (1 - TENTH))]
        parts.append(
            element("path", d=path([_at(across, up, *c) for c in corners], close=True), class_="band")
        )
        parts.append(element("path", d=path([_at(across, up, v, v) for v in (0.0, end)]), class_="grid"))
    places = [_at(across, up, spot.x, spot.y) for spot in spots]
    if joined:
        line = [place for place, spot in zip(places, spots, strict=True) if spot.taken]
        parts.append(element("path", d=path(line), class_="taken"))
    for (x, y), spot in sorted(zip(places, spots, strict=True), key=lambda pair: pair[1].taken):
        parts.append(element("circle", cx=x, cy=y, r=3.4, class_="spot on" if spot.taken else "spot"))
    told = f"{plural(len(spots), 'dot')}: {names[1]} over {names[0]}"
    return figure(identity, title, told, WIDTH, HEIGHT, parts, css="adapt", marks=places)


def _scale(values: Sequence[float], start: float, end: float) -> Scale:
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low if low == 0.0 else low - room, high + room, start, end)


def _at(across: Scale, up: Scale, x: float, y: float) -> tuple[float, float]:
    return across(x), up(y)


def _axes(across: Scale, up: Scale, names: tuple[str, str]) -> list[Markup]:
    parts: list[Markup] = []
    for value in ticks(up.low, up.high, 5):
        y = up(value)
        parts.append(element("path", d=path([(LEFT, y), (WIDTH - RIGHT, y)]), class_="grid"))
        parts.append(element("text", f"{value:g}", x=LEFT - 6, y=y + 4, class_="end quiet"))
    for value in ticks(across.low, across.high, 6):
        parts.append(
            element("text", f"{value:g}", x=across(value), y=HEIGHT - BOTTOM + 16, class_="middle quiet")
        )
    parts.append(element("text", names[0], x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4, class_="middle quiet"))
    parts.append(element("text", names[1], x=4, y=TOP - 3, class_="quiet"))
    return parts


def checks(found: Adaptation) -> Drawing | None:
    """Estimates against measurements; None with nothing to draw."""
    spots = [
        Spot(
            row.measured_ms,
            row.estimate_ms,
            f"step {row.step}\nestimate {row.estimate_ms:.4g} ms\nmeasured {row.measured_ms:.4g} ms, "
            f"{off(row.estimate_ms, row.measured_ms)}",
            True,
        )
        for row in foretold(found)
    ]
    if not spots:
        return None
    names = ("measured, ms", "estimate, ms")
    return Drawing(
        scatter("checks", "Estimates against measurements", spots, names, diagonal=True),
        [spot.text for spot in spots],
    )


def front(found: Adaptation) -> Drawing | None:
    """Accuracy over cost of a front's networks; None where there is none."""
    spots = [
        Spot(
            _across(point)[1],
            point.validation_accuracy,
            f"step {point.step}\n{percent(point.validation_accuracy)} on validation\n"
            f"{point.parameters:,} parameters, {point.macs:,} MACs",
            not point.dominated,
        )
        for point in found.front
    ]
    if not spots:
        return None
    title, names = "The front", (_across(found.front[0])[0], "validation accuracy, %")
    return Drawing(scatter("front", title, spots, names, joined=True), [spot.text for spot in spots])


def _across(point: FrontPoint) -> tuple[str, float]:
    """What a front is drawn over, and where a network lies: the first of its costs that was asked for."""
    if point.estimate_ms is not None:
        return "estimated latency, ms", point.estimate_ms
    if point.estimate_mj is not None:
        return "estimated energy, mJ", point.estimate_mj
    return "multiply-accumulates", float(point.macs)


def candidates(found: Adaptation) -> list[tuple[str, Drawing]]:
    """NetAdapt's candidates, a chart for each thing that they were ranked by: score over estimate."""
    kinds = dict.fromkeys(row.scored_by for row in found.candidates)
    drawn: list[tuple[str, Drawing]] = []
    for kind in kinds:
        rows = _thinned([row for row in found.candidates if row.scored_by == kind])
        spots = [
            Spot(
                row.estimate_ms if row.estimate_ms is not None else row.cost,
                row.score,
                f"step {row.step}: {row.group} from {row.before} to {row.width}\n"
                f"{_unit(kind)} {row.score:.5g}",
                row.chosen,
            )
            for row in rows
        ]
        clocked = rows[0].estimate_ms is not None
        across = "estimated latency, ms" if clocked else "cost, times the limit"
        chart = scatter(
            f"candidates-{kind}", f"Candidates by {kind}", spots, (across, _unit(kind)), joined=True
        )
        drawn.append((kind, Drawing(chart, [spot.text for spot in spots])))
    return drawn


def _unit(kind: str) -> str:
    return "validation accuracy, %" if kind == "finetune" else kind


def _thinned(rows: list[Candidate]) -> list[Candidate]:
    every = -(-len(rows) // MOST)
    return [row for place, row in enumerate(rows) if row.chosen or place % every == 0]
