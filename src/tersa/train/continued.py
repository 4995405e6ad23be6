"""Training that goes on while the network changes: some updates now, some more after channels are gone.

`loop.train` is one run from its first update to its last. Pruning needs another thing: after every removal a
few updates with the optimiser as it was, over the same endless stream of shuffled batches. A `Continued` is
that stream with its optimiser; `surgery.remove_(model, groups, units, run.optimizer)` shrinks both.

The stream has no state but the number of updates so far: epoch e is the permutation of seed (seed, e), the
augmentation of update i that of seed (seed, i), and dropout that of the first update of a call. With the
optimiser's state on disk (`optimiser_state`) a killed run goes on to the same weights.

Example:
    >>> from tersa.data.task import Provenance, Split
    >>> split = Split(torch.linspace(0, 1, 160).reshape(40, 1, 2, 2), torch.arange(40) % 2)
    >>> task = Task("t", split, split, split, ("a", "b"), (0.5,), (0.3,), Provenance("made", "", {}))
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> run = begin(model, task, TrainConfig(optimizer="adam", batch=20, schedule="constant"))
    >>> learn_(run, 3)
    >>> run.iteration
    3
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersa.data.augment import draw
from tersa.data.task import Task
from tersa.errors import DataError, Diverged, UsageError
from tersa.train.batches import Resident, inputs, order, part, settle
from tersa.train.config import Extent, TrainConfig, extent
from tersa.train.device import choose, reproducible, streams
from tersa.train.latents import Latents
from tersa.train.lessons import Lessons
from tersa.train.losses import objective
from tersa.train.optimisers import build, set_rate_
from tersa.train.schedules import factor
from tersa.train.step import Batch, autocast, unit_strides, update_

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

ENDLESS = 10**9
"""Updates that the stream is laid out for: the images are kept in the form that is read fastest."""


@dataclass
class Continued:
    """A network in training, between two changes of its size.

    Attributes:
        model: takes normalised (N, C, H, W), gives logits (N, K).
        optimizer: over its parameters.
        task: whose train split is learnt.
        config: settings; each call of `learn_` is one cycle of its schedule.
        data: the training images on the device.
        device: where it computes.
        teacher: answers to fixed views, or None.
        iteration: updates done so far.
        shuffled: the epoch at work and its order of the images.
    """

    model: nn.Module
    optimizer: Optimizer
    task: Task
    config: TrainConfig
    data: Resident
    device: str
    teacher: Lessons | None = None
    iteration: int = 0
    shuffled: tuple[int, Tensor] | None = None


def begin(
    model: nn.Module, task: Task, config: TrainConfig, *, teacher: Lessons | None = None, device: str = "cpu"
) -> Continued:
    """A run that has made no update yet; the model moves to the device.

    Raises:
        UsageError: a teacher without distillation or the other way round, views drawn otherwise, L-BFGS.
    """
    if (teacher is None) != (config.distillation == "none"):
        raise UsageError("a teacher and distillation go together; give both or none")
    if teacher is not None and teacher.augmentation != (config.flip, config.pad):
        raise UsageError(
            f"the lessons were drawn with (flip, pad) = {teacher.augmentation}, "
            f"the config has {(config.flip, config.pad)}; draw them with the config's"
        )
    if config.optimizer == "lbfgs":
        raise UsageError("lbfgs remembers whole gradients, which pruning cuts; choose another optimizer")
    place = choose(device)
    model.to(place)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - stub lacks it
    per_epoch = extent(config, len(task.train)).per_epoch
    data = settle(task, config, Extent(per_epoch, ENDLESS, ENDLESS // per_epoch), place)
    lessons = teacher.on(place) if teacher else None
    return Continued(model, build(config, model), task, config, data, place, lessons)


def learn_(run: Continued, iterations: int, only: Collection[str] | None = None) -> None:
    """Make some updates, one cycle of the schedule; the model ends in eval mode.

    Args:
        run: what goes on.
        iterations: how many; 0 changes nothing.
        only: names of the parameters and batch norm buffers that may change, or None for all.

    Raises:
        Diverged: the loss became NaN or infinite.
    """
    if iterations == 0:
        return
    per_epoch = extent(run.config, len(run.task.train)).per_epoch
    cycle = Extent(per_epoch, iterations, -(-iterations // per_epoch))
    loss = torch.zeros((), device=run.device)
    latents = Latents.of(run.model)
    latents.before_(1.0)  # the network was trained before: its estimators have sharpened
    run.model.train()
    try:
        chance = streams(run.config.seed + run.iteration)[2]
        strides = unit_strides(run.model, run.device, run.config.precision)
        with reproducible(chance, run.device), learning(run.model, only), strides:
            for done in range(iterations):
                set_rate_(run.optimizer, run.config.learning_rate * factor(run.config, done, cycle))
                loss += _update_(run, per_epoch)
                latents.after_(run.optimizer)
    finally:
        latents.release_()
        run.model.eval()
    if not bool(torch.isfinite(loss)):
        raise Diverged(f"the loss became NaN or infinite within {iterations} updates after a removal")


@contextmanager
def learning(model: nn.Module, only: Collection[str] | None) -> Generator[None]:
    """Only the named parameters take gradients for a block; None: all that do.

    The others have no gradient at all, so that an optimiser over them leaves them alone, decay included. A
    batch norm of which no tensor is named is read in eval mode: its running statistics stay too.

    Args:
        model: what learns, in training mode or soon to be.
        only: names of parameters and buffers.
    """
    frozen = [
        parameter
        for name, parameter in model.named_parameters()
        if only is not None and name not in only and parameter.requires_grad
    ]
    for parameter in frozen:
        parameter.requires_grad_(False).grad = None
    still = [
        module.register_forward_pre_hook(_still)
        for name, module in model.named_modules()
        if only is not None and isinstance(module, BATCH_NORMS) and not _names(name, module) & set(only)
    ]
    try:
        yield
    finally:
        for handle in still:
            handle.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)


def _names(name: str, module: nn.Module) -> set[str]:
    return {f"{name}.{leaf}" for leaf in module.state_dict()}


def _still(module: nn.Module, _: object) -> None:
    """Before each forward pass, since `train()` of the whole network turns training mode on again."""
    module.eval()


def _update_(run: Continued, per_epoch: int) -> Tensor:
    epoch, place = divmod(run.iteration, per_epoch)
    index = part(_order(run, epoch), per_epoch, place).to(run.device)
    chance = torch.Generator().manual_seed(streams(run.config.seed + run.iteration)[1])
    if run.teacher is not None:
        shifts, taught = run.teacher.pick(index, chance)
    else:
        shifts, taught = draw(len(index), chance, flip=run.config.flip, pad=run.config.pad), None
    images = inputs(run.data, index, run.task, run.config, shifts)

    def network(x: Tensor) -> Tensor:
        with autocast(run.device, run.config.precision):
            return run.model(x)

    outcome = update_(
        run.optimizer,
        network,
        objective(run.config),
        Batch(images, run.data.labels.index_select(0, index), taught),
        clip_norm=run.config.clip_norm,
        device=run.device,
    )
    run.iteration += 1
    return outcome.loss


def _order(run: Continued, epoch: int) -> Tensor:
    """The permutation of an epoch, drawn at its first update."""
    if run.shuffled is None or run.shuffled[0] != epoch:
        seed = streams(run.config.seed)[0] ^ (epoch * 0x9E3779B97F4A7C15 & (2**63 - 1))
        run.shuffled = epoch, order(len(run.task.train), torch.Generator().manual_seed(seed))
    return run.shuffled[1]


def optimiser_state(run: Continued) -> dict[str, Tensor]:
    """What the optimiser remembers, as `parameter/key` -> tensor on the CPU, for safetensors; a copy."""
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    return {
        f"{names[id(parameter)]}/{key}": torch.as_tensor(value).detach().cpu().clone().contiguous()
        for parameter, state in run.optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def restore_(run: Continued, state: Mapping[str, Tensor], iteration: int) -> None:
    """Go on where `optimiser_state` was taken; what the optimiser remembers now is forgotten.

    Raises:
        DataError: state of a parameter that the model lacks, or of another size.
    """
    own = dict(run.model.named_parameters())
    run.optimizer = build(run.config, run.model)
    for place, value in state.items():
        name, _, key = place.rpartition("/")
        if name not in own or (value.dim() > 0 and value.shape != own[name].shape):
            raise DataError(f"the optimiser's state of '{name}' does not fit the network; start again")
        counted = value.dim() == 0 and not run.optimizer.defaults.get("fused")  # updates made, on the CPU
        kept = value.clone() if counted else value.to(own[name].device, copy=True)
        if own[name].dim() == 4 and value.dim() == 4 and not own[name].is_contiguous():
            kept = kept.contiguous(memory_format=torch.channels_last)
        run.optimizer.state[own[name]][key] = kept
    run.iteration = iteration
