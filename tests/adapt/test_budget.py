"""The solver held against all widths of small networks."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from tersa.adapt.budget import Additive, Damage, knapsack, solve
from tersa.errors import UsageError


@dataclass(frozen=True)
class Chain:
    """Every layer costs input times output channels times its own factor: neighbours meet in layers."""

    factors: Sequence[float]
    limit: float

    def at(self, widths: Sequence[int]) -> float:
        ends = [3, *widths, 5]
        return sum(a * b * f for a, b, f in zip(ends, ends[1:], self.factors, strict=False)) / self.limit

    def along(self, group: int, widths: Sequence[int]) -> Callable[[int], float]:
        return lambda width: self.at([width if i == group else w for i, w in enumerate(widths)])


def problem(seed: int, groups: int = 3, units: int = 7) -> tuple[list[Damage], Chain]:
    chance = random.Random(seed)
    damage = [
        Damage([chance.random() ** 2 for _ in range(units)], range(1, units + 1)) for _ in range(groups)
    ]
    factors = [chance.choice([1.0, 2.0, 4.0, 9.0]) for _ in range(groups + 1)]
    whole = Chain(factors, 1.0).at([units] * groups)
    return damage, Chain(factors, whole * chance.choice([0.2, 0.3, 0.5, 0.7]))


NEAR = 1.05
"""The replacement of the cost is not exact: over 40 seeds the solver is at most 1.04 times the best."""


@pytest.mark.parametrize("seed", range(12))
def test_near_the_best_of_all_widths(seed: int) -> None:
    damage, cost = problem(seed)
    found = solve(damage, cost)
    assert cost.at(found) <= 1.0
    best = min(
        sum(each.at(w) for each, w in zip(damage, widths, strict=True))
        for widths in itertools.product(range(1, 8), repeat=3)
        if cost.at(widths) <= 1.0
    )
    assert sum(each.at(w) for each, w in zip(damage, found, strict=True)) <= NEAR * best + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_the_knapsack_is_exact_on_whole_weights(seed: int) -> None:
    chance = random.Random(seed)
    values = [[chance.random() for _ in range(4)] for _ in range(4)]
    weights = [[float(chance.randint(1, 9)) for _ in range(4)] for _ in range(4)]
    capacity = sum(map(min, weights)) + 8.0
    chosen = knapsack(values, weights, capacity, bins=8)
    assert chosen is not None
    assert sum(w[c] for w, c in zip(weights, chosen, strict=True)) <= capacity
    best = min(
        sum(v[c] for v, c in zip(values, choice, strict=True))
        for choice in itertools.product(range(4), repeat=4)
        if sum(w[c] for w, c in zip(weights, choice, strict=True)) <= capacity
    )
    assert sum(v[c] for v, c in zip(values, chosen, strict=True)) == pytest.approx(best)


def test_weights_that_do_not_fit() -> None:
    assert knapsack([[0.0]], [[2.0]], 1.0) is None


def test_without_room_only_the_least_weights_fit() -> None:
    """Nothing is left above the least weights: anything heavier overruns the capacity."""
    assert knapsack([[5.0, 0.0], [5.0, 0.0]], [[0.5, 1.0], [0.5, 1.0]], 1.0) == [0, 0]
    assert knapsack([[5.0, 0.0], [5.0, 1.0]], [[0.5, 1.0], [0.5, 0.5]], 1.0) == [0, 1]


def test_next_to_no_room() -> None:
    """A bin of a few units of the last place: weights far beyond it are passed over."""
    assert knapsack([[5.0, 0.0]], [[0.1, 1e300]], 0.1 + 1e-16) == [0]
    assert knapsack([[5.0, 0.0]], [[0.0, 1.0]], 5e-324) == [0]


def test_a_network_within_the_budget_stays_whole() -> None:
    damage, cost = problem(0)
    assert solve(damage, Chain(cost.factors, 1e9)) == (7, 7, 7)


def test_a_budget_that_no_widths_meet_is_said() -> None:
    damage, cost = problem(0)
    with pytest.raises(UsageError, match=r"the cheapest network still has [\d.]+ times the limit"):
        solve(damage, Chain(cost.factors, 0.5))


def test_costs_that_do_not_rise() -> None:
    """A machine on which 4 channels are cheaper than 3: the wider one is taken."""
    damage = [Damage([1.0, 2.0, 3.0, 4.0, 5.0], range(1, 6))]
    assert solve(damage, Additive([[1.0, 2.0, 9.0, 3.0, 8.0]], limit=4.0)) == (4,)


def test_widths_that_are_cheaper_together_only() -> None:
    """Either group alone makes it dearer: no single step leads from the whole network to the budget."""

    class Steps(Chain):
        def at(self, widths: Sequence[int]) -> float:
            return {(2, 2): 2.0, (1, 1): 0.9}.get(tuple(widths), 3.0) / self.limit

    damage = [Damage([1.0, 2.0], [1, 2])] * 2
    assert solve(damage, Steps([1.0], 1.0)) == (1, 1)
    with pytest.raises(UsageError, match=r"the cheapest network still has 1\.80 times the limit"):
        solve(damage, Steps([1.0], 0.5))


def test_groups_of_unimportant_units_give_first() -> None:
    damage = [Damage([1.0] * 4, range(1, 5)), Damage([1.0, 1.0, 0.1, 0.1], range(1, 5))]
    widths = solve(damage, Additive([[1.0, 2.0, 3.0, 4.0]] * 2, limit=6.0))
    assert widths == (4, 2)


def test_no_group_becomes_a_bottleneck_to_spare_a_wide_one() -> None:
    """The narrow group's units cost as much as all of the wide one's: summed importances would take them."""
    damage = [Damage([1.0] * 8, range(1, 9)), Damage([1.0] * 80, range(1, 81))]
    costs = Additive([[10.0 * w for w in range(1, 9)], [float(w) for w in range(1, 81)]], limit=80.0)
    assert solve(damage, costs) == (4, 40)


def test_damage_is_the_logarithm_of_the_share_that_stays() -> None:
    each = Damage([3.0, 0.0, 1.0, 4.0], [1, 2, 4])
    assert each.lost == pytest.approx((math.log(2.0), math.log(8.0 / 7.0), 0.0))
    assert Damage([30.0, 0.0, 10.0, 40.0], [1, 2, 4]).lost == pytest.approx(each.lost), "no unit"
    assert Damage([0.0, 0.0], [1, 2]).lost == (0.0, 0.0), "nothing to lose"
    assert math.isfinite(Damage([1e-300] * 1 + [1.0], [1, 2]).lost[0])
