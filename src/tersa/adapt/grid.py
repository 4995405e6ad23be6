"""Costs of one layer family on a grid of input and output channels, interpolated in microseconds.

A point that was measured is given as it is (`exact`); any other is bilinear between the rows of input
channels that enclose it, each linear between the output channels that enclose it:

    c(i, o) = (1 - u) row(i0, o) + u row(i1, o),   u = (i - i0) / (i1 - i0)

Rows may have different output channels: tables are shared between networks. A row takes part where its
output channels enclose the ones asked for, else the next one that does. Layers with as many output channels
as input channels (`Family.square`) are measured on a line, and lie between its points. Below the smallest
measured number of channels the cost is that of the smallest; above the largest there is nothing to go by,
which is an error. Costs need not grow with channels: machines have steps, and the grid keeps them.

Example:
    >>> grid = Grid("demo", {(1, 1): 1.0, (1, 3): 3.0, (3, 1): 2.0, (3, 3): 6.0})
    >>> grid.at(3, 1), grid.at(2, 2)
    (Reading(value=2.0, exact=True), Reading(value=3.0, exact=False))
    >>> Grid("square", {(4, 4): 1.0, (8, 8): 3.0}).at(6, 6)
    Reading(value=2.0, exact=False)
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tersa.errors import DataError

STEPS = (1, 4, 8, 16, 32, 64, 128, 256, 512)
"""Distances between measured numbers of channels; vector units and caches work in such steps."""

DENSE = 12
"""An axis has at most so many regular points, and a few narrow ones."""

ALIGNED = 8
"""Runtimes pad channels to blocks of this size, or slow down beside them: layers keep to multiples."""

WIDE, WIDE_ALIGNED = 128, 16
"""Layers from so many channels on keep to multiples of larger blocks, those of 512-bit vectors."""


class Reading(NamedTuple):
    """A cost from a table.

    Attributes:
        value: in the table's unit.
        exact: it was measured; else it is interpolated.
    """

    value: float
    exact: bool


class Grid:
    """The measured points of one family.

    Args:
        name: for messages.
        points: (inputs, outputs) -> cost.

    Raises:
        DataError: no point, or a cost that is NaN, infinite or negative.
    """

    def __init__(self, name: str, points: Mapping[tuple[int, int], float]) -> None:
        bad = [place for place, value in points.items() if not math.isfinite(value) or value < 0]
        if bad or not points:
            what = f"no number at {bad[0][0]} to {bad[0][1]} channels" if bad else "no points"
            raise DataError(
                f"the table of '{name}' holds {what}; measure it again (tersa adapt --fresh-table)"
            )
        self.name = name
        self._points = {place: Reading(value, True) for place, value in points.items()}
        rows: dict[int, list[tuple[int, float]]] = {}
        for (ins, outs), value in sorted(points.items()):
            rows.setdefault(ins, []).append((outs, value))
        self._ins = sorted(rows)
        self._rows = [([o for o, _ in rows[i]], [v for _, v in rows[i]]) for i in self._ins]
        self._line = [row[1][0] for row in self._rows] if all(ins == outs for ins, outs in points) else None

    def at(self, inputs: int, outputs: int) -> Reading:
        """The cost at a number of channels; remembered, so that asking again is a look-up.

        Raises:
            DataError: more channels than were measured.
        """
        known = self._points.get((inputs, outputs))
        if known is None:
            known = self._points[inputs, outputs] = Reading(self._between(inputs, outputs), False)
        return known

    def _between(self, inputs: int, outputs: int) -> float:
        if self._line is not None and inputs == outputs <= self._ins[-1]:
            return _line(self._ins, self._line, inputs)
        place = bisect_left(self._ins, inputs)
        for enclosing in (True, False):  # rows of more output channels alone: only where nothing else is left
            above = self._row(range(place, len(self._ins)), outputs, enclosing)
            if above is not None:
                break
        else:
            raise DataError(
                f"the table of '{self.name}' has a hole: nothing was measured at or beyond {inputs} to "
                f"{outputs} channels; measure it again (tersa adapt --fresh-table)"
            )
        high, top = above
        if self._ins[high] == inputs:
            return top
        below = self._row(range(place - 1, -1, -1), outputs, enclosing)
        if below is None:
            return top
        low, bottom = below
        share = (inputs - self._ins[low]) / (self._ins[high] - self._ins[low])
        return bottom + share * (top - bottom)

    def _row(self, places: range, outputs: int, enclosing: bool) -> tuple[int, float] | None:
        """The first of some rows that reaches so many output channels, and its cost there.

        Args:
            places: of the rows, in order.
            outputs: channels.
            enclosing: rows that begin above them are passed over.
        """
        for place in places:
            outs, values = self._rows[place]
            if outs[-1] >= outputs and (outs[0] <= outputs or not enclosing):
                return place, _line(outs, values, outputs)
        return None


def _line(xs: Sequence[int], ys: Sequence[float], x: int) -> float:
    """Linear between the points that enclose x; constant below the first."""
    place = bisect_left(xs, x)
    if xs[place] == x or place == 0:
        return ys[place]
    share = (x - xs[place - 1]) / (xs[place] - xs[place - 1])
    return ys[place - 1] + share * (ys[place] - ys[place - 1])


def axis(most: int) -> list[int]:
    """Numbers of channels that are measured, up to `most`: multiples of the machine's step, and narrow ones.

    >>> axis(64), axis(20), axis(3)
    ([1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64], [1, 2, 4, 8, 12, 16, 20], [1, 2, 3])
    """
    step = next((step for step in STEPS if most <= step * DENSE), STEPS[-1])
    narrow = {each for each in (1, 2, 4, 8, step // 2) if 0 < each < min(step, most)}
    return sorted(narrow | set(range(step, most, step)) | {most})


def widths(most: int) -> list[int]:
    """Widths that a search tries, ascending: all of a narrow layer, multiples of a step of a wide one.

    >>> widths(5), widths(20), widths(50)
    ([1, 2, 3, 4, 5], [1, 2, 4, 8, 12, 16, 20], [1, 2, 4, 8, 16, 24, 32, 40, 48, 50])
    >>> widths(128)
    [1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128]
    """
    step = 1 if most <= DENSE else 4 if most < 4 * ALIGNED else ALIGNED if most < WIDE else WIDE_ALIGNED
    narrow = {each for each in (1, 2, 4, 8) if each < step}
    return sorted(narrow | set(range(step, most, step)) | {most})
