"""Half-lines of integers against the float32 operations themselves, sum by sum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersa.binary.thresholds import ALWAYS, NEVER, affine, half_lines
from tersa.quant.steps import thresholds

FINITE = st.floats(-100, 100, width=32, allow_subnormal=False)


@settings(max_examples=150, deadline=None)
@given(FINITE, FINITE, st.one_of(st.none(), FINITE), st.integers(1, 300), st.integers(1, 4))
def test_ends_say_what_the_float_operations_say(
    scale: float, shift: float, alpha: float | None, bound: int, bits: int
) -> None:
    scales, shifts = np.float32([scale]), np.float32([shift])
    alphas = None if alpha is None else np.float32([alpha])
    t = thresholds(bits).numpy()
    ends, falls = half_lines(scales, shifts, alphas, bound, t)
    sums = np.arange(-bound, bound + 1)
    wanted = (affine(sums[:, None], scales, shifts, alphas) >= t).sum(1)
    turned = -sums if falls[0] else sums
    assert np.array_equal((turned[:, None] >= ends[0]).sum(1), wanted)
    assert (np.diff(ends[0].astype(np.int64)) >= 0).all()


def test_ties_and_rounding_at_the_end() -> None:
    """a / 3 >= 1/3 as float32 division would have it is not what multiplication and addition give."""
    third = np.float32([1 / 3])
    ends, _ = half_lines(third, -third * 7, None, 1000, np.float32([0]))
    a = int(ends[0, 0])
    assert affine(np.array([a]), third, -third * 7, None)[0] >= 0
    assert affine(np.array([a - 1]), third, -third * 7, None)[0] < 0


@pytest.mark.parametrize(("shift", "end"), [(0.0, ALWAYS), (-0.0, ALWAYS), (0.5, ALWAYS), (-0.5, NEVER)])
def test_channels_without_a_scale_are_constant(shift: float, end: int) -> None:
    ends, falls = half_lines(np.float32([0]), np.float32([shift]), None, 50, np.float32([0]))
    assert ends[0, 0] == end
    assert not falls[0]


def test_scales_so_small_that_they_round_away_are_constant() -> None:
    ends, _ = half_lines(np.float32([1e-30]), np.float32([-1]), None, 1000, np.float32([0]))
    assert ends[0, 0] == NEVER


def test_sums_beyond_24_bits_are_rounded_as_float32_rounds_them() -> None:
    """2^24 + 1 is 2^24 in float32, which reaches a threshold of 2^24 + 2 only from 2^24 + 2 on."""
    scale, shift = np.float32([1]), np.float32([-(2**24 + 2)])
    ends, _ = half_lines(scale, shift, None, 1 << 26, np.float32([0]))
    assert ends[0, 0] == 2**24 + 2
