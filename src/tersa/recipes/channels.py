"""Removing channels: feature maps and neurons, gone from the tensors and from what the optimiser remembers.

Example:
    >>> words(12, 0, 100), words(12, 2, 0)
    ('removed 12 channels, retrained 100 iterations', 'removed 12 channels, took back 2 for others')
"""

from __future__ import annotations

import bisect
import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tersa.errors import ModelError, brief
from tersa.models.summary import macs, parameters
from tersa.prune.costs import cost_aware, unit_macs, unit_parameters, useful
from tersa.prune.criteria import CRITERIA
from tersa.prune.evidence import collect
from tersa.prune.groups import Groups
from tersa.prune.normalise import NORMALISATIONS, normalise
from tersa.prune.protocol import choose, tensors_of, within
from tersa.prune.surgery import after, remove_, restore_
from tersa.recipes.job import Job
from tersa.recipes.retraining import Follower, follower_of, retrain_
from tersa.report.numbers import plural
from tersa.train.device import reproducible

LEAST_HELP = 0.1
"""A unit that saves less than this part of what an average unit saves does not help."""

TRIED = 64
"""Units of the step that meets all bounds, the most important ones, that are tried to be kept."""

TRIAL_IMAGES = 8
"""Training images on which a network is tried after channels are gone."""


@dataclass
class Channels:
    """A descent that removes channels.

    Attributes:
        job: the run.
        model: the network as it is now.
        groups: what is left of its channel groups.
        follower: the training that goes on, where one does.
        first: scores of the baseline's units, where they are taken once.
    """

    job: Job
    model: nn.Module
    groups: Groups
    follower: Follower | None = None
    first: Tensor | None = None
    unit: str = "channel"

    @staticmethod
    def at(job: Job, index: int) -> Channels:
        """Go on from a stored step."""
        model = job.network("steps", index)
        return Channels(job, model, after(job.groups, job.way.gone(index)), follower_of(job, model, index))

    @property
    def start(self) -> int:
        """Channels in scope at the start."""
        return int(within(self.job.groups, self.job.protocol.layers()).sum())

    @property
    def left(self) -> int:
        """Of those, still there."""
        return int(self._allowed().sum())

    @property
    def least(self) -> int:
        """Of those, never removed: one of each group, or what `round_to` leaves it."""
        allowed = self._allowed()
        return int(allowed.sum()) - len(self._choose(torch.zeros(len(allowed)), len(allowed), allowed))

    def gone(self) -> Tensor:
        """The units that the network lacks."""
        return self.job.groups.units[~torch.isin(self.job.groups.units, self.groups.units)]

    def memory(self) -> dict[str, Tensor] | None:
        """What the optimiser remembers, where it goes on."""
        return self.follower.memory() if self.follower else None

    def step_(self, index: int, count: int) -> str:
        """Remove, retrain and perhaps take back; the step in words.

        Raises:
            Diverged: a score or the loss became NaN or infinite.
            ModelError: the network does not run without the channels.
        """
        protocol, whole, earlier = self.job.protocol, self.groups, None
        self.model.to(self.job.device)
        if protocol.regrow:
            earlier = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        units = self._lowest(index, count) if count else self.groups.units[:0]
        self._remove_(units)
        self._learn_(index, self._learning(whole, units))
        back, landed = 0, self._counted() and not self._unmet(self.model)
        if earlier is not None and len(units) and not landed:  # what came back would lose the bounds again
            back = self._regrow_(whole, earlier, units, index)
        return words(len(units), back, protocol.retrain)

    def _choose(self, scores: Tensor, count: int, allowed: Tensor) -> Tensor:
        """The units that go next, in blocks where widths are multiples."""
        return choose(scores, self.groups, count=count, allowed=allowed, round_to=self.job.protocol.round_to)

    def _allowed(self) -> Tensor:
        return within(self.groups, self.job.protocol.layers())

    def _remove_(self, units: Tensor) -> None:
        if len(units) and self.follower:
            self.groups = self.follower.remove_(self.groups, units)
        elif len(units):
            self.groups = remove_(self.model, self.groups, units)
        if len(units) and (fault := self._fault(self.model)):
            raise ModelError(
                f"the network does not run after removing {plural(len(units), 'channel')}: {fault}; its "
                "forward code relies on a number of channels (--keep the layers in question)"
            )

    def _fault(self, model: nn.Module) -> str:
        """Why a network cannot answer some images, see `fault_of`."""
        task = self.job.task
        return fault_of(model, task.normalise(task.train.images[:TRIAL_IMAGES]), len(task.classes))

    def _learn_(self, index: int, only: set[str] | None) -> None:
        count = self.job.protocol.retrain
        if self.follower:
            self.follower.learn_(count, only)
        else:
            retrain_(self.job, self.model, count, seed=self.job.seed + 1000 * index, only=only)

    def _learning(self, groups: Groups, units: Tensor) -> set[str] | None:
        """Names of the parameters and buffers that may learn after `units` went; None for all.

        After a step of a schedule that removes nothing: of the layers that lost channels before.
        """
        if self.job.protocol.retrain_scope == "all":
            return None
        if not len(units):
            groups, units = self.job.groups, self.gone()
        return tensors_of(groups, units)

    def _regrow_(self, whole: Groups, earlier: dict[str, Tensor], units: Tensor, index: int) -> int:
        """Give the removed units another chance: those that now score better than survivors change places.

        The network grows back to `whole`, with what the survivors have learnt since; all units are scored
        again, and as many go as before. At most the share `regrow` of them are others.

        Returns:
            How many came back.

        References:
            Guo, Yao & Chen, Dynamic Network Surgery for Efficient DNNs (NeurIPS 2016): splicing; here of
            channels.
        """
        if self.follower:
            self.follower.restore_(self.groups, whole, earlier)
        else:
            restore_(self.model, self.groups, whole, earlier)
        self.groups = whole
        scores = self._scores(index)
        again = choose(scores, whole, count=len(units), allowed=self._allowed())
        rank = {int(unit): place for place, unit in enumerate(whole.units[torch.argsort(scores)].tolist())}
        most = round(self.job.protocol.regrow * len(units))
        back = sorted(units[~torch.isin(units, again)].tolist(), key=lambda unit: -rank[unit])[:most]
        stay = torch.tensor(back, dtype=torch.long)
        firm = units[~torch.isin(units, stay)]
        rest = after(whole, firm)
        last = torch.where(
            torch.isin(rest.units, stay), torch.inf, scores[torch.isin(whole.units, rest.units)]
        )
        free = torch.isin(rest.units, torch.cat([again, stay]))  # the others; those that came back if need be
        leave = torch.cat([firm, choose(last, rest, count=len(back), allowed=free)])
        self._remove_(leave.sort().values)
        return len(units) - int(torch.isin(units, leave).sum())

    def _lowest(self, index: int, count: int) -> Tensor:
        """The units that step `index` removes: of those that help, where some bounds are met already."""
        scores, allowed = self._scores(index), self._allowed()
        if len(self._choose(scores, 1, allowed & self._helpful())):
            allowed &= self._helpful()

        def lowest(number: int) -> Tensor:
            return self._choose(scores, number, allowed)

        units = lowest(self._enough(lowest, count))
        return units if self.job.protocol.round_to > 1 else self._needed(units, scores)

    def _enough(self, lowest: Callable[[int], Tensor], count: int) -> int:
        """The fewest units, at most `count`, whose removal meets every bound; `count` where none does.

        A step that would fall far below what was asked gives accuracy away.
        """
        if not self._counted():
            return count

        def enough(number: int) -> bool:
            return self._meets(lowest(number)) is not False  # where it does not run, fewer may, and be enough

        if not enough(count):
            return count
        return bisect.bisect_left(range(1, count), True, key=enough) + 1

    def _needed(self, units: Tensor, scores: Tensor) -> Tensor:
        """The units without those that may stay after all, the most important first: all bounds are met.

        Scores order a step's units, and the last of them may save so much that earlier ones, of other layers,
        need not go.

        Args:
            units: of the step, in ascending order.
            scores: of all units that are left, in the order of `groups.units`.
        """
        if not self._counted() or not self._meets(units):
            return units
        order = self.groups.units[torch.argsort(scores, descending=True, stable=True)]
        needed = units
        for unit in order[torch.isin(order, units)][:TRIED].tolist():
            rest = needed[needed != unit]
            if len(rest) and not self._unmet(self._without(rest)):
                needed = rest
        return needed if self._meets(needed) else units

    def _counted(self) -> bool:
        """All bounds are on MACs and parameters, which are counted at once."""
        goals = self.job.goals
        known = self.job.dock.start is not None
        return known and bool(goals.macs or goals.parameters) and not (goals.size or goals.latency)

    def _meets(self, units: Tensor) -> bool | None:
        """Whether MACs and parameters are within their bounds without some units; None if nothing runs."""
        trial = self._without(units)
        return None if self._fault(trial) else not self._unmet(trial)

    def _without(self, units: Tensor) -> nn.Module:
        """A copy of the network that lacks some units."""
        trial = copy.deepcopy(self.model)
        remove_(trial, self.groups, units)
        return trial

    def _helpful(self) -> Tensor:
        """Units that bring an unmet bound nearer, (U,) bool; all of them where bounds say nothing of units.

        Where parameters are asked for and few enough, but MACs are not, neurons of a fully connected layer
        would only cost accuracy.
        """
        start, shape = self.job.dock.start, self.job.task.shape
        everything = torch.ones(len(self.groups.units), dtype=torch.bool)
        if not self._counted() or start is None:
            return everything
        unmet = [_costs(name, self.model, self.groups, shape)[0] for name in self._unmet(self.model)]
        return useful(unmet, LEAST_HELP) if unmet else everything

    def _unmet(self, model: nn.Module) -> list[str]:
        """Which of `macs` and `parameters` are asked for and still too many in a network."""
        goals, start = self.job.goals, self.job.dock.start
        found: list[str] = []
        if start and goals.macs and macs(model, self.job.task.shape) > goals.macs.limit(start.macs):
            found.append("macs")
        if start and goals.parameters and parameters(model) > goals.parameters.limit(start.parameters):
            found.append("parameters")
        return found

    def _priced(self, model: nn.Module) -> str:
        """What a unit's price counts: MACs, or parameters where they alone are too many.

        Where MACs are few enough and parameters are not, a price on MACs would go on taking channels of early
        layers, which hold few parameters. Size and latency have no count of their own; MACs stand for them.
        """
        goals = self.job.goals
        alone = self._unmet(model) == ["parameters"] and not (goals.size or goals.latency)
        return "parameters" if alone else "macs"

    def _scores(self, index: int) -> Tensor:
        """Normalised, cost-aware scores of the units that are left, (U,)."""
        if self.job.protocol.recompute == "every":
            return _fresh(self.job, self.model, self.groups, index, self._priced(self.model))
        if self.first is None:
            whole = self.job.network("steps", 1 if self.job.light else 0)
            self.first = _fresh(self.job, whole, self.job.groups, 1, self._priced(whole))
        return self.first[torch.isin(self.job.groups.units, self.groups.units)]


def fault_of(model: nn.Module, images: Tensor, classes: int) -> str:
    """Why a network gives no answers to images, in training mode or out of it; empty where it does.

    Works on a copy, and leaves torch's random numbers as they were.

    Args:
        model: the network.
        images: (N, C, H, W) normalised.
        classes: logits that it must give for each.

    Example:
        >>> images = torch.zeros(2, 1, 2, 2)
        >>> fault_of(nn.Flatten(), images, 4), fault_of(nn.Flatten(), images, 3)
        ('', 'its output is 2 x 4 for 2 images of 3 classes')
    """
    trial = copy.deepcopy(model)
    device = next((each.device for each in trial.parameters()), images.device)
    wanted = (len(images), classes)
    with torch.no_grad(), reproducible(0, str(device)):
        for training in (False, True):
            try:
                found = trial.train(training)(images.to(device))
            except Exception as error:  # noqa: BLE001 - whatever a user's own forward raises
                return brief(error)
            if found.shape != wanted:
                shape = " x ".join(map(str, found.shape))
                return f"its output is {shape} for {plural(wanted[0], 'image')} of {classes} classes"
    return ""


def words(count: int, back: int, retrain: int) -> str:
    """A step as it is told."""
    said = f"removed {plural(count, 'channel')}"
    said += f", took back {back} for others" if back else ""
    return f"{said}, retrained {plural(retrain, 'iteration')}" if retrain else said


def _fresh(job: Job, model: nn.Module, groups: Groups, index: int, priced: str) -> Tensor:
    """Scores less what each unit costs of the network's MACs, or parameters."""
    generator = torch.Generator().manual_seed(job.seed + index)
    chosen = torch.randperm(len(job.task.train), generator=generator)[: job.protocol.criterion_samples]
    images = job.task.train.take(chosen)
    model.to(job.device)
    criterion = CRITERIA[job.protocol.criterion]
    scores = collect(model, groups, job.task, images, criterion, generator=generator)
    scores = normalise(scores, groups, NORMALISATIONS[job.protocol.normalisation])
    return cost_aware(scores, *_costs(priced, model, groups, job.task.shape), job.protocol.mac_weight)


def _costs(name: str, model: nn.Module, groups: Groups, shape: tuple[int, int, int]) -> tuple[Tensor, float]:
    """What goes with each unit, (U,), and with the whole network, in `macs` or `parameters`."""
    if name == "parameters":
        return unit_parameters(model, groups), parameters(model)
    return unit_macs(model, groups, shape), macs(model, shape)
