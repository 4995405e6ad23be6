"""Levels as odd integers: how low-bit layers write numbers, so that their sums are exact.

With n = 2^k - 1 for k bits, x in -1..1 goes to one of the 2^k odd integers -n, -n + 2, ..., n:

    t_j = (2 j - n + 1) / n,  j = 0 .. n - 1        the n thresholds, in float32
    q   = how many t_j are <= x                     0 .. 2^k - 1
    v   = 2 q - n                                   1 bit: -1, 1;  2 bits: -3, -1, 1, 3

One bit is the sign with 0 -> +1. The bits of q, as s_i = -1 or +1, give v = sum over i of 2^i s_i: a product
of a k-bit and an m-bit vector is k m sums of sign products, each an XNOR and a popcount. All v up to 8 bits
are exact in bfloat16, and sums of products below 2^24 in float32.

Ternary weights are -1, 0, 1: sign(w) where |w| > 0.7 mean |w| of the tensor (TWN's threshold), else 0.

Example:
    >>> to_odd(torch.tensor([-2.0, -0.5, -0.0, 0.7]), 2).tolist()
    [-3.0, -1.0, 1.0, 3.0]

References:
    Zhou et al., DoReFa-Net (2016), section 2.1: dot products by bit planes.
    Li & Liu, Ternary Weight Networks (2016), section 2.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from tersa.quant import fused

MOST_BITS = 8
TERNARY_SHARE = 0.7
EXACT = 1 << 24
"""Integers below this are exact in float32."""


def steps(bits: int) -> int:
    """n = 2^k - 1: the number of thresholds, and the largest level."""
    return (1 << bits) - 1


@lru_cache
def _thresholds(bits: int, device: torch.device) -> Tensor:
    n = steps(bits)
    with torch.inference_mode(False):
        return (2 * torch.arange(n, dtype=torch.float64) - n + 1).div(n).float().to(device)


def thresholds(bits: int) -> Tensor:
    """t_j in rising order, (2^k - 1,) float32.

    >>> thresholds(1).tolist()
    [0.0]
    """
    return _thresholds(bits, torch.device("cpu")).clone()


def to_odd(x: Tensor, bits: int) -> Tensor:
    """Each value's level, an odd integer in x's floating type; see the head of this file.

    NaN has no level: it becomes some level, so look for it before.
    """
    if bits == 1 and fused.usable(x):
        return fused.sign(x)
    if bits == 1:
        return torch.copysign(x.new_ones(()), x + 0.0)  # -0.0 + 0.0 is +0.0
    images = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    rows = x.permute(0, 2, 3, 1) if images else x.contiguous()  # a search writes its answer in rows
    places = torch.bucketize(rows.float(), _thresholds(bits, x.device), right=True)
    levels = (2 * places - steps(bits)).to(x.dtype)
    return levels.permute(0, 3, 1, 2) if images else levels


def to_ternary(x: Tensor) -> Tensor:
    """-1, 0 or 1, shaped like x; the threshold is of the whole tensor."""
    above = x.abs() > TERNARY_SHARE * x.abs().mean()
    return torch.sign(x) * above


def planes(levels: Tensor, bits: int) -> Tensor:
    """The signs s_i of odd integers, (k, ...), with levels = sum over i of 2^i s_i.

    >>> planes(torch.tensor([-3.0, -1.0, 1.0, 3.0]), 2).tolist()
    [[-1.0, 1.0, -1.0, 1.0], [-1.0, -1.0, 1.0, 1.0]]
    """
    codes = ((levels + steps(bits)) / 2).to(torch.int64)
    return torch.stack([(codes >> i & 1) * 2 - 1 for i in range(bits)]).to(levels.dtype)
