"""The order of removal: which units go next, and the widths that are left.

A protocol alternates between scoring, removing and retraining; the loop itself belongs to the recipe that
steers it (`recipes/descent.py`), since it needs training and goals. Here is the part that decides.

Example:
    >>> import torch
    >>> from tersa.prune.groups import find_groups
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> groups = find_groups(net, (4,))
    >>> scores = torch.tensor([0.3, 0.1, 0.2])
    >>> choose(scores, groups, count=5).tolist() == groups.units[[1, 2]].tolist()
    True
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersa.prune.groups import FIXED, Groups


def choose(scores: Tensor, groups: Groups, *, count: int, least: int = 1) -> Tensor:
    """The `count` units of lowest score, leaving every group `least` units and every layer one channel.

    Args:
        scores: one per unit, in the order of `groups.units`, comparable between groups.
        groups: the channel groups.
        count: how many to remove; fewer are returned when the groups have no more to give.
        least: units that stay in each group.

    Returns:
        (<= count,) units, ascending.
    """
    homes, left = _homes(groups, least)
    units = groups.units
    chosen: list[int] = []
    for index in torch.argsort(scores, stable=True).tolist():
        if len(chosen) == count:
            break
        unit = int(units[index])
        if all(left[home] > 0 for home in homes[unit]):
            for home in homes[unit]:
                left[home] -= 1
            chosen.append(unit)
    return torch.tensor(sorted(chosen), dtype=torch.long)


def _homes(groups: Groups, least: int) -> tuple[dict[int, list[int]], list[int]]:
    """The sets of units that must not run empty: those of each unit, and how many each set can give.

    These are the groups, and the dimensions of parameters that carry only a part of a group's units.
    """
    spare = {tuple(group.units.tolist()): len(group.units) - least for group in groups.groups}
    for slot in groups.slots:
        held = torch.unique(slot.units)
        if len(held) and int(held[0]) != FIXED:
            spare.setdefault(tuple(held.tolist()), len(held) - 1)
    homes: dict[int, list[int]] = {}
    for home, held in enumerate(spare):
        for unit in held:
            homes.setdefault(unit, []).append(home)
    return homes, list(spare.values())


def layer_widths(model: nn.Module, groups: Groups) -> dict[str, int]:
    """Output channels (or neurons) of each prunable layer, in order of the forward pass."""
    state = model.state_dict()
    return {
        layer: int(state[f"{layer}.weight"].shape[0]) for group in groups.groups for layer in group.layers
    }
