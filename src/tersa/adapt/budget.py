"""All widths at once: the least damage within a budget, as a knapsack with one choice per group.

Of group g at width w the most important units stay, and with them a share of all its importance, s_g(w). What
passes through a network passes through every layer in turn, so that shares multiply, and the damage is minus
the logarithm of what stays:

    d_g(w) = -ln s_g(w)

Wanted are widths with

    min sum_g d_g(w_g)   subject to   cost(w) <= 1

Removing the same importance does the more damage the less is left: no layer becomes a bottleneck to spare the
others, as the narrowest does where removed importances are added up. Shares have no unit: layers need no
normalisation to be comparable.

If the cost were a sum over groups this would be a multiple-choice knapsack, solved exactly by dynamic
programming over a discretised cost. It is not: a layer's cost depends on the group that it reads and the one
that it makes. So the cost is replaced by what each group alone would save at a point r,

    cost(w) ~ cost(r) + sum_g [cost(r with w_g) - cost(r)]

the knapsack is solved, r moves to its solution, and again: in stages, from the whole network down to the
budget, because the replacement is good near r only. At the end widths are improved by hand: one group wider,
or one wider and another narrower, as long as that does less damage within the budget.

Exact where groups do not meet in layers; elsewhere a good solution, not a proven one (the tests hold it
against all widths of small networks).

Example:
    >>> damage = [Damage([4.0, 1.0], [1, 2]), Damage([3.0, 2.0], [1, 2])]
    >>> solve(damage, Additive([[1.0, 2.0], [1.0, 2.0]], limit=3.0), stages=1)
    (1, 2)

References:
    Kellerer, Pferschy & Pisinger, Knapsack Problems (2004), chapter 11; HALP (Shen et al., 2022) solves a
    knapsack of channels with latencies from a table, without choosing among widths of coupled layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tersa.errors import UsageError

BINS = 2000
"""Parts that the budget is discretised into."""

STAGES = 12
"""Budgets on the way from the whole network to the one asked for."""

TINY = 1e-12
"""Share of the importance that stays where nothing of it does."""

Widths = tuple[int, ...]


class Priced(Protocol):
    """The cost of widths; 1 is the limit."""

    def at(self, widths: Sequence[int]) -> float:
        """At some widths of all groups."""
        ...

    def along(self, group: int, widths: Sequence[int]) -> Callable[[int], float]:
        """As a function of one group's width."""
        ...


@dataclass(frozen=True)
class Damage:
    """What narrowing one group costs the network.

    Attributes:
        importances: of its units, in any order, at least 0.
        choices: widths that may be chosen, ascending; the last is the present one.

    Example:
        >>> Damage([1.0, 3.0, 4.0], [1, 2, 3]).lost  # a half, an eighth and nothing of the importance is gone
        (0.6931471805599453, 0.13353139262452263, 0.0)
    """

    importances: Sequence[float]
    choices: Sequence[int]
    lost: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        kept = [0.0, *itertools.accumulate(sorted(self.importances, reverse=True))]
        shares = (kept[width] / kept[-1] if kept[-1] else 1.0 for width in self.choices)
        object.__setattr__(self, "lost", tuple(-math.log(max(share, TINY)) + 0.0 for share in shares))

    def at(self, width: int) -> float:
        """Minus the logarithm of the share of importance that stays at a width among the choices."""
        return self.lost[list(self.choices).index(width)]


@dataclass(frozen=True)
class Additive:
    """A cost that is a sum over groups: what the knapsack solves exactly.

    Attributes:
        costs: of each group, by width, from width 1 up.
        limit: that stands for 1.
    """

    costs: Sequence[Sequence[float]]
    limit: float

    def at(self, widths: Sequence[int]) -> float:
        """The sum over the limit."""
        return sum(costs[w - 1] for costs, w in zip(self.costs, widths, strict=True)) / self.limit

    def along(self, group: int, widths: Sequence[int]) -> Callable[[int], float]:
        """The same with one width changed."""
        return lambda width: self.at([width if i == group else w for i, w in enumerate(widths)])


def knapsack(
    values: Sequence[Sequence[float]],
    weights: Sequence[Sequence[float]],
    capacity: float,
    *,
    bins: int = BINS,
) -> list[int] | None:
    """One choice per group with the least sum of values whose weights fit, by dynamic programming.

    f_g[b] = min over c of values[g][c] + f_{g-1}[b - weight(g, c)], weights rounded up to bins, so that what
    is found always fits; what fits by less than one bin per group may be missed.

    Args:
        values: to be small, for each group and choice.
        weights: of each group and choice; the least of each group is taken off first.
        capacity: of all weights together.
        bins: parts of the capacity that is left.

    Returns:
        The chosen place of each group, or None where even the least weights do not fit.
    """
    least = [min(each) for each in weights]
    room = capacity - sum(least)
    if room < 0:
        return None
    beyond = bins + 1
    unit = room / bins

    def shift(group: int, heavy: float) -> int:
        over = heavy - least[group]
        if over <= 0.0 or unit <= 0.0:  # without room only the least weights fit
            return 0 if over <= 0.0 else beyond
        return int(np.ceil(min(over / unit, beyond) - 1e-9))

    best: npt.NDArray[np.float64] = np.zeros(bins + 1)
    taken: list[npt.NDArray[np.int64]] = []
    for group, (value, weight) in enumerate(zip(values, weights, strict=True)):
        rows = np.full((len(value), bins + 1), np.inf)
        for place, (each, heavy) in enumerate(zip(value, weight, strict=True)):
            if (at := shift(group, heavy)) <= bins:
                rows[place, at:] = best[: bins + 1 - at] + each
        taken.append(rows.argmin(axis=0))
        best = rows.min(axis=0)
    place, found = bins, list[int]()
    for group in range(len(values) - 1, -1, -1):
        choice = int(taken[group][place])
        found.append(choice)
        place -= shift(group, weights[group][choice])
    return found[::-1]


def solve(damage: Sequence[Damage], cost: Priced, *, stages: int = STAGES, bins: int = BINS) -> Widths:
    """Widths of all groups with little damage and a cost of at most 1.

    Args:
        damage: of each group.
        cost: of widths, 1 being the budget.
        stages: budgets on the way down.
        bins: of each knapsack.

    Raises:
        UsageError: no widths that are found meet the budget.
    """
    now = tuple(each.choices[-1] for each in damage)
    first = cost.at(now)
    if first <= 1.0:
        return now
    for stage in range(1, stages + 1):
        now = _move(damage, cost, now, first ** (1.0 - stage / stages), bins)
    for _ in range(stages):
        if cost.at(now) <= 1.0:
            break
        now = _move(damage, cost, now, 1.0 - (cost.at(now) - 1.0), bins)
    if cost.at(now) > 1.0:
        now = _squeeze(damage, cost, now)
    return _polish(damage, cost, now)


def _move(damage: Sequence[Damage], cost: Priced, now: Widths, budget: float, bins: int) -> Widths:
    """The knapsack's answer where the cost is replaced by what each group alone would save."""
    here = cost.at(now)
    weights: list[list[float]] = []
    for group, each in enumerate(damage):
        along = cost.along(group, now)
        weights.append([along(width) - here for width in each.choices])
    chosen = knapsack([each.lost for each in damage], weights, budget - here, bins=bins)
    if chosen is None:  # further than the replacement can tell: as narrow as it goes, from here
        chosen = [int(np.argmin(each)) for each in weights]
        return tuple(
            each.choices[max(place, list(each.choices).index(width) - 1)]
            for each, place, width in zip(damage, chosen, now, strict=True)
        )
    return tuple(each.choices[place] for each, place in zip(damage, chosen, strict=True))


def _squeeze(damage: Sequence[Damage], cost: Priced, now: Widths) -> Widths:
    """One width narrower at a time, the one with least damage per cost saved, until the budget is met.

    Where no single width saves anything any more, as may be with costs that do not rise with the widths, the
    cheapest widths that are found are the answer if they meet the budget.

    Raises:
        UsageError: neither meets it.
    """
    while (here := cost.at(now)) > 1.0:
        steps: list[tuple[float, int, int]] = []
        for group, each in enumerate(damage):
            along = cost.along(group, now)
            for width in (w for w in each.choices if w < now[group]):
                saved = here - along(width)
                if saved > 0:
                    steps.append(((each.at(width) - each.at(now[group])) / saved, group, width))
        if not steps:
            cheapest = min((now, _cheapest(damage, cost)), key=cost.at)
            if (least := cost.at(cheapest)) > 1.0:
                raise UsageError(
                    f"no widths meet the budget: the cheapest network still has {least:.2f} times the limit; "
                    "ask for more, or let more layers be narrowed"
                )
            return cheapest
        _, group, width = min(steps)
        now = (*now[:group], width, *now[group + 1 :])
    return now


def _cheapest(damage: Sequence[Damage], cost: Priced) -> Widths:
    """From all narrowest, one group after the other to its cheapest width, until none gets cheaper."""
    now = tuple(each.choices[0] for each in damage)
    while True:
        before = cost.at(now)
        for group, each in enumerate(damage):
            width = min(each.choices, key=cost.along(group, now))
            now = (*now[:group], width, *now[group + 1 :])
        if not cost.at(now) < before:  # nor where a cost is NaN
            return now


def _polish(damage: Sequence[Damage], cost: Priced, now: Widths) -> Widths:
    """Widen a group, narrowing another where that is needed, while it does less damage within the budget."""
    for _ in range(50 * len(damage)):
        better = _better(damage, cost, now)
        if better is None:
            return now
        now = better
    return now


def _better(damage: Sequence[Damage], cost: Priced, now: Widths) -> Widths | None:
    best, found = -1e-12, None
    for up, each in enumerate(damage):
        place = list(each.choices).index(now[up])
        for wider in each.choices[place + 1 : place + 3]:
            trial = (*now[:up], wider, *now[up + 1 :])
            gain = each.at(wider) - each.at(now[up])
            if gain < best and cost.at(trial) <= 1.0:
                best, found = gain, trial
            for down, other in enumerate(damage):
                if down == up:
                    continue
                along, at = cost.along(down, trial), list(other.choices).index(now[down])
                for narrower in reversed(other.choices[max(0, at - 3) : at]):
                    change = gain + other.at(narrower) - other.at(now[down])
                    if change >= best:
                        break
                    if along(narrower) <= 1.0:
                        best, found = change, (*trial[:down], narrower, *trial[down + 1 :])
                        break
    return found
