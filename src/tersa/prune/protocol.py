"""The order of removal: how many units go at a step, which ones may, and which are next.

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

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersa.errors import UsageError, unknown
from tersa.prune.groups import Group, Groups


@dataclass(frozen=True)
class Stride:
    """How many units one step removes.

    Attributes:
        value: units, or percent.
        of: `units`, percent of the units there were at the `start`, or of those `left`.

    Example:
        >>> [stride(text).count(1120, 100) for text in ("1", "2%", "2%left")]
        [1, 22, 2]
    """

    value: float
    of: str

    def count(self, start: int, left: int) -> int:
        """Units of the next step, at least 1.

        Args:
            start: prunable units of the baseline within the scope.
            left: of those, still there.
        """
        share = {"units": 1.0, "start": start / 100, "left": left / 100}[self.of]
        return max(1, round(self.value * share))


def stride(text: str) -> Stride:
    """Read `1` (units), `2%` (of the units at the start) or `12%left` (of those that are left).

    Raises:
        UsageError: none of these, or not positive, or 100 % and more.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*(left)?\s*", text)
    if match and not (match.group(3) and not match.group(2)):
        value = float(match.group(1))
        if match.group(2) and 0 < value < 100:
            return Stride(value, "left" if match.group(3) else "start")
        if not match.group(2) and value >= 1 and value == int(value):
            return Stride(value, "units")
    raise UsageError(
        f"--step '{text}' is not understood; write a number of channels (1), a percentage of those at the "
        "start (2%), or of those that are left (12%left)"
    )


def within(groups: Groups, scope: Sequence[str]) -> Tensor:
    """Which units belong to the chosen layers, (U,) bool in the order of `groups.units`.

    Args:
        groups: the channel groups.
        scope: layer names, exact or a prefix ending in `*`; empty, or `network`, for all. A group belongs to
            the scope with any of its layers, since its units can only go together.

    Raises:
        UsageError: a name that matches no prunable layer; a layer whose channels must stay says why.
    """
    chosen = torch.zeros(len(groups.units), dtype=torch.bool)
    names = [name for name in scope if name not in ("network", "global")]
    layers = [layer for group in groups.groups for layer in group.layers]
    for name in names:
        if not any(fits(layer, name) for layer in layers):
            if name in groups.kept:
                raise UsageError(f"the channels of layer '{name}' stay: {groups.kept[name]}")
            raise unknown("prunable layer", name, layers)
    start = 0
    for group in groups.groups:
        end = start + len(group.units)
        if not names or any(fits(layer, name) for layer in group.layers for name in names):
            chosen[start:end] = True
        start = end
    return chosen


def fits(name: str, rule: str) -> bool:
    """A name equals a rule, or begins with a rule that ends in `*`.

    >>> fits("conv1", "conv*"), fits("conv1", "conv")
    (True, False)
    """
    return name == rule or (rule.endswith("*") and name.startswith(rule[:-1]))


def choose(
    scores: Tensor,
    groups: Groups,
    *,
    count: int,
    least: int = 1,
    allowed: Tensor | None = None,
    round_to: int = 1,
) -> Tensor:
    """The `count` units of lowest score, leaving every group at least `least` units.

    With `round_to` N above 1 units go in blocks, after which their layers' width is a multiple of N: the N of
    lowest score, or at first as many as the width is above a multiple. The block of lowest mean score is
    next; N units stay in each group, and all of a group that has no more, or whose units are not the channels
    of its layers (`regular`).

    Args:
        scores: one per unit, in the order of `groups.units`, comparable between groups.
        groups: the channel groups.
        count: how many to remove; fewer are returned when the groups have no more to give, or when a whole
            block would be more; of blocks at least one is taken.
        least: units that stay in each group.
        allowed: which units may go, (U,) bool; None for all.
        round_to: N.

    Returns:
        (<= count,) units, ascending; more where one block is.
    """
    if not len(groups.units):
        return groups.units
    if round_to > 1:
        return _choose_blocks(scores, groups, count, max(least, round_to), allowed, round_to)
    owner = torch.cat([torch.full((len(g.units),), i) for i, g in enumerate(groups.groups)]).tolist()
    left = [len(group.units) for group in groups.groups]
    units = groups.units.tolist()
    free = [True] * len(units) if allowed is None else allowed.tolist()
    chosen: list[int] = []
    for index in torch.argsort(scores, stable=True).tolist():
        if len(chosen) == count:
            break
        group = owner[index]
        if free[index] and left[group] > least:
            left[group] -= 1
            chosen.append(units[index])
    return torch.tensor(sorted(chosen), dtype=torch.long)


def _choose_blocks(
    scores: Tensor, groups: Groups, count: int, least: int, allowed: Tensor | None, round_to: int
) -> Tensor:
    """`choose` where widths are multiples."""
    waiting: list[list[Tensor]] = []  # of each group, its blocks from the last to the first
    start = 0
    for group in groups.groups:
        end = start + len(group.units)
        free = torch.arange(start, end)
        free = free if allowed is None else free[allowed[start:end]]
        lowest = free[torch.argsort(scores[free], stable=True)]
        width, at, blocks = end - start, 0, list[Tensor]()
        while width > least and regular(groups, group):
            size = width % round_to or round_to
            if width - size < least or at + size > len(lowest):
                break
            blocks.append(lowest[at : at + size])
            width, at = width - size, at + size
        waiting.append(blocks[::-1])
        start = end
    chosen: list[Tensor] = []
    taken = 0
    while any(waiting):
        heads = [(float(scores[blocks[-1]].mean()), at) for at, blocks in enumerate(waiting) if blocks]
        block = waiting[min(heads)[1]].pop()
        if chosen and taken + len(block) > count:
            break
        chosen.append(groups.units[block])
        taken += len(block)
    return torch.cat(chosen).sort().values if chosen else groups.units[:0]


def regular(groups: Groups, group: Group) -> bool:
    """A group's units are the channels of each of its layers, one by one.

    Not so where layers make only some of the channels (concatenation), where a channel has to stay, and where
    several channels go together (grouped convolutions).
    """
    made = [slot.units for slot in groups.slots if not slot.incoming]
    own = [units for units in made if bool(torch.isin(units, group.units).any())]
    return all(torch.equal(units.sort().values, group.units.sort().values) for units in own)


def layer_widths(model: nn.Module, groups: Groups) -> dict[str, int]:
    """Output channels (or neurons) of each prunable layer that is there, in order of the forward pass."""
    state = model.state_dict()
    layers = [layer for group in groups.groups for layer in group.layers if f"{layer}.weight" in state]
    return {layer: int(state[f"{layer}.weight"].shape[0]) for layer in layers}


def tensors_of(groups: Groups, units: Tensor) -> set[str]:
    """Names of the parameters and buffers of the layers that make some units, and of the batch norms behind.

    Example:
        >>> from torch import nn
        >>> from tersa.prune.groups import find_groups
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        >>> groups = find_groups(net, (4,))
        >>> sorted(tensors_of(groups, groups.units[:1]))
        ['0.bias', '0.weight', '1.bias', '1.running_mean', '1.running_var', '1.weight']
    """
    tied = [group.units for group in groups.groups if bool(torch.isin(group.units, units).any())]
    whole = torch.cat(tied) if tied else units[:0]
    return {
        slot.name for slot in groups.slots if not slot.incoming and bool(torch.isin(slot.units, whole).any())
    }
