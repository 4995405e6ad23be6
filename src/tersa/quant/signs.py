"""One and two bits: binary and ternary weights.

The range gives the scale a. Ranges `layer` and `channel` take a mean of the values, the others their end:

    binary    value = a sign(x), sign(0) = +1;    a = mean |x|        (layer, channel; XNOR-Net)
                                                  a = max(|low|, |high|)                            (others)
    ternary   value = a sign(x) where |x| > d, else 0
              d = 0.7 mean |x|, a = mean of the |x| above d           (layer, channel; TWN)
              d = a / 2, a = max(|low|, |high|)                                                     (others)

Stochastic rounding is between neighbours: binary goes to +a with probability clip((x / a + 1) / 2, 0, 1)
(BinaryConnect's hard sigmoid), ternary as `rounding.to_whole` of x / a.

Means are taken in double precision, so that the mean of values that are all a is a. Where the scale is a
mean, the straight-through gradient is 1 everywhere: many weights lie beyond it, and all have to move.
Elsewhere it is 1 within -a .. a and 0 outside.

All zeros give the scale 0 and zeros. Codes: binary 0 (-a) and 1 (+a), ternary -1, 0, 1.

Example:
    >>> x = torch.tensor([-0.25, 0.0, 0.5, 1.25])
    >>> spec = QuantSpec(kind="binary")
    >>> binary(x, *binary_bounds(x, spec), spec).values.tolist()
    [-0.5, 0.5, 0.5, 0.5]

References:
    Courbariaux, Bengio & David, BinaryConnect (NIPS 2015); Rastegari et al., XNOR-Net (ECCV 2016), section
    3.1; Li & Liu, Ternary Weight Networks (2016), section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersa.quant import ranges
from tersa.quant.base import Bounds, Quantiser, Snapped, centred, from_zero
from tersa.quant.primitives import sign_pm1
from tersa.quant.ranges import half_width, rows, spread
from tersa.quant.rounding import to_whole
from tersa.quant.spec import QuantSpec
from tersa.quant.uniform import clamp_mirrored

TERNARY_SHARE = 0.7
"""d over mean |x|: TWN's value, between the best ones for uniform (2/3) and normal (0.75) weights."""


def own_scale(spec: QuantSpec) -> bool:
    """The scale is a mean of the values, not the end of a range."""
    return spec.range in ("layer", "channel")


def binary(x: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, uniform: Tensor | None = None) -> Snapped:
    """Snap to -a or a; see the module for the formula and `base.Snap` for arguments."""
    a = half_width(low, high)
    if uniform is None:
        signs = sign_pm1(x)
    else:
        rises = ((_over(x, a) + 1) / 2).clamp(0, 1)
        signs = torch.where(uniform < rises, torch.ones_like(x), -torch.ones_like(x))
        signs = torch.where(x.isnan(), x, signs)
    return Snapped(a * signs, (signs + 1) / 2)


def binary_levels(low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """(..., 2): -a and a."""
    a = half_width(low, high)
    return torch.stack([-a, a], -1)


def binary_bounds(x: Tensor, spec: QuantSpec) -> Bounds:
    """(-a, a)."""
    if not own_scale(spec):
        return ranges.bounds(x, spec)
    a = _mean_magnitude(x.detach(), spec).to(x.dtype)
    return -a, a


def ternary(x: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, uniform: Tensor | None = None) -> Snapped:
    """Snap to -a, 0 or a; see the module for the formula and `base.Snap` for arguments."""
    a = half_width(low, high)
    if uniform is None:
        codes = torch.where(x.abs() > _threshold(x, a, spec), sign_pm1(x), x * 0)
    else:
        codes = to_whole(_over(x, a), -1, 1, uniform)
    return Snapped(codes * a, codes)


def ternary_levels(low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """(..., 3): -a, 0 and a."""
    a = half_width(low, high)
    return torch.stack([-a, torch.zeros_like(a), a], -1)


def ternary_bounds(x: Tensor, spec: QuantSpec) -> Bounds:
    """(-a, a)."""
    if not own_scale(spec):
        return ranges.bounds(x, spec)
    x = x.detach()
    size = rows(x, spec).abs()
    above = size > (TERNARY_SHARE * _mean_magnitude(x, spec)).to(x.dtype).unsqueeze(-1)
    total = torch.where(above, size, torch.zeros_like(size)).double().sum(-1)
    a = (total / above.sum(-1).clamp(min=1)).to(x.dtype)
    return -a, a


def straight_through(x: Tensor, low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """x itself where the scale is a mean, else x within -a .. a."""
    return x if own_scale(spec) else clamp_mirrored(x, low, high, spec)


def _over(x: Tensor, a: Tensor) -> Tensor:
    """x / a, and 0 where the scale is 0."""
    return torch.where(a > 0, x, x * 0) / torch.where(a > 0, a, torch.ones_like(a))


def _mean_magnitude(x: Tensor, spec: QuantSpec) -> Tensor:
    """mean |x| of each range in double precision, () or (O,)."""
    return rows(x, spec).abs().double().mean(-1)


def _threshold(x: Tensor, a: Tensor, spec: QuantSpec) -> Tensor:
    """d, broadcastable with x."""
    if not own_scale(spec):
        return a / 2
    return spread((TERNARY_SHARE * _mean_magnitude(x, spec)).to(x.dtype), x)


BINARY = Quantiser(binary, binary_levels, straight_through, binary_bounds, from_zero)
TERNARY = Quantiser(ternary, ternary_levels, straight_through, ternary_bounds, centred)
