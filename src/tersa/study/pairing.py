"""Cells that differ in one field only: what a paired test or a curve over bits is made of.

Two results are a pair for field f and values a, b when one has f = a, the other f = b, and every other field,
the seed included, is equal. `fixed` names fields that may differ along with f (a quantiser's range when cells
with and without quantisation are compared).

Below `LEARNED` percent a ten-class network is near chance, and its accuracy says nothing about order: pairs
in which both are below it are left out where `learned` is asked for.

Example:
    >>> from tersa.study.cell import Cell
    >>> rows = [finished(Cell(bits=bits, seed=seed), 90.0 + bits) for bits in (2, 3) for seed in (1, 2)]
    >>> [(a.cell.bits, b.cell.bits, b.cell.seed) for a, b in pairs(rows, "bits", 2, 3)]
    [(2, 3, 1), (2, 3, 2)]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tersa.study.cell import Cell, CellResult
from tersa.study.spec import QUANTISER

LEARNED = 15.0
"""Percent: below it a network of ten classes counts as collapsed."""

QUANTISER_FIELDS = frozenset(QUANTISER)
"""Fields without meaning for cells that are not quantised."""

Key = tuple[tuple[str, object], ...]


def finished(cell: Cell, accuracy: float) -> CellResult:
    """A done result without epochs, for examples and tests."""
    return CellResult(
        key=cell.key,
        cell=cell,
        status="done",
        test_accuracy=accuracy,
        epochs=[],
        layers=[],
        seconds=0.0,
        stacked=1,
    )


def without(cell: Cell, left_out: Iterable[str]) -> Key:
    """Every field of a cell but some, as a key."""
    gone = frozenset(left_out)
    return tuple((name, getattr(cell, name)) for name in Cell.model_fields if name not in gone)


def setting(cell: Cell) -> Key:
    """A cell without its seed; of one that is not quantised, without what says how."""
    return without(cell, {"seed"} | (QUANTISER_FIELDS if cell.quant == "none" else frozenset()))


def varying(results: Sequence[CellResult]) -> dict[str, list[object]]:
    """Fields that take several values, with those in the order of their appearance; the seed is left out.

    Fields without meaning for unquantised cells are looked at in the quantised ones only.
    """
    found: dict[str, list[object]] = {}
    for name in Cell.model_fields:
        if name in ("seed", "shuffle_seed"):
            continue
        cells = [r.cell for r in results if name not in QUANTISER_FIELDS or r.cell.quant != "none"]
        values = list(dict.fromkeys(getattr(cell, name) for cell in cells))
        if len(values) > 1:
            found[name] = values
    return found


def by_setting(results: Iterable[CellResult]) -> dict[Key, list[CellResult]]:
    """Results of equal settings together: one list of seeds each."""
    found: dict[Key, list[CellResult]] = {}
    for result in results:
        found.setdefault(setting(result.cell), []).append(result)
    return found


def pairs(
    results: Iterable[CellResult],
    field: str,
    first: object,
    second: object,
    *,
    fixed: Iterable[str] = (),
    learned: bool = False,
) -> list[tuple[CellResult, CellResult]]:
    """Results that differ in one field only; failed ones, which have no accuracy, make no pair.

    Args:
        results: of any cells.
        field: the field that differs.
        first: its value in the first of each pair.
        second: its value in the second.
        fixed: fields that need not be equal.
        learned: leave out pairs in which both are below `LEARNED`.
    """
    rows = [result for result in results if result.test_accuracy is not None]
    ignored = {field, *fixed}
    seconds = {without(r.cell, ignored): r for r in rows if getattr(r.cell, field) == second}
    found = [
        (row, seconds[key])
        for row in rows
        if getattr(row.cell, field) == first and (key := without(row.cell, ignored)) in seconds
    ]
    return [pair for pair in found if not learned or max(map(accuracy, pair)) >= LEARNED]


def accuracy(result: CellResult) -> float:
    """Test accuracy, percent, of a result that has one."""
    assert result.test_accuracy is not None, "failed cells are left out before"
    return result.test_accuracy
