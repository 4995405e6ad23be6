"""Numbers of a coded network that fit one byte: scales on a logarithmic grid, codebooks in equal steps.

    scale       s = half(2^((k - 128) / 8))     k: 0 .. 255, neighbours 9 % apart
    codebook    c_j = m_j 2^e                   m: -127 .. 127, e: the least that keeps the largest in reach

Both are half precision numbers, so that s c is exact in single precision. A coarse scale costs nothing where
the codebook is in its units; centroids move by 1/127 of the largest one at most, an eighth of their distance
at 5 bits and a quarter at 6, and training computes with them as they are.

Example:
    >>> scale_of(scale_byte(0.125)), coarse(torch.tensor([-1.0, 0.3, 2.9])).tolist()
    (0.125, [-1.0, 0.3125, 2.90625])
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SMALLEST_HALF, LARGEST_HALF = 2.0**-14, 65504.0
"""Half precision numbers with all their 11 bits."""

LARGEST_MULTIPLE = 127
FEWEST_EXPONENT, MOST_EXPONENT = -14, 8
"""Of a codebook's step: every multiple of it is a half precision number."""

FINE_FROM = 65
"""Centroids in a codebook from which they are half precision numbers, before that multiples of a step."""

PER_OCTAVE, ONE = 8, 128
"""Scales between 1 and 2, and the byte of 1."""


def half(values: Tensor) -> Tensor:
    """The nearest half precision numbers, as float32."""
    return values.half().float()


def scale_of(byte: int) -> float:
    """The scale that a byte stands for.

    >>> scale_of(128), scale_of(136), scale_of(0)
    (1.0, 2.0, 1.52587890625e-05)
    """
    return float(half(torch.tensor(2.0 ** ((byte - ONE) / PER_OCTAVE), dtype=torch.float64)))


def scale_byte(scale: float, *, up: bool = False) -> int:
    """The byte of the nearest scale on the grid, or (`up`) of the first not smaller; scale above 0."""
    place = ONE + PER_OCTAVE * math.log2(scale)
    byte = max(0, min(255, round(place)))
    return min(255, byte + 1) if up and scale_of(byte) < scale else byte


def nearby_scale(scale: float, *, up: bool = False) -> float:
    """The scale on the grid, of those with all bits of half precision; see `scale_byte`."""
    return scale_of(scale_byte(max(scale, SMALLEST_HALF), up=up)) if scale > 0 else 0.0


def coarse_exponent(book: Tensor) -> int:
    """e of the step of a codebook."""
    largest = float(book.abs().max())
    if largest == 0.0:
        return 0
    exponent = math.ceil(math.log2(largest / LARGEST_MULTIPLE))
    return max(FEWEST_EXPONENT, min(MOST_EXPONENT, exponent))


def coarse(book: Tensor) -> Tensor:
    """The nearest multiples of the step (the book itself where it is coarse); NaN where none reach it."""
    if not bool(book.abs().max() <= LARGEST_MULTIPLE * 2.0**MOST_EXPONENT):
        return torch.full_like(book, torch.nan)
    step = 2.0 ** coarse_exponent(book)
    return (book / step).round() * step
