"""Ours beside the published: cell by cell, and how well they agree.

Only cells with every one of the document's settings are compared (`published.exact`), or, for a shortened
reproduction, those with its quantiser, range and bits (`published.beside`). Ranks and gaps are taken over the
cells published at `LEARNED` percent or more: below it the order of cells is noise.

Example:
    >>> from tersa.study.cell import Cell
    >>> from tersa.study.pairing import finished
    >>> rows = [finished(Cell(model="mlp:100x100", quant="symmetric", bits=b), 9.0 * b) for b in (4, 6, 8)]
    >>> [(each.published, each.ours.mean) for each in compare(rows)]
    [(84.58, 36.0), (94.29, 54.0), (97.41, 72.0)]
    >>> summarise(compare(rows))[-1].agreement
    1.0
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from tersa.recipes import published
from tersa.report.study_view import Compared, Spread, Summary
from tersa.study.cell import Cell, CellResult
from tersa.study.pairing import LEARNED, accuracy, by_setting
from tersa.study.statistics import Interval, agreement, interval, spearman


@dataclass(frozen=True)
class Row:
    """One published cell with ours.

    Attributes:
        cell: of the first seed.
        published: percent.
        ours: percent, over the seeds.
    """

    cell: Cell
    published: float
    ours: Interval

    @property
    def gap(self) -> float:
        """Ours minus published, points."""
        return self.ours.mean - self.published


def compare(results: Iterable[CellResult], *, shortened: bool = False) -> list[Row]:
    """Published cells with ours, in the order of the results.

    Args:
        results: of a study; those without an accuracy are left out.
        shortened: also cells with other epochs, batch and so on than the document's.
    """
    find = published.beside if shortened else published.exact
    rows = [result for result in results if result.test_accuracy is not None]
    found: list[Row] = []
    for group in by_setting(rows).values():
        value = find(group[0].cell)
        if value is not None:
            found.append(Row(group[0].cell, value, interval([accuracy(each) for each in group])))
    return found


def summarise(rows: Sequence[Row]) -> list[Summary]:
    """One line per rule, then one over all; nothing without rows.

    Full-precision networks learn in the document and here: they are left out where there are quantised ones.
    """
    rows = [row for row in rows if row.cell.quant != "none"] or rows
    rules = list(dict.fromkeys(row.cell.rule for row in rows))
    parts = [_summary(rule, [row for row in rows if row.cell.rule == rule]) for rule in rules]
    return [*parts, _summary("all", rows)] if rows else []


def _summary(name: str, rows: Sequence[Row]) -> Summary:
    learned = [row for row in rows if row.published >= LEARNED]
    gaps = [row.gap for row in learned]
    rank = (
        spearman([row.published for row in learned], [row.ours.mean for row in learned])
        if learned
        else math.nan
    )
    return Summary(
        name=name,
        cells=len(rows),
        learned=len(learned),
        spearman=rank if math.isfinite(rank) else None,
        agreement=agreement([row.published for row in rows], [row.ours.mean for row in rows], LEARNED),
        gap=median(gaps) if gaps else None,
        off=median(map(abs, gaps)) if gaps else None,
    )


def label(cell: Cell) -> str:
    """A cell of the document's grid in words.

    >>> label(Cell(quant="symmetric", bits=3))
    'bp mlp:100x100, symmetric layer, 3 bits'
    """
    if cell.quant == "none":
        return f"{cell.rule} {cell.model}, not quantised"
    return f"{cell.rule} {cell.model}, {cell.quant} {cell.range}, {cell.bits} bits"


def shown(rows: Sequence[Row]) -> tuple[Compared, ...]:
    """The rows as a page shows them."""
    return tuple(
        Compared(
            label(row.cell),
            row.published,
            Spread(row.ours.mean, row.ours.low, row.ours.high, row.ours.count),
        )
        for row in rows
    )


COLUMNS = (
    "rule", "data", "model", "quant", "bits", "range", "published", "ours", "low", "high", "seeds", "gap",
)  # fmt: skip


def to_csv(rows: Sequence[Row]) -> str:
    """The comparison as CSV text; accuracies in percent, the gap in points, bits empty for float32."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        cell, quantised = row.cell, row.cell.quant != "none"
        writer.writerow(
            [
                cell.rule,
                cell.data,
                cell.model,
                cell.quant,
                cell.bits if quantised else "",
                cell.range if quantised else "",
                f"{row.published:.2f}",
                *(f"{value:.2f}" for value in (row.ours.mean, row.ours.low, row.ours.high)),
                row.ours.count,
                f"{row.gap:.2f}",
            ]
        )
    return text.getvalue()
