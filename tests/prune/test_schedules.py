"""Gradual schedules: closed forms, ends, order."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersa.errors import UsageError
from tersa.prune.schedules import SCHEDULES, cubic, geometric, one_shot, steady

profile = settings(max_examples=60, derandomize=True, deadline=None)

ROUNDING = 1e-12
"""A few float64 operations on shares of at most 1."""


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 50), st.floats(0, 0.999), st.floats(0, 1))
@profile
def test_schedules_rise_from_start_to_final(name: str, steps: int, final: float, part: float) -> None:
    start = part * final
    shares = [SCHEDULES[name](step, steps, final, start=start) for step in range(steps + 1)]
    assert shares[0] == pytest.approx(start, abs=ROUNDING)
    assert shares[-1] == final
    assert all(b >= a - ROUNDING for a, b in pairwise(shares))


def test_schedules_closed_forms() -> None:
    assert [one_shot(t, 2, 0.5, start=0.25) for t in range(3)] == [0.25, 0.5, 0.5]
    assert [steady(t, 4, 0.75, start=0.25) for t in range(5)] == [0.25, 0.375, 0.5, 0.625, 0.75]
    assert geometric(1, 2, 0.75) == pytest.approx(0.5, abs=ROUNDING)
    assert cubic(1, 2, 0.8, start=0.4) == pytest.approx(0.8 - 0.4 / 8, abs=ROUNDING)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("step", "steps", "final", "start"),
    [
        (3, 2, 0.5, 0.0),
        (-1, 2, 0.5, 0.0),
        (0, 0, 0.5, 0.0),
        (1, 2, 1.0, 0.0),
        (1, 2, 0.5, 0.6),
        (1, 2, 0.5, -0.1),
        (1, 2, math.nan, 0.0),
    ],
)
def test_schedules_out_of_range_are_told(
    name: str, step: int, steps: int, final: float, start: float
) -> None:
    with pytest.raises(UsageError, match="asked for"):
        SCHEDULES[name](step, steps, final, start=start)
