"""Random numbers of a crossbar, kept apart from those of training.

Each use has a purpose of its own, which is mixed into the run's seed. So noise never repeats the numbers that
drew the first weights or the feedback, and a run draws the same alone as in a stack. Purposes start above any
number of tensors, because stochastic rounding has keys by tensor (`tersa.quant.primitives.stream`).

Where all numbers are wanted at once there is a `torch.Generator` for each run (`normals`). Where few are
wanted out of many (only cells that change are written again) a number is computed from its index
(`hash_normal`):

    n_i = Phi^-1((mix(mix(i) ^ key) + 1/2) / 2^32)

with Phi the standard normal distribution; the largest is 6.3 deviations. What this is not: a source for
cryptography, or for tails beyond that.

Example:
    >>> key = stream(torch.tensor([7]), 0, PROGRAMMING)
    >>> [round(n, 3) for n in hash_normal(key, 3)[0].tolist()]
    [0.281, 1.651, -0.236]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tersa.quant.primitives import WORD, mix, stream

PROGRAMMING, STUCK, DEPLOYMENT, READS = range(1 << 16, (1 << 16) + 4)
"""Purposes, as `stream` takes them in the place of a tensor's number."""
SPACING = 1 << 20
"""Between the keys of one purpose for two tensors."""


def programming_key(seeds: Tensor, step: int, tensor: int) -> Tensor:
    """Key of the programming noise of one tensor at one step, one per run: (R,) int64.

    Args:
        seeds: of the runs, (R,) int64.
        step: of training.
        tensor: its number in the network.
    """
    return stream(seeds, step, PROGRAMMING + SPACING * (tensor + 1))


def generator(seed: int, purpose: int, tensor: int = 0) -> torch.Generator:
    """A generator for one purpose of one run, on the CPU."""
    word = stream(torch.tensor([seed], dtype=torch.int64), tensor, purpose)
    return torch.Generator().manual_seed(int(word))


def normals(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Standard normal numbers, each run's from its own generator: (R, *shape) float32."""
    return torch.stack([torch.randn(shape, generator=each) for each in generators])


def hash_normal(key: Tensor, count: int) -> Tensor:
    """`count` standard normal numbers per key, (R, count) float32, each from its index alone.

    Args:
        key: from `programming_key`, (R,) int64.
        count: elements of the tensor.

    References:
        The quantile Phi^-1 is torch's `ndtri` (Cephes), in float64.
    """
    index = mix(torch.arange(count, dtype=torch.int64, device=key.device))
    words = mix((index[None, :] ^ key[:, None]) & WORD)  # (R, count)
    return torch.special.ndtri((words.double() + 0.5) / (WORD + 1)).float()
