"""The training loop: epochs of updates, validation, early stop, divergence, checkpoints.

One run is a sequence of updates (`step.update_`) over shuffled, equal batches. After each evaluated epoch the
validation split is read; its accuracy steers early stop and which weights are kept. The same task, model,
config, machine and number of threads give the same weights, whether or not the run was interrupted.

A run can also stop after some updates (`until`) and go on later from what it was then (`start`), to the bytes
of a run that never stopped: what a race of networks needs, of which only the best are trained to the end.

Nothing here prints: who wants to show or store progress passes a function.

Example:
    >>> from tersa.data.task import Provenance, Split
    >>> images = torch.linspace(0, 1, 160).reshape(40, 1, 2, 2)
    >>> split = Split(images, torch.arange(40) % 2)
    >>> task = Task("t", split, split, split, ("a", "b"), (0.5,), (0.3,), Provenance("made", "", {}))
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> train(model, task, TrainConfig(epochs=2, batch=20)).status
    'done'
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tersa.data.augment import Shifts, draw
from tersa.data.task import Task, fingerprint
from tersa.errors import UsageError
from tersa.files import remove_leftovers
from tersa.records.results import Epoch
from tersa.train import device as devices
from tersa.train.batches import Resident, inputs, order, parts, settle
from tersa.train.captured import Inputs, Replayed, rates_in_tensors_, reason, state_in_numbers
from tersa.train.checkpoint import (
    Identity,
    Pace,
    Snapshot,
    read_snapshot,
    signature,
    tensors_digest,
    weights_digest,
    write_snapshot,
)
from tersa.train.config import Extent, TrainConfig, extent
from tersa.train.evaluation import check_logits, evaluate
from tersa.train.latents import Latents, settle_pixels_
from tersa.train.lessons import Lessons
from tersa.train.losses import objective
from tersa.train.optimisers import build, set_rate_
from tersa.train.schedules import factor
from tersa.train.step import Batch, Outcome, autocast, unit_strides, update_

Status = Literal["done", "diverged", "stopped-early", "paused"]

CHECK_EVERY = 20
"""Updates between two looks at whether the loss is still finite."""

PROGRESS_SECONDS = 0.25
"""Least time between two calls of `progress` within an epoch."""


@dataclass(frozen=True)
class Progress:
    """Where a run is; for display.

    Attributes:
        epoch: the epoch at work, from 1.
        epochs: epochs in all.
        iteration: updates done.
        iterations: updates in all.
        loss: mean training loss of this epoch so far.
        validation_accuracy: percent, at the last evaluation, or None before the first.
        seconds: of work so far, over all attempts.
        eta_seconds: estimate of what is left, without early stop.
    """

    epoch: int
    epochs: int
    iteration: int
    iterations: int
    loss: float
    validation_accuracy: float | None
    seconds: float
    eta_seconds: float


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        status: `done`, `stopped-early`, `paused` (after `until` updates), or `diverged` (NaN or infinity in
            the loss or the weights).
        history: evaluated epochs, in order; a diverging one is not among them.
        best_epoch: with the best validation accuracy (ties: lower loss); 0 when there is none.
        seconds: of work, over all attempts.
        state: what a paused run goes on from; None where it ended.
    """

    status: Status
    history: list[Epoch]
    best_epoch: int
    seconds: float
    state: Snapshot | None = None


class _NotFinite(Exception):
    """The loss or a weight became NaN or infinite."""


@dataclass
class _Run:
    """One run at work: what does not change, then its state."""

    model: nn.Module
    teacher: nn.Module | Lessons | None
    task: Task
    config: TrainConfig
    length: Extent
    device: str
    data: Resident
    optimizer: Optimizer
    latents: Latents
    shuffling: torch.Generator
    augmenting: torch.Generator
    evaluate_every: int | None
    progress: Callable[[Progress], None] | None
    kept: dict[str, Tensor]
    replayed: Replayed | None = None
    iteration: int = 0
    dealt: Tensor | None = None  # state of `shuffling` before it drew the epoch at work
    history: list[Epoch] = field(default_factory=list)
    earlier_seconds: float = 0.0
    earlier_iterations: int = 0
    pace: Pace = field(default_factory=Pace)
    started: float = field(default_factory=time.perf_counter)
    shown: float = 0.0

    @property
    def seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.started


def train(
    model: nn.Module,
    task: Task,
    config: TrainConfig,
    *,
    teacher: nn.Module | Lessons | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    evaluate_every: int | None = 1,
    start: Snapshot | None = None,
    until: int | None = None,
) -> TrainResult:
    """Train a model in place.

    The model ends on `device` in eval mode, with the weights of the best epoch (`keep="best"`) or the last.
    A diverged run ends with the weights of the last good evaluated epoch (`keep="last"`), the best one
    (`keep="best"`), or those it began with.

    Args:
        model: takes normalised (N, C, H, W), gives logits (N, K); its weights are changed.
        task: whose train split is learnt and whose validation split steers.
        config: settings of the run.
        teacher: followed as `config.distillation` says: a network (read in eval mode, moved to `device`, not
            changed), or its answers to fixed views (`lessons.prepare`), which costs nothing per batch.
        device: `cpu`, `cuda`, or `auto`.
        checkpoint: file for the state of the run, written after every epoch (a large one where epochs are
            short: less often, so that it takes a twentieth of the time).
        resume: go on from `checkpoint` where it is there; else the run starts at its beginning.
        progress: called a few times per second and after each evaluation.
        on_epoch: called for every row of the history in order; when resuming, for the restored ones first.
        evaluate_every: epochs between two evaluations (each gives one row of the history); the last epoch
            is always evaluated. 0: the last alone. None: not even that, where the weights of the end are kept
            and nobody reads the history.
        start: the state of a paused run of the same model, task and config, to go on from.
        until: pause after so many updates of the run, within an epoch or not; the model then has the weights
            of that moment. What is left of an epoch counts in its row alone.

    Raises:
        UsageError: teacher and config do not fit, no trainable parameters, a checkpoint of another run, or
            one beside `start` or `until`.
        DataError: a truncated or damaged checkpoint.
        ModelError: the model's output does not fit the task.
    """
    _check_request(model, teacher, config, evaluate_every)
    if checkpoint and (start or until is not None):
        raise UsageError("a run with a checkpoint goes on from its file; leave out start and until")
    place = devices.choose(device)
    seeds = devices.streams(config.seed)
    with (
        devices.reproducible(seeds[2], place),
        unit_strides(model, place, config.precision),
        devices.modes_kept(teacher if isinstance(teacher, nn.Module) else None),
    ):
        run = _begin(model, teacher, task, config, place, seeds, evaluate_every, progress)
        identity = _identity(run) if checkpoint else None
        if checkpoint and identity:
            remove_leftovers(checkpoint)
            if resume and checkpoint.exists():
                _restore_(run, read_snapshot(checkpoint, identity))
        if start:
            _restore_(run, start)
        if on_epoch:
            for row in run.history:
                on_epoch(row)
        try:
            status = _epochs_(run, checkpoint, identity, on_epoch, until)
            state = _held(run) if status == "paused" else None
        finally:
            run.latents.release_()
            model.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue] - stub lacks it
            model.eval()
    chosen = best_row(run.history)
    return TrainResult(status, run.history, chosen.epoch if chosen else 0, run.seconds, state)


def best_row(history: list[Epoch]) -> Epoch | None:
    """The epoch of the best validation accuracy; of equal ones that of lower loss, then the first."""
    return max(history, key=lambda row: (row.validation_accuracy, -row.validation_loss), default=None)


def _check_request(
    model: nn.Module, teacher: nn.Module | Lessons | None, config: TrainConfig, evaluate_every: int | None
) -> None:
    if teacher is None and config.distillation != "none":
        raise UsageError(
            f"distillation={config.distillation} needs a teacher; give one, or distillation=none"
        )
    if teacher is not None and config.distillation == "none":
        raise UsageError("a teacher was given but distillation=none; set it to document or temperature")
    if isinstance(teacher, Lessons) and teacher.augmentation != (config.flip, config.pad):
        raise UsageError(
            f"the lessons were drawn with (flip, pad) = {teacher.augmentation}, "
            f"the config has {(config.flip, config.pad)}; draw them with the config's"
        )
    if teacher is model:
        raise UsageError("the teacher is the model itself, which changes while it learns; give a copy")
    if evaluate_every is None and config.keep == "best":
        raise UsageError("keep=best needs evaluations; give evaluate_every, or keep=last")
    if evaluate_every is not None and evaluate_every < 0:
        raise UsageError(f"evaluate_every is {evaluate_every}; must be 0 (the last epoch alone) or more")


def _begin(
    model: nn.Module,
    teacher: nn.Module | Lessons | None,
    task: Task,
    config: TrainConfig,
    device: str,
    seeds: tuple[int, int, int],
    evaluate_every: int | None,
    progress: Callable[[Progress], None] | None,
) -> _Run:
    """A run at its beginning, everything on the device."""
    length = extent(config, len(task.train))
    settle_pixels_(model, task)
    model.to(device)
    if isinstance(teacher, Lessons):
        teacher = teacher.on(device)
    latents = Latents.of(model)
    latents.check(config.optimizer)
    optimizer = build(config, model)
    sample = task.normalise(task.train.images[:2].to(device))
    with torch.inference_mode():
        check_logits(model.eval()(sample), len(sample), task)
        if isinstance(teacher, nn.Module):
            check_logits(teacher.to(device).eval()(sample), len(sample), task)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - stub lacks it
    run = _Run(
        model=model,
        teacher=teacher,
        task=task,
        config=config,
        length=length,
        device=device,
        data=settle(task, config, length, device),
        optimizer=optimizer,
        latents=latents,
        shuffling=torch.Generator().manual_seed(seeds[0]),
        augmenting=torch.Generator().manual_seed(seeds[1]),
        evaluate_every=evaluate_every,
        progress=progress,
        kept=_copy(model),
    )
    largest = -(-len(task.train) // length.per_epoch)
    if not reason(config, device, length.iterations, largest, changes=latents.vary):
        run.replayed = Replayed(lambda batch: _on_tensors_(run, batch))
        rates_in_tensors_(optimizer, device)
    return run


def _epochs_(
    run: _Run,
    checkpoint: Path | None,
    identity: Identity | None,
    on_epoch: Callable[[Epoch], None] | None,
    until: int | None,
) -> Status:
    """Run all epochs that are left and leave the model with the weights it is to end with."""
    status: Status = "done"
    end = run.length.iterations if until is None else min(until, run.length.iterations)
    try:
        while run.iteration < end:
            if _stale(run.history, run.config.early_stop):
                status = "stopped-early"
                break
            row = _epoch_(run, end)
            if row and on_epoch:
                on_epoch(row)
            last = run.iteration == run.length.iterations
            if checkpoint and identity and (last or run.pace.due(time.perf_counter())):
                began = time.perf_counter()
                write_snapshot(checkpoint, _snapshot(run), identity)
                run.pace.wrote(began, time.perf_counter())
    except _NotFinite:
        run.model.load_state_dict(run.kept)
        return "diverged"
    if status == "done" and run.iteration < run.length.iterations:
        return "paused"
    if run.config.keep == "best":
        run.model.load_state_dict(run.kept)
    return status


def _stale(history: list[Epoch], patience: int) -> bool:
    """`patience` epochs have gone without a better one."""
    best = best_row(history)
    return bool(patience and best and history[-1].epoch - best.epoch >= patience)


def _epoch_(run: _Run, end: int) -> Epoch | None:
    """One epoch, or what is left of it or of the updates up to `end`; its row where it is evaluated."""
    began = time.perf_counter()
    epoch, done = run.iteration // run.length.per_epoch + 1, run.iteration % run.length.per_epoch
    left = end - run.iteration
    run.dealt = run.shuffling.get_state()
    shuffled = order(len(run.task.train), run.shuffling).to(run.device)
    loss = torch.zeros((), device=run.device)
    correct = torch.zeros((), dtype=torch.int64, device=run.device)
    seen, rate = 0, 0.0
    run.model.train()
    for index in parts(shuffled, run.length.per_epoch)[done:][:left]:
        rate = run.config.learning_rate * factor(run.config, run.iteration, run.length)
        outcome = _update_(run, index, rate)
        seen += len(index)
        loss += outcome.loss * len(index)
        correct += outcome.correct
        run.iteration += 1
        if run.iteration % CHECK_EVERY == 0 and not bool(torch.isfinite(loss)):
            raise _NotFinite
        _show(run, epoch, loss, seen, PROGRESS_SECONDS)
    if not bool(torch.isfinite(loss)) or not _finite(run.model):
        raise _NotFinite
    last = run.iteration == run.length.iterations
    if run.evaluate_every is None:
        _show(run, epoch, loss, seen, 0.0)
        return None
    if not last and (
        run.iteration % run.length.per_epoch or run.evaluate_every == 0 or epoch % run.evaluate_every
    ):
        return None
    validation = evaluate(run.model, run.task.validation, run.task, device=run.device)
    row = Epoch(
        epoch=epoch,
        train_loss=float(loss) / seen,
        train_accuracy=100.0 * int(correct) / seen,
        validation_loss=validation.loss,
        validation_accuracy=validation.accuracy,
        learning_rate=rate,
        seconds=time.perf_counter() - began,
    )
    run.history.append(row)
    if run.config.keep == "last" or best_row(run.history) is row:
        run.kept = _copy(run.model)
    _show(run, epoch, loss, seen, 0.0)
    return row


def _update_(run: _Run, index: Tensor, rate: float) -> Outcome:
    """One update on the images at `index`."""
    set_rate_(run.optimizer, rate)
    run.latents.before_(run.iteration / run.length.iterations)
    if isinstance(run.teacher, Lessons):
        shifts, taught = run.teacher.pick(index, run.augmenting)
    else:
        shifts = draw(len(index), run.augmenting, flip=run.config.flip, pad=run.config.pad)
        taught = None
    drawn = (shifts.mirrored, shifts.rows, shifts.columns)
    chosen: Inputs = (
        index,
        *(None if each is None else devices.sent(each, run.device) for each in drawn),
        None if taught is None else devices.sent(taught, run.device),
    )
    return run.replayed(chosen, len(index)) if run.replayed else _on_tensors_(run, chosen)


def _on_tensors_(run: _Run, chosen: Inputs) -> Outcome:
    """What an update does once its images, their shifts and the teacher's answers are chosen: tensors alone.

    Args:
        run: whose weights move.
        chosen: index (N,), mirrored (N,), rows (N,), columns (N,), taught (N, K); None where there is none.
    """
    index, mirrored, rows, columns, taught = chosen
    assert index is not None
    images = inputs(run.data, index, run.task, run.config, Shifts(mirrored, rows, columns, run.config.pad))
    if not isinstance(run.teacher, Lessons):
        with autocast(run.device, run.config.precision):
            taught = _teach(run.teacher, images)
    batch = Batch(images, run.data.labels.index_select(0, index), taught)

    def network(x: Tensor) -> Tensor:
        with autocast(run.device, run.config.precision):
            return run.model(x)

    outcome = update_(
        run.optimizer,
        network,
        objective(run.config),
        batch,
        clip_norm=run.config.clip_norm,
        device=run.device,
    )
    run.latents.after_(run.optimizer)
    return outcome


def _teach(teacher: nn.Module | None, images: Tensor) -> Tensor | None:
    """The teacher's logits on a batch, (N, K) float32, as plain tensors that autograd may keep."""
    if teacher is None:
        return None
    with torch.inference_mode():
        logits = teacher(images).float()
    return logits.clone()


def _show(run: _Run, epoch: int, loss: Tensor, seen: int, pause: float) -> None:
    """Tell `progress` where the run is, unless it was told less than `pause` seconds ago."""
    now = time.perf_counter()
    if run.progress is None or now - run.shown < pause:
        return
    run.shown = now
    done = run.iteration - run.earlier_iterations
    run.progress(
        Progress(
            epoch=epoch,
            epochs=run.length.epochs,
            iteration=run.iteration,
            iterations=run.length.iterations,
            loss=float(loss) / seen,
            validation_accuracy=run.history[-1].validation_accuracy if run.history else None,
            seconds=run.seconds,
            eta_seconds=(now - run.started) / done * (run.length.iterations - run.iteration),
        )
    )


def _finite(model: nn.Module) -> bool:
    """No parameter or buffer holds NaN or infinity."""
    return all(bool(torch.isfinite(t).all()) for t in model.state_dict().values() if t.is_floating_point())


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _teacher_digest(teacher: nn.Module | Lessons | None) -> str:
    if isinstance(teacher, Lessons):
        return tensors_digest({"logits": teacher.logits})
    return weights_digest(teacher) if teacher else ""


def _identity(run: _Run) -> Identity:
    return Identity(
        config=run.config,
        data=fingerprint(run.task),
        model=signature(run.model),
        teacher=_teacher_digest(run.teacher),
        evaluate_every=run.evaluate_every,
    )


def _snapshot(run: _Run) -> Snapshot:
    return Snapshot(
        iteration=run.iteration,
        seconds=run.seconds,
        history=tuple(run.history),
        weights=run.model.state_dict(),
        kept=run.kept,
        optimizer=state_in_numbers(run.optimizer),
        generators={
            "shuffling": run.shuffling.get_state(),
            "augmenting": run.augmenting.get_state(),
            **devices.random_state(run.device),
        },
    )


def _held(run: _Run) -> Snapshot:
    """The state of a run in memory, which nothing changes any more; within an epoch, with its order."""
    found = _snapshot(run)
    within = run.dealt if run.iteration % run.length.per_epoch else None
    shuffling = found.generators["shuffling"] if within is None else within
    return replace(found, weights=_copy(run.model), generators={**found.generators, "shuffling": shuffling})


def _lay_out_(optimizer: Optimizer) -> None:
    """What the optimiser remembers of a weight lies in memory as the weight does, as it did before it was
    written: over tensors that lie differently PyTorch rounds the same sums differently.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            elif isinstance(value, Tensor):
                state[name] = value.clone()  # counted on in place


def _restore_(run: _Run, snapshot: Snapshot) -> None:
    """Put a run back where it was."""
    run.model.load_state_dict(snapshot.weights)
    run.optimizer.load_state_dict(snapshot.optimizer)
    _lay_out_(run.optimizer)
    if run.replayed:
        rates_in_tensors_(run.optimizer, run.device)
    run.kept = {name: tensor.to(run.device) for name, tensor in snapshot.kept.items()}
    run.shuffling.set_state(snapshot.generators["shuffling"])
    run.augmenting.set_state(snapshot.generators["augmenting"])
    devices.set_random_state_(snapshot.generators, run.device)
    run.iteration, run.earlier_iterations = snapshot.iteration, snapshot.iteration
    run.history = list(snapshot.history)
    run.earlier_seconds = snapshot.seconds
