"""What happened inside the runs of a study: accuracy and angles by epoch, range and variance of the weights.

A grid has more runs than anyone wants to see curves of, so one network stands for each rule: the one with the
most accurate run of the study. Seeds of a setting are averaged.

Example:
    >>> from tersa.recipes.study_layout import layout_of
    >>> epoch_panels([], layout_of([]))
    ()
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from tersa.recipes.published import FAMILY, PublishedSpread, weight_spread
from tersa.recipes.study_layout import Layout, network
from tersa.report.study_view import AnglePanel, Angles, Curve, EpochPanel, Reach, ReachPanel, WeightRow
from tersa.study.cell import CellResult, LayerState
from tersa.study.pairing import accuracy

MOST_PANELS = 24
"""Panels of one kind."""
FAINT = 0.28
"""Of the curve with the fewest bits."""


def epoch_panels(results: Sequence[CellResult], layout: Layout) -> tuple[EpochPanel, ...]:
    """Accuracy by epoch, one panel per rule and line of the charts, one curve per bit width."""
    panels: list[EpochPanel] = []
    for title, here in _by_line([row for row in results if row.epochs], layout).items():
        curves = _curves(here)
        if max((len(curve.values) for curve in curves), default=0) > 1:
            panels.append(EpochPanel(title, tuple(curves)))
    return tuple(panels[:MOST_PANELS])


def reach_panels(results: Sequence[CellResult], layout: Layout) -> tuple[ReachPanel, ...]:
    """Least and greatest weight by epoch, one panel per rule and line, for its most bits and first seed."""
    panels: list[ReachPanel] = []
    for title, here in _by_line([row for row in results if row.layers], layout).items():
        most = max(here, key=lambda row: (row.cell.bits, -row.cell.seed))
        reaches = _reaches(most.layers)
        if max((len(reach.epochs) for reach in reaches), default=0) > 1:
            bits = "" if most.cell.quant == "none" else f", {most.cell.bits} bits"
            panels.append(ReachPanel(f"{title}{bits}", tuple(reaches)))
    return tuple(panels[:MOST_PANELS])


def angle_panels(results: Sequence[CellResult], layout: Layout) -> tuple[AnglePanel, ...]:
    """Angles to backpropagation's update by epoch, one panel per rule and network.

    The runs are those with most bits on the first line of the charts, over their seeds. Where there would be
    more than `MOST_PANELS`, one network stands for each rule.
    """
    known = [row for row in results if any(state.angle is not None for state in row.layers)]
    found = _by_network(known, layout)
    if len(found) > MOST_PANELS:
        found = _by_network([row for group in _standing_in(known) for row in group], layout)
    panels: list[AnglePanel] = []
    for title, rows in found.items():
        quantised = [row for row in rows if row.cell.quant != "none"] or rows
        first = layout.lines(row.cell for row in quantised)[0]
        line = [row for row in quantised if layout.line(row.cell) == first]
        bits = max(row.cell.bits for row in line)
        how = (
            "not quantised"
            if line[0].cell.quant == "none"
            else ", ".join(filter(None, (first, f"{bits} bits")))
        )
        panels.append(AnglePanel(f"{title}, {how}", _angles([row for row in line if row.cell.bits == bits])))
    return tuple(panels[:MOST_PANELS])


def _by_network(results: Sequence[CellResult], layout: Layout) -> dict[str, list[CellResult]]:
    found: dict[str, list[CellResult]] = {}
    for row in results:
        title = f"{layout.group(row.cell) or row.cell.rule} {network(row.cell.model)}"
        found.setdefault(title, []).append(row)
    return found


def _angles(rows: Sequence[CellResult]) -> tuple[Angles, ...]:
    """Of each layer that has any: the mean over the runs with an angle after that epoch."""
    values: dict[str, dict[int, list[float]]] = {}
    for state in (state for row in rows for state in row.layers):
        if state.angle is not None:
            values.setdefault(state.layer, {}).setdefault(state.epoch, []).append(state.angle)
    return tuple(
        Angles(
            name, _strength(place, len(values)), tuple(sorted(by)), tuple(fmean(by[e]) for e in sorted(by))
        )
        for place, (name, by) in enumerate(values.items())
    )


def weight_rows(results: Sequence[CellResult]) -> tuple[WeightRow, ...]:
    """The document's tables 5.1 and 5.2 for every rule, range and bit width.

    Of each rule the network of the published tables where the study has it, else the one that stands for the
    rule; over its quantisers, storages and seeds.
    """
    tables = {(row.rule.removesuffix(FAMILY), row.model, row.range, row.bits): row for row in weight_spread()}
    models = {row.model for row in weight_spread()}
    found: dict[tuple[str, str, str, int], list[LayerState]] = {}
    for rows in _standing_in(results, prefer=models):
        for row in rows:
            cell = row.cell
            key = (cell.rule, cell.model, cell.range if cell.quant != "none" else "", cell.bits)
            found.setdefault(key, []).extend(state for state in row.layers if _finite(state))
    made = [
        _weight_row(key, states, tables.get((key[0].removesuffix(FAMILY), *key[1:])))
        for key, states in sorted(found.items())
        if states
    ]
    return tuple(sorted(made, key=lambda row: row.published is None))


def _weight_row(
    key: tuple[str, str, str, int], states: Sequence[LayerState], beside: PublishedSpread | None
) -> WeightRow:
    rule, model, range_, bits = key
    variance_low, variance_high, low, high = extremes(states)
    return WeightRow(
        label=f"{rule} {network(model)}, {range_ + ' range' if range_ else 'not quantised'}",
        bits=bits if range_ else 32,
        variance=(variance_low, variance_high),
        weight=(low, high),
        published=None
        if beside is None
        else (beside.variance_low, beside.variance_high, beside.weight_low, beside.weight_high),
    )


def extremes(states: Sequence[LayerState]) -> tuple[float, float, float, float]:
    """Least and greatest variance of a tensor of weights, least and greatest weight, over epochs and layers.

    Args:
        states: of one network or several; at least one of a tensor of weights. Those that are not finite
            count for nothing.
    """
    weights = [state for state in states if state.tensor == "weight" and _finite(state)]
    variances, lows, highs = zip(*((s.variance, s.low, s.high) for s in weights), strict=True)
    return min(variances), max(variances), min(lows), max(highs)


def _standing_in(results: Sequence[CellResult], prefer: set[str] | None = None) -> list[list[CellResult]]:
    """For each data set and rule, the runs of the network that stands for it."""
    found: list[list[CellResult]] = []
    for place in dict.fromkeys((row.cell.data, row.cell.rule) for row in results):
        rows = [row for row in results if (row.cell.data, row.cell.rule) == place]
        wanted = [row for row in rows if prefer and row.cell.model in prefer]
        known = [row for row in rows if row.test_accuracy is not None]
        best = wanted[0] if wanted else max(known, key=accuracy, default=None)
        if best is not None:
            found.append([row for row in rows if row.cell.model == best.cell.model])
    return found


def _by_line(results: Sequence[CellResult], layout: Layout) -> dict[str, list[CellResult]]:
    """Runs of the networks that stand for their rules, by panel: one line of all rules, then the next.

    Runs that are not quantised have a panel only where there are no others.
    """
    quantised = [row for row in results if row.cell.quant != "none"] or list(results)
    order = layout.lines(row.cell for row in quantised)
    rows = [row for group in _standing_in(quantised) for row in group]
    found: dict[str, list[CellResult]] = {}
    for row in sorted(rows, key=lambda each: order.index(layout.line(each.cell))):
        how = layout.line(row.cell) if row.cell.quant != "none" else "not quantised"
        group = layout.group(row.cell) or row.cell.rule
        title = ", ".join(part for part in (f"{group} {network(row.cell.model)}", how) if part)
        found.setdefault(title, []).append(row)
    return found


def _curves(rows: Sequence[CellResult]) -> list[Curve]:
    """One curve per bit width, the mean over its runs, up to the last epoch that all of them reached.

    A run that diverged keeps its last weights, and with them its last accuracy.
    """
    every = sorted({row.cell.bits for row in rows})
    curves: list[Curve] = []
    for place, bits in enumerate(every):
        here = [row for row in rows if row.cell.bits == bits]
        length = min(
            (len(row.epochs) for row in here if row.status == "done"),
            default=max(len(row.epochs) for row in here),
        )
        series = [
            [row.epochs[min(i, len(row.epochs) - 1)].test_accuracy for i in range(length)] for row in here
        ]
        means = [sum(each[i] for each in series) / len(series) for i in range(length)]
        known = [value for value in means if math.isfinite(value)]
        if known:
            share = place / (len(every) - 1) if len(every) > 1 else 1.0
            label = str(bits) if rows[0].cell.quant != "none" else ""
            curves.append(Curve(label, FAINT + (1 - FAINT) * share, tuple(known)))
    return curves


def _reaches(states: Sequence[LayerState]) -> list[Reach]:
    weights = [state for state in states if state.tensor == "weight" and _finite(state)]
    names = list(dict.fromkeys(state.layer for state in weights))
    found: list[Reach] = []
    for place, name in enumerate(names):
        here = [state for state in weights if state.layer == name]
        found.append(
            Reach(
                name,
                _strength(place, len(names)),
                tuple(state.epoch for state in here),
                tuple(state.low for state in here),
                tuple(state.high for state in here),
            )
        )
    return found


def _strength(place: int, layers: int) -> float:
    """How strongly a layer is drawn: the first one fully, the last one faintly."""
    return 1.0 - (1.0 - FAINT) * place / max(layers - 1, 1)


def _finite(state: LayerState) -> bool:
    return all(map(math.isfinite, (state.low, state.high, state.variance)))
