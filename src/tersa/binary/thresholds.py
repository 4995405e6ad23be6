"""Normalisation and activation of integer sums, as integer thresholds: exactly, not nearly.

In eval a layer computes, in float32 and rounded after each step,

    y(a) = [a alpha] scale + shift          a an integer sum
    q(a) = how many thresholds t_j are <= y(a)

Every step is monotone, rounding included, so that y(a) >= t_j holds on a half-line of integers, and its end
is found by bisection with these very operations: no algebra, no division, nothing lost at a tie. Where alpha
scale is negative the half-line points down; then the channel's weights are negated (`falls`), which turns it
round. Channels that are constant get an end that no sum reaches, or every sum.

Example:
    >>> scale, shift = np.float32([1, -1, 0]), np.float32([-2.5, 0.5, -1])
    >>> ends, falls = half_lines(scale, shift, None, 100, np.float32([0]))
    >>> ends[:, 0].tolist(), falls.tolist()         # a >= 2.5;  -a >= -0.5;  never
    ([3, 0, 2147483647], [False, True, False])
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tersa.binary.program import Floats

NEVER, ALWAYS = np.iinfo(np.int32).max, np.iinfo(np.int32).min


def affine(sums: npt.NDArray[np.integer], scale: Floats, shift: Floats, alpha: Floats | None) -> Floats:
    """[a alpha] scale + shift in float32, rounded after each step; channels along the last axis."""
    y = sums.astype(np.float32)
    if alpha is not None:
        y = y * alpha
    y = y * scale
    return y + shift


def half_lines(
    scale: Floats, shift: Floats, alpha: Floats | None, bound: int, thresholds: Floats
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Integer ends (O, T), and the channels (O,) whose sums are to be negated first.

    Args:
        scale: (O,).
        shift: (O,).
        alpha: (O,) or None.
        bound: no sum is larger in size.
        thresholds: (T,), rising, of y.
    """
    outputs, count = len(scale), len(thresholds)
    lowest = affine(np.full(outputs, -bound), scale, shift, alpha)
    falls = lowest > affine(np.full(outputs, bound), scale, shift, alpha)
    sign = np.where(falls, -1, 1)[:, None]

    def reached(sums: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        y = affine((sums * sign).T, scale, shift, alpha).T
        return y >= thresholds

    low = np.full((outputs, count), -bound - 1, np.int64)  # not reached, as far as is known
    high = np.full((outputs, count), bound, np.int64)  # reached, if any is
    always, ever = reached(low + 1), reached(high)
    while (high - low > 1).any():
        middle = (low + high) // 2
        there = reached(middle)
        high, low = np.where(there, middle, high), np.where(there, low, middle)
    ends = np.where(always, ALWAYS, np.where(ever, high, NEVER))
    return ends.astype(np.int32), falls
