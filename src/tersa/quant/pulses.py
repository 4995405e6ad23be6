"""What an update becomes when a device answers pulses unevenly.

A weight w in [-h, h] is the state q = (w + h) / 2h of one device beside a fixed reference, 0 <= q <= 1. An
update delta asks for pulses worth d = |delta| / 2h of the whole swing. What they do depends on where q is:

    linear        w' = w + delta, unclipped and bit for bit
    soft-bounds   w' = w + delta (1 - w/h) upwards,  w + delta (1 + w/h) downwards
    exponential   q' = q + (b - q) (1 - e^(-a d)) upwards,  b = 1 / (1 - e^-a)
                  1 - q' likewise from 1 - q downwards, with a of its own

The exponential curve is q(p) = (1 - e^(-a p)) / (1 - e^-a) of the share p of all pulses, started from any
state: n pulses of 1/n lead from 0 to 1 exactly, whatever a is; a = 0 is linear. Different a for up and down
make the asymmetry that pulls weights to where both answers are equal. Bounded forms are clipped to [-h, h].

What this does not do: count pulses or give them noise; a written level has `program_noise`.

References:
    Chen, Peng & Yu, NeuroSim+ (IEDM 2017), the device's non-linear update.
    Fusi & Abbott, Limits on the memory storage capacity of bounded synapses (2007): soft bounds.

Example:
    >>> half = torch.tensor(1.0)
    >>> pulsed(torch.tensor([0.0, 0.9]), torch.tensor([0.1, 0.1]), half, Response("soft-bounds"))
    tensor([0.1000, 0.9100])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ResponseKind = Literal["linear", "soft-bounds", "exponential"]
STRAIGHT = 1e-4
"""Non-linearity below which the exponential curve is its straight limit (they differ by a/2 of a step)."""


@dataclass(frozen=True)
class Response:
    """How a device answers pulses.

    Attributes:
        kind: form of the curve.
        up: a of potentiation, for `exponential`; 0 is linear.
        down: a of depression.
    """

    kind: ResponseKind = "linear"
    up: float = 0.0
    down: float = 0.0


def pulsed(weight: Tensor, delta: Tensor, half: Tensor, response: Response) -> Tensor:
    """The weight after an update through pulses.

    Args:
        weight: w, any shape, within [-half, half].
        delta: the update asked for, of the same shape.
        half: h, the half width of the range, positive, broadcast against `weight`.
        response: how the device answers.

    Returns:
        w', shaped like `weight`.
    """
    if response.kind == "linear":
        return weight + delta
    if response.kind == "soft-bounds":
        moved = weight + delta * torch.where(delta > 0, 1 - weight / half, 1 + weight / half)
    else:
        state, asked = (weight + half) / (2 * half), delta.abs() / (2 * half)
        upper = _climb(state, asked, response.up)
        lower = 1 - _climb(1 - state, asked, response.down)
        moved = torch.where(delta > 0, upper, torch.where(delta < 0, lower, state)) * (2 * half) - half
        moved = torch.where(delta == 0, weight, moved)
    return torch.minimum(torch.maximum(moved, -half), half)


def _climb(state: Tensor, asked: Tensor, nonlinearity: float) -> Tensor:
    """q' after pulses worth `asked` of the swing, upwards."""
    if nonlinearity < STRAIGHT:
        return state + asked
    bound = -1 / math.expm1(-nonlinearity)
    return state - (bound - state) * torch.expm1(-nonlinearity * asked)
