"""Levels at equal distances: the two quantisers of document 000.

symmetric, n bits, q = 2^(n-1) - 1, a = max(|low|, |high|):

    s = q / a,    code = round(x s) in -q .. q,    value = (code / q) a

asymmetric, n bits, m = 2^n - 1:

    s = m / (high - low),    code = round((x - low) s) in 0 .. m,    t = code / m
    value = low (1 - t) + high t

The order of these operations in float32 is part of the definition: the compiled update does the same ones and
gives the same bits. Both ends of a range are levels, exactly, and so is 0 in the symmetric one. A value
outside goes to the nearer end. Snapping twice changes nothing where a level is wider than a few ulps of the
range's ends.

Degenerate ranges (narrower than `ranges.SMALLEST`): symmetric gives 0, asymmetric gives low, with code 0.

Example:
    >>> from tersa.quant.spec import QuantSpec
    >>> x, one = torch.tensor([-0.7, 0.1, 0.4, 3.0]), torch.tensor(1.0)
    >>> symmetric(x, -one, one, QuantSpec(kind="symmetric", bits=2)).values.tolist()
    [-1.0, 0.0, 0.0, 1.0]
    >>> asymmetric(x, -one, one, QuantSpec(kind="asymmetric", bits=1)).values.tolist()
    [-1.0, 1.0, 1.0, 1.0]

References:
    Document 000 (SYMM and ASYMM); Krishnamoorthi, Quantizing deep convolutional networks for
    efficient inference (2018), section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersa.quant.base import Quantiser, Snapped, centred, from_zero, largest_code
from tersa.quant.ranges import SMALLEST, bounds, half_width
from tersa.quant.rounding import to_whole
from tersa.quant.spec import QuantSpec

# Divisors and dividends are tensors throughout: torch writes `number / tensor` as number * (1 / tensor), and
# on CUDA `tensor / number` as tensor * (1 / number); both round twice.


def symmetric(
    x: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, uniform: Tensor | None = None
) -> Snapped:
    """Snap to levels that mirror around 0; see the module for the formula and `base.Snap` for arguments."""
    q = largest_code(spec.bits)
    a = half_width(low, high)
    wide = a > SMALLEST
    s = torch.full_like(a, q) / torch.where(wide, a, torch.ones_like(a))
    codes = to_whole(torch.where(wide, x * s, x * 0), -q, q, uniform)
    return Snapped(_mirrored_values(codes, torch.where(wide, a, torch.zeros_like(a)), q), codes)


def symmetric_levels(low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """(..., 2^n - 1), from -a to a."""
    q = largest_code(spec.bits)
    a = half_width(low, high)
    a = torch.where(a > SMALLEST, a, torch.zeros_like(a))
    return _mirrored_values(torch.arange(-q, q + 1).to(a), a.unsqueeze(-1), q)


def clamp_mirrored(x: Tensor, low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """x within -a .. a: gradient 1 there, 0 outside."""
    a = half_width(low, high)
    return torch.clamp(x, -a, a)


def asymmetric(
    x: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, uniform: Tensor | None = None
) -> Snapped:
    """Snap to levels from low to high; see the module for the formula and `base.Snap` for arguments."""
    m = 2**spec.bits - 1
    width = high - low
    wide = width > SMALLEST
    s = torch.full_like(width, m) / torch.where(wide, width, torch.ones_like(width))
    codes = to_whole(torch.where(wide, (x - low) * s, x * 0), 0, m, uniform)
    return Snapped(_between(codes, low, high, m), codes)


def asymmetric_levels(low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """(..., 2^n), from low to high; all low where the range is degenerate."""
    m = 2**spec.bits - 1
    wide = (high - low > SMALLEST).unsqueeze(-1)
    found = _between(torch.arange(m + 1).to(low), low.unsqueeze(-1), high.unsqueeze(-1), m)
    return torch.where(wide, found, low.unsqueeze(-1))


def clamp_between(x: Tensor, low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """x within low .. high: gradient 1 there, 0 outside."""
    return torch.clamp(x, low, high)


def _mirrored_values(codes: Tensor, a: Tensor, q: int) -> Tensor:
    return codes / torch.full_like(a, q) * a


def _between(codes: Tensor, low: Tensor, high: Tensor, m: int) -> Tensor:
    t = codes / torch.full_like(low, m)
    return low * (1 - t) + high * t


SYMMETRIC = Quantiser(symmetric, symmetric_levels, clamp_mirrored, bounds, centred)
ASYMMETRIC = Quantiser(asymmetric, asymmetric_levels, clamp_between, bounds, from_zero)
