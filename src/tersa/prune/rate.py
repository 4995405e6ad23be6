"""What trades bytes against error while shared values are trained: lambda, and how it finds a size.

    lambda    error, in units of the mean curvature times s^2, that saving one bit of a code is worth
    h_i       mean over images of (s dL/dw_i)^2, over its mean in the network; a tenth of that mean is added,
              so that weights without gradient do not take any value
    size      sum over codebooks of n H / 8 + `VALUE_BYTES` for each value in use, one more from
              `steps.FINE_FROM` values on    bytes, an estimate
    aim       lambda <- lambda exp(GAIN (size - aim) / aim) at every update, in LEAST .. MOST

so that with an aim training starts from lambda as given and settles where the codes fit; without one lambda
stays. At the rates of scalar quantisation a lambda of 0.01 goes with about 4 bits a weight, 0.04 with 3.

Example:
    >>> import torch
    >>> Rate(0.01).next(0.01, size=100.0), round(Rate(0.01, aim=50.0).next(0.01, size=100.0), 4)
    (0.01, 0.0122)
    >>> round(estimate(torch.tensor([8.0, 8.0])), 2)
    5.4

References:
    Choi, El-Khamy & Lee, Towards the Limit of Network Quantization (ICLR 2017), section 3: curvature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from tersa.prune.evidence import Sample
from tersa.prune.filters import squares
from tersa.prune.steps import FINE_FROM

GAIN = 0.2
LEAST, MOST = 1e-3, 1.0

VALUE_BYTES = 1.7
"""A centroid, and what an adaptive coder loses on learning how often it is used."""

FLOOR = 0.1
"""Of the mean curvature, added to each."""


@dataclass(frozen=True)
class Rate:
    """How bytes are traded.

    Attributes:
        trade: lambda, or where it starts.
        aim: bytes that codebooks and codes are to take, or None.
        curvature: h of each clustered tensor by name, shaped like it; 1 for those without.
    """

    trade: float
    aim: float | None = None
    curvature: Mapping[str, Tensor] = field(default_factory=dict)

    def next(self, trade: float, size: float) -> float:
        """lambda of the next update, from this one's and the size now."""
        if self.aim is None:
            return trade
        return min(MOST, max(LEAST, trade * math.exp(GAIN * min(1.0, (size - self.aim) / self.aim))))


def estimate(counts: Tensor) -> float:
    """Bytes of the codes of one codebook whose values are used so often, and of the values."""
    used = counts[counts >= 0.5].double()
    bits = float((used * (used.sum() / used).log2()).sum()) if len(used) else 0.0
    return bits / 8 + (VALUE_BYTES + (len(counts) >= FINE_FROM)) * len(used)


def curvature(model: nn.Module, scales: Mapping[str, float], sample: Sample) -> dict[str, Tensor]:
    """h of each weight of the named tensors; 1 for tensors that no convolution or linear layer uses.

    Args:
        model: in eval mode.
        scales: s by name.
        sample: training images.
    """
    weights = {name: model.get_parameter(name) for name in scales}
    sums = dict(zip(weights, squares(model, list(weights.values()), sample.parts(model)), strict=True))
    found = {
        name: (total.detach().cpu() / sample.count) * scales[name] ** 2
        for name, total in sums.items()
        if total is not None
    }
    count = sum(each.numel() for each in found.values())
    mean = sum(float(each.sum()) for each in found.values()) / max(1, count)
    if mean == 0.0:
        return {}
    return {name: (each / mean + FLOOR) / (1 + FLOOR) for name, each in found.items()}
