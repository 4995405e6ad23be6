"""A study as a table: one row per setting, over its seeds; or two axes against each other.

    mean +- t(n - 1) s / sqrt(n)      test accuracy in percent, over the n runs that ended with a network

Runs that diverged keep the accuracy of their last weights and count in the mean, as they do for whoever
trains one; how many there are is said beside it. Failed and waiting runs have no accuracy and are counted.

Example:
    >>> rows = aggregate([(Cell(quant="symmetric", bits=3, seed=s), "done", 80.0 + s) for s in (1, 2, 3)])
    >>> rows[0].mean, rows[0].n, round(rows[0].high - rows[0].mean, 2)
    (82.0, 3, 2.48)
    >>> print(to_markdown(grid(rows, rows_by=["rule"], columns_by=["bits"])))
    | rule | bits=3 |
    | --- | ---: |
    | bp | 82.00 ± 2.48 |
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tersa.errors import UsageError, faults, unknown
from tersa.study.cell import Cell
from tersa.study.pairing import setting
from tersa.study.spec import QUANTISER
from tersa.study.statistics import interval
from tersa.study.store import CellSummary

Outcome = tuple[Cell, str, float | None]
"""A cell, its status and its test accuracy in percent."""

SETTINGS = tuple(name for name in Cell.model_fields if name != "seed")
FIGURES = ("n", "mean", "std", "low", "high", "diverged", "failed", "waiting")
"""Figures of a plain table, behind the settings."""
HEADS = {"low": "interval_low", "high": "interval_high"}
"""Names of columns whose figure shares its name with a setting."""


@dataclass(frozen=True)
class Row:
    """One setting over its seeds.

    Attributes:
        cell: the setting, with the first of its seeds.
        n: runs in the mean.
        mean: test accuracy, percent; None where no run has one.
        std: sample standard deviation, points; None below two runs.
        low: lower end of the 95 % interval of the mean, percent; None below two runs.
        high: upper end of it.
        diverged: runs that ended in NaN or infinity; they are in the mean.
        failed: runs that ended with an error; they are not.
        waiting: runs that have not ended.
    """

    cell: Cell
    n: int
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    diverged: int
    failed: int
    waiting: int

    @property
    def text(self) -> str:
        """`82.00 ± 2.48`, with what is not as it should be."""
        if self.mean is None:
            shown = "–"
        elif self.low is None:
            shown = f"{self.mean:.2f}"
        else:
            shown = f"{self.mean:.2f} ± {self.mean - self.low:.2f}"
        odd = [(self.diverged, "diverged"), (self.failed, "failed"), (self.waiting, "waiting")]
        words = ", ".join(f"{count} {word}" for count, word in odd if count)
        return f"{shown} ({words})" if words else shown


@dataclass(frozen=True)
class Grid:
    """A table as text.

    Attributes:
        header: one name per column.
        body: rows, as long as the header.
        left: how many columns are names, the others being figures.
    """

    header: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    left: int


def outcomes(summaries: Iterable[CellSummary]) -> list[Outcome]:
    """What a table needs of a store's cells."""
    return [(row.cell, row.status, row.test_accuracy) for row in summaries]


def aggregate(cells: Iterable[Outcome]) -> list[Row]:
    """One row per setting, in the order in which the settings appear."""
    groups: dict[object, list[Outcome]] = {}
    for outcome in cells:
        groups.setdefault(setting(outcome[0]), []).append(outcome)
    return [_row(group) for group in groups.values()]


def _row(group: list[Outcome]) -> Row:
    ways = [status for _, status, _ in group]
    values = [value for _, _, value in group if value is not None and math.isfinite(value)]
    found = interval(values) if values else None
    several = found is not None and found.count > 1
    return Row(
        cell=group[0][0],
        n=len(values),
        mean=found.mean if found else None,
        std=_deviation(values) if several else None,
        low=found.low if found and several else None,
        high=found.high if found and several else None,
        diverged=ways.count("diverged"),
        failed=ways.count("failed"),
        waiting=ways.count("waiting"),
    )


def _deviation(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def differing(rows: Sequence[Row]) -> tuple[str, ...]:
    """Settings with several values among the rows, in the order of `Cell`."""
    return tuple(name for name in SETTINGS if len({shown(row.cell, name) for row in rows}) > 1)


def where(rows: Sequence[Row], pairs: Sequence[str]) -> list[Row]:
    """The rows whose settings have the given values: `rule=bp`, `bits=2,3`.

    Raises:
        UsageError: a text that is not KEY=VALUE, an unknown setting, or a value that no row has.
    """
    found: list[str] = []
    kept = list(rows)
    for pair in pairs:
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not text:
            found.append(f"'{pair}' is not KEY=VALUE")
        elif name not in SETTINGS:
            found.append(str(unknown("setting", name, SETTINGS)))
        else:
            there = {shown(row.cell, name) for row in rows}
            wanted = {part.strip() for part in text.split(",")}
            found += [str(unknown(name, value, there)) for value in sorted(wanted - there)]
            kept = [row for row in kept if shown(row.cell, name) in wanted]
    if found:
        raise faults("where", found)
    return kept


def flat(rows: Sequence[Row]) -> Grid:
    """One line per setting: the settings that differ, then every figure."""
    names = differing(rows)
    body = [
        (*(shown(row.cell, name) for name in names), *(_figure(getattr(row, f)) for f in FIGURES))
        for row in rows
    ]
    return Grid((*names, *(HEADS.get(f, f) for f in FIGURES)), tuple(body), len(names))


def grid(rows: Sequence[Row], *, rows_by: Sequence[str], columns_by: Sequence[str]) -> Grid:
    """One axis against another; each cell is `Row.text`.

    Raises:
        UsageError: unknown settings, or others that differ too and would be mixed.
    """
    wanted = [*rows_by, *columns_by]
    found = [str(unknown("setting", name, SETTINGS)) for name in wanted if name not in SETTINGS]
    found += [f"{name} is given twice" for name in dict.fromkeys(wanted) if wanted.count(name) > 1]
    if found:
        raise faults("rows and columns", found)
    places: dict[tuple[str, ...], dict[tuple[str, ...], Row]] = {}
    for row in rows:
        down = tuple(shown(row.cell, name) for name in rows_by)
        across = tuple(shown(row.cell, name) for name in columns_by)
        if across in places.setdefault(down, {}):
            raise _mixed([row, places[down][across]])
        places[down][across] = row
    heads = _ordered({across for line in places.values() for across in line})
    titles = [
        " ".join(f"{n}={v}" for n, v in zip(columns_by, head, strict=True)) or "accuracy" for head in heads
    ]
    body = [
        (*down, *(line[head].text if head in line else "" for head in heads)) for down, line in places.items()
    ]
    return Grid((*rows_by, *titles), tuple(body), len(rows_by))


def _mixed(rows: Sequence[Row]) -> UsageError:
    others = differing(rows)
    return UsageError(
        f"several settings fall into one place of the table: {', '.join(others)} differ too; "
        f"add them to --rows or --columns, or pick with --where {others[0]}=VALUE"
    )


def _ordered(heads: set[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Sorted, numbers by value."""

    def place(text: str) -> tuple[int, float, str]:
        try:
            return (0, float(text), "")
        except ValueError:
            return (1, 0.0, text)

    return sorted(heads, key=lambda head: [place(text) for text in head])


def to_csv(table: Grid) -> str:
    """Comma-separated, with a header line."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.header)
    writer.writerows(table.body)
    return buffer.getvalue()


def to_markdown(table: Grid) -> str:
    """A GitHub table; figures stand to the right."""
    rule = ["---"] * table.left + ["---:"] * (len(table.header) - table.left)
    lines = [table.header, rule, *table.body]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)


def shown(cell: Cell, name: str) -> str:
    """A setting as text; float32 has 32 bits, and no other setting of a quantiser.

    >>> shown(Cell(), "bits"), shown(Cell(), "range"), shown(Cell(quant="binary", bits=1), "bits")
    ('32', '–', '1')
    """
    if cell.quant == "none" and name in QUANTISER:
        return "32" if name == "bits" else "–"
    value = getattr(cell, name)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4f}"
