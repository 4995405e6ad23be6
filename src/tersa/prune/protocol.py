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

from tersa.prune.groups import Groups


def choose(scores: Tensor, groups: Groups, *, count: int, least: int = 1) -> Tensor:
    """The `count` units of lowest score, leaving every group at least `least` units.

    Args:
        scores: one per unit, in the order of `groups.units`, comparable between groups.
        groups: the channel groups.
        count: how many to remove; fewer are returned when the groups have no more to give.
        least: units that stay in each group.

    Returns:
        (<= count,) units, ascending.
    """
    if not len(groups.units):
        return groups.units
    owner = torch.cat([torch.full((len(g.units),), i) for i, g in enumerate(groups.groups)])
    left = [len(group.units) for group in groups.groups]
    units = groups.units
    chosen: list[int] = []
    for index in torch.argsort(scores, stable=True).tolist():
        if len(chosen) == count:
            break
        group = int(owner[index])
        if left[group] > least:
            left[group] -= 1
            chosen.append(int(units[index]))
    return torch.tensor(sorted(chosen), dtype=torch.long)


def layer_widths(model: nn.Module, groups: Groups) -> dict[str, int]:
    """Output channels (or neurons) of each prunable layer, in order of the forward pass."""
    state = model.state_dict()
    return {
        layer: int(state[f"{layer}.weight"].shape[0]) for group in groups.groups for layer in group.layers
    }
