"""Nearest and stochastic rounding on whole numbers and on tables."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tersa.quant.rounding import look_up, to_table, to_whole, uniform_like

VALUES = st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=20)
UNIFORM = st.integers(0, 2**24 - 1).map(lambda k: k / 2**24)


@given(VALUES, UNIFORM)
def test_whole_numbers_within_one_and_within_the_codes(entries: list[float], u: float) -> None:
    """Stochastic rounding goes to a whole number nearer than 1; nearest within half; both stay inside."""
    v = torch.tensor(entries)
    inside = v.clamp(-127, 127)
    for found, reach in [(to_whole(v, -127, 127), 0.5), (to_whole(v, -127, 127, torch.full_like(v, u)), 1.0)]:
        assert torch.equal(found, found.round())
        assert bool((found.abs() <= 127).all())
        assert bool(((found - inside).abs() <= reach).all())


def test_whole_numbers_keep_nan() -> None:
    v = torch.tensor([float("nan"), 1.0])
    assert to_whole(v, 0, 3).isnan().tolist() == [True, False]
    assert to_whole(v, 0, 3, torch.zeros(2)).isnan().tolist() == [True, False]


@given(VALUES, UNIFORM)
def test_a_table_of_whole_numbers_is_rounding(entries: list[float], u: float) -> None:
    """On levels -5 .. 5 both roundings are those of whole numbers (but for ties, and sums rounded up)."""
    v, table = torch.tensor(entries), torch.arange(-5.0, 6.0)
    tie = v.remainder(1) == 0.5
    assert torch.equal(look_up(table, to_table(v, table))[~tie], to_whole(v, -5, 5)[~tie])
    found = look_up(table, to_table(v, table, torch.full_like(v, u)))
    inside = v.clamp(-5, 5)
    low = inside.floor()
    assert torch.equal(found, torch.where(u < inside - low, low + 1, low))


def test_a_level_stays_where_it_is() -> None:
    """Whatever is drawn, equal neighbours in the table included."""
    table = torch.tensor([-1.0, -0.3, 0.0, 0.0, 0.7, 0.7])
    for u in (0.0, 0.5, 1 - 2**-24):
        place = to_table(table, table, torch.full((6,), u))
        assert torch.equal(look_up(table, place), table)


def test_tables_per_channel() -> None:
    tables = torch.tensor([[0.0, 1.0, 2.0], [0.0, 10.0, 20.0]])
    x = torch.tensor([[[0.9], [1.6]], [[0.9], [16.0]]])
    assert look_up(tables, to_table(x, tables)).tolist() == [[[1], [2]], [[0], [20]]]


def test_numbers_drawn_depend_on_seed_step_and_tensor_alone() -> None:
    x = torch.zeros(3, 40)
    first = uniform_like(x, 1, 2, 3)
    assert torch.equal(first, uniform_like(x + 1, 1, 2, 3))
    assert all(not torch.equal(first, uniform_like(x, *key)) for key in [(2, 2, 3), (1, 3, 3), (1, 2, 4)])
    assert 0 <= float(first.min()) < 0.1 < 0.9 < float(first.max()) < 1
    assert len(first.unique()) == 120
