"""Tables: means over seeds, nothing dropped in silence, nothing mixed."""

from __future__ import annotations

import csv
import io

import pytest

from tersa.errors import UsageError
from tersa.study.cell import Cell
from tersa.study.table import Outcome, aggregate, differing, flat, grid, to_csv, to_markdown, where

T_2 = 4.302653
"""Student's 97.5 % quantile with two degrees of freedom (any table)."""


def cell(rule: str = "bp", bits: int = 3, seed: int = 1, quant: str = "symmetric") -> Cell:
    return Cell.model_validate({"rule": rule, "quant": quant, "bits": bits, "seed": seed})


def outcomes() -> list[Outcome]:
    """Two rules at two bit widths, three seeds each."""
    return [
        (cell(rule, bits, seed), "done", 80.0 + 10 * (rule == "bp") + bits + 0.5 * seed)
        for rule in ("bp", "fa")
        for bits in (3, 10 - 2)
        for seed in (1, 2, 3)
    ]


def test_a_row_is_a_setting_over_its_seeds() -> None:
    rows = aggregate(outcomes())
    assert [(row.cell.rule, row.cell.bits, row.n) for row in rows] == [
        ("bp", 3, 3), ("bp", 8, 3), ("fa", 3, 3), ("fa", 8, 3),
    ]  # fmt: skip
    assert rows[0].mean == pytest.approx(94.0)
    assert rows[0].std == pytest.approx(0.5)
    assert rows[0].low == pytest.approx(94.0 - T_2 * 0.5 / 3**0.5, abs=1e-5)
    assert rows[0].high == pytest.approx(94.0 + T_2 * 0.5 / 3**0.5, abs=1e-5)
    assert differing(rows) == ("rule", "bits")


def test_one_seed_has_no_interval() -> None:
    (row,) = aggregate([(cell(), "done", 91.234)])
    assert (row.mean, row.std, row.low, row.text) == (91.234, None, None, "91.23")


def test_what_did_not_end_well_is_counted() -> None:
    ends: list[tuple[str, float | None]] = [
        ("done", 90.0),
        ("diverged", 10.0),
        ("failed", None),
        ("waiting", None),
    ]
    (row,) = aggregate([(cell(seed=i), status, value) for i, (status, value) in enumerate(ends)])
    assert (row.n, row.mean) == (2, 50.0)
    assert (row.diverged, row.failed, row.waiting) == (1, 1, 1)
    assert row.text.endswith("(1 diverged, 1 failed, 1 waiting)")
    (lost,) = aggregate([(cell(), "failed", None)])
    assert lost.text == "– (1 failed)"
    assert flat([lost]).body == (("0", "", "", "", "", "0", "1", "0"),)


def test_a_plain_table_shows_the_settings_that_differ_and_every_figure() -> None:
    table = flat(aggregate(outcomes()))
    assert table.header == (
        "rule",
        "bits",
        "n",
        "mean",
        "std",
        "interval_low",
        "interval_high",
        "diverged",
        "failed",
        "waiting",
    )
    assert table.body[0][:5] == ("bp", "3", "3", "94.0000", "0.5000")
    assert table.left == 2


def test_csv_reads_back() -> None:
    table = flat(aggregate(outcomes()))
    lines = list(csv.reader(io.StringIO(to_csv(table))))
    assert tuple(lines[0]) == table.header
    assert [tuple(line) for line in lines[1:]] == list(table.body)


def test_axes_against_each_other() -> None:
    table = grid(aggregate(outcomes()), rows_by=["rule"], columns_by=["bits"])
    assert table.header == ("rule", "bits=3", "bits=8")
    assert [line[0] for line in table.body] == ["bp", "fa"]
    assert table.body[1][1] == "84.00 ± 1.24"
    assert to_markdown(table).splitlines()[1] == "| --- | ---: | ---: |"


def test_columns_are_ordered_by_value_with_float32_last() -> None:
    rows = aggregate([(cell(bits=b), "done", 90.0 + b) for b in (8, 2)] + [(Cell(), "done", 98.0)])
    table = grid(rows, rows_by=["rule"], columns_by=["bits"])
    assert table.header == ("rule", "bits=2", "bits=8", "bits=32")
    assert table.body == (("bp", "92.00", "98.00", "98.00"),)


def test_a_place_without_runs_is_empty_and_bars_do_not_break_markdown() -> None:
    rows = aggregate([(cell("bp", 2), "done", 1.0), (cell("fa", 3), "done", 2.0)])
    table = grid(rows, rows_by=["rule"], columns_by=["bits"])
    assert table.body == (("bp", "1.00", ""), ("fa", "", "2.00"))
    odd = grid(aggregate([(Cell(data="a|b"), "done", 1.0)]), rows_by=["data"], columns_by=[])
    assert to_markdown(odd).splitlines()[-1] == "| a\\|b | 1.00 |"


def test_settings_are_never_mixed() -> None:
    with pytest.raises(UsageError, match=r"rule differ too; add them to --rows .* --where rule=VALUE"):
        grid(aggregate(outcomes()), rows_by=[], columns_by=["bits"])


def test_unknown_axes_are_refused_together() -> None:
    with pytest.raises(UsageError) as refused:
        grid([], rows_by=["rul", "bits"], columns_by=["bits"])
    assert "did you mean 'rule'?" in str(refused.value)
    assert "bits is given twice" in str(refused.value)


def test_rows_can_be_picked() -> None:
    rows = aggregate(outcomes())
    picked = where(rows, ["rule=fa", "bits=3, 8"])
    assert [(row.cell.rule, row.cell.bits) for row in picked] == [("fa", 3), ("fa", 8)]
    with pytest.raises(UsageError) as refused:
        where(rows, ["rule=hsic", "bitz=3", "bits"])
    for text in ("unknown rule 'hsic'", "did you mean 'bits'?", "'bits' is not KEY=VALUE"):
        assert text in str(refused.value)
