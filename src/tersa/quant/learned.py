"""A trained range: learned step size quantisation (LSQ).

With q = 2^(n-1) - 1, a trained step s and a = q s, the value is that of the symmetric quantiser,

    r = v q / a (= v / s),    code = round(clamp(r, -q, q)),    value = (code / q) a

and the loss L goes back by straight-through, per element

    dL/dv = dL/dvalue  where |r| <= q, else 0
    dL/ds = g sum of dL/dvalue (code - r where |r| <= q, else -q or q),    g = 1 / sqrt(N q)

for N elements: g balances the step's gradient against the weights'. The start is s = 2 mean|v| / sqrt(q).

Differs from the paper: levels are -q .. q as in `uniform.symmetric`, not -q - 1 .. q, so that the levels
mirror around 0. `lsq_gradient` is the closed form; `lsq` is the same by autograd, and its test.

Degenerate: all zeros start with the step 1 / q (the range [-1, 1]), for a step of 0 could never move. Steps
are positive; whoever moves them keeps them so. A step below `ranges.SMALLEST` / q gives zeros.

Example:
    >>> v = torch.tensor([-3.0, 0.6, 1.0])
    >>> lsq(v, torch.tensor(1.0), bits=2).tolist()
    [-1.0, 1.0, 1.0]
    >>> grad_v, grad_step = lsq_gradient(torch.ones(3), v, torch.tensor(1.0), bits=2)
    >>> grad_v.tolist(), round(grad_step.item(), 4)
    ([0.0, 1.0, 1.0], -0.3464)

References:
    Esser et al., Learned Step Size Quantization (ICLR 2020), equations 1-3, sections 2.1-2.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tersa.quant.base import Bounds, largest_code
from tersa.quant.primitives import round_half_even, ste
from tersa.quant.ranges import SMALLEST
from tersa.quant.spec import QuantSpec
from tersa.quant.uniform import symmetric


def initial_step(v: Tensor, bits: int) -> Tensor:
    """s = 2 mean|v| / sqrt(q), and 1 / q where all values are 0; ()."""
    q = largest_code(bits)
    mean = v.detach().abs().double().mean()
    step = torch.where(mean > 0, 2 * mean / math.sqrt(q), torch.full_like(mean, 1 / q))
    return step.to(v.dtype)


def step_bounds(step: Tensor, bits: int) -> Bounds:
    """(-a, a) with a = q s: the range in which `uniform.symmetric` gives LSQ's values."""
    a = step.detach() * largest_code(bits)
    return -a, a


def lsq_gradient(grad: Tensor, v: Tensor, step: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Gradients of the loss with respect to the weights and their step; formula in the module.

    Args:
        grad: dL/dvalue, any shape.
        v: weights before they are snapped, the same shape.
        step: s, ().
        bits: n, 2 or more.

    Returns:
        dL/dv, shaped like v, and dL/ds, ().
    """
    q = largest_code(bits)
    r = _in_steps(v, step, q)
    inside = r.abs() <= q
    slope = torch.where(inside, round_half_even(r) - r, r.clamp(-q, q))
    return torch.where(inside, grad, torch.zeros_like(grad)), (grad * slope).sum() * gradient_scale(v, bits)


def lsq(v: Tensor, step: Tensor, bits: int) -> Tensor:
    """LSQ's values, differentiable in v and step by autograd.

    Args:
        v: weights, any shape.
        step: s, ().
        bits: n, 2 or more.
    """
    q = largest_code(bits)
    wide = step.detach() * q > SMALLEST
    s = torch.where(wide, ste(step, step * gradient_scale(v, bits)), torch.ones_like(step))
    r = (v / s).clamp(-q, q)
    exact = symmetric(v.detach(), *step_bounds(step, bits), QuantSpec(kind="symmetric", bits=bits)).values
    return ste(exact, torch.where(wide, ste(round_half_even(r), r) * s, v))


def gradient_scale(v: Tensor, bits: int) -> float:
    """g = 1 / sqrt(N q)."""
    return 1.0 / math.sqrt(v.numel() * largest_code(bits))


def _in_steps(v: Tensor, step: Tensor, q: int) -> Tensor:
    """r = v q / a, as `uniform.symmetric` rounds it; 0 where the step is degenerate."""
    a = step * q
    wide = a > SMALLEST
    s = torch.full_like(a, q) / torch.where(wide, a, torch.ones_like(a))
    return torch.where(wide, v * s, v * 0)
