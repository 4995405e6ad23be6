"""The conventions that every quantiser shares, each with its convention in its name.

    sign_pm1(x)          -1 where x < 0, else +1 (0 and -0 give +1; NaN stays NaN)
    round_half_even(x)   nearest integer, ties to even, as IEEE 754 and hardware round
    ste(q, g)            the value of q with the gradient of g, bit for bit: q.detach() + (g - g.detach())

`ste` is not written x + (q - x).detach(): that is off by an ulp on up to two thirds of a clipped, scaled
tensor, and packed inference has to match training bit for bit.

`hash_uniform` is the random source of stochastic rounding: a number in [0, 1) for each (seed, step, tensor,
element), by integer mixing alone, so that a run draws the same numbers alone, in a stack, in torch and in
the compiled update, and its state is two integers.

Example:
    >>> sign_pm1(torch.tensor([-2.0, 0.0, 3.0])).tolist()
    [-1.0, 1.0, 1.0]
    >>> round_half_even(torch.tensor([0.5, 1.5, 2.5])).tolist()
    [0.0, 2.0, 2.0]
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
"""Mask of 32 bits; torch has no unsigned arithmetic, so words live in int64."""


def sign_pm1(x: Tensor) -> Tensor:
    """Sign in {-1, +1}: 0 gives +1, NaN stays NaN."""
    return torch.where(x < 0, -torch.ones_like(x), torch.where(x >= 0, torch.ones_like(x), x))


def round_half_even(x: Tensor) -> Tensor:
    """Nearest integer, ties to even."""
    return torch.round(x)


def ste(q: Tensor, g: Tensor) -> Tensor:
    """The value of `q`, exactly, with the gradient of `g`."""
    return q.detach() + (g - g.detach())


def mix(word: Tensor) -> Tensor:
    """Scramble 32-bit words held in int64: x ^= x >> 16, x *= 0x7FEB352D, x ^= x >> 15, x *= 0x846CA68B, ...

    References:
        Wellons, Prospecting for hash functions (2018): `lowbias32`.
    """
    word = (word ^ (word >> 16)) * 0x7FEB352D & WORD
    word = (word ^ (word >> 15)) * 0x846CA68B & WORD
    return word ^ (word >> 16)


def stream(seed: Tensor, step: int, tensor: int) -> Tensor:
    """The key of one tensor of one step: mix(mix(mix(seed) + step) + tensor); one per run, (R,) int64."""
    return mix((mix((mix(seed & WORD) + step) & WORD) + tensor) & WORD)


def hash_uniform(key: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) per key, each a multiple of 2^-24: (R, count) float32.

    u_i = (mix(mix(i) ^ key) >> 8) / 2^24

    Args:
        key: from `stream`, (R,) int64.
        count: elements of the tensor.
    """
    index = mix(torch.arange(count, dtype=torch.int64, device=key.device) & WORD)
    words = mix(index[None, :] ^ key[:, None])  # (R, count)
    return (words >> 8).to(torch.float32) * (1.0 / (1 << 24))
