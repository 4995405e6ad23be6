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

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tersa.models.summary import summary
from tersa.prune.groups import Groups
from tersa.prune.trace import Owner


def unit_macs(model: nn.Module, groups: Groups, shape: tuple[int, int, int]) -> Tensor:
    """Multiply-accumulates of one image that go with each unit alone, (U,), in the order of `groups.units`.

    A unit takes its share of every layer that makes its channels and of every layer that reads them, for all
    calls of the layer; what it both makes and reads counts once.

    Args:
        model: the network that `groups` belongs to.
        groups: its channel groups.
        shape: (C, H, W) of one image.
    """
    owner = Owner(model)
    work: dict[str, float] = {}
    for row in summary(model, shape).rows:  # weights that several layers share work in each
        weight = owner.first_name(f"{row.name}.weight")
        work[weight] = work.get(weight, 0) + row.macs
    return _with_unit(groups, work)


def unit_parameters(model: nn.Module, groups: Groups) -> Tensor:
    """Weights and biases that go with each unit alone, (U,), in the order of `groups.units`.

    A weight between two units (one makes it, one reads it) counts for both: it goes with either.
    """
    return _with_unit(groups, {name: value.numel() for name, value in model.named_parameters()})


def _with_unit(groups: Groups, whole: Mapping[str, float]) -> Tensor:
    """What goes with each unit alone, (U,): its part of the index along each dimension, the overlap once.

    Args:
        groups: the channel groups.
        whole: what there is to share, by name of the parameter; of others nothing is.
    """
    place = {int(unit): index for index, unit in enumerate(groups.units)}
    found = torch.zeros(len(place), dtype=torch.float64)
    held: dict[str, dict[int, Tensor]] = {}
    for slot in groups.slots:  # a parameter that is used twice has the same units each time
        if whole.get(slot.name) and slot.dim not in held.setdefault(slot.name, {}):
            held[slot.name][slot.dim] = slot.units
    for name, dims in held.items():
        overlap = torch.full_like(found, whole[name])
        for units in dims.values():
            part = torch.zeros_like(found)
            for unit in units.tolist():
                if unit in place:
                    found[place[unit]] += whole[name] / len(units)
                    part[place[unit]] += 1 / len(units)
            overlap *= part
        if len(dims) > 1:  # makes and reads: at most two dimensions have units
            found -= overlap
    return found


def useful(shares: Sequence[Tensor], least: float) -> Tensor:
    """Units that bring at least one cost down by a fair part, (U,) bool.

    Args:
        shares: for each cost that must still fall, how much of it goes with each unit, (U,).
        least: of the average unit's part.
    """
    found = torch.zeros_like(shares[0], dtype=torch.bool)
    for share in shares:
        found |= share >= least * share.mean()
    return found


def cost_aware(scores: Tensor, costs: Tensor, total: float, weight: float) -> Tensor:
    """`s - weight * costs / total`: of two equally important units the more expensive one goes first.

    Args:
        scores: normalised between layers, (U,).
        costs: MACs (or parameters) of each unit, (U,).
        total: of the whole network, so that the penalty does not depend on its size.
        weight: lambda; 0 leaves the scores as they are.

    References:
        Molchanov et al. (ICLR 2017), section 2.2, FLOPs regularization (there with lambda times MFLOPs).
    """
    return scores - weight * (costs / total).to(scores.dtype)
