"""What is asked of a network, as one number: how far its costs are above their limits.

    cost(w) = max over resources r of r(w) / limit_r

so that 1 is within every limit. With one resource this is that resource in units of its limit. Along one
group the layers that it does not touch are added up once.

Example:
    >>> from tersa.adapt.resource import Parameters
    >>> from tersa.adapt.anatomy import Anatomy, Channels, Family, Layer
    >>> net = Anatomy((Layer("fc", Family("linear"), Channels(0, ((0, 4),)), Channels(2)),), ("g",), (3,))
    >>> cost = Cost([Limit(Counter(net, Parameters()), 13.0)])
    >>> cost.at([3]), cost.along(0, [3])(1)
    (2.0, 0.769...)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tersa.adapt.resource import Counter


@dataclass(frozen=True)
class Limit:
    """One resource and what it may come to, in its unit."""

    counter: Counter
    most: float


@dataclass(frozen=True)
class Cost:
    """The largest share of a limit."""

    limits: Sequence[Limit]

    def at(self, widths: Sequence[int]) -> float:
        """At some widths of all groups."""
        return max((limit.counter.total(widths) / limit.most for limit in self.limits), default=0.0)

    def along(self, group: int, widths: Sequence[int]) -> Callable[[int], float]:
        """The cost as a function of one group's width, the others as they are."""
        sides = [
            (limit, limit.counter.total(widths) - limit.counter.touched(group, widths))
            for limit in self.limits
        ]
        trial = list(widths)

        def cost(width: int) -> float:
            trial[group] = width
            shares = ((rest + limit.counter.touched(group, trial)) / limit.most for limit, rest in sides)
            return max(shares, default=0.0)

        return cost

    @property
    def queries(self) -> int:
        """Layers looked up so far."""
        return sum(limit.counter.queries for limit in self.limits)
