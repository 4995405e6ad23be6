"""The small charts of a pruning page: accuracy over removed channels, whole and from 90 to 100 percent.

Lines are told apart as in a study (one accent colour against grey, solid against dashed); where the test
images were read, a dot in the colour of the line stands beside it. Every seed is a line of its own.

Example:
    >>> from tersa.report.pruning_view import Line, Panel, Run, Spot
    >>> run = Run(0, (Spot(0, 99.0, 98.9), Spot(30, 97.0, 96.9), Spot(31, 12.0, 11.0)))
    >>> panel = Panel("conv1", (Line("Taylor", 0, (run,)),))
    >>> bunched([panel]), texts(panel)[0]
    (True, 'Taylor, 0 of 31 channels gone\\nvalidation 99.00 %\\ntest 98.90 %')
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from markupsafe import Markup

from tersa.report.numbers import percent
from tersa.report.pruning_view import Line, Panel, Run, Spot
from tersa.report.study_axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Frame, levels, steps
from tersa.report.svg import Scale, element, figure, path, ticks

WHOLE, NEAR = (0.0, 100.0), (90.0, 100.0)
"""Ends of the accuracy axis: of the first chart, and of the one that is drawn below it."""
BUNCHED = 0.5
"""Share of a figure's walks above 90 % from which the second chart is worth its place."""
MOST_SPOTS = 280
"""More points than there are pixels draw nothing: longer walks are thinned out evenly."""
MARKS = 14
"""Points of a walk with hover values, about."""


def bunched(panels: Sequence[Panel]) -> bool:
    """Most of what the panels show lies above 90 %."""
    inside = total = 0.0
    for panel in panels:
        for line in panel.lines:
            for run in line.runs:
                for a, b in pairwise(run.spots):
                    total += b.removed - a.removed
                    inside += (b.removed - a.removed) * (b.validation >= NEAR[0])
    return total > 0 and inside / total >= BUNCHED


def chart(panel: Panel, identity: str, reach: tuple[float, float] = WHOLE) -> Markup:
    """Accuracy over removed channels.

    Args:
        panel: what is drawn.
        identity: unique in the page.
        reach: ends of the accuracy axis; lines are cut off there.
    """
    last = _last(panel)
    frame = Frame(Scale(0, max(last, 1), LEFT, WIDTH - RIGHT), Scale(*reach, HEIGHT - BOTTOM, TOP))
    wanted = [0.0, 25.0, 50.0, 75.0, 100.0] if reach == WHOLE else ticks(*reach, 5)
    parts = levels(frame, [(value, f"{value:g}") for value in wanted])
    parts += steps(frame, _places(last), "channels removed")
    for line in sorted(panel.lines, key=lambda each: -each.style):
        for run in line.runs:
            parts += _drawn(run, line.style, frame)
    return figure(
        identity,
        f"{panel.title}: accuracy over removed channels, {reach[0]:g} to {reach[1]:g} %",
        _words(panel),
        WIDTH,
        HEIGHT,
        parts,
        css="small",
        marks=[_place(frame, spot) for _, _, spot in marked(panel)],
    )


def texts(panel: Panel) -> list[str]:
    """Hover values of a panel's charts, in the order of their marks."""
    last = _last(panel)
    found: list[str] = []
    for line, run, spot in marked(panel):
        seed = f", seed {run.seed}" if len(line.runs) > 1 else ""
        test = "" if spot.test is None else f"\ntest {percent(spot.test)}"
        gone = f"{spot.removed:,} of {last:,} channels gone"
        found.append(f"{line.label}{seed}, {gone}\nvalidation {percent(spot.validation)}{test}")
    return found


def marked(panel: Panel) -> Iterator[tuple[Line, Run, Spot]]:
    """The points that have hover values: evenly chosen among those where the test images were read."""
    for line in panel.lines:
        for run in line.runs:
            known = [spot for spot in run.spots if spot.test is not None] or list(run.spots)
            for spot in _thinned(known, MARKS):
                yield line, run, spot


def _drawn(run: Run, style: int, frame: Frame) -> list[Markup]:
    """The line of a walk, and dots for its test accuracies."""
    css = f"s{style}"
    bottom = frame.y.low
    pieces: list[list[tuple[float, float]]] = [[]]
    for a, b in pairwise(_thinned(run.spots, MOST_SPOTS)):
        inside = _clipped(a, b, bottom)
        if inside is None:
            continue
        start, end = ((frame.x(x), frame.y(y)) for x, y in inside)
        if not pieces[-1] or pieces[-1][-1] != start:
            pieces.append([start])
        pieces[-1].append(end)
    line = "".join(path(piece) for piece in pieces if piece)
    parts = [element("path", d=line, class_=f"curve {css}")] if line else []
    tested = _thinned([spot for spot in run.spots if spot.test is not None], 2 * MARKS)
    return [
        *parts,
        *(
            element("circle", cx=frame.x(spot.removed), cy=frame.y(spot.test), r=1.8, class_=f"dot {css}")
            for spot in tested
            if spot.test is not None and spot.test >= bottom
        ),
    ]


def _clipped(a: Spot, b: Spot, bottom: float) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The part of a segment above the axis's lower end; None where there is none."""
    one, two = (float(a.removed), a.validation), (float(b.removed), b.validation)
    if max(one[1], two[1]) < bottom:
        return None
    if min(one[1], two[1]) >= bottom:
        return one, two
    cut = one[0] + (two[0] - one[0]) * (bottom - one[1]) / (two[1] - one[1])
    return (one, (cut, bottom)) if one[1] > two[1] else ((cut, bottom), two)


def _place(frame: Frame, spot: Spot) -> tuple[float, float] | None:
    """Where a point is drawn; nowhere below the axis."""
    if spot.validation < frame.y.low:
        return None
    return frame.x(spot.removed), frame.y(spot.validation)


def _last(panel: Panel) -> int:
    return max((run.spots[-1].removed for line in panel.lines for run in line.runs), default=1)


def _places(last: int) -> list[int]:
    """Numbers below a chart: round ones, and the last where it does not touch one."""
    whole = [int(value) for value in ticks(0, last, 4) if value == int(value)]
    return sorted({*(value for value in whole if last - value > last / 7 or value == last), last})


def _thinned(spots: Sequence[Spot], most: int) -> list[Spot]:
    """At most about so many points, first and last among them."""
    if len(spots) <= most:
        return list(spots)
    chosen = {round(place * (len(spots) - 1) / (most - 1)) for place in range(most)}
    return [spots[place] for place in sorted(chosen)]


def _words(panel: Panel) -> str:
    """What the chart says, for those who cannot see it: accuracy at the start, half way, and at the end."""
    parts: list[str] = []
    for line in panel.lines:
        spots = line.runs[0].spots
        shown = (spots[0], spots[len(spots) // 2], spots[-1])
        parts.append(
            f"{line.label}: " + ", ".join(f"{s.removed} gone {percent(s.validation, 1)}" for s in shown)
        )
    return "; ".join(parts)
