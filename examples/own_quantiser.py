"""A quantiser of your own: levels at odd multiples, so that no weight is zero.

values a (2 c + 1) / (2^n - 1),  c = -2^(n-1) .. 2^(n-1) - 1,  a = max |x|
"""

import torch
from torch import Tensor

from tersa.cli.main import run
from tersa.quant import QUANTISERS, QuantSpec
from tersa.quant.base import Quantiser, Snapped
from tersa.quant.ranges import bounds, half_width
from tersa.quant.uniform import clamp_mirrored


def lowest(spec: QuantSpec) -> int:
    """The code of the first level."""
    return -(2 ** (spec.bits - 1))


def snap(x: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, uniform: Tensor | None) -> Snapped:
    """Values on levels, and their codes; `uniform` holds random numbers for stochastic rounding, or None."""
    step = half_width(low, high) / (2**spec.bits - 1)
    place = x / (2 * step) - 0.5
    codes = torch.round(place) if uniform is None else torch.floor(place + uniform)
    codes = codes.clamp(lowest(spec), -lowest(spec) - 1)
    return Snapped((2 * codes + 1) * step, codes)


def levels(low: Tensor, high: Tensor, spec: QuantSpec) -> Tensor:
    """All levels, lowest first."""
    codes = torch.arange(lowest(spec), -lowest(spec))
    return (2 * codes + 1) * (half_width(low, high) / (2**spec.bits - 1)).unsqueeze(-1)


QUANTISERS["odd"] = Quantiser(snap, levels, clamp_mirrored, bounds, lowest)

if __name__ == "__main__":
    run()  # the whole command line, with this quantiser in it
