"""Few bits for what travels between layers: hidden outputs forward, errors backward.

Both work on a stack, (R, N, ...), and give each run its own bits and its own range, taken from its values at
each call. b = 0 leaves a run's values untouched.

hidden outputs (after ReLU, so never negative), m = 2^b - 1, a = max h over the run:

    code = round(h m / a) in 0 .. m,    value = (code / m) a,    dvalue/dh = 1 where h >= 0

gradients, and states of a recurrent network (tanh, of both signs), q = 2^(b-1) - 1, a = max |g| over the run:

    code = round(g q / a) in -q .. q,   value = (code / q) a        states: dvalue/dh = 1

As everywhere, arithmetic is float32 in this order. A run whose values are all 0 (or below `ranges.SMALLEST`)
gets zeros; NaN stays in its run.

They are made for `rules.network.Signals`:

    Signals(hidden=hidden_quantiser(bits), backward=gradient_quantiser(bits))

Example:
    >>> hidden_quantiser(torch.tensor([1, 0]))(torch.tensor([[0.2, 0.9], [0.2, 0.9]]))
    tensor([[0.0000, 0.9000],
            [0.2000, 0.9000]])

References:
    Zhou et al., DoReFa-Net (2016), sections 2.4-2.5, with nearest rounding as the default.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tersa.errors import UsageError
from tersa.quant.primitives import round_half_even, ste
from tersa.quant.ranges import SMALLEST

Signal = Callable[[Tensor], Tensor]
"""(R, N, ...) to the same shape."""


def hidden_quantiser(bits: Tensor) -> Signal:
    """A function that gives hidden outputs few bits, and passes gradients through.

    Args:
        bits: b of each run, (R,), whole numbers 0 to 8; 0 leaves the run's values real.

    Raises:
        UsageError: other bits.
    """
    _check_bits(bits, "activation bits", (0, *range(1, 9)))
    steps = (1 << bits.long()) - 1

    def hidden(h: Tensor) -> Tensor:
        values = _snap(h.detach().clamp(min=0), steps, None)
        return torch.where(_per_run(steps, h) > 0, ste(values, h.clamp(min=0)), h)

    return hidden


def state_quantiser(bits: Tensor) -> Signal:
    """As `hidden_quantiser`, for outputs of both signs.

    Args:
        bits: b of each run, (R,), whole numbers 0 or 2 to 8; 0 leaves the run's values real.

    Raises:
        UsageError: other bits.
    """
    _check_bits(bits, "activation bits of a recurrent network", (0, *range(2, 9)))
    steps = (1 << (bits.long() - 1).clamp(min=0)) - 1

    def state(h: Tensor) -> Tensor:
        return torch.where(_per_run(steps, h) > 0, ste(_snap(h.detach(), steps, None), h), h)

    return state


def gradient_quantiser(bits: Tensor, draw: Callable[..., Tensor] | None = None) -> Signal:
    """A function that gives gradients few bits.

    Args:
        bits: b of each run, (R,), whole numbers 0 or 2 to 8; 0 leaves the run's gradients real.
        draw: for stochastic rounding, called with the shape behind R, gives (R, ...) numbers in [0, 1), such
            as `rules.base.Draw.uniform`; None rounds to the nearest.

    Raises:
        UsageError: other bits.
    """
    _check_bits(bits, "gradient bits", (0, *range(2, 9)))
    steps = (1 << (bits.long() - 1).clamp(min=0)) - 1

    def backward(g: Tensor) -> Tensor:
        uniform = None if draw is None else draw(*g.shape[1:])
        return torch.where(_per_run(steps, g) > 0, _snap(g, steps, uniform), g)

    return backward


def _snap(x: Tensor, steps: Tensor, uniform: Tensor | None) -> Tensor:
    """(code / steps) a with code = round(x steps / a), a = max |x| of each run."""
    steps = _per_run(steps, x)
    a = x.abs().flatten(1).amax(1).view(steps.shape)
    wide = a > SMALLEST
    v = x * (steps / torch.where(wide, a, torch.ones_like(a)))
    below = v.floor()
    codes = round_half_even(v) if uniform is None else below + (uniform < v - below)
    codes = torch.clamp(codes, -steps, steps)
    return torch.where(wide, codes / steps.clamp(min=1) * a, x * 0)


def _per_run(steps: Tensor, x: Tensor) -> Tensor:
    """(R,) shaped to broadcast with x (R, N, ...)."""
    return steps.to(x).view(-1, *[1] * (x.dim() - 1))


def _check_bits(bits: Tensor, what: str, allowed: tuple[int, ...]) -> None:
    wrong = sorted({entry for entry in bits.flatten().tolist() if entry not in allowed})
    if bits.dim() != 1 or wrong:
        raise UsageError(
            f"{what} are {wrong or tuple(bits.shape)}; give one number per run, each of "
            f"{', '.join(map(str, allowed))} (0: real values)"
        )
