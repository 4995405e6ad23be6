"""Stuck-at faults: devices that keep one conductance whatever is written.

A weight is a pair of devices. Each of them is stuck at the lowest, at the highest or at a random level with
the given probabilities, independently. The map is drawn once from the run's seed and stays: training in the
array meets the same faults at every step, and deployment the same as training. Values are shares of the
conductance range, 0 for g_min and 1 for g_max; NaN says that a device works.

What this does not do: faults of whole rows or columns, or faults that come with use.

References:
    Chen et al., RRAM defect modeling and failure analysis based on march test (IEEE Transactions on Computers
    64, 2015): 9.04 % stuck at one end and 1.75 % at the other in a 4 Mb array.

Example:
    >>> found = draw_faults([Stuck(high=0.5)], [1], tensor=0, count=4)
    >>> positive, negative = found.dense(4)
    >>> positive.shape
    torch.Size([1, 4])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tersa.quant.chance import STUCK, generator

WORKS = float("nan")
"""The value of a device that is not stuck."""


@dataclass(frozen=True)
class Stuck:
    """How many devices are stuck, and where.

    Attributes:
        low: share of devices at g_min.
        high: share of devices at g_max.
        random: share of devices at a random level.
        levels: of a device, evenly spaced from g_min to g_max; 0 for any conductance between.
    """

    low: float = 0.0
    high: float = 0.0
    random: float = 0.0
    levels: int = 0

    @property
    def share(self) -> float:
        """Of all devices."""
        return self.low + self.high + self.random


@dataclass(frozen=True)
class Faults:
    """The faults of one tensor, for a stack of runs; only weights with a stuck device are listed.

    Attributes:
        starts: (R + 1,) int64; run r has the entries starts[r] to starts[r + 1].
        index: (F,) int64, places in the run's flattened tensor, rising.
        positive: (F,) float32, what G+ is stuck at, NaN where it works.
        negative: (F,) float32, likewise G-.
    """

    starts: Tensor
    index: Tensor
    positive: Tensor
    negative: Tensor

    def dense(self, count: int) -> tuple[Tensor, Tensor]:
        """What each G+ and each G- is stuck at, both (R, count), NaN where it works."""
        runs = len(self.starts) - 1
        run = torch.repeat_interleave(torch.arange(runs), self.starts.diff())
        found = torch.full((2, runs, count), WORKS)
        found[0, run, self.index] = self.positive
        found[1, run, self.index] = self.negative
        return found[0], found[1]


def draw_faults(stuck: Sequence[Stuck], seeds: Sequence[int], tensor: int, count: int) -> Faults:
    """The map of one tensor: the same for a run alone and in a stack.

    Args:
        stuck: shares, one per run.
        seeds: of the runs.
        tensor: its number in the network, which tells the maps of a run's tensors apart.
        count: weights in it.
    """
    places: list[Tensor] = []
    values: list[Tensor] = []
    for share, seed in zip(stuck, seeds, strict=True):
        levels = _one_run(share, seed, tensor, count) if share.share else torch.full((2, count), WORKS)
        place = (~levels.isnan()).any(0).nonzero().squeeze(1)
        places.append(place)
        values.append(levels[:, place])
    starts = torch.tensor([0, *(len(place) for place in places)]).cumsum(0)
    positive, negative = torch.cat(values, 1).contiguous()
    return Faults(starts, torch.cat(places), positive, negative)


def _one_run(share: Stuck, seed: int, tensor: int, count: int) -> Tensor:
    """Levels (2, count) of G+ and G-, NaN where a device works."""
    source = generator(seed, STUCK, tensor)
    which, level = torch.rand(2, 2, count, generator=source)
    if share.levels:
        level = torch.floor(level * share.levels) / (share.levels - 1)
    found = torch.full((2, count), WORKS)
    found = torch.where(which < share.share, level, found)
    found = torch.where(which < share.low + share.high, 1.0, found)
    return torch.where(which < share.low, 0.0, found)
