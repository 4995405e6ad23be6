"""One run of shrink, prune or adapt, while it works: what all of its parts share.

Example:
    >>> Job.__dataclass_fields__["ended"].default is None
    True
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from tersa.data.task import Task
from tersa.prune.groups import Groups
from tersa.prune.surgery import resize_
from tersa.recipes import pruning
from tersa.recipes.deploy import Dock
from tersa.recipes.goals import Goals
from tersa.recipes.setting import Say
from tersa.recipes.trajectory import Table, Trajectory
from tersa.train.lessons import Lessons

Ending = Literal["bounds", "floor", "empty", "diverged", "broken", "schedule"]
"""Why pruning stopped: bounds met, accuracy gone, nothing left, training diverged, the next network does not
run, all steps made."""


class Remover(Protocol):
    """What a descent removes with, step by step.

    Attributes:
        model: the network as it is now.
    """

    model: nn.Module

    @property
    def unit(self) -> str:
        """What it removes, in words."""
        ...

    @property
    def start(self) -> int:
        """Units in scope at the start."""
        ...

    @property
    def left(self) -> int:
        """Of those, still there."""
        ...

    @property
    def least(self) -> int:
        """Of those, never removed."""
        ...

    def step_(self, index: int, count: int) -> str:
        """Remove `count` units, retrain, and say what was done."""
        ...

    def gone(self) -> Tensor:
        """The channels that the network lacks."""
        ...

    def memory(self) -> dict[str, Tensor] | None:
        """What the optimiser remembers, where it goes on."""
        ...


@dataclass(kw_only=True)
class Retraining:
    """What learning again draws on.

    Attributes:
        task: the data.
        baseline: the trained network; the teacher, never changed.
        protocol: how.
        seed: of the whole run.
        device: for training.
        say: shows progress.
        lessons: the baseline's answers to fixed views of the training images, once they are there.
    """

    task: Task
    baseline: nn.Module
    protocol: pruning.Protocol
    seed: int
    device: str
    say: Say
    lessons: Lessons | None = None


@dataclass(kw_only=True)
class Job(Retraining):
    """One run at work.

    Attributes:
        groups: channel groups of the network that is pruned.
        fresh: builds a network of its class and size, for weights from disk.
        drawn: the same with weights as its spec draws them; None for `fresh`.
        goals: what is asked.
        dock: exports and weighs candidates.
        way: the steps on disk.
        light: what replaced the baseline's convolutions, empty for nothing.
        zeros: weights of the baseline that are zero were pruned before, and stay zero.
        ended: why pruning stopped, once it has.
        reason: what went wrong in the step that ended it, in a line; empty where nothing did.
    """

    groups: Groups
    fresh: Callable[[], nn.Module]
    goals: Goals
    dock: Dock
    way: Trajectory
    drawn: Callable[[], nn.Module] | None = None
    light: str = ""
    zeros: bool = False
    ended: Ending | None = None
    reason: str = ""

    def network(self, table: Table, index: int) -> nn.Module:
        """The network of a stored step; step 0 is the baseline."""
        if table == "steps" and index == 0:
            return copy.deepcopy(self.baseline).eval()
        model = self.fresh()
        resize_(model, self.way.weights(table, index))
        return model.eval()

    @property
    def zeroes(self) -> bool:
        """Weights are zeroed in place, and channels stay."""
        return self.protocol.granularity != "map"

    @property
    def allowed_loss(self) -> float | None:
        """Points of validation accuracy that may be lost, or None."""
        assert self.dock.start is not None
        return self.goals.allowed_loss(self.dock.start.accuracy)
