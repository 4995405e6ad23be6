"""How a value between two levels goes to one of them: nearest, or stochastic.

On whole numbers (levels at equal distances, v the value in units of a level):

    nearest       code = clamp(round_half_even(v), lowest, highest)
    stochastic    f = floor(clamp(v, lowest, highest)),  code = f + (u < v - f),   u uniform in [0, 1)

On a table of levels t_0 <= t_1 <= ...:

    nearest       the level on x's side of the midpoint (a value on it goes to the lower level)
    stochastic    t_(i+1) where u < (x - t_i) / (t_(i+1) - t_i), else t_i, for t_i <= x < t_(i+1)

Stochastic rounding is right on average: E[level] = x inside the range. That is what lets an update smaller
than a level have an effect. u comes from `primitives.hash_uniform`; nothing here draws.

A whole v stays where it is: f + (u < v - f) is exact, where floor(v + u) would lift it now and then.

Example:
    >>> to_whole(torch.tensor([0.4, 2.5, 9.0]), 0, 3).tolist()
    [0.0, 2.0, 3.0]
    >>> to_whole(torch.tensor([0.4, 0.4]), 0, 3, torch.tensor([0.3, 0.7])).tolist()
    [1.0, 0.0]

References:
    Gupta et al., Deep Learning with Limited Numerical Precision (ICML 2015), section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersa.quant.primitives import hash_uniform, round_half_even, stream


def to_whole(v: Tensor, lowest: int, highest: int, uniform: Tensor | None = None) -> Tensor:
    """The whole number that v goes to, within lowest .. highest; NaN stays NaN.

    Args:
        v: values in units of a level, any shape.
        lowest: smallest code.
        highest: largest code.
        uniform: numbers in [0, 1) shaped like v for stochastic rounding, or None for nearest.
    """
    if uniform is None:
        return round_half_even(v).clamp(lowest, highest)
    inside = v.clamp(lowest, highest)
    below = inside.floor()
    return below + (uniform < inside - below)


def to_table(x: Tensor, table: Tensor, uniform: Tensor | None = None) -> Tensor:
    """The place in a table of levels that each value goes to, int64, shaped like x; NaN gets any place.

    Args:
        x: any shape; (O, ...) where each channel has a table.
        table: levels in rising order, (L,) or (O, L), L >= 2.
        uniform: numbers in [0, 1) shaped like x for stochastic rounding, or None for nearest.
    """
    flat = _rows(x, table)
    if uniform is None:
        middles = 0.5 * table[..., :-1] + 0.5 * table[..., 1:]
        return torch.searchsorted(middles, flat).view(x.shape)
    below = (torch.searchsorted(table, flat, right=True) - 1).clamp(0, table.shape[-1] - 2)
    start, end = _at(table, below), _at(table, below + 1)
    gap = end - start
    share = (flat - start) / torch.where(gap > 0, gap, torch.ones_like(gap))
    return (below + (_rows(uniform, table) < share)).view(x.shape)


def look_up(table: Tensor, place: Tensor) -> Tensor:
    """The level at each place, shaped like `place`.

    Args:
        table: (L,), or (O, L) for places (O, ...).
        place: int64.
    """
    return _at(table, _rows(place, table)).view(place.shape)


def uniform_like(x: Tensor, seed: int, step: int = 0, tensor: int = 0) -> Tensor:
    """Numbers in [0, 1) shaped like x, the same for equal (seed, step, tensor).

    >>> uniform_like(torch.zeros(2, 2), seed=1).shape
    torch.Size([2, 2])
    """
    key = stream(torch.tensor([seed], device=x.device), step, tensor)
    return hash_uniform(key, x.numel())[0].to(x.dtype).view(x.shape)


def _rows(x: Tensor, table: Tensor) -> Tensor:
    """x as (P,) beside a table (L,), or as (O, P) beside (O, L); contiguous, as a search wants it."""
    return (x.flatten(1) if table.dim() == 2 else x.flatten()).contiguous()


def _at(table: Tensor, place: Tensor) -> Tensor:
    return table.gather(-1, place)
