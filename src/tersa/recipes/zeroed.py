"""Zeroing kernels, single weights or N of M: the tensors keep their sizes, masks keep the zeros.

The network gets smaller to store (`prune.sparse`, `export.coded`) and not faster to run: its MACs are those
of the dense one, and are stated so. Masks have no file of their own, they are the zeros of stored weights: a
run that begins with a network of zeros goes on with them.

Example:
    >>> [len(_units(torch.ones(2, 3, 5, 5), unit)) for unit in ("kernel", "weight")]
    [6, 150]
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.data.task import Split
from tersa.errors import unknown
from tersa.prune.blocks import NM, whole
from tersa.prune.criteria import weight_scores
from tersa.prune.holding import apply_, full_masks, held, maskable, masks_of
from tersa.prune.masks import Granularity, Masks, choose_masks, regrow
from tersa.prune.normalise import NORMALISATIONS
from tersa.prune.protocol import fits, tensors_of
from tersa.recipes.job import Job
from tersa.recipes.pruning import Protocol, listed
from tersa.recipes.retraining import Follower, follower_of, retrain_
from tersa.report.numbers import plural

GRADIENT_BATCH = 250
"""Images of one backward pass."""


def masked_training(job: Job, model: nn.Module) -> AbstractContextManager[None]:
    """Zeros of a run that zeroes stay zero for a block, those of an earlier run in every layer; other runs
    train freely.
    """
    if not job.zeroes:
        return nullcontext()
    return held(model, masks_of(model, maskable(model) if job.zeros else masked(job.protocol, model)))


def masked(protocol: Protocol, model: nn.Module) -> tuple[str, ...]:
    """Names of the weights that a run zeroes.

    Raises:
        UsageError: a scope that matches no layer.
    """
    names = maskable(model, listed(protocol.keep))
    scope = [name for name in protocol.layers() if name not in ("network", "global")]
    layers = {name: name.removesuffix(".weight") for name in names}
    for rule in scope:
        if not any(fits(layer, rule) for layer in layers.values()):
            raise unknown("layer with weights", rule, layers.values())
    return tuple(name for name in names if not scope or any(fits(layers[name], rule) for rule in scope))


@dataclass
class Zeroed:
    """A descent that zeroes.

    Attributes:
        job: the run.
        model: the network as it is now.
        kind: what goes at once.
        masks: which weights are alive.
        whole: which were when the run began.
        earlier: zeros that an earlier run left in layers out of scope.
        follower: the training that goes on, where one does.
        first: scores of the baseline, where they are taken once.
    """

    job: Job
    model: nn.Module
    kind: Granularity
    masks: Masks
    whole: Masks
    earlier: Masks
    follower: Follower | None = None
    first: dict[str, Tensor] | None = None

    @staticmethod
    def at(job: Job, index: int, kind: Granularity) -> Zeroed:
        """Go on from a stored step."""
        model = job.network("steps", index)
        names = masked(job.protocol, model)
        begun = job.network("steps", int(bool(job.light)))
        whole = masks_of(begun, names) if job.zeros else full_masks(begun, names)
        masks = masks_of(model, names) if index > bool(job.light) else whole
        others = [name for name in maskable(begun) if name not in names] if job.zeros else []
        earlier = masks_of(begun, others)
        return Zeroed(job, model, kind, masks, whole, earlier, follower_of(job, model, index))

    @property
    def unit(self) -> str:
        """What is counted."""
        return "kernel" if self.kind == "kernel" else "weight"

    @property
    def start(self) -> int:
        """Kernels or weights in scope that were alive at the start."""
        return self._alive(self.whole)

    @property
    def left(self) -> int:
        """Of those, still alive."""
        return self._alive(self.masks)

    @property
    def least(self) -> int:
        """Of those, never removed; with N:M all that is left once the pattern holds."""
        pattern = isinstance(self.kind, NM) and self.left < self.start
        return self.left if pattern else len(self.masks)

    def _alive(self, masks: Masks) -> int:
        return sum(int(_units(mask, self.unit).any(dim=1).sum()) for mask in masks.values())

    def gone(self) -> Tensor:
        """No channels."""
        return torch.empty(0, dtype=torch.long)

    def memory(self) -> dict[str, Tensor] | None:
        """What the optimiser remembers, where it goes on."""
        return self.follower.memory() if self.follower else None

    def step_(self, index: int, count: int) -> str:
        """Zero, retrain and perhaps take back; the step in words.

        Raises:
            Diverged: a score or the loss became NaN or infinite.
        """
        self.model.to(self.job.device)
        before, protocol = self.left, self.job.protocol
        how = NORMALISATIONS[protocol.normalisation]
        scores, old = self._scores(index), self.masks
        back = 0 if isinstance(self.kind, NM) else round(protocol.regrow * count)
        number = None if isinstance(self.kind, NM) else count + back
        self.masks = choose_masks(scores, old, self.kind, count=number, how=how)
        if back:
            spare = max(0, before - self.left - count)
            self.masks = regrow(self.masks, self._gradients(index), self.kind, count=spare, how=how)
            pairs = zip(self.masks.values(), old.values(), strict=True)
            back = sum(int((new & ~was).sum()) for new, was in pairs)
        apply_(self.model, self.masks)
        self._learn_(index, old)
        said = f"zeroed {before - self.left} {self.unit}s"
        if isinstance(self.kind, NM):
            said = f"zeroed all but {self.kind.n} of {self.kind.m} weights"
            stay = whole({name: self.model.get_parameter(name) for name in self.masks}, self.kind)
            said += f" ({', '.join(stay)} too small for it)" if stay else ""
        said += f", took back {back} weights" if back else ""
        return f"{said}, retrained {plural(protocol.retrain, 'iteration')}" if protocol.retrain else said

    def _learn_(self, index: int, old: Masks) -> None:
        protocol = self.job.protocol
        touched = {name for name in self.masks if not torch.equal(self.masks[name], old[name])}
        if not touched:  # a step of a schedule that removes nothing
            touched = {name for name, mask in self.masks.items() if not bool(mask.all())}
        only = None if protocol.retrain_scope == "all" else self._tensors(touched)
        with held(self.model, {**self.masks, **self.earlier}):
            if self.follower:
                self.follower.learn_(protocol.retrain, only)
            else:
                seed = self.job.seed + 1000 * index
                retrain_(self.job, self.model, protocol.retrain, seed=seed, only=only)

    def _tensors(self, weights: set[str]) -> set[str]:
        """Names of weights with what belongs to their layers: biases, and batch norms behind them."""
        groups = self.job.groups
        made = [slot.units for slot in groups.slots if slot.name in weights and not slot.incoming]
        norms = tensors_of(groups, torch.cat([self.gone(), *made]))
        return weights | {_bias(name) for name in weights} | norms

    def _scores(self, index: int) -> dict[str, Tensor]:
        if self.job.protocol.recompute == "every":
            return self._fresh(self.model, index)
        if self.first is None:
            self.first = self._fresh(self.job.network("steps", 1 if self.job.light else 0), 1)
        return self.first

    def _fresh(self, model: nn.Module, index: int) -> dict[str, Tensor]:
        protocol, generator = self.job.protocol, torch.Generator().manual_seed(self.job.seed + index)
        model.to(self.job.device)
        names = list(self.masks)
        return weight_scores(
            model, names, self.job.task, self._images(generator), protocol.criterion, generator=generator
        )

    def _images(self, generator: torch.Generator) -> Split:
        count, train = self.job.protocol.criterion_samples, self.job.task.train
        return train.take(torch.randperm(len(train), generator=generator)[:count])

    def _gradients(self, index: int) -> dict[str, Tensor]:
        """dL/dw of all weights, dead ones too, on the images that are scored."""
        images = self._images(torch.Generator().manual_seed(self.job.seed + index))
        weights = [self.model.get_parameter(name) for name in self.masks]
        sums = [torch.zeros_like(weight) for weight in weights]
        for start in range(0, len(images), GRADIENT_BATCH):
            part = images.take(slice(start, start + GRADIENT_BATCH))
            x = self.job.task.normalise(part.images.to(self.job.device))
            cost = F.cross_entropy(self.model(x), part.labels.to(self.job.device), reduction="sum")
            for total, found in zip(sums, torch.autograd.grad(cost, weights), strict=True):
                total += found
        return {name: (each / len(images)).cpu() for name, each in zip(self.masks, sums, strict=True)}


def _units(mask: Tensor, unit: str) -> Tensor:
    """(units, weights of each)."""
    if unit == "kernel" and mask.dim() > 2:
        return mask.reshape(mask.shape[0] * mask.shape[1], -1)
    return mask.reshape(-1, 1)


def _bias(weight: str) -> str:
    return f"{weight.removesuffix('weight')}bias"
