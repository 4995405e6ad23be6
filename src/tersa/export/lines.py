"""A k-bit activation behind integer sums, as one multiplication, one addition and a rounding.

A rounding half to even (ONNX's `Round`, QONNX's `Quant`) knows no other thresholds than halves. A layer with
normalisation and k-bit activation has, for every channel, 2^k - 1 ends e_j: the level's code rises at the
sums a = e_j (`binary.thresholds`, exact). Looked for are slope and offset, in float32, with

    clip(round(slope a + offset), -2^(k-1), 2^(k-1) - 1)  =  code(a) - 2^(k-1)      for every integer a

The normalisation gives them up to rounding, slope = alpha scale n / 2 and offset = shift n / 2 - 1/2 with
n = 2^k - 1. For a slope, the ends give an interval for the offset; of slopes a little smaller and larger the
one with the widest interval is taken, and the offset is moved a quarter of the interval away from its
borders. So no sum lies at a tie, on this runtime or another. Where all sums together move the code by less
than half a step, half a step is what the slope moves it by: a channel whose scale has died away still changes
its level where the network does. Both sides of every end are tried in float32 before the numbers are used.

There is no such line where sums go into the millions (8-bit weights and inputs), for there the network's own
rounding moves its ends by more than a sum, nor where it decides several exact ties this way and that.

Example:
    >>> slope, offset = line(np.float32([0.25]), np.float32([0.0]), None, 9, bits=2) or ()
    >>> codes_of(np.arange(-4, 5), slope[0], offset[0], 2).astype(int).tolist()  # a / 4 >= -2/3, 0, 2/3
    [-2, -2, -1, -1, 0, 0, 0, 1, 1]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tersa.binary.program import Floats
from tersa.binary.thresholds import ALWAYS, NEVER, half_lines
from tersa.quant.steps import steps, thresholds

MARGIN = 0.25
"""Share of the interval, or of a step, that the offset keeps from the interval's borders."""

NUDGES = (0.0, *(sign * size for size in (1e-5, 1e-4, 1e-3, 1e-2) for sign in (1, -1)))
"""Relative changes of the slope that are tried; the first is kept where none is better."""


def line(
    scale: Floats, shift: Floats, alpha: Floats | None, bound: int, *, bits: int
) -> tuple[Floats, Floats] | None:
    """Slope and offset of every channel, (C,) each, or None where no line in float32 has these ends.

    Args:
        scale: (C,) of the normalisation.
        shift: (C,) of the normalisation.
        alpha: (C,), multiplied before it, or None.
        bound: no sum is larger in size.
        bits: k of the activation, 2 to 8.
    """
    ends, falls = half_lines(scale, shift, alpha, bound, thresholds(bits).numpy())
    sign = np.where(falls, -1.0, 1.0)
    half = steps(bits) / 2
    rate = np.float64(scale) * (1.0 if alpha is None else np.float64(alpha)) * half
    rate = np.maximum(np.abs(rate), 0.5 / (2 * bound + 1))
    slopes = np.stack([(rate * (1 + nudge)).astype(np.float32) for nudge in NUDGES])  # (T, C)
    lows, highs = (
        np.stack(each) for each in zip(*(_interval(ends, s, bound, bits) for s in slopes), strict=True)
    )
    best = (highs - lows).argmax(0)
    slope, low, high = (np.take_along_axis(each, best[None], 0)[0] for each in (slopes, lows, highs))
    room = MARGIN * np.minimum(high - low, 1.0)
    wanted = np.float64(shift) * half - 0.5
    offset = np.minimum(np.maximum(wanted, low + room), high - room).astype(np.float32)
    slope = (slope * sign).astype(np.float32)
    return (slope, offset) if _holds(ends, sign, slope, offset, bound, bits) else None


def codes_of(sums: npt.NDArray[np.integer], slope: Floats, offset: Floats, bits: int) -> Floats:
    """clip(round(slope a + offset)), rounded to float32 after each step as runtimes do."""
    y = sums.astype(np.float32) * slope
    y = y + offset
    return np.round(np.clip(y, -(1 << (bits - 1)), (1 << (bits - 1)) - 1))


def _interval(
    ends: npt.NDArray[np.int32], slope: Floats, bound: int, bits: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Between which offsets each channel's codes rise where they must, (C,) each."""
    rate = slope.astype(np.float64)[:, None]
    border = np.arange(ends.shape[1]) + 0.5 - (1 << (bits - 1))  # of code j and code j + 1
    at = np.where(ends == ALWAYS, -bound, ends).astype(np.float64)
    before = np.where(ends == NEVER, bound, ends.astype(np.int64) - 1).astype(np.float64)
    low = np.where(ends == NEVER, -np.inf, border - rate * at).max(1)
    high = np.where(ends == ALWAYS, np.inf, border - rate * before).min(1)
    return low, high


def _holds(
    ends: npt.NDArray[np.int32],
    sign: npt.NDArray[np.float64],
    slope: Floats,
    offset: Floats,
    bound: int,
    bits: int,
) -> bool:
    """Whether the levels are right on both sides of every end, and at both ends of the range."""
    inside = np.clip(ends.astype(np.int64), -bound, bound)
    edge = np.full((len(ends), 1), bound)
    sums = np.concatenate([inside, np.maximum(inside - 1, -bound), -edge, edge], axis=1)  # (C, ...)
    wanted = (sums[:, :, None] >= ends[:, None, :]).sum(-1) - (1 << (bits - 1))
    given = (sums * sign[:, None].astype(np.int64)).T
    return bool((wanted == codes_of(given, slope, offset, bits).T).all())
