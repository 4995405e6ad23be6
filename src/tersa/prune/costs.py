"""What each unit costs: the multiply-accumulates that go with it, and scores that take them into account.

Example:
    >>> from torch import nn
    >>> from tersa.prune.groups import find_groups
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> groups = find_groups(net, (1, 2, 2))
    >>> unit_macs(net, groups, (1, 2, 2))
    tensor([6., 6., 6.], dtype=torch.float64)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersa.models.summary import summary
from tersa.prune.groups import Groups


def unit_macs(model: nn.Module, groups: Groups, shape: tuple[int, int, int]) -> Tensor:
    """Multiply-accumulates of one image that go with each unit alone, (U,), in the order of `groups.units`.

    A unit takes its share of every layer that makes its channels and of every layer that reads them.

    Args:
        model: the network that `groups` belongs to.
        groups: its channel groups.
        shape: (C, H, W) of one image.
    """
    layers = {row.name: row.macs for row in summary(model, shape).rows}
    place = {int(unit): index for index, unit in enumerate(groups.units)}
    found = torch.zeros(len(place), dtype=torch.float64)
    for slot in groups.slots:
        layer, _, leaf = slot.name.rpartition(".")
        if leaf != "weight" or not layers.get(layer):
            continue
        share = layers[layer] / len(slot.units)
        for unit in slot.units.tolist():
            if unit in place:
                found[place[unit]] += share
    return found


def cost_aware(scores: Tensor, macs: Tensor, total: float, weight: float) -> Tensor:
    """`s - weight * macs / total`: of two equally important units the more expensive one goes first.

    Args:
        scores: normalised between layers, (U,).
        macs: of each unit, (U,).
        total: of the whole network, so that the penalty does not depend on its size.
        weight: lambda; 0 leaves the scores as they are.

    References:
        Molchanov et al. (ICLR 2017), section 2.2, FLOPs regularization (there with lambda times MFLOPs).
    """
    return scores - weight * (macs / total).to(scores.dtype)
