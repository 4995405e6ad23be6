"""NetAdapt's decisions: how far each group must be cut at a step, and which candidate wins.

    while cost > budget:
        constraint = max(budget, cost - delta decay^step cost_0)
        for each group: the widest width whose network meets the constraint      (linear or bisecting search)
        score every such candidate: accuracy after a short fine-tune, or a score without training
        keep the one with the least loss of score per cost saved

The greedy loop is NetAdapt's; bisection and scores without training are document 003's remedies. With
`hybrid` h, candidates are scored without training until a share 1 - h of the way to the budget is done, and
by fine-tuned accuracy after that (document 003's H30 is h = 0.3). Training, weights and files are elsewhere
(`tersa.recipes.adapt_search`); here are numbers alone.

Bisection needs fewer estimates but believes that narrower is cheaper. Where it is not (machines have steps),
what it returns still meets the constraint, and where it finds nothing every width is tried.

Example:
    >>> search = bisecting([8, 16, 24, 32], lambda width: float(width), 20.0, threshold=1)
    >>> search
    Cut(width=16, cost=16.0, tries=3)

References:
    Yang et al., NetAdapt (ECCV 2018), algorithm 1; document 003, sections 5.1 and 5.4 (figure 5.5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Width = int
Search = Literal["linear", "bisect"]

THRESHOLD = 4
"""Widths that a bisection leaves for trying one by one."""


class Cut(NamedTuple):
    """A width that meets a constraint.

    Attributes:
        width: of the group.
        cost: of the network with it.
        tries: estimates that it took to find.
    """

    width: Width
    cost: float
    tries: int


@dataclass(frozen=True)
class Reduction:
    """How much a step takes off.

    Attributes:
        delta: share of the first network's cost.
        decay: what every step's delta is multiplied by against the one before.
    """

    delta: float
    decay: float = 1.0

    def constraint(self, now: float, first: float, step: int, budget: float) -> float:
        """What step `step` (from 0) has to meet; never below the budget.

        >>> Reduction(0.25, decay=0.5).constraint(10.0, 10.0, 0, 5.0)
        7.5
        >>> Reduction(0.25, decay=0.5).constraint(7.0, 10.0, 1, 6.0)
        6.0
        """
        return max(budget, now - self.delta * self.decay**step * first)


def linear(choices: Sequence[Width], cost: Callable[[Width], float], constraint: float) -> Cut | None:
    """The widest choice that meets the constraint, by trying them from the widest down.

    Args:
        choices: widths, ascending.
        cost: of the network with a width.
        constraint: the cost may be at most this.
    """
    for tries, width in enumerate(reversed(choices), 1):
        found = cost(width)
        if found <= constraint:
            return Cut(width, found, tries)
    return None


def bisecting(
    choices: Sequence[Width], cost: Callable[[Width], float], constraint: float, *, threshold: int = THRESHOLD
) -> Cut | None:
    """The widest choice that meets the constraint, where narrower is cheaper; else one that meets it.

    Halves the choices until `threshold` or fewer lie between one that fails and one that meets, then tries
    these from the widest down. Where even the narrowest fails, tries all.

    Args:
        choices: widths, ascending.
        cost: of the network with a width.
        constraint: the cost may be at most this.
        threshold: document 003's stopping rule, at least 1.
    """
    if not choices:
        return None
    known: dict[int, float] = {}

    def ask(place: int) -> float:
        if place not in known:
            known[place] = cost(choices[place])
        return known[place]

    low, high = 0, len(choices)  # low meets, high fails (or is beyond the widest)
    if ask(0) > constraint:
        places = range(len(choices) - 1, 0, -1)  # narrower was not cheaper, or nothing meets it
    else:
        while high - low > max(1, threshold):
            middle = (low + high) // 2
            if ask(middle) <= constraint:
                low = middle
            else:
                high = middle
        places = range(high - 1, low - 1, -1)
    for place in places:
        if ask(place) <= constraint:
            return Cut(choices[place], ask(place), len(known))
    return None


def search(
    how: Search, choices: Sequence[Width], cost: Callable[[Width], float], constraint: float
) -> Cut | None:
    """`linear` or `bisecting`."""
    if how == "linear":
        return linear(choices, cost, constraint)
    return bisecting(choices, cost, constraint)


def by_accuracy(now: float, first: float, budget: float, hybrid: float) -> bool:
    """Whether a step is scored by fine-tuned accuracy under a hybrid schedule.

    Args:
        now: cost before the step.
        first: of the first network.
        budget: to be reached.
        hybrid: share of the way, at its end, that is scored by accuracy; 0 for none of it, 1 for all.

    >>> by_accuracy(10.0, 10.0, 5.0, 0.3), by_accuracy(6.4, 10.0, 5.0, 0.3)
    (False, True)
    """
    if first <= budget:
        return hybrid > 0
    return (first - now) / (first - budget) >= 1.0 - hybrid - 1e-12 and hybrid > 0


def price(score_before: float, score_after: float, cost_before: float, cost_after: float) -> float:
    """Score lost per cost saved; the candidate with the least wins.

    References:
        Document 003, section 5.1: the best ratio of the changes in accuracy and latency.
    """
    return (score_before - score_after) / max(cost_before - cost_after, 1e-12)
