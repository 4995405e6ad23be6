"""Powers of two: levels whose product with an input is a shift.

With a = max(|low|, |high|) and K = 2^(n-1) - 1 levels on each side of 0:

    levels   0 and +-a 2^-k,  k = 0 .. K - 1
    code     0 for 0, +-r for +-a 2^-(K - r),  r = 1 .. K

A value goes to the level nearest to it in value (not in its logarithm), on |x| with its sign put back, so
that q(-x) = -q(x); half-way goes to the smaller magnitude. Stochastic rounding is between neighbours. 2 bits
are the ternary levels; 8 bits reach a 2^-126, which float32 can hold only for a that is not tiny: smaller
levels are then equal, and equal to 0.

Degenerate ranges (a below `ranges.SMALLEST`) give 0 with code 0. a itself need not be a power of two: it
is one factor for the tensor or channel.

Example:
    >>> from tersa.quant.spec import QuantSpec
    >>> x, one = torch.tensor([-0.8, 0.1, 0.3, 0.7]), torch.tensor(1.0)
    >>> power_of_two(x, -one, one, QuantSpec(kind="power-of-two", bits=3)).values.tolist()
    [-1.0, 0.0, 0.25, 0.5]

References:
    Zhou et al., Incremental Network Quantization (ICLR 2017), section 2.1, with a for its power of two;
    Miyashita, Lee & Murmann, Convolutional Neural Networks using Logarithmic Data Representation (2016).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersa.quant.base import Quantiser, Snapped, centred, largest_code
from tersa.quant.primitives import sign_pm1
from tersa.quant.ranges import SMALLEST, bounds, half_width
from tersa.quant.rounding import look_up, to_table
from tersa.quant.spec import QuantSpec
from tersa.quant.uniform import clamp_mirrored


def power_of_two(
    x: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, uniform: Tensor | None = None
) -> Snapped:
    """Snap to 0 or a power of two times a; see the module for the formula and `base.Snap` for arguments."""
    a = half_width(low, high)
    table = _magnitudes(a.flatten() if a.dim() else a, spec)  # (L,), or (O, L) for bounds (O, 1, ...)
    rank = to_table(x.abs(), table, uniform)
    rank = torch.where(a > SMALLEST, rank, torch.zeros_like(rank))
    sign = torch.where(x.isnan(), x, sign_pm1(x))
    return Snapped(sign * look_up(table, rank), sign * rank.to(x))


def power_levels(low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """(..., 2^n - 1), from -a to a."""
    half = _magnitudes(half_width(low, high), spec)
    return torch.cat([-half[..., 1:].flip(-1), half], -1)


def _magnitudes(a: Tensor, spec: QuantSpec) -> Tensor:
    """0, a 2^-(K-1), ..., a / 2, a: (..., K + 1)."""
    count = largest_code(spec.bits)
    factors = torch.tensor([0.0, *(2.0**-k for k in reversed(range(count)))], dtype=a.dtype, device=a.device)
    a = torch.where(a > SMALLEST, a, torch.zeros_like(a))
    return a.unsqueeze(-1) * factors


POWER_OF_TWO = Quantiser(power_of_two, power_levels, clamp_mirrored, bounds, centred)
