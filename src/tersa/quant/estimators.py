"""Gradients for what has none: the estimators that train 1-bit weights and activations.

The sign is flat wherever it does not jump. Every estimator here has the sign in the forward pass,
bit for bit, and in the backward pass the derivative d(x) of a function that resembles it:

    name     d(x), for 1 bit                                                            source
    ste      1 where |x| <= 1, else 0                                                   BinaryNet
    approx   2 - 2 |x| where |x| < 1, else 0                                            Bi-Real Net
    swish    b (2 - b x tanh(b x / 2)) / (1 + cosh(b x)),  b = 5                        BNN+
    tanh     k t (1 - tanh^2(t x)),  t = 10^(-1 + 2 p),  k = max(1 / t, 1)              IR-Net
    dsq      s k (1 - tanh^2(k x)) where |x| <= 1, else 0,  s = 1 / tanh(k),  k = 1 + 9 p     DSQ

p in 0..1 is how far the training has come: `tanh` and `dsq` sharpen with it, from nearly linear to nearly the
sign. `train.latents` sets it before every update. For more than one bit there is only `ste`, scaled: a k-bit
value is near (2^k - 1) x, so its derivative is 2^k - 1 where |x| <= 1.

An estimator is a function and a line in `ESTIMATORS`. Differs from the papers: DSQ learns k and the clipping
range, here k follows the training and the range is -1..1.

Example:
    >>> x = torch.tensor([-1.5, -0.25, 0.0, 0.5], requires_grad=True)
    >>> y = quantised(x, 1, by="approx")
    >>> y.sum().backward()
    >>> y.tolist(), x.grad.tolist()
    ([-1.0, -1.0, 1.0, 1.0], [0.0, 1.5, 2.0, 1.0])

References:
    Hubara et al., Binarized Neural Networks (NIPS 2016), section 1.3; Liu et al., Bi-Real Net (ECCV 2018),
    section 3.2; Darabi et al., BNN+ (2018), section 3.2; Qin et al., IR-Net (CVPR 2020), section 3.3; Gong
    et al., Differentiable Soft Quantization (ICCV 2019), section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from tersa.errors import unknown
from tersa.quant import fused
from tersa.quant.steps import steps, to_odd

SWISH_BETA = 5.0
"""BNN+'s b: the larger, the nearer to the sign."""
TANH_START, TANH_END = 0.1, 10.0
"""IR-Net's t at the beginning and the end of training."""
DSQ_START, DSQ_END = 1.0, 10.0
"""DSQ's k at the beginning and the end of training."""

WITHIN = 1.0 + 2.0**-23
"""The float32 after 1: `hardtanh_backward` passes what lies strictly inside, and |x| = 1 has to pass."""


@dataclass(frozen=True)
class Estimator:
    """One surrogate of the sign's gradient.

    Attributes:
        derivative: of x and the progress p in 0..1, shaped like x.
        about: one line for users.
        sharpens: it depends on the progress.
    """

    derivative: Callable[[Tensor, float], Tensor]
    about: str
    sharpens: bool = False


def ste(x: Tensor, progress: float = 0.0) -> Tensor:
    """1 where |x| <= 1, else 0."""
    return (x.abs() <= 1).to(x.dtype)


def approx(x: Tensor, progress: float = 0.0) -> Tensor:
    """2 - 2 |x| where |x| < 1, else 0: the slope of two parabolas that meet at 0."""
    return (2 - 2 * x.abs()).clamp(min=0)


def swish(x: Tensor, progress: float = 0.0) -> Tensor:
    """b (2 - b x tanh(b x / 2)) / (1 + cosh(b x)), of 2 sigmoid(b x) (1 + b x (1 - sigmoid(b x))) - 1.

    1 / (1 + cosh(z)) is written 2 sigmoid(z) sigmoid(-z), which does not overflow.
    """
    z = SWISH_BETA * x
    return SWISH_BETA * (2 - z * torch.tanh(z / 2)) * 2 * torch.sigmoid(z) * torch.sigmoid(-z)


def annealed_tanh(x: Tensor, progress: float = 0.0) -> Tensor:
    """k t (1 - tanh^2(t x)), of k tanh(t x)."""
    t = TANH_START * (TANH_END / TANH_START) ** progress
    return max(1 / t, 1.0) * t * (1 - torch.tanh(t * x).square())


def dsq(x: Tensor, progress: float = 0.0) -> Tensor:
    """s k (1 - tanh^2(k x)) where |x| <= 1, of s tanh(k x), which reaches -1 and 1 at the ends."""
    k = DSQ_START + (DSQ_END - DSQ_START) * progress
    scale = k / torch.tanh(torch.tensor(k)).item()
    return scale * (1 - torch.tanh(k * x).square()) * ste(x)


ESTIMATORS: dict[str, Estimator] = {
    "ste": Estimator(ste, "straight through where |x| <= 1"),
    "approx": Estimator(approx, "Bi-Real Net's triangle"),
    "swish": Estimator(swish, "BNN+'s sign-swish, negative beyond its peak"),
    "tanh": Estimator(annealed_tanh, "IR-Net's tanh, sharpening over the training", sharpens=True),
    "dsq": Estimator(dsq, "differentiable soft quantisation, sharpening over the training", sharpens=True),
}


def sharpens(name: str) -> bool:
    """The estimator depends on how far the training has come."""
    return ESTIMATORS[name].sharpens


def quantised(x: Tensor, bits: int, *, by: str = "ste", progress: float = 0.0) -> Tensor:
    """Odd integers of `bits` bits (`steps.to_odd`), with an estimated gradient.

    grad_x = grad (2^bits - 1) d(x)

    Args:
        x: any shape, floating; -1..1 is the range of the levels.
        bits: 1 to 8.
        by: one of `ESTIMATORS`; more than one bit is estimated by `ste`, whatever this says.
        progress: how far the training has come, 0..1.

    Raises:
        UsageError: an unknown estimator.
    """
    if by not in ESTIMATORS:
        raise unknown("estimator", by, ESTIMATORS)
    return cast(Tensor, _Quantised.apply(x, bits, by if bits == 1 else "ste", progress))  # pyright: ignore[reportUnknownMemberType] - no stub


class _Quantised(torch.autograd.Function):
    """Levels forward, an estimator's derivative backward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bits: int, by: str, progress: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - by design of autograd.Function
        return to_odd(x, bits)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, ctx.bits, ctx.by, ctx.progress = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride] - by design of autograd.Function
        (x,) = ctx.saved_tensors
        if ctx.by == "ste":  # the same as the product below, in one pass over memory
            passed = torch.ops.aten.hardtanh_backward(grad, x, -WITHIN, WITHIN)
        elif ctx.by == "approx" and grad.dtype == x.dtype and fused.usable(grad, x):
            passed = fused.triangle(grad, x)
        else:
            passed = grad * ESTIMATORS[ctx.by].derivative(x, ctx.progress)
        return (passed if ctx.bits == 1 else passed * steps(ctx.bits)), None, None, None
