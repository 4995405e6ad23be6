"""NetAdapt's decisions in numbers alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersa.adapt.netadapt import Reduction, bisecting, by_accuracy, linear, price, search

costs = st.lists(st.floats(0.0, 10.0), min_size=1, max_size=60)


@given(costs, st.floats(0.0, 10.0), st.integers(1, 20))
def test_bisection_finds_what_trying_all_does_where_costs_rise(
    given_costs: list[float], constraint: float, threshold: int
) -> None:
    rising = sorted(given_costs)
    choices = list(range(1, len(rising) + 1))
    one = linear(choices, lambda width: rising[width - 1], constraint)
    two = bisecting(choices, lambda width: rising[width - 1], constraint, threshold=threshold)
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        assert (one.width, one.cost) == (two.width, two.cost)


@given(costs, st.floats(0.0, 10.0), st.integers(1, 20))
def test_on_any_table_bisection_meets_the_constraint_and_finds_one_where_there_is_one(
    table: list[float], constraint: float, threshold: int
) -> None:
    choices = list(range(1, len(table) + 1))
    one = linear(choices, lambda width: table[width - 1], constraint)
    two = bisecting(choices, lambda width: table[width - 1], constraint, threshold=threshold)
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        assert two.cost == table[two.width - 1] <= constraint
        assert two.width <= one.width


def test_bisection_asks_less() -> None:
    asked: list[int] = []

    def cost(width: int) -> float:
        asked.append(width)
        return float(width)

    found = bisecting(range(1, 4097), cost, 1000.0, threshold=4)
    assert found is not None
    assert found.width == 1000
    assert len(asked) == found.tries < 20
    asked.clear()
    tried = linear(range(1, 4097), cost, 1000.0)
    assert tried is not None
    assert len(asked) == tried.tries == 3097


def test_a_step_that_is_cheaper_when_wider() -> None:
    """64 channels cost less than 60: within the last window the wider one is found."""
    cost = {56: 1.0, 60: 1.6, 64: 1.2, 72: 2.0}
    found = bisecting(list(cost), cost.__getitem__, 1.3, threshold=4)
    assert found is not None
    assert found.width == 64


def test_the_published_example() -> None:
    """Document 003, figure 5.6: ten estimates one by one, five by bisection, 0.5 asked."""
    latencies = [0.29, 0.42, 0.48, 0.57, 0.61, 0.7, 0.8, 0.85, 0.9, 1.0, 1.12, 1.4]
    widths = [8 * (i + 1) for i in range(12)]
    one = search("linear", widths, lambda w: latencies[w // 8 - 1], 0.5)
    two = bisecting(widths, lambda w: latencies[w // 8 - 1], 0.5, threshold=1)
    assert one is not None
    assert two is not None
    assert one.width == two.width == 24
    assert one.tries == 10
    assert two.tries == 5


def test_no_choices() -> None:
    assert linear([], float, 1.0) is None
    assert bisecting([], float, 1.0) is None


def test_reductions_decay_and_stop_at_the_budget() -> None:
    plan = Reduction(0.1, decay=0.5)
    assert plan.constraint(10.0, 10.0, 0, 5.0) == pytest.approx(9.0)
    assert plan.constraint(9.0, 10.0, 1, 5.0) == pytest.approx(8.5)
    assert plan.constraint(5.2, 10.0, 0, 5.0) == 5.0


@pytest.mark.parametrize(
    ("now", "hybrid", "trained"),
    [(10.0, 0.0, False), (5.1, 0.0, False), (10.0, 1.0, True), (6.6, 0.3, False), (6.5, 0.3, True)],
)
def test_the_last_share_of_the_way_is_ranked_by_accuracy(now: float, hybrid: float, trained: bool) -> None:
    assert by_accuracy(now, 10.0, 5.0, hybrid) is trained


def test_the_price_of_a_candidate() -> None:
    assert price(90.0, 89.0, 10.0, 8.0) == pytest.approx(0.5)
    assert price(90.0, 91.0, 10.0, 8.0) < 0
