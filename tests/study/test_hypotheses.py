"""The five expectations, each on cells made so that it holds, fails, or cannot be decided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersa.recipes import published
from tersa.study.cell import Cell, CellResult
from tersa.study.hypotheses import judge, shape_of
from tersa.study.pairing import by_setting, finished, pairs, varying

SEEDS = (1, 2, 3)


def made(accuracy: float, seeds: Sequence[int] = SEEDS, **fields: Any) -> list[CellResult]:
    """Results of one setting, a little apart."""
    return [finished(Cell(seed=s, **fields), accuracy + 0.1 * math.sin(s)) for s in seeds]


def verdict(name: str, rows: list[CellResult]) -> str:
    return next(each.verdict for each in judge(rows) if each.name == name)


def evidence(name: str, rows: list[CellResult]) -> str:
    return next(each.evidence for each in judge(rows) if each.name == name)


def document() -> list[CellResult]:
    """The published cells as if they were ours."""
    return [
        finished(
            Cell(data=p.data, model=p.model, rule=p.rule, quant=p.quant, bits=p.bits, range=p.range),
            p.accuracy,
        )
        for p in (*published.quantised(), *published.full_precision())
        if p.data == "mnist"
    ]


def test_the_document_s_own_numbers_refute_what_its_author_says_they_refute() -> None:
    found = {each.name: (each.verdict, each.published) for each in judge(document())}
    assert {name: found[name][0] for name in ("H1", "H3", "H4")} == dict.fromkeys(
        ("H1", "H3", "H4"), "refuted"
    )
    assert found["H1"][1] == found["H3"][1] == found["H4"][1] == "refuted"
    assert found["H5"] == ("holds", "holds")


def test_equal_rules_without_quantisation() -> None:
    rows = made(97.0) + made(96.9, rule="fa")
    assert verdict("H1", rows) == "holds"
    assert verdict("H1", rows + made(80.0, rule="dni")) == "refuted"
    assert verdict("H1", made(97.0)) == "open"


def test_one_pair_decides_nothing() -> None:
    rows = made(97.0, seeds=(1,)) + made(50.0, seeds=(1,), rule="fa")
    assert verdict("H1", rows) == "open"
    assert "1 pair" in evidence("H1", rows)


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ({2: 10.0, 5: 60.0, 6: 95.0, 7: 96.0, 8: 97.0}, "holds"),
        ({2: 10.0, 3: 95.0, 4: 96.0, 8: 97.0}, "refuted"),
        ({2: 10.0, 6: 50.0, 7: 60.0, 8: 97.0}, "refuted"),
    ],
)
def test_where_the_limit_lies(accuracies: dict[int, float], expected: str) -> None:
    rows = [row for bits, a in accuracies.items() for row in made(a, quant="symmetric", bits=bits)]
    assert verdict("H2", rows) == expected


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ({4: 60.0, 8: 97.0}, "the median curve needs 5 to 8 bits"),
        ({7: 96.0, 8: 97.0}, "the median curve needs 2 to 7 bits"),
        ({6: 60.0, 8: 97.0}, "the median curve needs 7 to 8 bits"),
    ],
)
def test_widths_that_nobody_tried_leave_the_limit_open(accuracies: dict[int, float], said: str) -> None:
    """The real limit may lie at any of them."""
    rows = [row for bits, a in accuracies.items() for row in made(a, quant="symmetric", bits=bits)]
    low, _, high = said.split()[4:7]
    missing = ", ".join(str(bits) for bits in range(int(low), int(high)))
    assert verdict("H2", rows) == "open"
    assert evidence("H2", rows).startswith(said)
    assert evidence("H2", rows).endswith(f"; needs cells of {missing} bits, too")


def test_a_gap_far_from_the_expected_limit_does_not_matter() -> None:
    rows = [
        row
        for bits, a in {2: 10.0, 4: 96.0, 8: 97.0}.items()
        for row in made(a, quant="symmetric", bits=bits)
    ]
    assert verdict("H2", rows) == "refuted"
    assert "needs 3 to 4 bits" in evidence("H2", rows)
    most = made(97.0) + [row for bits in (6, 7) for row in made(50.0, quant="symmetric", bits=bits)]
    assert verdict("H2", most) == "refuted"
    assert "needs 8 bits or more" in evidence("H2", most)


def test_the_widths_that_are_named_are_those_of_unsure_curves() -> None:
    """One curve needs 7 bits for sure, the other 2 to 5: the median lies between 4.5 and 6."""
    sure = {6: 50.0, 7: 97.0, 8: 97.0}
    rows = [row for bits, a in sure.items() for row in made(a, quant="symmetric", bits=bits)]
    rows += [row for bits in (5, 8) for row in made(97.0, quant="symmetric", bits=bits, range="global")]
    assert verdict("H2", rows) == "open"
    assert evidence("H2", rows).startswith("the median curve needs 4.5 to 6 bits")
    assert evidence("H2", rows).endswith("; needs cells of 2, 3, 4 bits, too")


@given(st.lists(st.integers(2, 9), min_size=1, max_size=6))
def test_with_every_width_the_median_of_the_fewest_bits_decides(limits: list[int]) -> None:
    """As the document's whole grids of 2 to 8 bits have it: each curve keeps from its limit on."""
    rows = [
        finished(Cell(quant="symmetric", bits=bits, gain=1.0 + place), 97.0 if bits >= limit else 50.0)
        for place, limit in enumerate(limits)
        for bits in range(2, 9)
    ] + [finished(Cell(), 97.0)]
    middle = median(limits)
    assert verdict("H2", rows) == ("holds" if 6 <= middle <= 7 else "refuted")
    words = f"{middle:g} bits" if middle <= 8 else "more than 8 bits"
    assert evidence("H2", rows).startswith(f"the median curve needs {words} ({len(limits)} curves);")


def test_a_curve_that_dips_is_not_safe_below_the_dip() -> None:
    accuracies = {3: 97.0, 4: 40.0, 5: 97.0, 8: 97.5}
    rows = [row for bits, a in accuracies.items() for row in made(a, quant="symmetric", bits=bits)]
    assert "bp, layer range: 5 bits" in evidence("H2", rows)


def test_the_limit_against_full_precision_that_no_width_reaches() -> None:
    rows = made(98.0) + made(60.0, quant="symmetric", bits=8) + made(50.0, quant="symmetric", bits=7)
    assert "more than 8 bits" in evidence("H2", rows)
    assert verdict("H2", rows) == "refuted"


def test_without_a_reference_there_is_no_limit() -> None:
    rows = made(97.0, quant="symmetric", bits=3) + made(40.0, quant="symmetric", bits=2)
    assert verdict("H2", rows) == "open"


def test_quantisers() -> None:
    symmetric = [r for b in (6, 7, 8) for r in made(95.0 + b / 10, quant="symmetric", bits=b)]
    equal = [r for b in (6, 7, 8) for r in made(95.1 + b / 10, quant="asymmetric", bits=b)]
    worse = [r for b in (6, 7, 8) for r in made(60.0 + b, quant="asymmetric", bits=b)]
    assert verdict("H3", symmetric + equal) == "holds"
    assert verdict("H3", symmetric + worse) == "refuted"
    assert verdict("H3", symmetric) == "open"


def test_collapsed_pairs_say_nothing_about_quantisers() -> None:
    rows = made(9.8, quant="symmetric", bits=2) + made(11.0, quant="asymmetric", bits=2)
    assert verdict("H3", rows) == "open"


def test_hsic_must_beat_every_other_rule() -> None:
    hsic = made(90.0, rule="hsic", quant="symmetric", bits=4)
    bp = made(80.0, quant="symmetric", bits=4)
    fa = made(95.0, rule="fa", quant="symmetric", bits=4)
    assert verdict("H4", hsic + bp) == "holds"
    assert verdict("H4", hsic + bp + fa) == "refuted"
    assert verdict("H4", bp + fa) == "open"


def grid(**accuracies: float) -> list[CellResult]:
    models = {"narrow": "mlp:50x50", "wide": "mlp:100x100", "deep": "mlp:50x50x50"}
    return [
        row
        for name, a in accuracies.items()
        for b in (4, 8)
        for row in made(a + b / 8, model=models[name], quant="symmetric", bits=b)
    ]


def test_width_against_depth() -> None:
    assert verdict("H5", grid(narrow=80, wide=90, deep=75)) == "holds"
    assert verdict("H5", grid(narrow=80, wide=82, deep=90)) == "refuted"
    assert verdict("H5", grid(narrow=80, wide=90)) == "open"


def test_failed_cells_are_not_looked_at() -> None:
    failed = finished(Cell(rule="fa"), 50.0).model_copy(update={"status": "failed", "test_accuracy": None})
    assert verdict("H1", [*made(97.0), failed]) == "open"


def test_shapes() -> None:
    assert shape_of("mlp:20x20x20") == (3, 20)
    assert shape_of("mlp:20x10") is None
    assert shape_of("lenet") is None


def test_pairs_are_equal_in_everything_else() -> None:
    rows = made(90.0, quant="symmetric", bits=2) + made(91.0, quant="symmetric", bits=3)
    rows += made(92.0, quant="symmetric", bits=3, range="global")
    found = pairs(rows, "bits", 2, 3)
    assert [(a.cell.seed, b.cell.seed) for a, b in found] == [(1, 1), (2, 2), (3, 3)]
    assert {b.cell.range for _, b in found} == {"layer"}


def test_settings_of_cells_that_are_not_quantised_do_not_split_on_the_quantiser() -> None:
    rows = [finished(Cell(bits=bits, seed=bits), 97.0) for bits in (2, 3)]
    assert len(by_setting(rows)) == 1
    assert varying(rows) == {}
