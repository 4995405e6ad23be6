"""Where the levels of a tensor lie.

    global       [low, high] of the spec, the same for every tensor (document 000: [-1, 1])
    layer        [min x, max x] of the tensor (document 000: local; weights and biases apart)
    channel      [min x, max x] of each slice of the first axis; a tensor with one axis is one channel
    percentile   [max(min x, -c), min(max x, c)], c the smallest |x| that p percent of all |x| do not exceed
    calibrated   measured on a full-precision run by `calibrate`, then handed over
    learned      [-q step, q step], the step trained: see `learned.py`

c is one of the |x| (no interpolation), so that a snapped tensor has the range it was snapped in. Statistics
are over values, not over time; binary and ternary weights have scales of their own (`signs.py`).

A range that is narrower than 2^-100 has no room for levels: the quantisers then give its one value.

Example:
    >>> from tersa.quant.spec import QuantSpec
    >>> low, high = bounds(torch.tensor([-0.5, 0.25, 2.0]), QuantSpec(kind="symmetric"))
    >>> low.item(), high.item()
    (-0.5, 2.0)
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from tersa.errors import UsageError
from tersa.quant.base import Bounds
from tersa.quant.spec import QuantSpec

SMALLEST = 2.0**-100
"""Ranges narrower than this are one value: 255 / width would be near or past the largest float32."""


def bounds(x: Tensor, spec: QuantSpec) -> Bounds:
    """Range of a tensor, without its gradient.

    Args:
        x: one tensor, any shape, not empty.
        spec: `range`, `low`, `high` and `percentile` are read.

    Returns:
        Two tensors, (O,) for range `channel` of a tensor with two or more axes, else ().

    Raises:
        UsageError: a calibrated range was not handed over.
    """
    x = x.detach()
    if spec.range == "global":
        ends = torch.tensor([spec.low, spec.high], dtype=x.dtype, device=x.device)
        return ends[0], ends[1]
    if spec.range == "calibrated":
        raise UsageError(
            "range calibrated needs bounds, measured by tersa.quant.ranges.calibrate on the weights of a "
            "full-precision run; hand them over or choose range percentile"
        )
    parts = rows(x, spec)
    low, high = parts.amin(-1), parts.amax(-1)
    if spec.range == "percentile":
        ceiling = magnitude(x, spec.percentile)
        return torch.maximum(low, -ceiling), torch.minimum(high, ceiling)
    return low, high


def rows(x: Tensor, spec: QuantSpec) -> Tensor:
    """x as one row per range: (P,), or (O, P) of range `channel` for a tensor with two or more axes."""
    return x.flatten(1) if spec.range == "channel" and x.dim() > 1 else x.flatten()


def magnitude(x: Tensor, percentile: float) -> Tensor:
    """The smallest |x| that at least so many percent of all |x| do not exceed, ().

    >>> magnitude(torch.tensor([-4.0, 1.0, 2.0, 3.0]), 75.0).item()
    3.0
    """
    size = x.numel()
    rank = math.ceil(percentile * size / 100 - 1e-9)  # 99.9 % of 1,000 is 999, not 1,000 by a rounding
    return x.abs().flatten().kthvalue(min(max(rank, 1), size)).values


def half_width(low: Tensor, high: Tensor) -> Tensor:
    """a = max(|low|, |high|): the end of a range that mirrors around 0."""
    return torch.maximum(low.abs(), high.abs())


def spread(bound: Tensor, x: Tensor) -> Tensor:
    """A bound () or (O,) shaped to broadcast with x."""
    return bound.view(-1, *[1] * (x.dim() - 1)) if bound.dim() else bound


def widen(seen: Bounds | None, new: Bounds) -> Bounds:
    """The range that holds both; `seen` is None at the start."""
    if seen is None:
        return new
    return torch.minimum(seen[0], new[0]), torch.maximum(seen[1], new[1])


def calibrate(snapshots: Iterable[Tensor], percentile: float = 100.0) -> Bounds:
    """The range that one tensor used over a full-precision run.

        low = min over time of low_t,   high = max over time of high_t

    where [low_t, high_t] is the tensor's range `percentile` at time t (its min..max for 100).

    Args:
        snapshots: the tensor at several times of a run, such as after each epoch; read once, not kept.
        percentile: share of |x| inside each range, in percent.

    Returns:
        low and high, ().

    Raises:
        UsageError: no snapshot.
    """
    spec = QuantSpec(kind="symmetric", range="percentile", percentile=percentile)
    seen: Bounds | None = None
    for snapshot in snapshots:
        seen = widen(seen, bounds(snapshot, spec))
    if seen is None:
        raise UsageError("calibration got no snapshot of the tensor; give its values at one time or more")
    return seen
