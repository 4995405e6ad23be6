"""Gradual schedules: the share of the weights that must be gone after each of n steps.

With s_0 gone before the first step and s_f after the last, after step t = 1 .. n:

    one_shot    s_f
    steady      s_0 + (s_f - s_0) t/n                       the same number of weights at every step
    geometric   1 - (1 - s_0) ((1 - s_f) / (1 - s_0))^(t/n) the same part of what is left at every step
    cubic       s_f + (s_0 - s_f) (1 - t/n)^3               most at first, while there is most to spare

After step 0 it is s_0 up to rounding, after step n exactly s_f. A schedule knows nothing of units,
scores or retraining: `masks.choose_masks(share=...)` and the protocols turn a share into removals.

Example:
    >>> [round(cubic(step, 4, 0.8), 4) for step in range(5)]
    [0.0, 0.4625, 0.7, 0.7875, 0.8]
"""

from __future__ import annotations

from typing import Protocol

from tersa.errors import UsageError


class Schedule(Protocol):
    """(step, steps, final) -> the share that must be gone after that step."""

    def __call__(self, step: int, steps: int, final: float, *, start: float = 0.0) -> float:
        """The share, between `start` and `final`.

        Args:
            step: t, 0 .. steps.
            steps: n, at least 1.
            final: s_f, in 0 .. 1, without 1.
            start: s_0, at most `final`.

        Raises:
            UsageError: a step or share outside of these.
        """
        ...


def one_shot(step: int, steps: int, final: float, *, start: float = 0.0) -> float:
    """Everything at the first step; the others are left for retraining.

    >>> [one_shot(step, 3, 0.9) for step in range(4)]
    [0.0, 0.9, 0.9, 0.9]
    """
    _check(step, steps, final, start)
    return final if step else start


def steady(step: int, steps: int, final: float, *, start: float = 0.0) -> float:
    """The same number of weights at every step.

    >>> [round(steady(step, 3, 0.9), 9) for step in range(4)]
    [0.0, 0.3, 0.6, 0.9]
    """
    _check(step, steps, final, start)
    return final if step == steps else start + (final - start) * step / steps


def geometric(step: int, steps: int, final: float, *, start: float = 0.0) -> float:
    """The same part of what is left at every step, as iterative magnitude pruning does.

    >>> [round(geometric(step, 3, 0.875), 9) for step in range(4)]
    [0.0, 0.5, 0.75, 0.875]

    References:
        Frankle & Carbin, The Lottery Ticket Hypothesis (ICLR 2019), section 2.
    """
    _check(step, steps, final, start)
    return final if step == steps else 1 - (1 - start) * ((1 - final) / (1 - start)) ** (step / steps)


def cubic(step: int, steps: int, final: float, *, start: float = 0.0) -> float:
    """Fast at first, slow towards the end.

    References:
        Zhu & Gupta, To prune, or not to prune (2017), equation 1.
    """
    _check(step, steps, final, start)
    return final + (start - final) * (1 - step / steps) ** 3


SCHEDULES: dict[str, Schedule] = {
    "one-shot": one_shot,
    "steady": steady,
    "geometric": geometric,
    "cubic": cubic,
}


def _check(step: int, steps: int, final: float, start: float) -> None:
    if steps < 1 or not 0 <= step <= steps:
        raise UsageError(f"step {step} of {steps} asked for; steps go from 0 to a number that is at least 1")
    if not 0 <= start <= final < 1:
        raise UsageError(
            f"shares from {start} to {final} asked for; they must rise, from 0 or more, to less than 1"
        )
