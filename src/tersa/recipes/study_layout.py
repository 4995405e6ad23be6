"""Which settings of a study become lines, panels and groups of its charts.

    line    at most `LINES` different ones: fields of `LINE_FIELDS` that vary, first come first
    panel   the network
    group   the rule, and every other field that varies

So document 000's grid is one group per rule, in it one panel per network, in it four lines (two ranges, two
quantisers); and a study of storage and extra bits for one network has one line for each.

Example:
    >>> from tersa.study.pairing import finished
    >>> cells = [Cell(quant="symmetric", bits=b, range=r) for b in (2, 3) for r in ("layer", "global")]
    >>> rows = [finished(cell, 90.0) for cell in cells]
    >>> layout = layout_of(rows)
    >>> layout.styles, len(layout.groups[0].panels[0].lines)
    (((0, 'layer range'), (2, 'global range')), 2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tersa.quant.spec import KINDS
from tersa.recipes import published
from tersa.report.numbers import plural
from tersa.report.study_view import Group, Line, Panel, Point, Spread
from tersa.study.cell import Cell, CellResult
from tersa.study.hypotheses import shape_of
from tersa.study.pairing import QUANTISER_FIELDS, accuracy, varying
from tersa.study.statistics import interval

LINES = 4
MOST_PANELS = 60
"""Panels that are drawn; what is beyond is in the tables."""
LINE_FIELDS = ("range", "quant", "storage", "rounding", "extra_bits", "stuck", "program_noise", "read_noise")
"""Fields that can tell lines apart, in the order in which they are taken."""

ORDER: dict[str, tuple[str, ...]] = {
    "range": ("layer", "channel", "percentile", "calibrated", "learned", "global"),
    "quant": KINDS,
    "storage": ("inplace", "accumulate", "latent", "after"),
    "rounding": ("nearest", "stochastic"),
}
"""Values of fields in the order in which their lines are told; numbers rise."""

NAMES = {
    "quant": "quantiser", "model": "network", "optimizer": "optimiser", "learning_rate": "learning rate",
    "extra_bits": "extra bits", "program_noise": "programming noise", "read_noise": "reading noise",
    "activation_bits": "bits of activations", "gradient_bits": "bits of gradients", "stuck": "stuck devices",
    "weight_decay": "weight decay", "data": "data",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Where each cell of a study is drawn.

    Attributes:
        line_fields: fields that tell lines apart.
        group_fields: fields that tell groups apart, but for the rule.
        several: fields that vary, of all cells.
        groups: the panels, drawn or not.
        styles: (style, label) of the lines.
        left_out: panels that are not drawn, in words.
    """

    line_fields: tuple[str, ...]
    group_fields: tuple[str, ...]
    several: frozenset[str]
    groups: tuple[Group, ...] = ()
    styles: tuple[tuple[int, str], ...] = ()
    left_out: str = ""

    def line(self, cell: Cell) -> str:
        """Label of the line that a cell is on."""
        return _listed(self.line_fields, cell)

    def group(self, cell: Cell) -> str:
        """Title of its group."""
        rest = _listed(self.group_fields, cell)
        return ", ".join(part for part in (cell.rule if "rule" in self.several else "", rest) if part)

    def lines(self, cells: Iterable[Cell]) -> list[str]:
        """Labels of the lines of some cells: the solid ones first, then the dashed ones."""
        styles = {label: style for style, label in self.styles}
        found = dict.fromkeys(self.line(cell) for cell in cells)
        return sorted(found, key=lambda label: (styles.get(label, 0) % 2, styles.get(label, 0)))

    def row(self, cell: Cell, whole: bool = True) -> str:
        """Its row of a heat map: rule, other fields of the group, and the network where `whole`.

        Fields that float32 does not have are left out for it, so that it joins every row of its rule.
        """
        fields = [field for field in self.group_fields if field not in QUANTISER_FIELDS]
        parts = [cell.rule, _listed(fields, cell)]
        if whole and "model" in self.several:
            parts.append(network(cell.model))
        return " ".join(part for part in parts if part)

    def label(self, cell: Cell) -> str:
        """Everything that tells it from the other cells of its study, but the seed."""
        first = [cell.rule, cell.model] if "model" in self.several else [cell.rule]
        if cell.quant == "none":
            how, gone = "not quantised", QUANTISER_FIELDS | {"quant"}
        else:
            how, gone = plural(cell.bits, "bit"), frozenset({"bits"})
        rest = [field for field in Cell.model_fields if field in self.several - gone - {"rule", "model"}]
        return ", ".join(part for part in (" ".join(first), how, _listed(rest, cell)) if part)


def layout_of(results: Sequence[CellResult]) -> Layout:
    """Sort the results of a study into groups, panels and lines."""
    changing = varying(results)
    quantised = [row for row in results if row.cell.quant != "none"]
    kinds = varying(quantised)
    lines = _line_fields(quantised, kinds)
    others = tuple(
        field for field in changing if field not in ("rule", "model", "bits", "quant", *lines) or
        (field == "quant" and "quant" in kinds and "quant" not in lines)
    )  # fmt: skip
    empty = Layout(lines, others, frozenset(changing))
    if len({row.cell.bits for row in quantised}) < 2:
        return empty
    styles = _styles(quantised, lines, empty)
    groups, left_out = _groups(results, empty, styles)
    return Layout(
        lines,
        others,
        frozenset(changing),
        groups,
        tuple(sorted((style, label or "accuracy") for label, style in styles.items())),
        left_out,
    )


def _listed(fields: Iterable[str], cell: Cell) -> str:
    """Values of a cell in words; extra bits that it has none of are not mentioned."""
    values = [(field, getattr(cell, field)) for field in fields]
    return ", ".join(said(field, value) for field, value in values if (field, value) != ("extra_bits", 0))


def said(field: str, value: object) -> str:
    """A value of a field in words.

    >>> said("range", "layer"), said("extra_bits", 4), said("storage", "latent"), said("learning_rate", 0.1)
    ('layer range', '4 extra bits', 'latent', 'learning rate 0.1')
    """
    if field in ("quant", "storage", "rounding", "rule", "model", "data", "optimizer"):
        return str(value)
    if field in ("range", "extra_bits"):
        return f"{value} {name_of(field)}"
    return f"{name_of(field)} {value}"


def name_of(field: str) -> str:
    """A field of a cell in words.

    >>> name_of("quant"), name_of("rounding")
    ('quantiser', 'rounding')
    """
    return NAMES.get(field, field.replace("_", " "))


def network(model: str) -> str:
    """An MLP of equal layers as the document writes it: layers x width.

    >>> network("mlp:100x100"), network("lenet")
    ('2x100', 'lenet')
    """
    shape = shape_of(model)
    return f"{shape[0]}x{shape[1]}" if shape else model


def accuracy_of(cells: Iterable[Cell]) -> str:
    """What the accuracies of some cells are, by the split that all of them are judged on.

    >>> accuracy_of([Cell()]), accuracy_of([Cell(judged_on="validation")])
    ('test accuracy', 'validation accuracy')
    >>> accuracy_of([Cell(), Cell(judged_on="validation")])
    'accuracy'
    """
    splits = {cell.judged_on for cell in cells}
    return f"{splits.pop()} accuracy" if len(splits) == 1 else "accuracy"


def _line_fields(rows: Sequence[CellResult], kinds: dict[str, list[object]]) -> tuple[str, ...]:
    """Fields are taken while the lines that really occur stay few enough to be told apart."""
    taken: list[str] = []
    for field in LINE_FIELDS:
        if field in kinds:
            wanted = [*taken, field]
            if len({tuple(getattr(row.cell, name) for name in wanted) for row in rows}) <= LINES:
                taken = wanted
    return tuple(taken)


def _styles(rows: Sequence[CellResult], lines: tuple[str, ...], layout: Layout) -> dict[str, int]:
    """By label: colour for the first of two fields and dashes for the second, or one after the other."""
    axes = [sorted({getattr(row.cell, field) for row in rows}, key=_place(field)) for field in lines]
    if len(axes) == 2 and all(len(axis) <= 2 for axis in axes):
        first, second = ({value: place for place, value in enumerate(axis)} for axis in axes)
        return {
            layout.line(row.cell): 2 * first[getattr(row.cell, lines[0])]
            + second[getattr(row.cell, lines[1])]
            for row in rows
        }
    cells = sorted((row.cell for row in rows), key=lambda cell: [_place(f)(getattr(cell, f)) for f in lines])
    labels = dict.fromkeys(layout.line(cell) for cell in cells)
    return dict(zip(labels, (0, 2, 1, 3), strict=False))


def _place(field: str) -> Callable[[Any], float]:
    """Where a value of a field stands among the others."""
    order = ORDER.get(field)
    if order is None:
        return float
    return lambda value: order.index(value) if value in order else len(order)  # a kind of one's own: last


def _groups(
    results: Sequence[CellResult], layout: Layout, styles: dict[str, int]
) -> tuple[tuple[Group, ...], str]:
    quantised = [row for row in results if row.cell.quant != "none"]
    floats = [row for row in results if row.cell.quant == "none" and row.test_accuracy is not None]
    several = len({row.cell.model for row in results}) > 1
    groups: list[Group] = []
    drawn = total = 0
    for title in dict.fromkeys(layout.group(row.cell) for row in quantised):
        here = [row for row in quantised if layout.group(row.cell) == title]
        panels: list[Panel] = []
        for model in dict.fromkeys(row.cell.model for row in here):
            total += 1
            if drawn < MOST_PANELS:
                drawn += 1
                rows = [row for row in here if row.cell.model == model]
                name = network(model) if several else title or model
                panels.append(_panel(name, rows, floats, layout, styles))
        if panels:
            groups.append(Group(title if several else "", tuple(panels)))
    if not several:  # one network: the panels of all groups stand side by side
        groups = [Group("", tuple(panel for group in groups for panel in group.panels))]
    elif len(groups) > 1 and all(len(group.panels) == 1 for group in groups):  # or one panel each
        lone = [replace(group.panels[0], title=f"{group.title} {group.panels[0].title}") for group in groups]
        groups = [Group("", tuple(lone))]
    more = total - drawn
    left_out = f"{plural(more, 'panel')} more {'is' if more == 1 else 'are'} not drawn; the tables have all."
    return tuple(groups), left_out if more else ""


def _panel(
    title: str,
    rows: Sequence[CellResult],
    floats: Sequence[CellResult],
    layout: Layout,
    styles: dict[str, int],
) -> Panel:
    lines = [
        _line(label, styles[label], [row for row in rows if layout.line(row.cell) == label])
        for label in dict.fromkeys(layout.line(row.cell) for row in rows)
    ]
    cell = rows[0].cell
    free = [field for field in layout.group_fields if field not in QUANTISER_FIELDS and field != "quant"]
    same = _same(cell, ("rule", "model", "data", *free))
    here = [accuracy(row) for row in floats if same(row.cell)]
    return Panel(
        title, tuple(sorted(lines, key=lambda line: line.style)), sum(here) / len(here) if here else None
    )


def _same(cell: Cell, fields: Sequence[str]) -> Callable[[Cell], bool]:
    return lambda other: all(getattr(other, field) == getattr(cell, field) for field in fields)


def _line(label: str, style: int, rows: Sequence[CellResult]) -> Line:
    points: list[Point] = []
    beside: dict[int, float] = {}
    for bits in sorted({row.cell.bits for row in rows}):
        here = [row for row in rows if row.cell.bits == bits]
        known = [accuracy(row) for row in here if row.test_accuracy is not None]
        found = interval(known) if known else None
        spread = Spread(found.mean, found.low, found.high, found.count) if found else None
        points.append(Point(bits, spread, sum(row.status != "done" for row in here)))
        value = published.beside(here[0].cell)
        if value is not None:
            beside[bits] = value
    return Line(label, style, tuple(points), tuple(beside.items()))
